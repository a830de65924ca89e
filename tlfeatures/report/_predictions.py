"""Figures and tables of predictions outside of a report: those of the report, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from tlfeatures.report import _figures, _tables
from tlfeatures.report._class_names import Labels

__all__ = ["PredictionFigures", "draw_predictions"]


@dataclass(frozen=True)
class PredictionFigures:
    """Figures and tables of predictions.

    Attributes
    ----------
    figures : dict of str to bytes
        PNG files: "confusion", "per_class" and, with probabilities, "calibration"; "scatter" for regression.
    tables : dict of str to DataFrame
        "per_class" and "confusions", the most frequent ones.
    calibration : dict of str to float
        Expected calibration error and Brier score, if there are probabilities.
    numbered : dict of str to str
        Names of classes that no font can show, by the number that replaces them in the figures.
    """

    figures: dict[str, bytes]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    numbered: dict[str, str] = field(default_factory=dict)


def draw_predictions(
    true: np.ndarray,
    predicted: np.ndarray,
    classes: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
) -> PredictionFigures:
    """Draw the figures of the report that show predictions.

    Parameters
    ----------
    true, predicted : ndarray of shape (n,)
    classes : ndarray of shape (k,), optional
        Sorted; None for regression.
    probabilities : ndarray of shape (n, k), optional

    Returns
    -------
    PredictionFigures

    Examples
    --------
    >>> y = np.array(["cat", "dog"] * 10)
    >>> sorted(draw_predictions(y, y, np.unique(y)).figures)
    ['confusion', 'per_class']
    """
    labels = Labels(() if classes is None else classes)
    with labels.style():
        if classes is None:
            return PredictionFigures(
                {"scatter": _figures.to_png(_figures.plot_prediction_errors(true, predicted))}
            )
        counts = confusion_matrix(true, predicted, labels=classes)
        per_class = _tables.class_metrics(true, predicted, classes)
        plots = {
            "confusion": _figures.plot_confusion(counts, classes.tolist(), labels),
            "per_class": _figures.plot_class_metrics(per_class, labels),
        }
        errors = {}
        if probabilities is not None:
            bins = _tables.calibration(true, probabilities, classes)
            errors = _tables.calibration_errors(bins, true, probabilities, classes)
            plots["calibration"] = _figures.plot_calibration(bins)
        figures = {name: _figures.to_png(plot) for name, plot in plots.items()}
    tables = {"per_class": per_class, "confusions": _tables.frequent_confusions(counts, classes)}
    return PredictionFigures(figures, tables, errors, labels.numbered)
