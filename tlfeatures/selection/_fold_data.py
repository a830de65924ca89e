"""One cross-validation fold of one embedding, with the matrices that its heads share.

The embedding is scaled once. Its Gram matrix serves the kernels of all support vector machines, because the kernel does
not depend on C. If there are fewer rows than columns, the Gram matrix also yields a rotation into as many coordinates
as there are rows, which does not change linear models with a ridge penalty. Above 6,000 rows the embedding stays in
float32, and ``X.T @ X`` is summed in float64.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from tlfeatures.evaluation import Fold
from tlfeatures.heads import MAX_KERNEL_ROWS, make_nystroem
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._metadata_routing import Metadata

__all__ = ["FoldData"]

TrainTest = tuple[np.ndarray, np.ndarray]
_BLOCK_VALUES = 1 << 22  # converted to float64 at a time


class FoldData:
    """Training and test rows of one fold.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    fold : (train, test)
    head : Head
        Any of the heads for this embedding: they share the scaling and the RBF kernel.
    metadata : Metadata

    Attributes
    ----------
    y_train, y_test : ndarray
    standardized : (train, test)
        Training and test rows of the embedding, scaled with the statistics of the training rows: float64, or float32
        above 6,000 training rows.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, fold: Fold, head: Head, metadata: Metadata) -> None:
        train, test = fold
        self.train_rows, self.metadata = train, metadata
        self.y_train, self.y_test = y[train], y[test]
        self._X, self._fold, self._kernel = X, fold, head.kernel
        scaler, rows = head.make_scaler(), X[train]
        dtype = np.float64 if self.fits_kernel else np.float32
        self.standardized: TrainTest = (
            np.asarray(scaler.fit_transform(rows), dtype),
            np.asarray(scaler.transform(X[test]), dtype),
        )

    @property
    def raw(self) -> TrainTest:
        """Training and test rows of the embedding."""
        return self._X[self._fold[0]], self._X[self._fold[1]]

    @property
    def fits_kernel(self) -> bool:
        """Whether there are few enough rows to keep a kernel matrix in memory."""
        return len(self.y_train) <= MAX_KERNEL_ROWS

    @cached_property
    def gram(self) -> TrainTest:
        """Inner products of training rows, and of test rows with training rows."""
        train, test = self.standardized
        return train @ train.T, test @ train.T

    @cached_property
    def rbf(self) -> TrainTest:
        """RBF kernel with ``gamma="scale"``, or the kernel of the head."""
        train, test = self.standardized
        if self._kernel is not None:
            return self._kernel(train, train), self._kernel(test, train)
        variance = train.var()
        gamma = 1.0 / (train.shape[1] * variance) if variance else 1.0
        within, across = self.gram
        norms, test_norms = np.diag(within), (test**2).sum(axis=1)
        kernels = within * 2, across * 2
        for kernel, row_norms in zip(kernels, (norms, test_norms), strict=True):
            kernel -= row_norms[:, None]
            kernel -= norms
            np.minimum(kernel, 0, out=kernel)  # minus the squared distance
            kernel *= gamma
            np.exp(kernel, out=kernel)
        return kernels

    @cached_property
    def cosine_distances(self) -> TrainTest:
        """Cosine distances as in scikit-learn: a row of zeros is at distance 1."""
        within, across = self.gram
        lengths = np.sqrt(np.diag(within)), np.sqrt((self.standardized[1] ** 2).sum(axis=1))
        train_lengths, test_lengths = (np.where(length == 0, 1, length) for length in lengths)
        train = np.clip(1 - within / train_lengths / train_lengths[:, None], 0, 2)
        np.fill_diagonal(train, 0)
        return train, np.clip(1 - across / train_lengths / test_lengths[:, None], 0, 2)

    @cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Singular value decomposition of the training rows.

        Left singular vectors (n, r), singular values (r,) and coordinates of the test rows (m, r), from the Gram
        matrix of rows or of columns, whichever is smaller.
        """
        train, test = self.standardized
        n, d = train.shape
        dual = n < d
        if dual:
            gram, across = self.gram if self.fits_kernel else (_multiply(train.T), test @ train.T)
        else:
            gram = _multiply(train)
        eigenvalues, vectors = np.linalg.eigh(gram)
        keep = eigenvalues > max(n, d) * np.finfo(float).eps * max(eigenvalues[-1], 1.0)
        if not keep.any():  # all features are constant
            return np.zeros((n, 1)), np.ones(1), np.zeros((len(test), 1))
        values = np.sqrt(eigenvalues[keep]).astype(train.dtype)
        vectors = np.ascontiguousarray(vectors[:, keep], train.dtype)
        if dual:
            return vectors, values, across @ vectors / values
        return train @ vectors / values, values, test @ vectors

    @cached_property
    def nystroem(self) -> TrainTest:
        """Features that approximate the RBF kernel."""
        nystroem, (train, test) = make_nystroem(), self.standardized
        return nystroem.fit_transform(train), nystroem.transform(test)

    @cached_property
    def rotated(self) -> TrainTest:
        """Training and test rows; with fewer rows than columns and at most 6,000 rows, rotated to fewer columns."""
        n, d = self.standardized[0].shape
        if n >= d or not self.fits_kernel:
            return self.standardized
        left, values, test = self.svd
        return left * values, test


def _multiply(X: np.ndarray) -> np.ndarray:
    """Compute ``X.T @ X`` in float64."""
    if X.dtype == np.float64:
        return X.T @ X
    total, step = np.zeros((X.shape[1], X.shape[1])), max(1, _BLOCK_VALUES // X.shape[1])
    for start in range(0, len(X), step):
        block = X[start : start + step].astype(np.float64)
        total += block.T @ block
    return total
