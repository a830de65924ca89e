"""``CalibratedHead``: class probabilities for heads that have only decision values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures._warnings import warn
from tlfeatures.evaluation import check_groups, make_folds
from tlfeatures.heads import blas_threads

__all__ = [
    "CalibratedHead",
    "calibrate_logits",
    "compute_logits",
    "fit_calibrated_head",
    "fit_calibrated_pipeline",
    "fit_inverse_temperature",
    "to_logits",
]


class CalibratedHead(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A head on embeddings with class probabilities calibrated by temperature scaling.

    Decision values, or logarithms of probabilities, are multiplied by one number, which minimizes the log loss
    of their softmax on held-out folds (Guo et al. 2017, "On calibration of modern neural networks").
    The labels that `predict` returns are those of the head.

    Parameters
    ----------
    estimator : classifier
        A classifier with ``decision_function`` or ``predict_proba``.
    cv : int, default=5
        Number of folds. It is reduced if the smallest class has fewer images, or if there are fewer groups.

    Attributes
    ----------
    estimator_ : classifier
        The head, fitted on all rows.
    inverse_temperature_ : float
        Factor by which the decision values are multiplied.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int

    Notes
    -----
    Targets are smoothed as in Platt (1999), so that probabilities stay below 1 even if the folds have no
    mistakes. ``sklearn.calibration.CalibratedClassifierCV(method="temperature", ensemble=False)`` is similar;
    it requires scikit-learn 1.8 or later, does not support groups, and does not smooth the targets.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import SVC
    >>> from tlfeatures.calibration import CalibratedHead
    >>> X = np.array([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]])
    >>> head = CalibratedHead(SVC(), cv=3).fit(X, ["cat"] * 3 + ["dog"] * 3)
    >>> head.predict([[0.05]])
    array(['cat'], dtype='<U3')
    >>> bool(head.predict_proba([[0.05]])[0, 0] > 0.5)
    True
    """

    def __init__(self, estimator: Any, *, cv: int = 5) -> None:
        self.estimator = estimator
        self.cv = cv

    def fit(self, X: Any, y: Any, groups: Any = None) -> CalibratedHead:
        """Fit the head on all rows, and the temperature on held-out folds.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        groups : array-like of shape (n_samples,), optional
            Rows of one group are kept in one fold.

        Returns
        -------
        CalibratedHead

        Raises
        ------
        ValueError
            If a class has only one row, or the groups cannot be split.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"CalibratedHead can't be fitted on one class, {self.classes_.tolist()[0]!r}; expected two or more."
            )
        groups = check_groups(groups, len(y))
        k = min(self.cv, int(np.bincount(codes).min()))
        if groups is not None:
            k = min(k, len(np.unique(groups)))
        if k < 2:
            raise ValueError(
                "CalibratedHead needs 2 folds or more, each with images of every class and with its own groups; "
                f"these rows and cv={self.cv!r} allow {k}. Give more images, or use `estimator` uncalibrated."
            )
        logits = np.empty((len(y), len(self.classes_)))
        for train, test in make_folds(k, codes, groups, "classification", 0):
            logits[test] = compute_logits(
                clone(self.estimator).fit(X[train], y[train]), X[test], self.classes_
            )
        self.inverse_temperature_ = fit_inverse_temperature(logits, codes)
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the labels of the head.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        return self.estimator_.predict(validate_data(self, X, reset=False))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict calibrated probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return softmax(self.inverse_temperature_ * compute_logits(self.estimator_, X, self.classes_), axis=1)

    @available_if(lambda self: hasattr(getattr(self, "estimator_", self.estimator), "decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the decision values of the head.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(validate_data(self, X, reset=False))

    def __sklearn_tags__(self) -> Any:
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.classifier_tags, tags.non_deterministic = inner.classifier_tags, inner.non_deterministic
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        return tags


def compute_logits(head: Any, X: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return decision values, or logarithms of probabilities, with one column for each class.

    Parameters
    ----------
    head : classifier
        A fitted classifier with ``decision_function`` or ``predict_proba``.
    X : array-like of shape (n, d)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of float64, shape (n, n_classes)
        For two classes with one decision value, its negative and itself.

    Raises
    ------
    ValueError
        If the decision function does not have one column for each class.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> head = SVC().fit([[0.0], [1.0]], ["cat", "dog"])
    >>> compute_logits(head, [[0.5]], head.classes_).shape
    (1, 2)
    """
    decisions = head.decision_function(X) if hasattr(head, "decision_function") else None
    z = to_logits(decisions, head.predict_proba(X) if decisions is None else None)
    if z.shape[1] != len(classes):
        raise ValueError(
            f"The decision function of `estimator` has {z.shape[1]} columns for {len(classes)} classes; "
            "expected one per class: for SVC use decision_function_shape='ovr'."
        )
    return z


