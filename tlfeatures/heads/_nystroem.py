"""Approximation of a kernel that is accurate with duplicate images too."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import eigh
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["StableNystroem"]

_MIN_EIGENVALUE = 1e-6  # relative to the largest one
_BATCH_ROWS = 4096


class StableNystroem(Nystroem):
    """`sklearn.kernel_approximation.Nystroem` for embeddings, among which there may be duplicates.

    The matrix of a kernel between duplicates or near-duplicates has eigenvalues near 0, whose inverse roots amplify
    rounding errors a million times. Here, kernels are computed in float64, and eigenvalues below 1e-6 of the largest
    are left out. With fewer rows than ``n_components``, all rows are used, without a warning. Attributes are those of
    `Nystroem`.

    Parameters
    ----------
    kernel, gamma, coef0, degree, kernel_params, n_components, random_state, n_jobs
        As in `sklearn.kernel_approximation.Nystroem`.

    Examples
    --------
    >>> X = np.tile(np.random.default_rng(0).normal(size=(50, 3)), (2, 1))
    >>> features = StableNystroem(n_components=100, random_state=0).fit_transform(X)
    >>> features.shape, bool(abs(features).max() < 2)
    ((100, 100), True)
    """

    def fit(self, X: Any, y: Any = None) -> StableNystroem:
        """Choose rows of X, and compute the inverse root of the kernel between them.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : ignored

        Returns
        -------
        StableNystroem
        """
        self._validate_params()
        X = validate_data(self, X)
        rows = check_random_state(self.random_state).permutation(len(X))[: self.n_components]
        self.component_indices_ = rows
        self.components_ = X[rows].astype(np.float64)
        kernel = pairwise_kernels(
            self.components_, metric=self.kernel, filter_params=True, **self._get_kernel_params()
        )
        values, vectors = eigh(kernel)
        keep = values > _MIN_EIGENVALUE * values[-1]
        self.normalization_ = vectors[:, keep] / np.sqrt(values[keep]) @ vectors[:, keep].T
        self._n_features_out = len(rows)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute the features.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of float64, shape (n, n_components)
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        features = np.empty((len(X), len(self.components_)))
        for batch in gen_batches(len(X), _BATCH_ROWS):  # so that only a batch is copied to float64
            kernel = pairwise_kernels(
                X[batch].astype(np.float64),
                self.components_,
                metric=self.kernel,
                filter_params=True,
                **self._get_kernel_params(),
            )
            features[batch] = kernel @ self.normalization_.T
        return features

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
