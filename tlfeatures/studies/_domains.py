"""Images of domains unlike photographs: drawn textures, and images cut into tiles in another order."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_textures", "scramble_tiles"]


def draw_textures(n_per_class: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw striped textures with noise; the classes are six angles of the stripes.

    Parameters
    ----------
    n_per_class : int
    size : int
        Side of the images in pixels.
    seed : int

    Returns
    -------
    X : ndarray of uint8, shape (6 * n_per_class, size, size, 3)
        Width, contrast, phase and color of the stripes are random.
    y : ndarray of str
        "0 degrees" ... "150 degrees".

    Examples
    --------
    >>> X, y = draw_textures(2, 32)
    >>> X.shape, y[:3].tolist()
    ((12, 32, 32, 3), ['0 degrees', '0 degrees', '30 degrees'])
    """
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size] / size
    images, labels = [], []
    for angle in range(0, 180, 30):
        across = column * np.cos(np.radians(angle)) + row * np.sin(np.radians(angle))
        for _ in range(n_per_class):
            stripes = np.sin(2 * np.pi * (rng.uniform(3, 12) * across + rng.uniform()))
            color = rng.uniform(20, 60, 3) * rng.choice([-1, 1], 3)
            noise = rng.normal(0, 40, (size, size, 3))
            images.append(rng.uniform(80, 176, 3) + stripes[..., None] * color + noise)
            labels.append(f"{angle} degrees")
    return np.clip(images, 0, 255).astype(np.uint8), np.array(labels)


def scramble_tiles(X: np.ndarray, n_tiles: int = 8, seed: int = 0) -> np.ndarray:
    """Cut images into tiles and put these into another order, which is the same for all images.

    Parameters
    ----------
    X : ndarray, shape (n, side, side, 3)
        ``side`` must be a multiple of ``n_tiles``.
    n_tiles : int, default=8
        Number of tiles in each row and column.
    seed : int

    Returns
    -------
    ndarray, shape (n, side, side, 3)

    Raises
    ------
    ValueError
        If the images are not squares, or cannot be cut into equal tiles.

    Examples
    --------
    >>> X = np.arange(48, dtype="uint8").reshape(1, 4, 4, 3)
    >>> bool((np.sort(scramble_tiles(X, 2).ravel()) == X.ravel()).all())
    True
    """
    n, height, width, channels = X.shape
    if height != width or height % n_tiles:
        raise ValueError(
            f"`X` must be square images with a side that is a multiple of n_tiles={n_tiles}; got {height}x{width} "
            "pixels. Resize the images, or pass another n_tiles."
        )
    side = height // n_tiles
    tiles = X.reshape(n, n_tiles, side, n_tiles, side, channels).swapaxes(2, 3)
    order = np.random.default_rng(seed).permutation(n_tiles**2)
    tiles = tiles.reshape(n, n_tiles**2, side, side, channels)[:, order]
    return tiles.reshape(n, n_tiles, n_tiles, side, side, channels).swapaxes(2, 3).reshape(X.shape)
