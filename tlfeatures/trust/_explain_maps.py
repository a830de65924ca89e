"""Feature maps of images, and maps of what each position contributes to the explained value."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlfeatures.errors import UnreadableImagesWarning
from tlfeatures.extract import check_decoder, check_recipes
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Images
from tlfeatures.networks import Tap

__all__ = ["PooledMaps", "gradient_map", "iterate_maps", "occlusion_map", "resample"]

_MAX_VALUES = 1 << 22  # largest number of values in an array that is passed to the head
_MAX_MAP_VALUES = 1 << 25  # largest number of values of the feature maps in memory
_POINTS = 8  # between baseline and embedding
_GEM_MINIMUM = 1e-6  # the same as in the pooling of the network

Value = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PooledMaps:
    """The feature maps of one image, and how they are pooled.

    Attributes
    ----------
    maps : list of ndarray of float64, shape (h, w, c)
        One for each block of columns of the embedding.
    parts : list of str
        Pooling of each block.
    """

    maps: list[np.ndarray]
    parts: list[str]

    @property
    def embedding(self) -> np.ndarray:
        """The pooled embedding, float64 of shape (d,)."""
        return np.concatenate([_pool(rows, part) for rows, part in self._blocks()])

    def split(self, function: Any) -> Iterator[tuple[int, slice, slice, np.ndarray]]:
        """Apply ``function`` to some positions of each block, so that its result is small enough for memory.

        Yields
        ------
        block : int
        positions, columns : slice
        values : ndarray of shape (n_positions, n_columns)
        """
        start, step = 0, max(1, _MAX_VALUES // len(self.embedding))
        for block, (rows, part) in enumerate(self._blocks()):
            columns = slice(start, start + len(_pool(rows, part)))
            start = columns.stop
            for first in range(0, len(rows), step):
                positions = slice(first, first + step)
                yield block, positions, columns, function(rows, part, positions)

    def join(self, positions: list[np.ndarray]) -> np.ndarray:
        """Add the maps of all blocks on the finest grid; the mean of the result is the sum of all contributions."""
        height, width = (max(x.shape[axis] for x in self.maps) for axis in (0, 1))
        grids = [
            values.reshape(x.shape[:2]) * len(values) for values, x in zip(positions, self.maps, strict=True)
        ]
        return np.sum([resample(grid, (height, width)) for grid in grids], axis=0)

    def empty(self) -> list[np.ndarray]:
        """Return an array of zeros for each block, with one zero for each position."""
        return [np.zeros(len(rows)) for rows, _ in self._blocks()]

    def _blocks(self) -> list[tuple[np.ndarray, str]]:
        pairs = zip(self.maps, self.parts, strict=True)
        return [(x.reshape(-1, x.shape[-1]), part) for x, part in pairs]


def iterate_maps(cnn: CNNFeatures, images: Images) -> Iterator[tuple[int, PooledMaps | str]]:
    """Compute the feature maps of images in one pass of the network.

    Yields
    ------
    row : int
    maps : PooledMaps or str
        If the image cannot be read, the reason.

    Raises
    ------
    ValueError
        If the embedding has no positions, because a layer returns a vector.
    RecipeMismatchError
        If parameters or weights differ from those of ``fit``.
    """
    spec = cnn._make_spec()
    check_recipes(cnn.recipes_, [column.recipe for column in spec.columns])
    if images.encoded().any():
        check_decoder(cnn.decoder_probe_)
    if spec.views is not None:
        raise ValueError(
            f"explain needs `views=None`, because views have different positions; got {spec.views!r}. Fit the pipeline "
            "without views to see maps of its images."
        )
    taps = list(dict.fromkeys(spec.description.taps))
    grids = {tap: _find_grid(tap, spec.description.image_size) for tap in taps}
    for column in spec.columns:
        if column.tap.n_prefix and column.part in ("cls", "flatten"):
            raise ValueError(
                f"explain needs tokens of patches, which have positions in the image; got pooling={cnn.pooling!r}, "
                "which uses the class token. Use pooling='avg' or 'max'."
            )
    flat = dataclasses.replace(spec, columns=tuple(spec.column(tap, "flatten") for tap in taps))
    chunk = max(1, _MAX_MAP_VALUES // flat.width)
    for start in range(0, len(images), chunk):
        part = images.take(np.arange(start, min(start + chunk, len(images))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableImagesWarning)
            extracted = cnn._extract(part, flat, store=None, on_error="nan")
        for i, values in enumerate(extracted.features):
            if i in extracted.errors:
                yield start + i, extracted.errors[i]
                continue
            pairs = zip(taps, flat.slices, strict=True)
            maps = {tap: _to_map(values[s].reshape(tap.shape), tap, grids[tap]) for tap, s in pairs}
            yield start + i, PooledMaps([maps[c.tap] for c in spec.columns], [c.part for c in spec.columns])


def _find_grid(tap: Tap, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a feature map, or of the patches of a vision transformer."""
    if len(tap.shape) == 3:
        return tap.shape[0], tap.shape[1]
    if len(tap.shape) == 2 and tap.n_prefix is not None:
        n, (height, width) = tap.shape[0] - tap.n_prefix, image_size
        rows = round((n * height / width) ** 0.5)
        if n % rows == 0:
            return rows, n // rows
    raise ValueError(
        f"The output of the layer {tap.layer!r} has the shape {tap.shape}, so it has no positions in the "
        "image. Use a convolutional layer; see list_layers(model)."
    )


