"""Out-of-fold predictions of the head of a model, trained again on the stored embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline

from tlfeatures.calibration import calibrate_logits, compute_logits
from tlfeatures.evaluation import confidence_interval, make_folds
from tlfeatures.heads import blas_threads
from tlfeatures.trust import ConformalClassifier, ConformalRegressor

__all__ = ["N_FOLDS", "OutOfFold", "predict_out_of_fold", "unwrap_head"]

N_FOLDS = 5


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for images by heads that were not trained on them.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Rows of the embeddings; classes with a single image or duplicate group are left out.
    true, predicted : ndarray of shape (m,)
    classes : ndarray of shape (k,), or None
        Sorted classes; None for regression.
    all_classes : ndarray, or None
        All classes, including those that were left out; None for regression.
    probabilities : ndarray of shape (m, k), or None
        Calibrated on these predictions if the head has only decision values.
    has_probabilities : bool
        Whether ``probabilities`` are those of the head.
    scores : ndarray of shape (n_folds,)
        Accuracy or R2 of each fold.
    low, high : float
        95% interval of the mean score.
    """

    rows: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    classes: np.ndarray | None
    all_classes: np.ndarray | None
    probabilities: np.ndarray | None
    has_probabilities: bool
    scores: np.ndarray
    low: float
    high: float

    def spread_probabilities(self, n: int) -> np.ndarray | None:
        """Return the probabilities for n rows, with NaN for rows not in ``rows``; None without probabilities."""
        if self.probabilities is None:
            return None
        probabilities = np.full((n, len(self.all_classes)), np.nan)
        probabilities[self.rows] = 0.0
        columns = np.searchsorted(self.all_classes, self.classes)
        probabilities[np.ix_(self.rows, columns)] = self.probabilities
        return probabilities


def predict_out_of_fold(
    head: Any, X: np.ndarray, y: np.ndarray, groups: np.ndarray, on_fold: Callable[[int, int], None]
) -> OutOfFold:
    """Predict each image by a head that was trained on the other folds.

    Parameters
    ----------
    head : Pipeline
        Prediction sets and intervals, which do not change predictions, are left out.
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    groups : ndarray of int, shape (n,)
        Duplicate groups, each of which is in one fold.
    on_fold : callable
        Called with the number of finished folds and of all folds.

    Returns
    -------
    OutOfFold

    Raises
    ------
    TypeError
        If the head is that of a fine-tuned network, which cannot be trained again.
    ValueError
        If there are fewer than two classes that can be split into folds or, for regression, fewer than four groups, or
        if the head cannot be trained.
    """
    head = clone(unwrap_head(head))
    is_for_classes = is_classifier(head)
    all_classes = np.unique(y) if is_for_classes else None
    rows = _find_rows(y, groups) if is_for_classes else np.arange(len(y))
    X, y, groups = X[rows], y[rows], np.unique(groups[rows], return_inverse=True)[1]
    classes = np.unique(y) if is_for_classes else None
    n_groups = int(groups.max()) + 1
    if is_for_classes:
        n_folds = min(N_FOLDS, n_groups, int(np.unique(y, return_counts=True)[1].max()))
    elif n_groups < 4:
        raise ValueError(f"At least four different images are needed; got {n_groups}.")
    else:
        n_folds = min(N_FOLDS, n_groups // 2)  # R2 needs two images in each fold
    folds = make_folds(n_folds, y, groups, "classification" if is_for_classes else "regression", 0)
    # predictions are floats even if all targets are whole numbers
    predicted = np.empty(len(y), y.dtype if is_for_classes else float)
    outputs = None if classes is None else np.full((len(y), len(classes)), np.nan)
    for i, (train, test) in enumerate(folds):
        on_fold(i, len(folds))
        with blas_threads(*X.shape):
            fitted = clone(head).fit(X[train], y[train])
            predicted[test] = fitted.predict(X[test])
            if outputs is not None:
                outputs[test] = _compute_outputs(fitted, X[test], classes)
    has_probabilities = hasattr(head, "predict_proba")
    if outputs is None or np.isnan(outputs).any():
        outputs, has_probabilities = None, False
    elif not has_probabilities:
        outputs = calibrate_logits(outputs, np.searchsorted(classes, y))
    score = _measure_accuracy if is_for_classes else r2_score
    scores = np.array([score(y[test], predicted[test]) for _, test in folds])
    low, high = (float(bound) for bound in confidence_interval(scores, folds))
    return OutOfFold(rows, y, predicted, classes, all_classes, outputs, has_probabilities, scores, low, high)


def unwrap_head(head: Any, kinds: Any = (ConformalClassifier, ConformalRegressor)) -> Pipeline:
    """Return a head without meta-estimators that do not change its predictions, by default prediction sets."""
    *steps, (name, last) = head.steps
    while isinstance(last, kinds):
        last = last.estimator
    return Pipeline([*steps, (name, last)])


def _find_rows(y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the rows of the classes with at least two duplicate groups, which can be split into folds."""
    classes, codes = np.unique(y, return_inverse=True)
    n_groups = np.bincount(np.unique(np.stack([codes, groups]), axis=1)[0], minlength=len(classes))
    if (n_groups >= 2).sum() < 2:
        raise ValueError("At least two classes must have two or more different images each.")
    return np.flatnonzero(n_groups[codes] >= 2)


def _compute_outputs(fitted: Any, X: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return probabilities, or else decision values; NaN if the head has neither for all classes."""
    if not np.array_equal(fitted.classes_, classes):
        return np.full((len(X), len(classes)), np.nan)
    if hasattr(fitted, "predict_proba"):
        return fitted.predict_proba(X)
    try:
        return compute_logits(fitted, X, classes)
    except (ValueError, AttributeError):
        return np.full((len(X), len(classes)), np.nan)


def _measure_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(true == predicted))
