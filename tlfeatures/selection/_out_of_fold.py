"""Out-of-fold predictions of one candidate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tlfeatures.selection._fits import FoldPredictions

__all__ = ["OutOfFold", "collect_out_of_fold"]


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions: each row is predicted by a model that was not fitted on it.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Rows that are in the test set of a fold.
    fold : ndarray of int, shape (m,)
    predicted : ndarray of shape (m,)
    probabilities, decision_values : ndarray or None
    """

    rows: np.ndarray
    fold: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None
    decision_values: np.ndarray | None


def collect_out_of_fold(predictions: Iterable[FoldPredictions], y: np.ndarray, task: str) -> OutOfFold:
    """Combine the predictions of all folds; if several folds test a row, the first prediction is kept."""
    fold = np.full(len(y), -1)
    predicted = np.empty(len(y), y.dtype if task == "classification" else float)
    values: dict[str, np.ndarray | None] = {"probabilities": None, "decision_values": None}
    for i, part in enumerate(predictions):
        new = fold[part.rows] < 0
        rows = part.rows[new]
        fold[rows], predicted[rows] = i, part.predicted[new]
        for name, combined in values.items():
            of_fold = getattr(part, name)
            if of_fold is None:
                continue
            if combined is None:
                combined = values[name] = np.full((len(y), *of_fold.shape[1:]), np.nan)
            if combined.shape[1:] == of_fold.shape[1:]:
                combined[rows] = of_fold[new]
    tested = np.flatnonzero(fold >= 0)
    kept = {name: None if combined is None else combined[tested] for name, combined in values.items()}
    return OutOfFold(tested, fold[tested], predicted[tested], **kept)
