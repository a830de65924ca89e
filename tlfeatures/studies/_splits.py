"""Folds of studies whose data have no splits."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["split_images"]


def split_images(
    images: Any, y: Any, n_splits: int = 4, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make folds that are stratified by class and keep equal files together.

    Parameters
    ----------
    images : images, as in :class:`~tlfeatures.CNNFeatures`
    y : array-like of shape (n,)
        Classes.
    n_splits : int, default=4
        Number of folds.
    seed : int, default=0

    Returns
    -------
    list of (train, test)
        Rows of each fold, as ``cv`` of scikit-learn takes them.

    Examples
    --------
    >>> X = np.arange(8, dtype="uint8").repeat(75).reshape(8, 5, 5, 3)
    >>> [(len(train), len(test)) for train, test in split_images(X, ["cat", "dog"] * 4)]
    [(6, 2), (6, 2), (6, 2), (6, 2)]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    from tlfeatures.images import Images

    images = Images.of(images)
    groups = np.unique(images.keys()[0], axis=0, return_inverse=True)[1].reshape(-1)
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(folds.split(np.empty(len(groups)), y, groups))
