"""Paired tests of two estimators on the same folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from tlfeatures.evaluation._folds import Fold

__all__ = ["PairedTest", "bootstrap_test", "mcnemar_test", "resampled_t_test"]

MCNEMAR = "exact McNemar test"
BOOTSTRAP = "paired bootstrap"
T_TEST = "corrected resampled t-test"
_RESAMPLES = 1000  # gives a standard error that is accurate to 2%
_SLOW_RESAMPLES = 200  # accurate to 5%; for differences that are computed by a function


@dataclass(frozen=True)
class PairedTest:
    """Difference between the score of an estimator and the score of the reference.

    Attributes
    ----------
    name, reference : str
        The two estimators.
    difference : float
        Score of ``name`` minus score of ``reference``.
    interval : tuple of float
        Two-sided confidence interval of the difference.
    p_value : float
        Two-sided; the null hypothesis is that there is no difference.
    significant : bool
        Whether the p-value is below ``1 - level``.
    test : str
        "exact McNemar test", "paired bootstrap by image", "paired bootstrap by group" or
        "corrected resampled t-test".
    """

    name: str
    reference: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    significant: bool
    test: str


Result = tuple[float, tuple[float, float], float]
"""Difference, bounds of its interval, and p-value."""


def mcnemar_test(correct: np.ndarray, reference_correct: np.ndarray, level: float) -> Result:
    """Test the difference of two accuracies on the same images, with one prediction for each image.

    The interval covers both Wald's interval and the exact interval conditional on the number of images on which only
    one of the two is correct, so it contains 0 whenever the difference is not significant.
    """
    n = len(correct)
    wins, losses = int((correct & ~reference_correct).sum()), int((reference_correct & ~correct).sum())
    discordant, difference = wins + losses, (wins - losses) / n
    if not discordant:
        margin = float(binomtest(0, n).proportion_ci(level).high)
        return 0.0, (-margin, margin), 1.0
    test = binomtest(wins, discordant)
    exact = [(2 * limit - 1) * discordant / n for limit in test.proportion_ci(level)]
    margin = norm.ppf((1 + level) / 2) * np.sqrt((discordant / n - difference**2) / n)
    interval = float(min(exact[0], difference - margin)), float(max(exact[1], difference + margin))
    return difference, interval, float(test.pvalue)


def bootstrap_test(
    units: np.ndarray, difference: np.ndarray | Callable[[np.ndarray], float], level: float, seed: int
) -> Result:
    """Test a difference by resampling images or groups of images.

    Parameters
    ----------
    units : ndarray of int, shape (m,)
        Image or group of each of the m predictions; units are drawn with replacement.
    difference : ndarray of shape (m,) or callable
        Contribution of each prediction, if the difference is the mean of them; otherwise a function that computes
        the difference from the indices of predictions.
    level : float
    seed : int

    Notes
    -----
    Interval and p-value use the standard deviation of the resamples as the standard error, with Student's t
    distribution for the number of units [1]_. Percentiles of the resamples would be too narrow for few units.

    References
    ----------
    .. [1] Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015.
    """
    _, codes, sizes = np.unique(units, return_inverse=True, return_counts=True)
    n, rng = len(sizes), np.random.default_rng(seed)
    if callable(difference):
        observed = float(difference(np.arange(len(units))))
        members = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
        draws = (rng.integers(n, size=n) for _ in range(_SLOW_RESAMPLES))
        samples = np.array([difference(np.concatenate([members[i] for i in draw])) for draw in draws])
    else:
        observed = float(difference.mean())
        sums = np.bincount(codes, weights=difference)
        draws = (rng.integers(n, size=n) for _ in range(_RESAMPLES))
        samples = np.array([sums[draw].sum() / sizes[draw].sum() for draw in draws])
    return _student_result(observed, np.nanstd(samples) * np.sqrt(n / (n - 1)), n - 1, level)


def _student_result(difference: float, error: float, df: int, level: float) -> Result:
    """Compute the interval and the p-value of a difference from its standard error, by a t-test.

    If the differences of all units are equal, their variance is unknown. The p-value is then that of a sign test, and
    the interval contains 0 if the difference is not significant.
    """
    if error > 1e-12 * abs(difference):  # smaller errors are those of rounding
        margin = student_t.ppf((1 + level) / 2, df) * error
        p_value = 2 * student_t.sf(abs(difference) / error, df)
    else:
        p_value = 0.5**df if difference else 1.0
        margin = abs(difference) if p_value >= 1 - level else 0.0
    return difference, (float(difference - margin), float(difference + margin)), float(p_value)


def resampled_t_test(differences: np.ndarray, folds: Sequence[Fold], level: float) -> Result:
    """Test the mean difference of the scores of the folds, as :func:`confidence_interval` does."""
    k = len(differences)
    overlap = np.mean([len(test) / len(train) for train, test in folds])
    error = float(np.std(differences, ddof=1) * np.sqrt(1 / k + overlap))
    return _student_result(float(differences.mean()), error, k - 1, level)
