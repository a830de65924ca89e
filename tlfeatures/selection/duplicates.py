"""Copies and near-copies of images: which they are, and the groups that keep them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from tlfeatures.selection.folds import Pair

__all__ = ["Duplicates", "find_duplicates", "move_together"]

_NEAR_ROWS = 20_000  # above it, only exact copies: the work grows with the square
_BLOCK = 256  # rows compared with all others at a time


@dataclass
class Duplicates:
    """What was found, and what it does to the score.

    Attributes
    ----------
    pairs : ndarray of int, shape (p, 2)
        Rows that are copies or near-copies of each other. Of n images that hang together n - 1 pairs, the
        nearest: a film of one scene would have millions.
    cosine : ndarray of shape (p,)
        Of the centred embeddings; 1 for exact copies.
    exact : ndarray of bool, shape (p,)
        Whether the images' digests are equal.
    groups : ndarray of int, shape (n,)
        Equal for rows that hang together, the user's groups included.
    threshold : float
        Cosine from which rows count as near-copies.
    searched : bool
        False when there were too many rows to look for near-copies.
    crossing : int
        Pairs that fall into different folds.
    score, score_together : float or None
        Mean score of the winner as chosen, and with such rows moved into one fold; None where none cross, and
        where no folds can be made so.
    """

    pairs: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray
    groups: np.ndarray
    threshold: float
    searched: bool = True
    crossing: int = 0
    score: float | None = None
    score_together: float | None = None

    @property
    def drop(self) -> float | None:
        """How much of the score is owed to copies in other folds."""
        return None if self.score_together is None else self.score - self.score_together

    @property
    def largest(self) -> int:
        """How many rows hang together at most."""
        return int(np.bincount(self.groups).max())

    def count_crossing(self, folds: Sequence[Pair]) -> int:
        """Pairs of which one row is tested by a model that was trained on the other."""
        crosses = np.zeros(len(self.pairs), bool)
        for train, test in folds:
            side = np.zeros(len(self.groups), np.int8)
            side[train], side[test] = 1, 2
            crosses |= side[self.pairs].sum(axis=1) == 3
        self.crossing = int(crosses.sum())
        return self.crossing


def find_duplicates(
    keys: np.ndarray, features: np.ndarray, threshold: float, groups: np.ndarray | None = None
) -> Duplicates:
    """Find rows of equal digest, and rows whose centred embeddings point the same way.

    Parameters
    ----------
    keys : ndarray of uint8, shape (n, 16)
    features : ndarray of shape (n, d)
    threshold : float
        Cosine from which two rows count as near-copies.
    groups : ndarray of int, shape (n,), optional
        Rows that belong together anyway.

    Examples
    --------
    >>> keys = np.arange(48, dtype="uint8").reshape(3, 16)
    >>> features = np.array([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0]])
    >>> find_duplicates(keys, features, 0.99).pairs.tolist()
    [[0, 1]]
    """
    n = len(keys)
    _, first, same = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    same = first[same.reshape(-1)]
    copies = np.flatnonzero(same != np.arange(n))
    found = [np.stack([same[copies], copies], axis=1)]
    cosines = [np.ones(len(copies))]
    distinct = np.sort(first)
    searched = len(distinct) <= _NEAR_ROWS
    if searched:
        near, cosine = _nearest(features[distinct].astype(np.float32), threshold)
        found.append(distinct[near])
        cosines.append(cosine)
    pairs = np.concatenate(found)
    together = together_groups(pairs, n, groups)
    exact = np.arange(len(pairs)) < len(copies)
    return Duplicates(pairs, np.concatenate(cosines), exact, together, threshold, searched)


def _nearest(F: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows (p, 2) from a cosine on, and their cosines: of all such pairs a spanning forest, nearest first."""
    n = len(F)
    F = F - F.mean(axis=0)
    F /= np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)
    forest = coo_array((n, n), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        cosine = F[start : start + _BLOCK] @ F[start:].T
        i, j = np.nonzero(np.triu(cosine >= threshold, 1))
        if len(i):
            # distances from 1 on: to scipy 0 is no edge
            weights = np.concatenate([forest.data, 2 - np.minimum(cosine[i, j], 1.0)])
            edges = np.concatenate([forest.row, start + i]), np.concatenate([forest.col, start + j])
            forest = minimum_spanning_tree(coo_array((weights, edges), shape=(n, n))).tocoo()
    pairs = np.sort(np.stack([forest.row, forest.col], axis=1), axis=1).astype(int)
    order = np.lexsort(pairs.T[::-1])
    return pairs[order], 2 - forest.data[order]


def move_together(folds: Sequence[Pair], groups: np.ndarray) -> list[Pair]:
    """The same folds, but each group is tested where its first row was.

    Raises
    ------
    ValueError
        When the folds do not test every row once, and train on all others.

    Examples
    --------
    >>> rows = np.arange(4)
    >>> folds = [(rows[2:], rows[:2]), (rows[:2], rows[2:])]
    >>> [test.tolist() for _, test in move_together(folds, np.array([0, 1, 2, 0]))]
    [[0, 1, 3], [2]]
    """
    n = len(groups)
    tested = np.sort(np.concatenate([test for _, test in folds]))
    if not np.array_equal(tested, np.arange(n)) or any(len(a) + len(b) != n for a, b in folds):
        raise ValueError("The folds are no partition of the rows.")
    place = np.empty(n, int)
    for i, (_, test) in enumerate(folds):
        place[test] = i
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    place = place[first][codes]
    return [(np.flatnonzero(place != i), np.flatnonzero(place == i)) for i in range(len(folds))]


def together_groups(pairs: np.ndarray, n: int, groups: np.ndarray | None) -> np.ndarray:
    """Connected components of pairs and groups, shape (n,)."""
    links: list[Any] = [pairs]
    if groups is not None:
        _, first = np.unique(groups, return_index=True)
        links.append(np.stack([np.arange(n), first[np.unique(groups, return_inverse=True)[1]]], axis=1))
    edges = np.concatenate(links)
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]
