"""A provisional head: a linear classifier whose decomposition is computed before the labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler

from tlfeatures.calibration import fit_inverse_temperature

__all__ = ["ProvisionalHead", "RidgeDecomposition"]

_ALPHAS = np.logspace(0, 6, 13)  # the same as in the head "ridge"
_CHUNK = 4096  # rows


class ProvisionalHead(ClassifierMixin, BaseEstimator):
    """Ridge regression on class indicators, with probabilities, which serves until the head of a model is trained.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    coef_ : ndarray of float32, shape (k, d)
    intercept_ : ndarray of float32, shape (k,)
    inverse_temperature_ : float
        Factor by which the decision values are multiplied before the softmax.
    """

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray
    inverse_temperature_: float

    def fit(self, X: np.ndarray, y: np.ndarray) -> ProvisionalHead:
        """Fit the head; `RidgeDecomposition` is faster for several sets of labels of the same rows."""
        self.__dict__.update(vars(RidgeDecomposition(np.asarray(X)).fit(np.asarray(y))))
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Compute decision values, of shape (n, k); (n,) for two classes."""
        values = self._compute(X)
        return values[:, 1] if len(self.classes_) == 2 else values

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Compute the probabilities of the classes, of shape (n, k)."""
        return softmax(self.inverse_temperature_ * self._compute(X).astype(float), axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict the class of the largest decision value."""
        return self.classes_[np.argmax(self._compute(X), axis=1)]

    def _compute(self, X: np.ndarray) -> np.ndarray:
        return X @ self.coef_.T + self.intercept_


class RidgeDecomposition:
    """The decomposition of standardized embeddings, from which linear heads for any labels are computed.

    The decomposition takes most of the time of ridge regression, and does not depend on the labels.

    Parameters
    ----------
    X : ndarray of shape (n, d)

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [0.1, 3.0], [0.8, 2.0], [1.0, 2.0]], "float32")
    >>> head = RidgeDecomposition(X).fit(np.array(["cat", "cat", "dog", "dog"]))
    >>> head.predict(X).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(self, X: np.ndarray) -> None:
        self.scaler = StandardScaler().fit(X)
        n, d = X.shape
        if n >= d:
            gram = np.zeros((d, d))
            for start in range(0, n, _CHUNK):
                chunk = self.scaler.transform(X[start : start + _CHUNK]).astype(float)
                gram += chunk.T @ chunk
        else:
            rows = self.scaler.transform(X).astype(float)
            gram = rows @ rows.T
        values, vectors = np.linalg.eigh(gram)
        is_positive = values > values.max() * 1e-10
        self.values, vectors = values[is_positive], vectors[:, is_positive]
        # left singular vectors, (n, r), and right ones, (d, r)
        if n >= d:
            scaled = (vectors / np.sqrt(self.values)).astype("float32")
            self.left, self.right = self.scaler.transform(X).astype("float32") @ scaled, vectors
        else:
            self.left, self.right = vectors.astype("float32"), rows.T @ vectors / np.sqrt(self.values)

    def fit(self, y: np.ndarray) -> ProvisionalHead:
        """Compute the linear head of some labels, as the head "ridge" does, with probabilities.

        The penalty is the one with the smallest squared error of the leave-one-out predictions. The probabilities are
        the softmax of the decision values times the factor with the smallest log loss of these predictions.

        Parameters
        ----------
        y : ndarray of shape (n,)

        Returns
        -------
        ProvisionalHead

        Raises
        ------
        ValueError
            If there is only one class.
        """
        head = ProvisionalHead()
        head.classes_, codes = np.unique(y, return_inverse=True)
        if len(head.classes_) < 2:
            raise ValueError(
                f"All images have the label {head.classes_.tolist()[0]!r}; expected two classes or more."
            )
        targets = np.where(codes[:, None] == np.arange(len(head.classes_)), 1, -1).astype("float32")
        mean = targets.mean(axis=0)
        alpha, held_out = self._choose_penalty(targets - mean)
        factor = np.sqrt(self.values) / (self.values + alpha)
        coef = self.right @ (factor[:, None] * (self.left.T @ (targets - mean))) / self.scaler.scale_[:, None]
        head.coef_ = coef.T.astype("float32")
        head.intercept_ = (mean - self.scaler.mean_ @ coef).astype("float32")
        head.inverse_temperature_ = fit_inverse_temperature(held_out + mean, codes)
        return head

    def _choose_penalty(self, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the penalty with the smallest leave-one-out error, and its predictions."""
        projected, squares = self.left.T @ targets, self.left**2
        best: tuple[float, float, Any] = (np.inf, 1.0, None)
        for alpha in _ALPHAS.tolist():
            shrinkage = (self.values / (self.values + alpha)).astype("float32")
            leverage = squares @ shrinkage + 1 / len(targets)  # the intercept is not penalized
            residuals = targets - self.left @ (shrinkage[:, None] * projected)
            residuals /= np.maximum(1 - leverage, 1e-6)[:, None]
            error = float(np.mean(residuals**2))
            if error < best[0]:
                best = error, alpha, targets - residuals
        return best[1:]
