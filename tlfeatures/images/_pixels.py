"""Conversion of arrays to uint8 pixels, and error messages for arrays that are not images."""

from __future__ import annotations

import math

import numpy as np

_SLACK = 1e-6  # rounding may move resampled floats slightly below 0 or above 1
_LIMITS = (1023, 4095, 16383, 65535)  # the largest values of 10, 12, 14 and 16 bits
_LAYOUT = "expected (n, height, width), or (n, height, width, channels) with 1, 3 or 4 channels"


def find_layout_problem(shape: tuple[int, ...]) -> str | None:
    """Return why ``shape`` is not that of a batch of images, or None."""
    start = f"Got an array of shape {tuple(shape)}; "
    if len(shape) > 0 and shape[0] == 0:
        return f"Found array with 0 sample(s) (shape={tuple(shape)}) while a minimum of 1 is required."
    if len(shape) == 3 and shape[-1] in (1, 3, 4):
        return (
            f"{start}this looks like a single image: add the first axis with X[None]. "
            "(A batch of grey images this narrow needs a channel axis: X[..., None].)"
        )
    if len(shape) == 2:
        side = round((shape[1] / 3) ** 0.5), 3
        if side[0] ** 2 * 3 != shape[1]:
            side = round(shape[1] ** 0.5), 1
        square = side[0] > 1 and side[0] ** 2 * side[1] == shape[1]
        dims = f"{side[0]}, {side[0]}" + (", 3" if side[1] == 3 else "")
        fix = f"X.reshape(-1, {dims})" if square else "X.reshape(-1, height, width)"
        return (
            f"{start}{_LAYOUT}. Flattened images must be reshaped first, e.g. {fix}; "
            "tables of other numbers are not images."
        )
    if len(shape) == 4 and shape[-1] not in (1, 3, 4):
        first = shape[1] in (1, 3, 4)
        return f"{start}{_LAYOUT}." + (
            " Channels first? Use np.asarray(X).transpose(0, 2, 3, 1)." if first else ""
        )
    if len(shape) not in (3, 4):
        return f"{start}{_LAYOUT}."
    return f"{start}an image needs at least one pixel." if 0 in shape else None


def find_row_layout_problem(shape: tuple[int, ...]) -> str | None:
    """Return why ``shape`` is not that of one image, or None."""
    if 0 in shape:
        return f"the array of shape {tuple(shape)} has no pixels"
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4)):
        return None
    return (
        f"got an array of shape {tuple(shape)}; "
        "expected (height, width) or (height, width, channels) with 1, 3 or 4 channels"
    )


def find_value_problem(a: np.ndarray, *, batch: bool) -> str | None:
    """Return why the values of ``a`` are not pixels, or None; needs little memory.

    If ``batch``, the first axis is that of the images, and the message names the first invalid one.
    """
    kind = a.dtype.kind
    if kind == "b" or (kind == "u" and a.dtype.itemsize <= 2):
        return None
    if kind == "c":
        return "Complex data not supported: expected uint8, uint16 or float pixels; take X.real or abs(X)"
    if kind not in "fiu":
        return f"got dtype {a.dtype}; expected uint8, uint16 or float pixels"
    low, high = a.min(), a.max()
    if kind in "iu":
        if low >= 0 and high <= 255:
            return None
        fix = _suggest_integer_scaling(int(low), int(high))
        return f"got {a.dtype} values from {low} to {high}; expected 0 to 255: {fix}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return _describe_not_finite(a, batch)
    if low >= -_SLACK and high <= 1 + _SLACK:
        return None
    return (
        f"got {a.dtype} values from {low:g} to {high:g}; expected floats in [0, 1], or uint8 in 0..255: "
        f"{suggest_scaling(float(low), float(high))}"
    )


def _suggest_integer_scaling(low: int, high: int) -> str:
    """Return the expression that turns integers from ``low`` to ``high`` into pixels."""
    if low >= 0 and high <= 65535:
        bits = next((limit for limit in _LIMITS if high <= limit), 65535)
        return "use X.astype('uint16')" + (f" with `max_value={bits}`" if bits < 65535 else "")
    if low >= -128 and 1 < high <= 127:
        return "use (X + 128).astype('uint8')"
    return suggest_scaling(low, high)


def suggest_scaling(low: float, high: float) -> str:
    """Return the expression that scales values from ``low`` to ``high`` to [0, 1]."""
    if low >= -_SLACK:
        if high <= 16:
            return f"use X / {math.ceil(high)}, or divide by the largest value possible"
        if high <= 255:
            return "use X / 255, or X.astype('uint8')"
        limit = next((limit for limit in _LIMITS if high <= limit), None)
        return f"use X / {limit}, or X.astype('uint16') for whole numbers" if limit else "use X / X.max()"
    if low >= -1 - _SLACK and high <= 1 + _SLACK:
        return "use (X + 1) / 2"
    low, high = math.floor(low * 100) / 100, math.ceil(high * 100) / 100
    undo = " If they were standardized, X * std + mean undoes that." if max(-low, high) <= 10 else ""
    return f"use (X + {-low:g}) / {high - low:g}, the same for all images.{undo}"


def _describe_not_finite(a: np.ndarray, batch: bool) -> str:
    if not batch:
        return f"{a.size - np.isfinite(a).sum()} values are NaN or infinite; expected floats in [0, 1]"
    counts = [int(row.size - np.isfinite(row).sum()) for row in a]
    first = next(i for i, count in enumerate(counts) if count)
    return (
        f"{sum(counts)} values in {sum(map(bool, counts))} rows are NaN or infinite, the first in row {first}; "
        "expected floats in [0, 1]: drop these rows, or fill them with np.nan_to_num"
    )


def is_16_bit(a: np.ndarray) -> bool:
    """Whether ``a`` has unsigned integers of 16 bits, in either byte order."""
    return a.dtype.kind == "u" and a.dtype.itemsize == 2


def apply_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Scale values to [0, 1]: ``center - width / 2`` and below becomes 0, ``center + width / 2`` and above 1."""
    return np.clip((values.astype(np.float64) - center) / width + 0.5, 0, 1)


def window_to_uint8(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Convert integers to uint8 by a window, (center, width)."""
    if is_16_bit(values):  # computed once for each possible value, not for each pixel
        return window_to_uint8(np.arange(65536), window)[values]
    return np.rint(apply_window(values, *window) * 255).astype(np.uint8)


def to_uint8(a: np.ndarray, max_value: int | None = None) -> np.ndarray:
    """Convert checked pixels of any accepted dtype to uint8.

    Parameters
    ----------
    a : ndarray
    max_value : int, optional
        The 16-bit value that is converted to 255; None means 65535.
    """
    if a.dtype == np.uint8:
        return a
    if a.dtype.kind == "b":
        return a.astype(np.uint8) * np.uint8(255)
    if is_16_bit(a):
        limit = max_value or 65535
        wide = a.astype(np.uint32)
        wide *= 255
        wide += limit // 2
        wide //= limit  # rounded, never clipped
        return wide.astype(np.uint8)
    if a.dtype.kind == "f":
        wide = a.astype(np.promote_types(a.dtype, np.float32)) * 255
        return np.clip(np.rint(wide, out=wide), 0, 255, out=wide).astype(np.uint8)
    return a.astype(np.uint8)
