"""``OutlierDetector``: images unlike the training images, at a stated rate of false alarms."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures._params import check_parameters, integer, number
from tlfeatures._warnings import warn
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_groups
from tlfeatures.trust._embedded import check_rows
from tlfeatures.trust._ranks import TOLERANCE, ScoreTable, row_weights, to_p_values

__all__ = ["OutlierDetector"]

_BLOCK_VALUES = 10_000_000  # distances in memory at a time


class OutlierDetector(OutlierMixin, BaseEstimator):
    """Detect rows that are far from all training rows, at a stated rate of false alarms.

    The distance of a row is its mean cosine distance to the nearest training rows. For calibration, the same distance
    is measured from each training row to the training rows of other groups. The p-value of a new row is the share of
    training rows with at least its distance (conformal anomaly detection; Laxhammar and Falkman 2010).

    Parameters
    ----------
    false_alarm_rate : float, default=0.05
        Share of new rows, drawn like the training rows, that are reported.
    n_neighbors : int, default=3
        Number of nearest training rows. It is reduced if there are fewer.

    Attributes
    ----------
    offset_ : float
        The negative of the distance above which a row is reported.
    n_calibration_ : float
        Number of independent rows or groups from which p-values are computed.
    n_features_in_ : int

    Notes
    -----
    There are many reasons why a row is unlike the training rows, such as another camera; its prediction may still be
    right. A row near the training rows is not reported, even if it belongs to none of the classes. Embeddings are
    neither centered nor standardized, because images of another kind often have large values in features that are 0 for
    all training images. This detects more of them than distances between standardized embeddings
    (``python benchmarks/conformal.py``).

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures.trust import OutlierDetector
    >>> X = np.random.default_rng(0).uniform(size=(100, 2)) + [5, 0]
    >>> OutlierDetector(false_alarm_rate=0.05).fit(X).predict([[5.5, 0.5], [0.0, 6.0]]).tolist()
    [1, -1]
    """

    _parameter_constraints: ClassVar = {
        "false_alarm_rate": [number(above=0, below=1)],
        "n_neighbors": [integer(minimum=1)],
    }

    def __init__(self, false_alarm_rate: float = 0.05, *, n_neighbors: int = 3) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.n_neighbors = n_neighbors

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> OutlierDetector:
        """Keep the training rows, and measure the distance of each to the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ignored
        groups : array-like of shape (n_samples,), optional
            Groups, such as patients, or duplicates of an image. Distances are measured to rows of other groups, and
            each group has the weight of one row.

        Returns
        -------
        OutlierDetector

        Raises
        ------
        ValueError
            If X contains NaN, or all rows are in one group.
        """
        check_parameters(self)
        X = self._check(X, ensure_min_samples=2)
        codes = check_groups(groups, len(X))
        weights = row_weights(codes, len(X))
        codes = np.arange(len(X)) if codes is None else codes
        others = len(X) - int(np.bincount(codes).max())
        if others < 1:
            raise InvalidParameterError(
                f"All {len(X)} rows are in one group; expected several groups, so that the distance to another group "
                "can be measured. Add other images.",
                "groups",
            )
        self._rows = X
        self._k = min(self.n_neighbors, others)
        self._table = ScoreTable(self._measure(self._rows, codes), weights)
        self.n_calibration_ = float(np.round(self._table.total, 6))
        self.offset_ = -self._find_threshold()
        return self

    def _check(self, X: Any, **kwargs: Any) -> np.ndarray:
        """Check rows and return them with length 1."""
        check_rows(X)
        X = validate_data(self, X, dtype=[np.float64, np.float32], **kwargs)
        return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)

    def _find_threshold(self) -> float:
        """Return the largest distance whose p-value is above the false-alarm rate."""
        limit = self.false_alarm_rate * (self._table.total + 1) - 1
        if limit < -TOLERANCE:
            warn(
                f"`false_alarm_rate={self.false_alarm_rate:g}` needs at least "
                f"{int(np.ceil(1 / self.false_alarm_rate - TOLERANCE)) - 1} images or groups; there are "
                f"{self.n_calibration_:.0f}, so no image is reported as unusual. Add images, or raise the rate."
            )
            return np.inf
        distances = self._table.scores
        return float(distances[self._table.weight_above(distances) > limit + TOLERANCE][-1])

    def _measure(self, rows: np.ndarray, codes: np.ndarray | None = None) -> np.ndarray:
        """Return the mean distance to the nearest training rows; ``codes`` are the groups of the training rows."""
        distances = np.empty(len(rows))
        block = max(1, _BLOCK_VALUES // len(self._rows))
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            cosine = rows[part] @ self._rows.T
            if codes is not None:
                cosine[codes[part, None] == codes] = -np.inf
            nearest = -np.partition(-cosine, self._k - 1, axis=1)[:, : self._k]
            distances[part] = 1 - nearest.mean(axis=1, dtype=float)
        return np.round(distances, 6)  # smaller differences are rounding errors of float32

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the negative of the distances, so that unusual rows have low scores, as in scikit-learn.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples,)
        """
        check_is_fitted(self)
        return -self._measure(self._check(X, reset=False).astype(self._rows.dtype, copy=False))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return `score_samples` minus ``offset_``; it is negative for unusual rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return -1 for unusual rows and 1 for others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of int, shape (n_samples,)
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> np.ndarray:
        """Compute the share of training rows that are at least as far from the others as each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples,)
            Above 0; small for unusual rows.
        """
        distances = -self.score_samples(X)
        return to_p_values(self._table.weight_above(distances), self._table.total)