def to_logits(decision_values: Any, probabilities: Any) -> np.ndarray:
    """Return decision values or, if they are None, logarithms of probabilities.

    Parameters
    ----------
    decision_values : array-like of shape (n,) or (n, n_columns), or None
    probabilities : array-like of shape (n, n_classes), or None

    Returns
    -------
    ndarray of float64, shape (n, n_columns)
        For two classes with one decision value, its negative and itself.

    Examples
    --------
    >>> to_logits([0.5], None).tolist()
    [[-0.5, 0.5]]
    """
    if decision_values is None:
        return np.log(np.maximum(probabilities, 1e-6))  # nearest neighbors return probabilities of exactly 0
    z = np.asarray(decision_values, float)
    return np.stack([-z, z], axis=1) if z.ndim == 1 else z


def fit_calibrated_head(head: Any, X: Any, y: Any, groups: Any = None) -> Any:
    """Fit a head on embeddings, with calibrated class probabilities if it is a classifier.

    Regressors are only fitted, and so is logistic regression, whose probabilities are calibrated already.

    Parameters
    ----------
    head : estimator
        A head, such as those of :func:`~tlfeatures.heads.make_head`. It is not changed.
    X : array-like of shape (n, d)
    y : array-like of shape (n,)
    groups : array-like of shape (n,), optional
        Rows of one group, such as duplicates, are kept in one fold of the calibration.

    Returns
    -------
    estimator
        A fitted :class:`CalibratedHead`, or a fitted clone of ``head``. If a class or the groups are too small for
        calibration, a warning is issued, and it has decision values only.

    Examples
    --------
    >>> from tlfeatures.heads import make_head
    >>> X = np.array([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]])
    >>> fit_calibrated_head(make_head("svm"), X, ["cat"] * 3 + ["dog"] * 3).predict_proba([[0.05]]).shape
    (1, 2)
    """
    head = clone(head)
    last = head[-1] if isinstance(head, Pipeline) else head
    if not is_classifier(head) or isinstance(last, LogisticRegression):
        return head.fit(X, y)
    try:
        return CalibratedHead(head).fit(X, y, groups=groups)
    except ValueError as error:
        warn(f"no class probabilities, only decision values: {error}")
        return head.fit(X, y)


def fit_calibrated_pipeline(
    cnn: Any,
    head: Any,
    features: np.ndarray,
    y: np.ndarray,
    keys: np.ndarray,
    groups: np.ndarray | None = None,
    fit_head: Callable[..., Any] = fit_calibrated_head,
) -> Pipeline:
    """Fit a head on embeddings, and make a pipeline that predicts from images.

    Parameters
    ----------
    cnn : CNNFeatures
        Fitted transformer.
    head : estimator
        It is not changed.
    features : ndarray of shape (n, d)
        Embeddings of the training images.
    y : ndarray of shape (n,)
    keys : ndarray of uint8, shape (n, 16)
        Digests of the training images.
    groups : ndarray of shape (n,), optional
        Rows of one group, such as duplicates, are kept in one fold of the calibration.
    fit_head : callable, optional
        Another function with the parameters of :func:`fit_calibrated_head`.

    Returns
    -------
    Pipeline
        Steps "cnn" and "head", see :func:`fit_calibrated_head`. Its attribute ``training_digests_`` tells which test
        images were used for training.
    """
    with blas_threads(*features.shape):
        fitted = fit_head(head, features, y, groups)
    pipeline = Pipeline([("cnn", cnn.set_params(verbose=0)), ("head", fitted)])
    pipeline.training_digests_ = np.unique(keys, axis=0)
    return pipeline


def calibrate_logits(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Convert out-of-fold decision values, or logarithms of probabilities, to calibrated probabilities.

    Parameters
    ----------
    logits : ndarray of shape (n, k)
        One column per class; -inf for a class that cannot be predicted, which gets the probability 0.
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1 of the rows.

    Returns
    -------
    ndarray of float64, shape (n, k)
        Softmax of the values times one number, as in :class:`CalibratedHead`.

    Examples
    --------
    >>> logits = np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    >>> calibrate_logits(logits, np.array([0, 1, 1, 1])).round(1)[0].tolist()
    [0.7, 0.3]
    """
    return softmax(fit_inverse_temperature(logits, codes) * logits, axis=1)


def fit_inverse_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Find the factor with the smallest log loss of the softmax; targets are smoothed as in Platt (1999).

    Parameters
    ----------
    logits : ndarray of shape (n, k)
        One column per class; -inf for a class that cannot be predicted.
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1 of the rows.

    Returns
    -------
    float

    Examples
    --------
    >>> logits = np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    >>> round(fit_inverse_temperature(logits, np.array([0, 1, 1, 1])), 2)
    0.35
    """
    n, k = logits.shape
    targets = np.full((n, k), 1 / (n + 2) / (k - 1))
    targets[np.arange(n), codes] = (n + 1) / (n + 2)

    possible = np.isfinite(logits)

    def loss(log_factor: float) -> float:
        return -(targets * log_softmax(np.exp(log_factor) * logits, axis=1))[possible].sum()

    return float(np.exp(minimize_scalar(loss, bounds=(-10, 10), method="bounded").x))
