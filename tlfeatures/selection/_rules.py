"""Rules that choose a candidate from cross-validated scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlfeatures.evaluation import standard_error

__all__ = ["choose", "choose_nested"]


def choose(scores: np.ndarray, costs: np.ndarray, widths: np.ndarray, rule: str) -> int:
    """Choose a candidate.

    Parameters
    ----------
    scores : ndarray of shape (candidates, folds)
        Rows with NaN are ignored.
    costs, widths : ndarray of shape (candidates,)
        Multiply-accumulate operations per image, and number of features.
    rule : {"best", "1se"}
        "best" takes the highest mean. "1se" takes, among those within one standard error of it, the cheapest
        network, then the smallest embedding, then the highest mean [1]_.

    Returns
    -------
    int
        Row of the chosen candidate.

    Raises
    ------
    ValueError
        If every row has NaN.

    Notes
    -----
    Ties are broken by cost and width, so the order of the grid does not matter.

    References
    ----------
    .. [1] Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984.
    """
    means = scores.mean(axis=1)
    if np.isnan(means).all():
        raise ValueError(
            "The score of every candidate is NaN on at least one fold, so none can be chosen. Use a score that is "
            "defined on every fold, fewer folds, or a `scoring` that returns numbers."
        )
    means = np.where(np.isnan(means), -np.inf, means)
    best = int(np.lexsort((widths, costs, -means))[0])
    if rule == "best":
        return best
    bound = means[best] - np.nan_to_num(standard_error(scores[best]))
    near = np.flatnonzero(means >= bound)
    return int(near[np.lexsort((-means[near], widths[near], costs[near]))[0]])


def choose_nested(
    outer: np.ndarray, inner: Sequence[np.ndarray], costs: np.ndarray, widths: np.ndarray, rule: str
) -> tuple[np.ndarray, list[int]]:
    """Choose a candidate within the training rows of each outer fold.

    Parameters
    ----------
    outer : ndarray of shape (candidates, outer folds)
    inner : one ndarray of shape (candidates, inner folds) for each outer fold
        Scores within its training rows.
    costs, widths, rule
        As in :func:`choose`.

    Returns
    -------
    scores : ndarray of shape (n_outer_folds,)
        Score of each choice on its outer fold.
    choices : list of int
    """
    choices = [choose(scores, costs, widths, rule) for scores in inner]
    return np.array([outer[c, i] for i, c in enumerate(choices)]), choices