def _to_map(values: np.ndarray, tap: Tap, grid: tuple[int, int]) -> np.ndarray:
    """Return the output of a layer as a map of float64, shape (h, w, c), without tokens that are not of patches."""
    return values[tap.n_prefix or 0 :].astype(np.float64).reshape(*grid, -1)


def gradient_map(
    value: Value, maps: PooledMaps, baseline: np.ndarray | None, step: float = 1e-3
) -> np.ndarray:
    """Map the mean gradient of a value with respect to the pooled embedding, times the contribution of each position.

    The poolings are homogeneous functions of the activations, so the contributions of the positions (the activation
    times the derivative of the pooled value) add up to the embedding. The gradient is the mean over the straight line
    from the baseline to the embedding (integrated gradients; Sundararajan et al. 2017, "Axiomatic attribution for deep
    networks"), because the gradient of a kernel is nearly zero at embeddings far from the decision boundary. The
    derivatives are central differences along each contribution.

    Parameters
    ----------
    value : callable
        Function from embeddings (n, d) to one number each.
    maps : PooledMaps
    baseline : ndarray of shape (d,) or None
        None means that only the gradient at the embedding is used.
    step : float, default=1e-3
        Step of the differences, relative to the norm of the embedding.

    Returns
    -------
    ndarray of float64, shape (h, w)
        If the value is a linear function plus a constant, the mean of the map plus the constant is the value.
    """
    embedding, result = maps.embedding, maps.empty()
    points, weights = ([embedding], [1.0]) if baseline is None else _line(baseline, embedding)
    for block, positions, columns, contributions in maps.split(_contribute):
        norms = np.linalg.norm(contributions, axis=1)
        steps = step * (np.linalg.norm(embedding) or 1.0) / np.where(norms, norms, 1.0)
        rows = np.zeros((len(contributions), len(embedding)))
        rows[:, columns] = contributions * steps[:, None]
        derivatives = np.zeros(len(rows))
        for point, weight in zip(points, weights, strict=True):
            derivatives += weight * (value(point + rows) - value(point - rows)) / (2 * steps)
        result[block][positions] = np.where(norms, derivatives, 0.0)
    return maps.join(result)


def _line(start: np.ndarray, end: np.ndarray) -> tuple[Any, Any]:
    """Return points on the line between two vectors, and their weights for the mean (Gauss-Legendre quadrature)."""
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    return start + (points[:, None] + 1) / 2 * (end - start), weights / 2


