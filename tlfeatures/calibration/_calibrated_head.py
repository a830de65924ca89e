"""``CalibratedHead``: class probabilities for heads that have only decision values."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures._params import check_parameter, integer
from tlfeatures.calibration._temperature import compute_logits, fit_inverse_temperature
from tlfeatures.evaluation import check_groups, make_folds

__all__ = ["CalibratedHead"]


class CalibratedHead(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A head on embeddings with class probabilities calibrated by temperature scaling.

    Decision values, or logarithms of probabilities, are multiplied by one number, which minimizes the log loss
    of their softmax on held-out folds (Guo et al. 2017, "On calibration of modern neural networks").
    Calibration does not change the labels that `predict` returns.

    Parameters
    ----------
    estimator : classifier
        A classifier with ``decision_function`` or ``predict_proba``.
    cv : int, default=5
        Number of folds, 2 or more. It is reduced if the smallest class has fewer images, or if there are fewer groups.

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
        check_parameter("cv", self.cv, [integer(minimum=2)])
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
                f"these rows allow {k}. Give more images, or use `estimator` uncalibrated."
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
        """Predict class labels with the fitted head.

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
