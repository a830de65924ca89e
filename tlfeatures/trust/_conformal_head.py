"""Heads with prediction sets or intervals, and the columns that they add to a table of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from tlfeatures.calibration import CalibratedHead
from tlfeatures.trust._conformal import ConformalBase
from tlfeatures.trust._conformal_classifier import ConformalClassifier
from tlfeatures.trust._conformal_regressor import ConformalRegressor

__all__ = ["ConformalPredictions", "describe_coverage", "fit_conformal_head", "predict_conformal"]


@dataclass(frozen=True)
class ConformalPredictions:
    """Sets or intervals of predictions, and which rows are unusual.

    Attributes
    ----------
    sets : ndarray of bool, shape (n, n_classes), or None
        None for regression.
    p_values : ndarray of shape (n,) or None
        p-value of the predicted class; None for regression.
    intervals : ndarray of shape (n, 2) or None
        Lower and upper ends; None for classification.
    unusual : ndarray of bool, shape (n,), or None
        None if there is no detector.
    """

    sets: np.ndarray | None
    p_values: np.ndarray | None
    intervals: np.ndarray | None
    unusual: np.ndarray | None

    def make_columns(self, classes: np.ndarray | None) -> dict[str, Any]:
        """Make the columns of a table of predictions.

        Parameters
        ----------
        classes : ndarray of shape (n_classes,) or None

        Returns
        -------
        dict of str to ndarray of shape (n,)
            "set" (names of classes, separated by "|") and "p_value" for classification, "lower" and "upper" for
            regression, and "unusual" if there is a detector.
        """
        columns: dict[str, Any] = {}
        if self.intervals is not None:
            columns = {"lower": self.intervals[:, 0], "upper": self.intervals[:, 1]}
        elif self.sets is not None:
            names = np.array([str(name) for name in classes.tolist()])
            texts = ["|".join(names[row]) for row in self.sets]
            columns = {"set": np.array(texts, dtype=str), "p_value": self.p_values}
        return columns if self.unusual is None else {**columns, "unusual": self.unusual}

    def describe(self, y: np.ndarray, classes: np.ndarray | None) -> dict[str, float]:
        """Compare the sets or intervals with the labels.

        Parameters
        ----------
        y : ndarray of shape (n,)
        classes : ndarray of shape (n_classes,) or None

        Returns
        -------
        dict of str to float
            "coverage", the share of rows whose set or interval contains the label; "set_size" or "interval_width", the
            mean; and "unusual", the share of unusual rows.
        """
        if self.intervals is not None:
            low, high = self.intervals.T
            about = {"coverage": np.mean((low <= y) & (y <= high)), "interval_width": np.mean(high - low)}
        else:
            contains = [np.isin(label, classes[row]) for label, row in zip(y, self.sets, strict=True)]
            about = {"coverage": np.mean(contains), "set_size": self.sets.sum(axis=1).mean()}
        if self.unusual is not None:
            about["unusual"] = self.unusual.mean()
        return {name: float(value) for name, value in about.items()}


def describe_coverage(about: Mapping[str, float]) -> str:
    """Describe how often sets or intervals contain the truth, and their mean size.

    Parameters
    ----------
    about : mapping of str to float
        As returned by :meth:`ConformalPredictions.describe`.

    Returns
    -------
    str

    Examples
    --------
    >>> describe_coverage({"coverage": 0.9, "interval_width": 2.0})
    '90.0% of the intervals contain the value; mean width 2'
    """
    if "set_size" in about:
        return f"{about['coverage']:.1%} of the sets contain the class, with {about['set_size']:.2f} classes on average"
    return f"{about['coverage']:.1%} of the intervals contain the value; mean width {about['interval_width']:.4g}"


def fit_conformal_head(
    head: Any,
    X: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    error_rate: float = 0.1,
    per_class: bool = False,
) -> ConformalClassifier | ConformalRegressor:
    """Fit a classifier with prediction sets and calibrated probabilities, or a regressor with prediction intervals.

    Parameters
    ----------
    head : estimator
        A head, such as those of :func:`~tlfeatures.heads.make_head`. It is not changed.
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    groups : ndarray of shape (n,), optional
    error_rate : float, default=0.1
    per_class : bool, default=False
        Ignored for regression.

    Returns
    -------
    ConformalClassifier or ConformalRegressor

    Examples
    --------
    >>> from tlfeatures.heads import make_head
    >>> X = np.linspace(0, 1, 20)[:, None]
    >>> fit_conformal_head(make_head("svm"), X, X[:, 0] > 0.5).predict_set([[0.1]]).tolist()
    [[True, False]]
    """
    if not is_classifier(head):
        return ConformalRegressor(head, error_rate=error_rate).fit(X, y, groups=groups)
    last = head[-1] if isinstance(head, Pipeline) else head
    # the probabilities of logistic regression need no calibration
    estimator = head if isinstance(last, LogisticRegression) else CalibratedHead(head)
    return ConformalClassifier(estimator, error_rate=error_rate, per_class=per_class).fit(X, y, groups=groups)


def predict_conformal(head: Any, X: Any) -> ConformalPredictions | None:
    """Predict sets or intervals if the last step of a head is conformal.

    Parameters
    ----------
    head : Pipeline
        Steps after CNNFeatures.
    X : array-like of shape (n, d)
        Embeddings; ``n`` may be 0.

    Returns
    -------
    ConformalPredictions or None
    """
    conformal = head[-1]
    if not isinstance(conformal, ConformalBase):
        return None
    n = len(X)
    detects = conformal.outlier_detector_ is not None
    if n:
        X = head[:-1].transform(X) if len(head.steps) > 1 else X
    unusual = (conformal.is_unusual(X) if n else np.zeros(0, bool)) if detects else None
    if isinstance(conformal, ConformalRegressor):
        intervals = conformal.predict_interval(X) if n else np.empty((0, 2))
        return ConformalPredictions(None, None, intervals, unusual)
    sets, p_values = np.zeros((0, len(conformal.classes_)), bool), np.empty(0)
    if n:
        sets, of_classes = conformal.predict_set_and_p_values(X)
        predicted = np.searchsorted(conformal.classes_, conformal.predict(X))
        p_values = of_classes[np.arange(n), predicted]
    return ConformalPredictions(sets, p_values, None, unusual)
