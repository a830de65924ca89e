"""Coverage and size of prediction sets and intervals, from out-of-fold values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas

from tlfeatures.results import PredictionIntervals, PredictionSets
from tlfeatures.trust._ranks import TOLERANCE, lower_bounds, rank_among_others, row_weights, score_classes

__all__ = ["measure_prediction_intervals", "measure_prediction_sets"]

_ERROR_RATES = (0.05, 0.1, 0.2)
_IMAGES = 10  # least number of images of a class, or of a third of the predictions


def measure_prediction_sets(
    logits: np.ndarray,
    codes: np.ndarray,
    predicted: np.ndarray,
    classes: np.ndarray,
    groups: np.ndarray,
    *,
    error_rates: Sequence[float] = _ERROR_RATES,
    per_class: bool = False,
    allow_empty: bool = False,
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
    error_rates : sequence of float, default=(0.05, 0.1, 0.2)
    per_class : bool, default=False
        Whether the error rates hold for each class.
    allow_empty : bool, default=False
        Whether a set may be empty; by default it contains the predicted class.

    Returns
    -------
    PredictionSets
        The tables are empty if there are fewer groups than one divided by the lowest error rate. The table of classes
        is for the second error rate, or the only one.

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
    if note := _describe_few(groups, error_rates, "images with out-of-fold values of all classes"):
        return PredictionSets(len(codes), pandas.DataFrame(), pandas.DataFrame(), note)
    scores, rows = score_classes(logits), np.arange(len(codes))
    own = scores[rows, codes]
    if per_class:
        p_values = np.empty_like(scores)
        for i in range(len(classes)):
            members = np.flatnonzero(codes == i)
            p_values[:, [i]] = rank_among_others(scores[:, [i]], own[members], groups, members)
    else:
        p_values = rank_among_others(scores, own, groups)
    frames = []
    for error_rate in error_rates:
        sets = p_values > error_rate + TOLERANCE
        if not allow_empty:
            sets[rows, predicted] = True
        size = sets.sum(axis=1)
        columns = {"coverage": sets[rows, codes], "mean_size": size, "one_class": size == 1}
        frames.append(pandas.DataFrame(columns))
    by_class = frames[min(1, len(frames) - 1)][["coverage", "mean_size"]].groupby(codes).mean()
    by_class.insert(0, "images", np.bincount(codes)[by_class.index])
    by_class = by_class[by_class["images"] >= _IMAGES]
    by_class.insert(0, "class", classes[by_class.index])
    few = len(classes) - len(by_class)
    note = f"{few} of {len(classes)} classes have fewer than {_IMAGES} images and are not in the table of classes."
    table = pandas.DataFrame([frame.mean() for frame in frames])
    table.insert(0, "error_rate", list(error_rates))
    return PredictionSets(len(codes), table, by_class.reset_index(drop=True), note if few else "")


def measure_prediction_intervals(
    y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, *, error_rates: Sequence[float] = _ERROR_RATES
) -> PredictionIntervals:
    """Measure how often prediction intervals contain the true value, and their width, without fitting a regressor.

    Parameters
    ----------
    y, predicted : ndarray of float, shape (n,)
        True values and out-of-fold predictions.
    groups : ndarray of int, shape (n,)
        Each group has the weight of one row, and the errors of a group do not determine its own intervals.
    error_rates : sequence of float, default=(0.05, 0.1, 0.2)

    Returns
    -------
    PredictionIntervals
        The tables are empty if there are fewer groups than one divided by the lowest error rate. Its table of thirds is
        for the second error rate, or the only one.

    Examples
    --------
    >>> y = np.arange(40.0)
    >>> predicted = y + np.tile([-1.0, 1.0], 20)
    >>> measure_prediction_intervals(y, predicted, np.arange(40)).error_rates["width"].tolist()
    [2.0, 2.0, 2.0]
    """
    if note := _describe_few(groups, error_rates, "images with out-of-fold predictions"):
        return PredictionIntervals(len(y), pandas.DataFrame(), pandas.DataFrame(), note)
    errors = np.abs(y - predicted)
    p_values = rank_among_others(errors[:, None], errors, groups)[:, 0]
    weights, value_range = row_weights(groups, len(y)), np.ptp(y)
    covered = [p_values > error_rate + TOLERANCE for error_rate in error_rates]
    widths = [-2 * lower_bounds(-errors[None], weights, error_rate)[0] for error_rate in error_rates]
    table = pandas.DataFrame(
        {
            "error_rate": error_rates,
            "coverage": [rows.mean() for rows in covered],
            "width": widths,
            "share_of_range": [width / value_range if value_range else 0.0 for width in widths],
        }
    )
    thirds, note = pandas.DataFrame(), ""
    if len(y) < 3 * _IMAGES:
        note = f"There are fewer than {3 * _IMAGES} images, so their thirds are not compared."
    else:
        parts = np.array_split(np.argsort(predicted, kind="stable"), 3)
        second = covered[min(1, len(covered) - 1)]
        thirds = pandas.DataFrame(
            [
                (
                    predicted[rows].min(),
                    predicted[rows].max(),
                    len(rows),
                    second[rows].mean(),
                    errors[rows].mean(),
                )
                for rows in parts
            ],
            columns=["lowest_prediction", "highest_prediction", "images", "coverage", "mean_error"],
        )
    return PredictionIntervals(len(y), table, thirds, note)


def _describe_few(groups: np.ndarray, error_rates: Sequence[float], unit: str) -> str:
    """Return why sets or intervals are not measured, or an empty text if there are enough groups."""
    needed, n = int(np.ceil(1 / min(error_rates) - TOLERANCE)), len(np.unique(groups))
    if n >= needed:
        return ""
    return f"{needed} {unit} are needed, and a group of images or of duplicates counts as one; there are {n}."
