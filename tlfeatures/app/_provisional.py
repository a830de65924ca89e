"""A provisional head: a linear classifier whose decomposition is computed before the labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures.calibration import fit_inverse_temperature

__all__ = ["ProvisionalHead", "RidgeDecomposition"]

_ALPHAS = np.logspace(0, 6, 13)  # those of the head "ridge"
_CHUNK = 4096  # rows


class ProvisionalHead(ClassifierMixin, BaseEstimator):
    """A linear classifier with given coefficients, which serves until the head of the model is trained.

    Parameters
    ----------
    classes : ndarray of shape (k,)
    coef : ndarray of float32, shape (d, k)
    intercept : ndarray of float32, shape (k,)
    inverse_temperature : float
        Factor of the decision values, the softmax of which are the probabilities.
    """

    def __init__(
        self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, inverse_temperature: float
    ) -> None:
        self.classes, self.coef, self.intercept = classes, coef, intercept
        self.inverse_temperature = inverse_temperature

    def fit(self, X: Any = None, y: Any = None) -> ProvisionalHead:
        """Return the head, whose coefficients are given."""
        return self

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the columns."""
        return self.classes

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients, of shape (k, d)."""
        return self.coef.T

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Compute decision values, of shape (n, k); (n,) for two classes."""
        values = X @ self.coef + self.intercept
        return values[:, 1] if len(self.classes) == 2 else values

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Compute the probabilities of the classes, of shape (n, k)."""
        values = self.inverse_temperature * (X @ self.coef + self.intercept).astype(float)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict the class of the largest decision value."""
        return self.classes[np.argmax(X @ self.coef + self.intercept, axis=1)]

    def __sklearn_is_fitted__(self) -> bool:
        return True


class RidgeDecomposition:
    """The decomposition of standardized embeddings, from which linear heads of any labels are computed.

    It takes most of the time of ridge regression, and does not depend on the labels.

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

    def fit(self, y: np.ndarray) -> Pipeline:
        """Compute the linear head of some labels, as the head "ridge" does, with probabilities.

        The penalty has the smallest squared error of the leave-one-out predictions. The probabilities are the softmax
        of the decision values times the factor with the smallest log loss of these predictions.

        Parameters
        ----------
        y : ndarray of shape (n,)

        Returns
        -------
        Pipeline
            The fitted steps "scale" and "provisional".

        Raises
        ------
        ValueError
            If there is only one class.
        """
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"All images have the label {classes.tolist()[0]!r}; expected two classes or more."
            )
        targets = np.where(codes[:, None] == np.arange(len(classes)), 1, -1).astype("float32")
        mean = targets.mean(axis=0)
        alpha, held_out = self._choose_penalty(targets - mean)
        factor = np.sqrt(self.values) / (self.values + alpha)
        coef = self.right @ (factor[:, None] * (self.left.T @ (targets - mean)))
        head = ProvisionalHead(
            classes, coef.astype("float32"), mean, fit_inverse_temperature(held_out + mean, codes)
        )
        return Pipeline([("scale", self.scaler), ("provisional", head)])

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
