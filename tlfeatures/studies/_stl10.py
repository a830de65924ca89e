"""Drawn images in the format of STL-10, for machines without its files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

__all__ = ["write_stl10_stand_in"]

_CLASSES = ("disc", "ring", "square", "frame", "cross", "bar", "stripes", "checks", "dots", "triangle")


def write_stl10_stand_in(
    folder: str | os.PathLike[str], n_train: int = 200, n_test: int = 200, seed: int = 0
) -> None:
    """Write drawn images of ten classes, shapes and patterns, in the binary format of STL-10.

    Parameters
    ----------
    folder : str or path
    n_train, n_test : int, default=200
        Number of images of each split.
    seed : int, default=0

    Examples
    --------
    >>> import tempfile
    >>> from tlfeatures.sources import read_stl10
    >>> folder = tempfile.mkdtemp()
    >>> write_stl10_stand_in(folder, 20, 10)
    >>> train, (X_test, y_test) = read_stl10(folder)
    >>> X_test.shape, y_test[:2].tolist()
    ((10, 96, 96, 3), ['disc', 'ring'])
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, n in (("train", n_train), ("test", n_test)):
        codes = np.arange(n) % len(_CLASSES)
        images = np.stack([_draw(rng, _CLASSES[code]) for code in codes])
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes((codes + 1).astype(np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join(_CLASSES))


def _draw(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw one shape or pattern at a random place, size and angle on noise; uint8 (96, 96, 3)."""
    y, x = np.mgrid[:96, :96] - rng.uniform(38, 58, (2, 1, 1))
    angle, r = rng.uniform(0, np.pi / 2), rng.uniform(16, 32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance, side, period = np.hypot(u, v), np.maximum(abs(u), abs(v)), r / 2
    waves = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    mask = {
        "disc": distance < r,
        "ring": abs(distance - r) < r / 5,
        "square": side < r,
        "frame": abs(side - r) < r / 5,
        "cross": (np.minimum(abs(u), abs(v)) < r / 5) & (side < r),
        "bar": (abs(u) < r / 4) & (abs(v) < 1.4 * r),
        "stripes": waves[0] > 0,
        "checks": waves[0] * waves[1] > 0,
        "dots": waves[0] + waves[1] > 1,
        "triangle": (v < r / 2) & (v > 1.8 * abs(u) - r),
    }[name]
    colors = rng.uniform(0, 255, (2, 3))
    while abs(colors[0] - colors[1]).mean() < 40:
        colors = rng.uniform(0, 255, (2, 3))
    pixels = np.where(mask[..., None], colors[0], colors[1]) + rng.normal(0, 25, (96, 96, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)
