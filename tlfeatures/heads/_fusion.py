"""Fusion of the embeddings of several layers, so that none of them dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data

from tlfeatures.errors import InvalidParameterError

__all__ = ["BlockScaler", "MeanRBFKernel"]


class BlockScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardize features, and scale blocks of columns to the same total variance.

    The embeddings of a list of layers are blocks of columns of different widths. After standardization alone, the
    widest layer would dominate distances, kernels and ridge penalties. The mean variance over all columns is 1, as
    after ``StandardScaler``, so that the same penalties are suitable.

    Parameters
    ----------
    widths : sequence of int or None, default=None
        Number of columns of each block, from left to right. None is one block: the same as ``StandardScaler``.

    Attributes
    ----------
    mean_ : ndarray of float64, shape (n_features,)
        Means of the columns.
    scale_ : ndarray of float64, shape (n_features,)
        Divisors of the centered columns: standard deviations, times the square root of the width of the block
        relative to the mean width.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (n_features,)
        Only if X has feature names.

    Raises
    ------
    ValueError
        If the widths are not positive integers, or their sum is not the number of columns.

    Notes
    -----
    Constant columns become 0, but count toward the width of their block.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(50, 5))
    >>> X = BlockScaler(widths=[1, 4]).fit_transform(X)
    >>> X.var(axis=0).round(3).tolist()
    [2.5, 0.625, 0.625, 0.625, 0.625]

    With the embeddings of several layers, of 96 and 384 features:

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import SVC
    >>> from tlfeatures import CNNFeatures
    >>> pipeline = make_pipeline(
    ...     CNNFeatures("mobilenet_0.75", layer=["conv_pw_3_relu", "conv_pw_9_relu"]),
    ...     BlockScaler([96, 384]),
    ...     SVC(C=10),
    ... )
    """

    mean_: np.ndarray
    scale_: np.ndarray

    def __init__(self, widths: Sequence[int] | None = None) -> None:
        self.widths = widths

    def fit(self, X: Any, y: Any = None) -> BlockScaler:
        """Compute the means and the divisors of the columns.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : ignored

        Returns
        -------
        BlockScaler
        """
        X = validate_data(self, X, dtype=FLOAT_DTYPES)
        widths = _check_widths(self.widths, X.shape[1])
        scaler = StandardScaler().fit(X)
        self.mean_ = scaler.mean_
        self.scale_ = scaler.scale_ * np.repeat(np.sqrt(widths / widths.mean()), widths)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Center and scale the columns.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_features)
            Floats of the dtype of X, float32 or float64.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=FLOAT_DTYPES, reset=False)
        return (X - self.mean_.astype(X.dtype)) / self.scale_.astype(X.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@dataclass(frozen=True)
class MeanRBFKernel:
    """Mean of the RBF kernels of blocks of columns, for ``SVC(kernel=...)`` and ``SVR(kernel=...)``.

    Two images are similar if they are similar in several layers. The RBF kernel of all columns, in contrast, is the
    product of the layers' kernels, in which one layer suffices to make two images dissimilar. The kernel of a block is
    ``exp(-|x - y|^2 / (width * variance))``, as with ``gamma="scale"``.

    Parameters
    ----------
    widths : tuple of int
        Number of columns of each block, from left to right.

    Notes
    -----
    scikit-learn passes the training rows as the second argument, from which the variance is computed.

    References
    ----------
    Gehler and Nowozin, "On feature combination for multiclass object classification", ICCV 2009: the mean of the
    kernels is a strong baseline.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import SVC
    >>> X, y = np.random.default_rng(0).normal(size=(50, 5)), np.arange(50) % 2
    >>> X[:, 0] += 4 * y
    >>> svm = make_pipeline(BlockScaler([1, 4]), SVC(kernel=MeanRBFKernel((1, 4)))).fit(X, y)
    >>> svm.score(X, y) > 0.9
    True
    """

    widths: tuple[int, ...]

    def __call__(self, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """Compute the kernel.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        Y : ndarray of shape (m, n_features)
            Training rows.

        Returns
        -------
        ndarray of float64, shape (n, m)
        """
        widths = _check_widths(self.widths, Y.shape[1])
        total = np.zeros((len(X), len(Y)))
        for start, stop in pairwise([0, *np.cumsum(widths)]):
            block, reference = X[:, start:stop], Y[:, start:stop]
            kernel = block @ (2 * reference.T)
            kernel -= (block**2).sum(axis=1)[:, None]
            kernel -= (reference**2).sum(axis=1)
            np.minimum(kernel, 0, out=kernel)  # minus the squared distance
            kernel /= reference.var() * (stop - start) or 1.0
            total += np.exp(kernel, out=kernel)
        return total / len(widths)


def _check_widths(widths: Any, n_columns: int) -> np.ndarray:
    """Return the widths of the blocks as an array; one block if ``widths`` is None."""
    if widths is None:
        return np.array([n_columns])
    values = list(widths) if isinstance(widths, (Sequence, np.ndarray)) else []
    if not values or not all(isinstance(value, Integral) and value > 0 for value in values):
        raise InvalidParameterError(
            f"`widths` must be a list of positive integers, the numbers of columns of the blocks; got {widths!r}.",
            "widths",
        )
    if sum(values) != n_columns:
        raise InvalidParameterError(
            f"`widths` must add up to the {n_columns} columns of X; got {values} with the sum {sum(values)}. Pass the "
            "width of each layer in the order of the columns.",
            "widths",
        )
    return np.array(values)
