"""Nearest neighbors of all embeddings of a data set, found block by block."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Neighbors", "find_neighbors", "normalize_embeddings"]

_BLOCK_VALUES = 1 << 24  # cosines in memory at a time
_GROUP = 64  # adjacent columns whose maximum is compared first


class Neighbors(NamedTuple):
    """Nearest neighbors of each of n rows, the nearest first.

    Attributes
    ----------
    rows : ndarray of int32, shape (n, k)
        A row is not a neighbor of itself.
    cosine : ndarray of float32, shape (n, k)
        Cosine similarity of the centered embeddings.
    """

    rows: np.ndarray
    cosine: np.ndarray


def normalize_embeddings(features: np.ndarray) -> np.ndarray:
    """Subtract the mean of the embeddings and scale each row to length 1.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Finite values.

    Returns
    -------
    ndarray of float32, shape (n, d)
        Rows that equal the mean are 0.

    Examples
    --------
    >>> normalize_embeddings(np.array([[1.0, 1.0], [3.0, 1.0]]))
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """
    F = features.astype(np.float32)
    F -= F.mean(axis=0, dtype=np.float64).astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", F, F, dtype=np.float64))
    largest = float(length.max(initial=0.0))
    # rounding of the mean leaves tiny values where all rows are equal
    scale = np.abs(features).max(initial=0.0) * np.sqrt(features.shape[1])
    is_zero = length <= max(1e-6 * largest, 1e-6 * float(scale))
    F[is_zero] = 0
    F /= np.where(is_zero, 1, length)[:, None].astype(np.float32)
    return F


def find_neighbors(features: np.ndarray, k: int) -> Neighbors:
    """Find the k nearest neighbors of each row by cosine similarity of the centered embeddings.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Embeddings, at least two rows.
    k : int
        At most n - 1 neighbors are found.

    Returns
    -------
    Neighbors

    Notes
    -----
    The search is exact. It compares blocks of rows with all rows, so that about 200 MB are needed at a time and
    never a matrix of shape (n, n).

    Examples
    --------
    >>> find_neighbors(np.array([[0.0, 1.0], [0.1, 1.0], [5.0, -1.0]]), 1).rows.ravel().tolist()
    [1, 0, 1]
    """
    n = len(features)
    k = min(k, n - 1)
    F = np.zeros((-(-n // _GROUP) * _GROUP, features.shape[1]), np.float32)  # a multiple of the group size
    F[:n] = normalize_embeddings(features)
    rows, cosines = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    block = max(16, _BLOCK_VALUES // len(F))
    for start in range(0, n, block):
        cosine = F[start : min(start + block, n)] @ F.T
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        cosine[:, n:] = -np.inf
        nearest, values = _find_largest(cosine, k)
        order = np.lexsort((nearest, -values), axis=1)
        rows[start : start + block] = np.take_along_axis(nearest, order, axis=1)
        cosines[start : start + block] = np.take_along_axis(values, order, axis=1)
    return Neighbors(rows, np.clip(cosines, -1, 1))


def _find_largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and values of the k largest values of each row, unordered.

    They are in the k groups of adjacent columns with the largest maxima, which takes a fraction of the time of a
    partition of whole rows.
    """
    b, width = values.shape
    if width > 2 * k * _GROUP:
        maxima = values.reshape(b, -1, _GROUP).max(axis=2)
        groups = np.argpartition(maxima, maxima.shape[1] - k, axis=1)[:, -k:]
        columns = (groups[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(b, -1)
        values = np.take_along_axis(values, columns, axis=1)
    else:
        columns = np.broadcast_to(np.arange(width), (b, width))
    largest = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    return np.take_along_axis(columns, largest, axis=1), np.take_along_axis(values, largest, axis=1)
