"""``ConformalRegressor``: intervals with a stated error rate."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin

from tlfeatures._params import check_parameters
from tlfeatures.evaluation import check_labels
from tlfeatures.trust._conformal import CONFORMAL_CONSTRAINTS, ConformalBase
from tlfeatures.trust._ranks import lower_bounds, row_weights
from tlfeatures.trust._set_quality import measure_prediction_intervals

__all__ = ["ConformalRegressor"]

_BLOCK_VALUES = 5_000_000  # rows x calibration rows in memory at a time


class ConformalRegressor(RegressorMixin, ConformalBase):
    """A regressor that predicts intervals, which contain the true value with a stated probability.

    The regressor is fitted on all rows and, for calibration, on folds. The errors for the rows left out give the
    width of the interval (CV+; Barber et al. 2021, "Predictive inference with the jackknife+").

    Parameters
    ----------
    estimator : regressor
        A regressor for embeddings, or a pipeline that begins with :class:`~tlfeatures.CNNFeatures`. Only the steps
        after CNNFeatures are fitted on folds.
    error_rate : float, default=0.1
        Accepted share of intervals without the true value.
    cv : int, default=10
        Number of folds. It is reduced if there are fewer rows or groups. A fitted object contains one regressor for
        each fold.
    false_alarm_rate : float or None, default=0.05
        Expected share of images like the training images for which `is_unusual` returns True. If None, no outlier
        detector is fitted.
    random_state : int, RandomState or None, default=0
        Seed of the folds.

    Attributes
    ----------
    estimator_ : regressor
        The regressor, or the steps of the pipeline after CNNFeatures, fitted on all rows.
    fold_estimators_ : list of regressor
        Regressors, each fitted on all folds but one.
    residuals_ : list of ndarray
        Absolute errors for the rows left out, for each fold.
    outlier_detector_ : OutlierDetector or None
    cnn_ : CNNFeatures
        The fitted first step, if ``estimator`` is a pipeline that begins with it.
    out_of_fold_ : dict of str to float
        "coverage", the share of the training rows whose interval contains their value, and "interval_width"; the errors
        of other groups determine the width, at the error rate of `fit`. Empty if there are fewer rows or groups than
        ``1 / error_rate``.
    n_calibration_ : float
        Number of rows, or of groups if there are any, from which intervals are computed.
    n_features_in_ : int
        Width of the embedding.

    Notes
    -----
    Groups and duplicates are treated as in :class:`ConformalClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from tlfeatures import ConformalRegressor
    >>> X = np.linspace(0, 1, 40)[:, None]
    >>> y = X[:, 0] + np.tile([-0.1, 0.1], 20)
    >>> conformal = ConformalRegressor(LinearRegression(), error_rate=0.1).fit(X, y)
    >>> conformal.predict_interval([[0.5]]).round(1).tolist()
    [[0.4, 0.6]]
    """

    _parameter_constraints: ClassVar = CONFORMAL_CONSTRAINTS

    def __init__(
        self,
        estimator: Any,
        *,
        error_rate: float = 0.1,
        cv: int = 10,
        false_alarm_rate: float | None = 0.05,
        random_state: Any = 0,
    ) -> None:
        self.estimator = estimator
        self.error_rate = error_rate
        self.cv = cv
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> ConformalRegressor:
        """Fit the regressor on all rows and on folds, and compute the errors for the rows left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        y : array-like of shape (n_samples,)
        groups : array-like of shape (n_samples,), optional
            Group of each row, such as a patient. Groups are kept in one fold, and each has the weight of one row.

        Returns
        -------
        ConformalRegressor

        Raises
        ------
        ValueError
            If the rows are all equal or contain NaN, or the groups cannot be split.
        """
        check_parameters(self)
        head, X, y, groups = self._fit_input(X, y, groups)
        y, _ = check_labels(y, len(X), "regression")
        k = min(self.cv, self._count_units(len(y), groups))
        folds = self._fit_heads(head, X, y, groups, k, "regression")
        weights = row_weights(groups, len(y))
        self._weights = np.concatenate([weights[test] for test in folds])
        self.n_calibration_ = float(np.round(weights.sum(), 6))
        predicted = np.empty(len(y))
        for estimator, test in zip(self.fold_estimators_, folds, strict=True):
            predicted[test] = estimator.predict(X[test])
        self.residuals_ = [np.abs(y[test] - predicted[test]) for test in folds]
        table = measure_prediction_intervals(
            y, predicted, np.arange(len(y)) if groups is None else groups, error_rates=[self.error_rate]
        ).error_rates
        self.out_of_fold_ = {}
        if len(table):
            self.out_of_fold_ = {
                "coverage": float(table["coverage"][0]),
                "interval_width": float(table["width"][0]),
            }
        if self._is_few(self.n_calibration_):
            what = f"there are {self.n_calibration_:.0f}, so intervals are infinite"
            self._warn_of_few(groups, what)
        return self

    def predict_interval(self, X: Any, error_rate: float | None = None) -> np.ndarray:
        """Predict an interval for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        error_rate : float, optional
            By default the error rate of the estimator.

        Returns
        -------
        ndarray of float64, shape (n_samples, 2)
            Lower and upper ends; infinite if there are too few rows or groups for the error rate.
        """
        error_rate = self._choose_error_rate(error_rate)
        X = self._embed(X)
        residuals = np.concatenate(self.residuals_)
        sizes = [len(part) for part in self.residuals_]
        intervals = np.empty((len(X), 2))
        block = max(1, _BLOCK_VALUES // len(residuals))
        for start in range(0, len(X), block):
            rows = slice(start, start + block)
            predictions = np.stack([e.predict(X[rows]) for e in self.fold_estimators_], axis=1)
            centers = np.repeat(predictions, sizes, axis=1)
            intervals[rows, 0] = lower_bounds(centers - residuals, self._weights, error_rate)
            intervals[rows, 1] = -lower_bounds(-centers - residuals, self._weights, error_rate)
        return intervals
