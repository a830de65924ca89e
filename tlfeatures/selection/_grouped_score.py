"""Effect of duplicate images that are split between folds on the score."""

from __future__ import annotations

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import DuplicateImagesWarning
from tlfeatures.evaluation import Duplicates, Fold, confidence_interval, group_folds
from tlfeatures.results import Score
from tlfeatures.selection._fits import evaluate
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._training_data import TrainingData

__all__ = ["score_grouped"]


def score_grouped(
    X: np.ndarray,
    data: TrainingData,
    folds: list[Fold],
    head: Head,
    scorer: object,
    duplicates: Duplicates,
    bounds: tuple[float, float],
) -> tuple[Score | None, np.ndarray | None]:
    """Score a head on folds that keep duplicates together, and warn if the original folds do not.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    data : TrainingData
    folds : list of (train, test)
    head : Head
        A head with a single point.
    scorer : callable
    duplicates : Duplicates
        ``crossing`` and ``score`` are read; ``grouped_score`` is set.
    bounds : (float, float)
        Lowest and highest value of the score.

    Returns
    -------
    Score and ndarray of shape (folds,), or (None, None)
        Mean with its interval, and the score on each fold; None if no duplicates are split between folds, if no
        folds keep them together, or if the score is not defined on one of these.
    """
    if not duplicates.crossing:
        return None, None
    score = scores = None
    advice = "If they are not duplicates, pass a higher `duplicate_threshold`"
    try:
        grouped_folds = group_folds(folds, duplicates.groups, data.y, data.task, data.seed)
        on_folds = evaluate(X, data.y, grouped_folds, [head], scorer, data.metadata)[0].test[0]
    except ValueError:
        on_folds = np.array([np.nan])  # there are no such folds
    if np.isfinite(on_folds).all():
        scores = on_folds
        duplicates.grouped_score = float(scores.mean())
        interval = np.clip(confidence_interval(scores, grouped_folds), *bounds)
        score = Score(duplicates.grouped_score, *map(float, interval))
        advice = "`dedupe_groups=True` uses grouped folds throughout"
    warn(
        f"{duplicates.describe()} {advice}; see the attribute `duplicates_` for the pairs.",
        DuplicateImagesWarning,
    )
    return score, scores
