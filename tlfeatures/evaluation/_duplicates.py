"""Duplicate and near-duplicate images, the groups that they form, and folds that keep groups together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from tlfeatures.evaluation._folds import Fold, make_folds
from tlfeatures.evaluation._neighbors import Neighbors, normalize_embeddings

__all__ = ["Duplicates", "find_duplicates", "find_label_conflicts", "group_folds", "keep_groups_together"]

_NEAR_ROWS = 20_000  # above it, only exact duplicates are searched, because the cost is quadratic
_BLOCK = 256  # number of rows that are compared with all others at a time


@dataclass
class Duplicates:
    """Duplicate images of a data set, and their effect on the score.

    Attributes
    ----------
    pairs : ndarray of int, shape (p, 2)
        Rows that are duplicates or near-duplicates of each other. A duplicate group of n images contributes its
        n - 1 nearest pairs, because a video of one scene would have millions of pairs.
    cosine : ndarray of shape (p,)
        Cosine similarity of the centered embeddings; 1 for exact duplicates.
    exact : ndarray of bool, shape (p,)
        Whether the digests of both images are equal.
    groups : ndarray of int, shape (n,)
        Duplicate group of each row; groups passed by the user that share a duplicate are merged.
    threshold : float
        Cosine similarity from which two rows are near-duplicates.
    searched : bool
        False if there were too many rows to search for near-duplicates.
    crossing : int
        Number of pairs that are split between folds.
    score, grouped_score : float or None
        Mean score of the best candidate on the original folds, and on folds that keep duplicate groups together;
        None if no pair crosses folds; ``grouped_score`` also if no such folds exist.
    """

    pairs: np.ndarray
    cosine: np.ndarray
    exact: np.ndarray
    groups: np.ndarray
    threshold: float
    searched: bool = True
    crossing: int = 0
    score: float | None = None
    grouped_score: float | None = None

    @property
    def drop(self) -> float | None:
        """Part of the score that is due to duplicates split between folds."""
        return None if self.grouped_score is None else self.score - self.grouped_score

    @property
    def largest(self) -> int:
        """Size of the largest group in ``groups``: duplicates, merged with the groups passed by the user."""
        return int(np.bincount(self.groups).max())

    def merge(self, groups: np.ndarray) -> np.ndarray:
        """Return groups of rows, int (n,), that unite the duplicate groups with ``groups``, int (n,)."""
        return _merge_groups(self.pairs, len(self.groups), groups)

    def describe(self) -> str:
        """Describe the pairs that are split between folds, and their effect on the score.

        Returns
        -------
        str

        Examples
        --------
        >>> keys = np.zeros((2, 16), "uint8")
        >>> duplicates = find_duplicates(keys, np.ones((2, 1)), threshold=0.95)
        >>> duplicates.count_crossing([([0], [1]), ([1], [0])])
        1
        >>> print(duplicates.describe())
        1 of 1 pair(s) of duplicate images (cosine >= 0.95; 1 exact) are split between folds, so the scores may...
        """
        split = (
            f"{self.crossing:,} of {len(self.pairs):,} pair(s) of duplicate images (cosine >= {self.threshold:g}; "
            f"{int(self.exact.sum()):,} exact) are split between folds"
        )
        if self.grouped_score is not None:
            return (
                f"{split}: grouped cross-validation, which keeps duplicates in one fold, scores "
                f"{self.grouped_score:.4f} instead of {self.score:.4f}."
            )
        reason = ""
        if self.score is not None:
            reason = (
                " Grouped cross-validation, which keeps duplicates in one fold, is not possible: the largest group of "
                f"duplicates, merged with `groups` if passed, has {self.largest:,} of {len(self.groups):,} images."
            )
        return f"{split}, so the scores may be too high.{reason}"

    def count_crossing(self, folds: Sequence[Fold]) -> int:
        """Count the pairs with one row in the test set and the other in the training set of a fold.

        The number is returned, and stored in ``crossing``.
        """
        crosses = np.zeros(len(self.pairs), bool)
        for train, test in folds:
            side = np.zeros(len(self.groups), np.int8)
            side[train], side[test] = 1, 2
            crosses |= side[self.pairs].sum(axis=1) == 3
        self.crossing = int(crosses.sum())
        return self.crossing


def find_duplicates(
    keys: np.ndarray,
    features: np.ndarray,
    threshold: float,
    groups: np.ndarray | None = None,
    neighbors: Neighbors | None = None,
) -> Duplicates:
    """Find images with equal digests, and images with almost the same centered embedding.

    Parameters
    ----------
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images.
    features : ndarray of shape (n, d)
        Embeddings.
    threshold : float
        Cosine similarity from which two rows are near-duplicates.
    groups : ndarray of int, shape (n,), optional
        Groups passed by the user; they are merged with the duplicate groups.
    neighbors : Neighbors, optional
        Result of :func:`find_neighbors` for all rows. Near-duplicates are then searched among these neighbors only,
        for any number of rows; without it, more than 20,000 distinct rows are searched for exact duplicates only.

    Returns
    -------
    Duplicates

    Examples
    --------
    >>> keys = np.arange(48, dtype="uint8").reshape(3, 16)
    >>> features = np.array([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.0]])
    >>> find_duplicates(keys, features, 0.99).pairs.tolist()
    [[0, 1]]
    """
    n = len(keys)
    _, first, same = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    original = first[same.reshape(-1)]
    repeated = np.flatnonzero(original != np.arange(n))
    pairs = [np.stack([original[repeated], repeated], axis=1)]
    cosines = [np.ones(len(repeated))]
    distinct = np.sort(first)
    searched = neighbors is not None or len(distinct) <= _NEAR_ROWS
    if neighbors is not None:
        near, cosine = _pairs_of_neighbors(neighbors, original, threshold)
        pairs.append(near)
        cosines.append(cosine)
    elif searched:
        near, cosine = _nearest_pairs(features[distinct], threshold)
        pairs.append(distinct[near])
        cosines.append(cosine)
    all_pairs = np.concatenate(pairs)
    exact = np.arange(len(all_pairs)) < len(repeated)
    merged = _merge_groups(all_pairs, n, groups)
    return Duplicates(all_pairs, np.concatenate(cosines), exact, merged, threshold, searched)


def _nearest_pairs(F: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the spanning forest of all pairs above the threshold, (p, 2), and their cosines."""
    n = len(F)
    F = normalize_embeddings(F)
    forest = coo_array((n, n), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        cosine = F[start : start + _BLOCK] @ F[start:].T
        i, j = np.nonzero(np.triu(cosine >= threshold, 1))
        if len(i):
            first = np.concatenate([forest.row, start + i])
            second = np.concatenate([forest.col, start + j])
            distance = np.concatenate([forest.data, _to_distance(cosine[i, j])])
            forest = _make_forest(n, first, second, distance)
    return _list_pairs(forest)


def _pairs_of_neighbors(
    neighbors: Neighbors, original: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Like `_nearest_pairs`, but only among neighbors.

    ``original`` maps each row to the first row with the same digest.
    """
    i, column = np.nonzero(neighbors.cosine >= threshold)
    cosine = neighbors.cosine[i, column]
    i, j = original[i], original[neighbors.rows[i, column]]
    edges = np.sort(np.stack([i, j], axis=1), axis=1)
    # a pair is listed for both rows; the matrix would add up equal entries
    edges, first = np.unique(edges[i != j], axis=0, return_index=True)
    distance = _to_distance(cosine[i != j][first])
    return _list_pairs(_make_forest(len(original), edges[:, 0], edges[:, 1], distance))


def _to_distance(cosine: np.ndarray) -> np.ndarray:
    """Return distances that start at 1, because SciPy treats 0 as a missing edge."""
    return 2 - np.minimum(cosine, 1.0)


def _make_forest(n: int, i: np.ndarray, j: np.ndarray, distance: np.ndarray) -> coo_array:
    indices = i.astype(np.int32), j.astype(np.int32)  # SciPy 1.13 accepts only int32
    return minimum_spanning_tree(coo_array((distance, indices), shape=(n, n))).tocoo()


def _list_pairs(forest: coo_array) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.sort(np.stack([forest.row, forest.col], axis=1), axis=1).astype(int)
    order = np.lexsort(pairs.T[::-1])
    return pairs[order], 2 - forest.data[order]


def keep_groups_together(folds: Sequence[Fold], groups: np.ndarray) -> list[Fold]:
    """Move every group into the fold that tests its first row.

    The folds change as little as possible, so a difference of scores is due to the groups and not to a new shuffle.

    Parameters
    ----------
    folds : sequence of (train, test)
    groups : ndarray of shape (n,)

    Returns
    -------
    list of (train, test)

    Raises
    ------
    ValueError
        If the folds do not test every row once and train on all others.

    Examples
    --------
    >>> rows = np.arange(4)
    >>> folds = [(rows[2:], rows[:2]), (rows[:2], rows[2:])]
    >>> [test.tolist() for _, test in keep_groups_together(folds, np.array([0, 1, 2, 0]))]
    [[0, 1, 3], [2]]
    """
    n = len(groups)
    tested = np.sort(np.concatenate([test for _, test in folds]))
    if not np.array_equal(tested, np.arange(n)) or any(len(a) + len(b) != n for a, b in folds):
        raise ValueError("The folds must test each row once and train on all other rows.")
    fold_of = np.empty(n, int)
    for i, (_, test) in enumerate(folds):
        fold_of[test] = i
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    fold_of = fold_of[first][codes]
    return [(np.flatnonzero(fold_of != i), np.flatnonzero(fold_of == i)) for i in range(len(folds))]


def group_folds(
    folds: Sequence[Fold], groups: np.ndarray, y: np.ndarray, task: str, random_state: int = 0
) -> list[Fold]:
    """Change folds as little as possible so that each group is in one fold.

    Parameters
    ----------
    folds : sequence of (train, test)
    groups : ndarray of int, shape (n,)
    y : ndarray of shape (n,)
    task : {"classification", "regression"}
    random_state : int, default=0
        Seed for new folds, which are made if the folds overlap or a class would be missing.

    Returns
    -------
    list of (train, test)

    Raises
    ------
    ValueError
        If the groups cannot be split into that many folds.
    """
    try:
        return make_folds(keep_groups_together(folds, groups), y, None, task, random_state)
    except ValueError:
        return make_folds(len(folds), y, groups, task, random_state)


def find_label_conflicts(keys: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find pairs of identical images with different labels.

    Parameters
    ----------
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images.
    y : ndarray of shape (n,)

    Returns
    -------
    ndarray of int, shape (p, 2)
        For each image whose label differs from that of the first image with the same digest, the rows of both.

    Examples
    --------
    >>> keys = np.zeros((3, 16), "uint8")
    >>> find_label_conflicts(keys, np.array(["cat", "cat", "dog"])).tolist()
    [[0, 2]]
    """
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first = first[inverse.reshape(-1)]
    rows = np.flatnonzero(y != y[first])
    return np.stack([first[rows], rows], axis=1)


def _merge_groups(pairs: np.ndarray, n: int, groups: np.ndarray | None) -> np.ndarray:
    """Return the connected components of pairs and groups, int (n,)."""
    links: list[Any] = [pairs]
    if groups is not None:
        _, first = np.unique(groups, return_index=True)
        links.append(np.stack([np.arange(n), first[np.unique(groups, return_inverse=True)[1]]], axis=1))
    edges = np.concatenate(links)
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]
