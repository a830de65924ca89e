"""Base class of ConformalClassifier and ConformalRegressor: fits a head on all rows, and one on each fold."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from tlfeatures._params import check_parameter, integer, number
from tlfeatures._warnings import warn
from tlfeatures.calibration import CalibratedHead
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_seed, make_folds
from tlfeatures.heads import blas_threads
from tlfeatures.trust._embedded import EmbeddedMixin, split_head
from tlfeatures.trust._outliers import OutlierDetector
from tlfeatures.trust._ranks import TOLERANCE

__all__ = ["CONFORMAL_CONSTRAINTS", "ConformalBase"]

ERROR_RATE = number(above=0, below=1, hint="It is the accepted share of errors, such as 0.1 for 10%.")
CONFORMAL_CONSTRAINTS: dict[str, Any] = {
    "error_rate": [ERROR_RATE],
    "cv": [integer(minimum=2)],
    "false_alarm_rate": [None, number(above=0, below=1)],
}


class ConformalBase(EmbeddedMixin, MetaEstimatorMixin, BaseEstimator):
    """Base class of the estimators with prediction sets or intervals."""

    _parameter_constraints: ClassVar[dict[str, Any]] = CONFORMAL_CONSTRAINTS

    estimator: Any
    error_rate: float
    cv: int
    false_alarm_rate: float | None
    random_state: Any

    def predict(self, X: Any) -> np.ndarray:
        """Predict with the estimator that is fitted on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X = self._embed(X)
        return self.estimator_.predict(X)

    def is_unusual(self, X: Any) -> np.ndarray:
        """Return whether each row is unlike the training rows; see :class:`~tlfeatures.trust.OutlierDetector`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images

        Returns
        -------
        ndarray of bool, shape (n_samples,)

        Raises
        ------
        ValueError
            If ``false_alarm_rate`` is None.
        """
        X = self._embed(X)
        if self.outlier_detector_ is None:
            raise ValueError(
                "`false_alarm_rate` must be a number, such as 0.05, to detect unusual rows; got None. Set it and call "
                "`fit` again."
            )
        return self.outlier_detector_.predict(X) == -1

    def to_pipeline(self) -> Pipeline:
        """Make a pipeline of the fitted CNNFeatures and a copy of this object that takes embeddings.

        Returns
        -------
        Pipeline
            With the steps "cnn" and "head", as `tlfeatures fit --conformal` saves it.

        Raises
        ------
        ValueError
            If this object was fitted on embeddings.
        """
        check_is_fitted(self)
        if not hasattr(self, "cnn_"):
            raise ValueError(
                "`to_pipeline` needs an object that was fitted on images; this one was fitted on embeddings. Make the "
                "pipeline yourself: Pipeline([('cnn', cnn), ('head', conformal)])."
            )
        head = copy.copy(self)
        head.estimator = split_head(self.estimator)[1]
        del head.cnn_
        pipeline = Pipeline([("cnn", self.cnn_), ("head", head)])
        pipeline.training_digests_ = self.training_digests_
        return pipeline

    def _fit_heads(
        self, head: Any, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None, k: int, task: str
    ) -> list[np.ndarray]:
        """Fit a head on all rows and one on each fold; return the test rows of the folds."""
        folds = make_folds(k, y, groups, task, check_seed(self.random_state))
        uncalibrated = _without_calibration(head)
        with blas_threads(*X.shape):
            self.fold_estimators_ = [clone(uncalibrated).fit(X[train], y[train]) for train, _ in folds]
            params = {} if uncalibrated is head else {"groups": groups}
            self.estimator_ = clone(head).fit(X, y, **params)
            self.outlier_detector_ = None
            if self.false_alarm_rate is not None:
                self.outlier_detector_ = OutlierDetector(self.false_alarm_rate).fit(X, groups=groups)
        return [test for _, test in folds]

    def _count_units(self, n_rows: int, groups: np.ndarray | None) -> int:
        """Return the number of rows, or of groups; raise an error if none could be left out for calibration."""
        n = n_rows if groups is None else len(np.unique(groups))
        if n < 2:
            raise InvalidParameterError(
                f"All {n_rows} rows are in one group of duplicates or of `groups`; expected several groups, some to "
                "train on and others to calibrate on. Add other images.",
                "groups",
            )
        return n

    def _is_few(self, n: Any) -> Any:
        """Whether numbers of rows or groups are too small for the error rate."""
        return n + 1 < 1 / self.error_rate - TOLERANCE

    def _warn_of_few(self, groups: np.ndarray | None, what: str, of: str = "") -> None:
        n = int(np.ceil(1 / self.error_rate - TOLERANCE)) - 1
        unit = "rows" if groups is None else "groups"
        warn(
            f"`error_rate={self.error_rate:g}` needs at least {n} {unit}{of}; {what}. Add images, or raise the error "
            "rate."
        )

    def _choose_error_rate(self, error_rate: float | None) -> float:
        if error_rate is None:
            return self.error_rate
        check_parameter("error_rate", error_rate, [ERROR_RATE])
        return error_rate

    def __sklearn_tags__(self) -> Any:
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.non_deterministic = inner.non_deterministic
        if isinstance(self.estimator, Pipeline):
            tags.input_tags = inner.input_tags
        tags.input_tags.sparse = tags.input_tags.pairwise = tags.input_tags.allow_nan = False
        return tags


def _without_calibration(head: Any) -> Any:
    """Return the estimator inside a CalibratedHead; sets and intervals are computed from uncalibrated values."""
    return head.estimator if isinstance(head, CalibratedHead) else head