def occlusion_map(value: Value, maps: PooledMaps) -> np.ndarray:
    """Map how much a value decreases when a position is left out of the pooling.

    Parameters
    ----------
    value : callable
        Function from embeddings (n, d) to one number each.
    maps : PooledMaps

    Returns
    -------
    ndarray of float64, shape (h, w)
        The decrease, times the number of the other positions. In a flattened map, the position is replaced by the mean
        of the others.
    """
    embedding, result = maps.embedding, maps.empty()
    current = value(embedding[None])[0]
    for block, positions, columns, pooled in maps.split(_pool_without):
        rows = np.tile(embedding, (len(pooled), 1))
        rows[:, columns] = pooled
        n = len(result[block])
        result[block][positions] = (current - value(rows)) * (n - 1) / n
    return maps.join(result)


def resample(grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample a map (h, w) to another shape by areas, which keeps its mean.

    >>> resample(np.array([[1.0, 3.0]]), (1, 3)).round(6).tolist()
    [[1.0, 2.0, 3.0]]
    """
    rows, columns = (_overlaps(n, m) for n, m in zip(grid.shape, shape, strict=True))
    return rows @ grid @ columns.T


def _overlaps(n: int, m: int) -> np.ndarray:
    """Return the share of each of m equal parts of a line that lies in each of n equal parts, shape (m, n)."""
    starts, ends = np.arange(m)[:, None] / m, np.arange(1, m + 1)[:, None] / m
    overlap = np.minimum(ends, np.arange(1, n + 1) / n) - np.maximum(starts, np.arange(n) / n)
    return np.maximum(overlap, 0) * m


def _cubes(rows: np.ndarray) -> np.ndarray:
    return np.maximum(rows, _GEM_MINIMUM) ** 3


def _pool(rows: np.ndarray, part: str) -> np.ndarray:
    """Pool the activations (positions, channels) of a map."""
    if part == "avg":
        return rows.mean(axis=0)
    if part == "max":
        return rows.max(axis=0)
    return np.cbrt(_cubes(rows).mean(axis=0)) if part == "gem" else rows.ravel()


def _contribute(rows: np.ndarray, part: str, positions: slice) -> np.ndarray:
    """Return what positions contribute to the pooled activations; the sum over all positions is the pooled vector."""
    n = len(rows)
    if part == "avg":
        return rows[positions] / n
    if part == "max":  # the positions with the maximum share it
        is_maximum = rows == rows.max(axis=0)
        return (is_maximum * rows / is_maximum.sum(axis=0))[positions]
    if part == "gem":
        return _cubes(rows[positions]) / n / _pool(rows, part) ** 2
    return _place(rows[positions], n, positions)


def _pool_without(rows: np.ndarray, part: str, positions: slice) -> np.ndarray:
    """Pool the activations once for each of some positions, without this position."""
    n = len(rows)
    if n == 1:  # nothing would be left
        return _pool(rows, part)[None]
    if part == "avg":
        return (rows.sum(axis=0) - rows[positions]) / (n - 1)
    if part == "max":
        second, first = np.partition(rows, n - 2, axis=0)[-2:]
        return np.where(rows[positions] == first, second, first)
    if part == "gem":
        cubes = _cubes(rows)
        return np.cbrt(np.maximum(cubes.sum(axis=0) - cubes[positions], 0) / (n - 1))
    others = (rows.sum(axis=0) - rows[positions]) / (n - 1)
    return rows.ravel() + _place(others - rows[positions], n, positions)


def _place(values: np.ndarray, n: int, positions: slice) -> np.ndarray:
    """Return flattened maps of n positions that are zero except for row i of ``values`` at position i."""
    placed = np.zeros((len(values), n, values.shape[1]))
    numbers = np.arange(n)[positions]
    placed[np.arange(len(numbers)), numbers] = values
    return placed.reshape(len(values), -1)
