"""Scores of labels: out-of-fold probabilities combined with the labels of the nearest images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures.calibration import calibrate_logits
from tlfeatures.evaluation import Neighbors
from tlfeatures.heads import blas_threads, make_head

__all__ = ["LabelScores", "predict_out_of_fold", "score_labels"]

_LEAST_PROBABILITY = 1e-4
_PENALTY_ROWS = 5000
_POOLING_ROWS = 5000  # rows to which the weights of the two estimates are fitted


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
        Share of the nearest images that have this label.
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
    head = _make_head(features, codes)
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


def _make_head(features: np.ndarray, codes: np.ndarray) -> Any:
    """Make a ridge classifier, the head whose predictions wrong labels change least.

    For many rows its penalty is chosen once, on a sample, because trying 13 penalties takes most of the time.
    """
    head = make_head("ridge")
    step = -(-len(codes) // _PENALTY_ROWS)
    if step == 1:
        return head
    with blas_threads(*features[::step].shape):
        alpha = head.fit(features[::step], codes[::step])[-1].alpha_
    return Pipeline([("scale", StandardScaler()), ("ridge", RidgeClassifier(alpha=alpha))])


def _assign_folds(codes: np.ndarray, groups: np.ndarray, cv: int, random_state: int) -> np.ndarray:
    """Assign a fold to each row, stratified by class; all rows of a group get the fold of its first row."""
    n = len(codes)
    order = np.lexsort((np.random.default_rng(random_state).random(n), codes))
    fold_of = np.empty(n, int)
    fold_of[order] = np.arange(n) % cv
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return fold_of[first][numbers]


def score_labels(codes: np.ndarray, probabilities: np.ndarray, neighbors: Neighbors) -> LabelScores:
    """Score labels by calibrated out-of-fold probabilities and by the labels of the nearest images.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1; -1 for rows without a label, which are not scored and are not counted as neighbors.
    probabilities : ndarray of shape (n, k)
    neighbors : Neighbors

    Returns
    -------
    LabelScores

    Notes
    -----
    The class probabilities of the head and of the neighbors are combined as softmax(a log(head) + b log(neighbors)).
    The weights a and b minimize the log loss of the labels; neither estimate for a row uses the label of that row. The
    score is (1 + p - q) / 2, where q is the combined probability of the label and p that of the most probable other
    class. It is one minus the normalized margin of Northcutt et al. (2021, "Confident learning").
    """
    n, k = probabilities.shape
    votes = np.zeros((n, k))
    for column in neighbors.rows.T:
        labelled = np.flatnonzero(codes[column] >= 0)
        votes[labelled, codes[column[labelled]]] += 1
    n_votes = votes.sum(axis=1, keepdims=True)
    logits = (
        np.log(np.maximum(probabilities, _LEAST_PROBABILITY)),
        np.log((votes + 1 / k) / (n_votes + 1)),
    )
    checked = np.flatnonzero((codes >= 0) & ~np.isnan(probabilities).any(axis=1))
    score, suggestion, of_label = np.full(n, np.nan), np.zeros(n, int), np.full(n, np.nan)
    if len(checked):
        sample = checked[:: -(-len(checked) // _POOLING_ROWS)]
        a, b = _fit_pooling(logits[0][sample], logits[1][sample], codes[sample])
        pooled = softmax(a * logits[0][checked] + b * logits[1][checked], axis=1)
        rows, own = np.arange(len(checked)), codes[checked]
        margin = pooled[rows, own].copy()
        pooled[rows, own] = -1
        suggestion[checked] = pooled.argmax(axis=1)
        score[checked] = (1 + pooled.max(axis=1) - margin) / 2
        of_label[checked] = probabilities[checked, own]
    share = votes[np.arange(n), np.maximum(codes, 0)] / np.maximum(n_votes[:, 0], 1)
    return LabelScores(score, suggestion, of_label, share)


def _fit_pooling(first: np.ndarray, second: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Find the weights of two estimates (log probabilities, shape (n, k)) that minimize the log loss of the labels."""
    rows = np.arange(len(codes))

    def loss(log_weights: np.ndarray) -> float:
        a, b = np.exp(log_weights)
        return -log_softmax(a * first + b * second, axis=1)[rows, codes].sum() + 1e-3 * (a * a + b * b)

    start = np.log([0.5, 0.5])
    options = {"xatol": 0.02, "fatol": 0.01, "maxiter": 100}
    a, b = np.exp(minimize(loss, start, method="Nelder-Mead", bounds=[(-10, 3)] * 2, options=options).x)
    return float(a), float(b)
