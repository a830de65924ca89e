"""Exact ridge regression from batches: only the products of the columns are in memory."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge

__all__ = ["ALPHAS", "RidgeSums"]

ALPHAS = np.logspace(0, 6, 13)  # the same as in the head "ridge"


class RidgeSums:
    """Sums over rows from which ridge regression with any penalty is computed.

    Parameters
    ----------
    width : int
        Number of columns d; d * d float64 numbers are kept.
    """

    def __init__(self, width: int) -> None:
        self.n, self.y = 0, 0.0
        self.x, self.xy = np.zeros(width), np.zeros(width)
        self.xx = np.zeros((width, width))

    def add(self, X: np.ndarray, y: np.ndarray) -> None:
        """Add standardized rows, (m, d), and their targets, (m,)."""
        X, y = X.astype(np.float64), y.astype(np.float64)
        self.n += len(y)
        self.y += y.sum()
        self.x += X.sum(axis=0)
        self.xy += X.T @ y
        self.xx += X.T @ X

    def rescale(self, ratio: np.ndarray) -> None:
        """Multiply the columns by ``ratio``, and center them."""
        x = self.x / self.n
        self.xy = ratio * (self.xy - self.y * x)
        self.xx = np.outer(ratio, ratio) * (self.xx - self.n * np.outer(x, x))
        self.x[:] = 0

    def solve(self, alphas: np.ndarray) -> list[Ridge]:
        """Return a fitted estimator for each penalty."""
        x, y = self.x / self.n, self.y / self.n
        values, vectors = np.linalg.eigh(self.xx - self.n * np.outer(x, x))
        projected = vectors.T @ (self.xy - self.n * y * x)
        models = []
        for alpha in alphas.tolist():
            model = Ridge(alpha=alpha)
            model.coef_ = vectors @ (projected / (np.maximum(values, 0) + alpha))
            model.intercept_, model.n_features_in_ = float(y - x @ model.coef_), len(x)
            models.append(model)
        return models
