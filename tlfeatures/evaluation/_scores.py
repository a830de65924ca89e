"""Cross-validated score of one estimator on embeddings, corrected for duplicate images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import cross_val_score

from tlfeatures.evaluation._duplicates import Duplicates, find_duplicates, keep_groups_together
from tlfeatures.evaluation._folds import Fold, make_folds

__all__ = ["CrossValidation", "cross_validate_embeddings", "find_label_conflicts", "group_folds"]


@dataclass(frozen=True)
class CrossValidation:
    """Result of :func:`cross_validate_embeddings`.

    Attributes
    ----------
    scoring : str
        Name of the score; greater is better.
    scores : ndarray of shape (n_folds,)
        Scores on folds that keep duplicate groups together, if possible.
    uncorrected : ndarray of shape (n_folds,) or None
        Scores on the original folds, if these split duplicate groups and other folds exist. Otherwise None, and
        ``scores`` are the scores on the original folds.
    duplicates : Duplicates
        ``duplicates.crossing`` counts the pairs split between the uncorrected folds.
    """

    scoring: str
    scores: np.ndarray
    uncorrected: np.ndarray | None
    duplicates: Duplicates


def cross_validate_embeddings(
    estimator: Any,
    X: np.ndarray,
    y: np.ndarray,
    keys: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    cv: int = 5,
    scoring: str,
    task: str,
    duplicate_threshold: float = 0.95,
    random_state: int = 0,
) -> CrossValidation:
    """Score an estimator on embeddings by cross-validation, with duplicate images in one fold.

    The network is frozen, so computing the embeddings before the split does not leak information between folds.

    Parameters
    ----------
    estimator : estimator
        Cloned for each fold.
    X : ndarray of shape (n, d)
        Embeddings.
    y : ndarray of shape (n,)
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images.
    groups : ndarray of int, shape (n,), optional
        Rows of one group are kept in one fold.
    cv : int, default=5
        Number of folds.
    scoring : str
        A score of scikit-learn.
    task : {"classification", "regression"}
    duplicate_threshold : float, default=0.95
        Cosine similarity from which two images are near-duplicates.
    random_state : int, default=0

    Returns
    -------
    CrossValidation

    Raises
    ------
    ValueError
        If the classes or the groups cannot be split into ``cv`` folds.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> X = np.array([[0.0, 1.0], [0.2, 1.0], [0.1, 0.8], [1.0, 0.0], [0.8, 0.0], [0.9, 0.2]])
    >>> y, keys = np.repeat(["cat", "dog"], 3), np.arange(96, dtype="uint8").reshape(6, 16)
    >>> result = cross_validate_embeddings(
    ...     SVC(), X, y, keys, cv=3, scoring="accuracy", task="classification", duplicate_threshold=1
    ... )
    >>> result.scores
    array([1., 1., 1.])
    """
    folds = make_folds(cv, y, groups, task, random_state)
    duplicates = find_duplicates(keys, X, duplicate_threshold, groups)

    def score(folds: Sequence[Fold]) -> np.ndarray:
        return cross_val_score(estimator, X, y, cv=folds, scoring=scoring, error_score="raise")

    scores = score(folds)
    if not duplicates.count_crossing(folds):
        return CrossValidation(scoring, scores, None, duplicates)
    try:
        corrected = score(group_folds(folds, duplicates.groups, y, task, random_state))
    except ValueError:  # the duplicate groups are too large to be split into folds
        return CrossValidation(scoring, scores, None, duplicates)
    duplicates.score, duplicates.score_together = float(scores.mean()), float(corrected.mean())
    return CrossValidation(scoring, corrected, scores, duplicates)


def group_folds(
    folds: Sequence[Fold], groups: np.ndarray, y: np.ndarray, task: str, random_state: int = 0
) -> list[Fold]:
    """Change folds as little as possible so that each group is in one of them.

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
        For each image that differs in its label from the first image with this digest, the rows of both.

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
