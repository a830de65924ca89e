"""Scores of labels: out-of-fold probabilities combined with the labels of the nearest images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.base import clone

from tlfeatures.calibration import calibrate_logits
from tlfeatures.evaluation import Neighbors
from tlfeatures.heads import blas_threads, make_head

__all__ = ["LabelScores", "predict_out_of_fold", "score_labels"]

_SVM_ROWS = 3000  # above it, the RBF kernel takes too long
_LEAST_PROBABILITY = 1e-4


class LabelScores(NamedTuple):
    """Scores of n labels.

    Attributes
    ----------
    score : ndarray of float64, shape (n,)
        From 0, certainly right, to 1, certainly wrong; NaN if a label was not checked.
    suggestion : ndarray of int, shape (n,)
        Code of the most probable other class.
    probability : ndarray of float64, shape (n,)
        Out-of-fold probability of the label.
    neighbors : ndarray of float64, shape (n,)
        Share of the neighbours that have this label.
    """

    score: np.ndarray
    suggestion: np.ndarray
    probability: np.ndarray
    neighbors: np.ndarray


def predict_out_of_fold(
    features: np.ndarray, codes: np.ndarray, groups: np.ndarray, cv: int, random_state: int
) -> np.ndarray:
    """Predict calibrated class probabilities of each row by a head that was not fitted on its group.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1.
    groups : ndarray of int, shape (n,)
        Rows of one group are in one fold.
    cv : int
        Number of folds.
    random_state : int

    Returns
    -------
    ndarray of float64, shape (n, k)
        NaN for a row whose class has no row in any other fold.
    """
    n, k = len(codes), int(codes.max()) + 1
    fold_of = _assign_folds(codes, groups, cv, random_state)
    logits = np.full((n, k), -np.inf)
    checked = np.zeros(n, bool)
    head = make_head("svm" if n <= _SVM_ROWS else "ridge")
    with blas_threads(*features.shape):
        for fold in range(cv):
            train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            classes = np.unique(codes[train])
            if len(classes) < 2 or not len(test):
                continue
            z = clone(head).fit(features[train], codes[train]).decision_function(features[test])
            z = np.stack([-z, z], axis=1) if z.ndim == 1 else z
            logits[np.ix_(test, classes)] = z
            checked[test] = np.isin(codes[test], classes)
    probabilities = np.full((n, k), np.nan)
    if checked.any():
        probabilities[checked] = calibrate_logits(logits[checked], codes[checked])
    return probabilities


def _assign_folds(codes: np.ndarray, groups: np.ndarray, cv: int, random_state: int) -> np.ndarray:
    """Assign a fold to each row: stratified by class, and the fold of its first row to each group."""
    n = len(codes)
    order = np.lexsort((np.random.default_rng(random_state).random(n), codes))
    fold_of = np.empty(n, int)
    fold_of[order] = np.arange(n) % cv
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return fold_of[first][numbers]


def score_labels(codes: np.ndarray, probabilities: np.ndarray, neighbors: Neighbors) -> LabelScores:
    """Score labels by calibrated out-of-fold probabilities and by the labels of the neighbours.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1; -1 for rows without a label, which are not scored and do not vote.
    probabilities : ndarray of shape (n, k)
    neighbors : Neighbors

    Returns
    -------
    LabelScores

    Notes
    -----
    The two estimates of the class probabilities are combined by their geometric mean. The score is
    (1 + p - q) / 2, where q is the probability of the label and p that of the most probable other class, which is the
    normalized margin of Northcutt et al. (2021, "Confident learning"), reversed.
    """
    n, k = probabilities.shape
    votes = np.zeros((n, k))
    for column in neighbors.rows.T:
        labelled = np.flatnonzero(codes[column] >= 0)
        votes[labelled, codes[column[labelled]]] += 1
    n_votes = np.maximum(votes.sum(axis=1, keepdims=True), 1)
    smoothed = (votes + 1 / k) / (n_votes + 1)
    combined = np.sqrt(np.maximum(probabilities, _LEAST_PROBABILITY) * smoothed)
    combined /= combined.sum(axis=1, keepdims=True)
    rows, own = np.arange(n), np.maximum(codes, 0)
    of_label = combined[rows, own]
    others = combined.copy()
    others[rows, own] = -1
    suggestion = np.where(np.isnan(of_label), 0, np.nan_to_num(others).argmax(axis=1))
    score = (1 + others[rows, suggestion] - of_label) / 2
    score[codes < 0] = np.nan
    return LabelScores(score, suggestion, probabilities[rows, own], (votes / n_votes)[rows, own])
