"""Ranks of new scores among calibration scores; each row or each group of rows has the same weight."""

from __future__ import annotations

import numpy as np

__all__ = [
    "TOLERANCE",
    "ScoreTable",
    "lower_bounds",
    "rank_among_others",
    "row_weights",
    "score_classes",
    "to_p_values",
]

TOLERANCE = 1e-9  # for rounding errors in sums of weights such as 1/3


def row_weights(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Return weights that sum to 1 within each group, so that each group counts once.

    Parameters
    ----------
    groups : ndarray of shape (n,) or None
        None means that each row is its own group.
    n : int

    Returns
    -------
    ndarray of float, shape (n,)

    Examples
    --------
    >>> row_weights(np.array([0, 0, 1]), 3).tolist()
    [0.5, 0.5, 1.0]
    """
    if groups is None:
        return np.ones(n)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes]


class ScoreTable:
    """Sorted calibration scores, and the total weight of those that are at least as large as a new score.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
    weights : ndarray of float, shape (n,)

    Examples
    --------
    >>> ScoreTable(np.array([1.0, 2.0, 3.0]), np.ones(3)).weight_above(np.array([0.0, 2.0, 4.0])).tolist()
    [3.0, 2.0, 0.0]
    """

    def __init__(self, scores: np.ndarray, weights: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        self.scores = scores[order]
        self._weights = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)

    @property
    def total(self) -> float:
        """Total weight: the number of groups."""
        return float(self._weights[0])

    def weight_above(self, scores: np.ndarray) -> np.ndarray:
        """Return the weight of the calibration scores that are greater than or equal to each of ``scores``."""
        return self._weights[np.searchsorted(self.scores, scores, side="left")]


def score_classes(logits: np.ndarray) -> np.ndarray:
    """Return how far each class is below the best of the other classes.

    Parameters
    ----------
    logits : ndarray of float, shape (n, n_classes)

    Returns
    -------
    ndarray of float, shape (n, n_classes)

    Examples
    --------
    >>> score_classes(np.array([[3.0, 1.0, 0.0]])).tolist()
    [[-2.0, 2.0, 3.0]]
    """
    two = np.partition(logits, -2, axis=1)[:, -2:]
    is_best = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    return np.where(is_best, two[:, :1], two[:, 1:]) - logits


def to_p_values(weight_above: np.ndarray, total: float | np.ndarray) -> np.ndarray:
    """Return the share of calibration scores that are at least as large as a new score, the new one included.

    Parameters
    ----------
    weight_above : ndarray of float
        See :meth:`ScoreTable.weight_above`.
    total : float or ndarray
        Total weight of the calibration scores.

    Returns
    -------
    ndarray of float, greater than 0 and at most 1

    Examples
    --------
    >>> to_p_values(np.array([0.0, 3.0]), 3).tolist()
    [0.25, 1.0]
    """
    return (weight_above + 1) / (total + 1)


def rank_among_others(
    scores: np.ndarray, own: np.ndarray, groups: np.ndarray, members: np.ndarray | None = None
) -> np.ndarray:
    """Return the p-value of each score among the calibration scores of the rows of other groups.

    Parameters
    ----------
    scores : ndarray of float, shape (n, m)
    own : ndarray of float, shape (k,)
        Calibration scores.
    groups : ndarray of shape (n,)
        Each group has the weight of one row.
    members : ndarray of int, shape (k,), optional
        Rows of the calibration scores; by default all rows.

    Returns
    -------
    ndarray of float, shape (n, m)

    Examples
    --------
    >>> scores = np.array([3.0, 2.0, 2.0, 1.0])
    >>> rank_among_others(scores[:, None], scores, np.array([0, 1, 1, 2]))[:, 0].round(2).tolist()
    [0.33, 0.67, 0.67, 1.0]
    """
    members = np.arange(len(groups)) if members is None else members
    weights = row_weights(groups[members], len(members))
    table = ScoreTable(own, weights)
    above, total = table.weight_above(scores), np.full(len(scores), table.total)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    alone = sizes[codes[members]] == 1
    rows = members[alone]
    above[rows] -= own[alone, None] >= scores[rows]
    total[rows] -= 1
    by_group = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    shared = np.flatnonzero(~alone)
    shared = shared[np.argsort(codes[members[shared]], kind="stable")]
    for part in np.split(shared, np.flatnonzero(np.diff(codes[members[shared]])) + 1):
        if len(part):
            rows = by_group[codes[members[part[0]]]]
            above[rows] -= ScoreTable(own[part], weights[part]).weight_above(scores[rows])
            total[rows] -= 1
    return to_p_values(above, total[:, None])


def lower_bounds(values: np.ndarray, weights: np.ndarray, error_rate: float) -> np.ndarray:
    """Return a weighted quantile of each row of ``values`` and one more value, minus infinity with weight 1.

    The quantile is the smallest value such that the weights of all values up to it are, in sum, greater than
    ``error_rate`` times the total weight.

    Parameters
    ----------
    values : ndarray of float, shape (m, n)
    weights : ndarray of float, shape (n,)
    error_rate : float

    Returns
    -------
    ndarray of float, shape (m,)

    Examples
    --------
    >>> lower_bounds(np.arange(19.0)[None], np.ones(19), 0.1).tolist()
    [1.0]
    >>> lower_bounds(np.arange(5.0)[None], np.ones(5), 0.1).tolist()
    [-inf]
    """
    limit = error_rate * (weights.sum() + 1) + TOLERANCE
    if limit < 1:
        return np.full(len(values), -np.inf)
    order = np.argsort(values, axis=1)
    index = np.argmax(1 + np.cumsum(weights[order], axis=1) > limit, axis=1)
    return np.take_along_axis(np.take_along_axis(values, order, 1), index[:, None], 1)[:, 0]
