"""From scores on folds to a choice: intervals, the one-standard-error rule, nested cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from tlfeatures.selection.folds import Pair

__all__ = ["choose", "interval", "nested_choice", "standard_error"]


def standard_error(scores: np.ndarray) -> np.ndarray:
    """Of the mean over the last axis: the folds' spread by the root of their number."""
    return np.std(scores, axis=-1, ddof=1) / np.sqrt(scores.shape[-1])


def interval(scores: np.ndarray, folds: Sequence[Pair], level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Confidence interval of the mean over the last axis, by the corrected resampled t-test.

    Nadeau and Bengio 2003, "Inference for the generalization error": training sets overlap, so the
    variance of the mean is taken as 1/k + n_test/n_train of that of the folds, in place of 1/k.
    """
    k = scores.shape[-1]
    overlap = np.mean([len(test) / len(train) for train, test in folds])
    error = np.std(scores, axis=-1, ddof=1) * np.sqrt(1 / k + overlap)
    reach = student.ppf((1 + level) / 2, k - 1) * error
    mean = scores.mean(axis=-1)
    return mean - reach, mean + reach


def choose(scores: np.ndarray, costs: np.ndarray, widths: np.ndarray, rule: str) -> int:
    """The candidate to take.

    Parameters
    ----------
    scores : ndarray of shape (candidates, folds)
        NaN rows are passed over.
    costs, widths : ndarray of shape (candidates,)
        Multiplications an image, and features.
    rule : {"best", "1se"}
        The highest mean; or, of those within one standard error of it, the cheapest network, then the
        smallest embedding, then the highest mean (Breiman, Friedman, Olshen and Stone 1984).

    Raises
    ------
    ValueError
        When every row has NaN.

    Notes
    -----
    Equal means are told apart by cost and width, so the order of the grid does not matter.
    """
    means = scores.mean(axis=1)
    if np.isnan(means).all():
        raise ValueError(
            "The score of every candidate is NaN on some fold, so none can be chosen. Take a score that is defined "
            "there, larger folds, or a scoring that returns numbers."
        )
    means = np.where(np.isnan(means), -np.inf, means)
    best = int(np.lexsort((widths, costs, -means))[0])
    if rule == "best":
        return best
    bound = means[best] - np.nan_to_num(standard_error(scores[best]))
    near = np.flatnonzero(means >= bound)
    return int(near[np.lexsort((-means[near], widths[near], costs[near]))[0]])


def nested_choice(
    outer: np.ndarray, inner: Sequence[np.ndarray], costs: np.ndarray, widths: np.ndarray, rule: str
) -> tuple[np.ndarray, list[int]]:
    """Score of what the search would have chosen without each outer fold, and the choices.

    Parameters
    ----------
    outer : ndarray of shape (candidates, outer folds)
    inner : one ndarray of shape (candidates, inner folds) for each outer fold
        Scores within its training rows.
    costs, widths, rule
        As in `choose`.
    """
    choices = [choose(scores, costs, widths, rule) for scores in inner]
    return np.array([outer[c, i] for i, c in enumerate(choices)]), choices
