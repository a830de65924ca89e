"""Uncertainty of cross-validated scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from tlfeatures.evaluation._folds import Fold

__all__ = ["confidence_interval", "standard_error"]


def standard_error(scores: np.ndarray) -> np.ndarray:
    """Compute the standard error of the mean over the last axis, treating folds as independent.

    Parameters
    ----------
    scores : ndarray of shape (..., n_folds)

    Returns
    -------
    ndarray of shape (...,)

    Examples
    --------
    >>> float(standard_error(np.array([0.8, 0.9, 1.0])).round(4))
    0.0577
    """
    return np.std(scores, axis=-1, ddof=1) / np.sqrt(scores.shape[-1])


def confidence_interval(
    scores: np.ndarray, folds: Sequence[Fold], level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the confidence interval of mean scores by the corrected resampled t-test [1]_.

    Training sets of different folds overlap, so the variance of the mean is estimated as ``1/k + n_test/n_train``
    times that of the folds' scores instead of ``1/k`` times.

    Parameters
    ----------
    scores : ndarray of shape (..., n_folds)
    folds : sequence of (train, test)
    level : float, default=0.95

    Returns
    -------
    low, high : ndarray of shape (...,)
        Not clipped to the range of the score.

    References
    ----------
    .. [1] Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003.

    Examples
    --------
    >>> folds = [(np.arange(20), np.arange(20, 30))] * 3
    >>> low, high = confidence_interval(np.array([0.8, 0.9, 1.0]), folds)
    >>> float(low.round(3)), float(high.round(3))
    (0.507, 1.293)
    """
    k = scores.shape[-1]
    overlap = np.mean([len(test) / len(train) for train, test in folds])
    error = np.std(scores, axis=-1, ddof=1) * np.sqrt(1 / k + overlap)
    margin = student_t.ppf((1 + level) / 2, k - 1) * error
    mean = scores.mean(axis=-1)
    return mean - margin, mean + margin
