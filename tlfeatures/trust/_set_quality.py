"""Coverage and size of prediction sets, from out-of-fold values."""

from __future__ import annotations

import numpy as np
import pandas

from tlfeatures.results import PredictionSets
from tlfeatures.trust._ranks import ScoreTable, row_weights, score_classes, to_p_values

__all__ = ["measure_prediction_sets"]

_TOLERANCE = 1e-9
_ERROR_RATES = (0.05, 0.1, 0.2)
_BY_CLASS = 0.1
_GROUPS = 20  # 1 / 0.05: with fewer, every set contains all classes
_IMAGES = 10  # of a class


def measure_prediction_sets(
    logits: np.ndarray, codes: np.ndarray, predicted: np.ndarray, classes: np.ndarray, groups: np.ndarray
) -> PredictionSets:
    """Measure how often prediction sets contain the true class, and how large they are, without fitting a classifier.

    Parameters
    ----------
    logits : ndarray of float, shape (n, n_classes)
        Out-of-fold decision values, or logarithms of probabilities. Rows that are not finite are left out.
    codes, predicted : ndarray of int, shape (n,)
        Index of the true and of the predicted class in ``classes``.
    classes : ndarray of shape (n_classes,)
    groups : ndarray of int, shape (n,)
        Each group has the weight of one row, and a row is not ranked among the rows of its own group.

    Returns
    -------
    PredictionSets
        With empty tables if there are fewer than 20 groups.

    Examples
    --------
    >>> logits = np.r_[np.tile([2.0, 0.0], (19, 1)), [[0.0, 2.0]]]
    >>> predicted, classes = logits.argmax(axis=1), np.array(["cat", "dog"])
    >>> sets = measure_prediction_sets(logits, np.zeros(20, int), predicted, classes, np.arange(20))
    >>> sets.error_rates["coverage"].tolist(), sets.error_rates["mean_size"].tolist()
    ([0.95, 0.95, 0.95], [1.95, 1.0, 1.0])
    """
    complete = np.isfinite(logits).all(axis=1)
    logits, codes, predicted, groups = (values[complete] for values in (logits, codes, predicted, groups))
    n, n_groups = len(codes), len(np.unique(groups))
    if n_groups < _GROUPS:
        reason = (
            f"{_GROUPS} images with out-of-fold values of all classes are needed, and a group of images or of "
            f"duplicates counts as one; there are {n_groups}."
        )
        return PredictionSets(n, pandas.DataFrame(), pandas.DataFrame(), reason)
    p_values = _rank_among_others(logits, codes, groups)
    by_rate, rows = [], np.arange(n)
    for error_rate in _ERROR_RATES:
        sets = p_values > error_rate + _TOLERANCE
        sets[rows, predicted] = True
        frame = pandas.DataFrame(
            {"code": codes, "coverage": sets[rows, codes], "mean_size": sets.sum(axis=1)}
        )
        by_rate.append(
            (error_rate, *frame[["coverage", "mean_size"]].mean(), (frame["mean_size"] == 1).mean())
        )
        if error_rate == _BY_CLASS:
            by_class = frame.groupby("code").mean()
            by_class.insert(0, "images", frame["code"].value_counts())
    by_class = by_class[by_class["images"] >= _IMAGES]
    by_class.insert(0, "class", classes[by_class.index])
    few = len(classes) - len(by_class)
    note = f"{few} of {len(classes)} classes have fewer than {_IMAGES} images and are not in the table of classes."
    table = pandas.DataFrame(by_rate, columns=["error_rate", "coverage", "mean_size", "one_class"])
    return PredictionSets(n, table, by_class.reset_index(drop=True), note if few else "")


def _rank_among_others(logits: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the p-value of each class, shape (n, n_classes), from the rows of the other groups."""
    scores, weights = score_classes(logits), row_weights(groups, len(codes))
    own = scores[np.arange(len(codes)), codes]
    table = ScoreTable(own, weights)
    above = table.weight_above(scores)
    alone = weights == 1
    above[alone] -= own[alone, None] >= scores[alone]
    shared = np.flatnonzero(~alone)
    for positions in pandas.Series(shared).groupby(groups[shared]).indices.values():
        members = shared[positions]
        above[members] -= ScoreTable(own[members], weights[members]).weight_above(scores[members])
    return to_p_values(above, table.total - 1)
