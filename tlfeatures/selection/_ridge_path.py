"""Ridge regression and classification with all penalties from one decomposition."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer

from tlfeatures.selection._fold_data import FoldData
from tlfeatures.selection._head_grids import Head

__all__ = ["fit_ridge_path"]


class _LinearModel(BaseEstimator):
    """A linear model in the coordinates of a fold's decomposition."""

    def __init__(self, coef: np.ndarray, intercept: np.ndarray, alpha: float) -> None:
        self.coef = coef
        self.intercept = intercept
        self.alpha = alpha

    def _values(self, X: np.ndarray) -> np.ndarray:
        values = X @ self.coef + self.intercept
        return values[:, 0] if values.shape[1] == 1 else values


class _RidgeClassifier(ClassifierMixin, _LinearModel):
    classes_: np.ndarray

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Compute decision values, of shape (n,) for two classes and (n, classes) for more."""
        return self._values(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict classes."""
        values = self._values(X)
        return self.classes_[(values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)]


class _RidgeRegressor(RegressorMixin, _LinearModel):
    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict targets."""
        return self._values(X)


def fit_ridge_path(fold: FoldData, head: Head) -> _LinearModel:
    """Fit the models of RidgeCV and RidgeClassifierCV from the decomposition of a fold.

    The penalty is chosen by the squared leave-one-out error. The leave-one-out residual of a row is its
    residual in the fit to all rows, divided by one less its leverage (Golub, Heath and Wahba 1979).

    Returns
    -------
    estimator
        A fitted estimator for rows in the coordinates of ``fold.svd``.
    """
    left, values, _ = fold.svd
    classification = head.task == "classification"
    targets = fold.y_train[:, None]
    if classification:
        binarizer = LabelBinarizer(pos_label=1, neg_label=-1).fit(fold.y_train)
        targets = binarizer.transform(fold.y_train)
    mean = targets.mean(axis=0)
    centered = (targets - mean).astype(left.dtype)
    projected = left.T @ centered
    alphas, best = head.estimator(0).alphas, (np.inf, 0.0)
    shrinkages = (values[:, None] ** 2 / (values[:, None] ** 2 + alphas)).astype(left.dtype)
    leverages = 1 / len(targets) + left**2 @ shrinkages
    for alpha, shrinkage, leverage in zip(alphas, shrinkages.T, leverages.T, strict=True):
        errors = (centered - left @ (shrinkage[:, None] * projected)) / (1 - leverage)[:, None]
        best = min(best, (float((errors**2).mean(dtype=np.float64)), float(alpha)), key=lambda pair: pair[0])
    coef = projected * (values / (values**2 + left.dtype.type(best[1])))[:, None]
    if not classification:
        return _RidgeRegressor(coef, mean, best[1])
    model = _RidgeClassifier(coef, mean, best[1])
    model.classes_ = binarizer.classes_
    return model
