"""``SkipUnreadable``: fit an estimator although some images cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["SkipUnreadable"]


def _estimator_has(method: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(getattr(self, "estimator_", self.estimator), method)


class SkipUnreadable(MetaEstimatorMixin, BaseEstimator):
    """Fit an estimator on the rows without NaN, and predict a fixed value for the others.

    ``CNNFeatures(on_error="nan")`` returns a row of NaN for an image that cannot be read. Most estimators
    raise an error for NaN; this meta-estimator leaves such rows out of the fit and still returns one prediction for
    each row, so cross-validation and grid search work on folders with broken files.

    Parameters
    ----------
    estimator : estimator
        A classifier or regressor.
    unreadable_label : "auto", str or number, default="auto"
        The prediction for a row with NaN. "auto" is a label that is not a class, so the
        prediction is wrong: "unreadable" for text labels (``"unreadable_"`` if that is a class), and the smallest
        class minus one for numbers. For regressors "auto" is the mean of the training targets. Pass one of the
        classes for scores that accept only the classes, such as "f1" with two classes.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on the rows without NaN.
    classes_ : ndarray of shape (n_classes,)
        The classes of `estimator_`; only for classifiers. Does not include `unreadable_label_`.
    unreadable_label_ : str, number or ndarray of shape (n_outputs,)
        The prediction for a row with NaN.
    n_unreadable_ : int
        Number of training rows left out.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (n_features,)
        Only when X is a DataFrame.

    Notes
    -----
    For a row with NaN, `predict_proba` returns equal probabilities and `decision_function` returns 0.
    Labels with several columns are supported for regression only. Infinite values are an error.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import SVC
    >>> from tlfeatures import SkipUnreadable
    >>> X = np.array([[0.0], [0.1], [np.nan], [0.9], [1.0]])
    >>> clf = SkipUnreadable(SVC()).fit(X, ["cat", "cat", "cat", "dog", "dog"])
    >>> clf.n_unreadable_
    1
    >>> clf.predict([[0.0], [np.nan]]).tolist()
    ['cat', 'unreadable']
    """

    def __init__(self, estimator: Any, *, unreadable_label: Any = "auto") -> None:
        self.estimator = estimator
        self.unreadable_label = unreadable_label

    def fit(self, X: Any, y: Any, **params: Any) -> SkipUnreadable:
        """Fit a clone of `estimator` on the rows without NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        **params : dict
            Passed to the ``fit`` of `estimator`, such as ``sample_weight``. If a value has one entry per row, the
            entries of rows with NaN are removed. With metadata routing, `estimator` gets what it requests.

        Returns
        -------
        SkipUnreadable

        Raises
        ------
        ValueError
            If every row has NaN, or `unreadable_label` is not of the type of the labels.
        """
        X, readable = self._split(X, reset=True)
        if y is None:
            raise ValueError(
                "SkipUnreadable requires y to be passed, but the target y is None: give one label for each row."
            )
        y = y if hasattr(y, "iloc") else np.asarray(y)
        if len(y) != len(readable):
            raise ValueError(f"X has {len(readable)} rows, but y has {len(y)}; give one label for each row.")
        if not readable.any():
            raise ValueError(
                f"All {len(readable)} rows of X have NaN, so there is nothing to fit on; expected at least one image "
                "that can be read. `check_images(X)` gives the reason for each."
            )
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params).estimator.fit
        rows = np.flatnonzero(readable)
        if len(rows) < len(readable):
            X, y = _safe_indexing(X, rows), _safe_indexing(y, rows)
            params = {name: _take(value, rows, len(readable)) for name, value in params.items()}
        self.estimator_ = clone(self.estimator).fit(X, y, **params)
        self.n_unreadable_ = int(len(readable) - len(rows))
        self.unreadable_label_ = self._choose_label(y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict with the fitted estimator; the prediction for rows with NaN is `unreadable_label_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        check_is_fitted(self, "estimator_")
        return self._call_and_fill("predict", X, self.unreadable_label_)

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities; they are equal for rows with NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self, "estimator_")
        return self._call_and_fill("predict_proba", X, np.full(len(self.classes_), 1 / len(self.classes_)))

    @available_if(_estimator_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict logarithms of class probabilities; they are equal for rows with NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self, "estimator_")
        return self._call_and_fill(
            "predict_log_proba", X, np.full(len(self.classes_), -np.log(len(self.classes_)))
        )

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Compute decision values; they are 0 for rows with NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        check_is_fitted(self, "estimator_")
        k = len(self.classes_)
        return self._call_and_fill("decision_function", X, 0.0, shape=(k,) if k > 2 else ())

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of a classifier or the R2 of a regressor, including rows with NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        float
        """
        metric = accuracy_score if is_classifier(self) else r2_score
        return metric(y, self.predict(X), sample_weight=sample_weight)

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the fitted estimator."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.classes_

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing of this estimator; see scikit-learn's User Guide.

        Returns
        -------
        MetadataRouter
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
        )

    def _split(self, X: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        """Validate X; return it as the estimator accepts it, and a mask of the rows without NaN."""
        values = validate_data(self, X, reset=reset, accept_sparse=True, ensure_all_finite="allow-nan")
        dense = values if isinstance(values, np.ndarray) else values.tocsr()
        readable: np.ndarray
        if isinstance(dense, np.ndarray):
            readable = ~np.isnan(dense).any(axis=1) if dense.dtype.kind == "f" else np.ones(len(dense), bool)
        else:
            rows_with_nan = np.repeat(np.arange(dense.shape[0]), np.diff(dense.indptr))[np.isnan(dense.data)]
            readable = ~np.isin(np.arange(dense.shape[0]), rows_with_nan)
        return X if hasattr(X, "iloc") else values, readable

    def _choose_label(self, y: Any) -> Any:
        """Choose the prediction for rows with NaN, and check it against the labels."""
        auto = isinstance(self.unreadable_label, str) and self.unreadable_label == "auto"
        labels = self.classes_.tolist() if is_classifier(self) else np.ravel(np.asarray(y, float)).tolist()
        text = isinstance(labels[0], str)
        if auto and not is_classifier(self):
            return np.mean(np.asarray(y, float), axis=0)
        if auto and not text:
            return min(labels) - 1
        if auto:
            label = "unreadable"
            while label in labels:
                label += "_"
            return label
        if np.asarray(self.unreadable_label).dtype.kind not in ("U" if text else "buif"):
            raise ValueError(
                "`unreadable_label` must have the type of the labels, which are "
                f"{'text' if text else 'numbers'} such as {labels[0]!r}; got {self.unreadable_label!r}. Pass 'auto' to "
                "choose one automatically."
            )
        return self.unreadable_label

    def _call_and_fill(
        self, method: str, X: Any, value: Any, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Call a method of the estimator on the rows without NaN, and fill in ``value`` for the others.

        ``shape`` is that of the result for one row, if it is not that of ``value``. It is used if all rows have NaN.
        """
        X, readable = self._split(X, reset=False)
        if readable.all():
            return getattr(self.estimator_, method)(X)
        value = np.asarray(value)
        if not readable.any():
            return np.broadcast_to(value, (len(readable), *(value.shape if shape is None else shape))).copy()
        results = np.asarray(getattr(self.estimator_, method)(_safe_indexing(X, np.flatnonzero(readable))))
        # probabilities stay float32: as float64 they would not sum to 1 within the tolerance of log_loss
        dtype = (
            results.dtype if results.dtype.kind == value.dtype.kind == "f" else np.result_type(results, value)
        )
        filled = np.empty((len(readable), *results.shape[1:]), dtype)
        filled[readable], filled[~readable] = results, value
        return filled

    def __sklearn_tags__(self) -> Any:
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags, tags.regressor_tags = inner.classifier_tags, inner.regressor_tags
        tags.target_tags, tags.non_deterministic = inner.target_tags, inner.non_deterministic
        tags.input_tags.sparse, tags.input_tags.pairwise = inner.input_tags.sparse, False
        tags.input_tags.allow_nan = True
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
            tags.target_tags.multi_output = False
        return tags


def _take(value: Any, rows: np.ndarray, n: int) -> Any:
    """Select ``rows`` of a value that has one entry for each of n rows; return other values unchanged."""
    per_row = hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict)) and len(value) == n
    return _safe_indexing(value, rows) if per_row else value
