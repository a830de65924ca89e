"""Array values of any dtype -> uint8, or a text that says why not and how to mend it."""

from __future__ import annotations

import numpy as np

_SLACK = 1e-6  # resampled floats overshoot 0 and 1 by rounding
_LAYOUT = "expected (n, height, width), or (n, height, width, channels) with 1, 3 or 4 channels"


def layout_problem(shape: tuple[int, ...]) -> str | None:
    """Why ``shape`` is not that of a batch of images; None when it is."""
    came = f"Got an array of shape {tuple(shape)}; "
    if len(shape) > 0 and shape[0] == 0:
        return f"Found array with 0 sample(s) (shape={tuple(shape)}) while a minimum of 1 is required."
    if len(shape) == 3 and shape[-1] in (1, 3, 4):
        return (
            f"{came}this looks like a single picture: add the first axis with X[None]. "
            "(A batch of grey pictures this narrow needs its channel axis: X[..., None].)"
        )
    if len(shape) == 2:
        side = round((shape[1] / 3) ** 0.5), 3
        if side[0] ** 2 * 3 != shape[1]:
            side = round(shape[1] ** 0.5), 1
        square = side[0] > 1 and side[0] ** 2 * side[1] == shape[1]
        dims = f"{side[0]}, {side[0]}" + (", 3" if side[1] == 3 else "")
        mend = f"X.reshape(-1, {dims})" if square else "X.reshape(-1, height, width)"
        return (
            f"{came}{_LAYOUT}. Flattened pictures must be reshaped first, e.g. {mend}; "
            "tables of numbers need no image features."
        )
    if len(shape) == 4 and shape[-1] not in (1, 3, 4):
        first = shape[1] in (1, 3, 4)
        return f"{came}{_LAYOUT}." + (" Channels first? Use X.transpose(0, 2, 3, 1)." if first else "")
    if len(shape) not in (3, 4):
        return f"{came}{_LAYOUT}."
    return f"{came}a picture needs at least one pixel." if 0 in shape else None


def row_layout_problem(shape: tuple[int, ...]) -> str | None:
    """Why ``shape`` is not that of one picture; None when it is."""
    if 0 in shape:
        return f"the array of shape {tuple(shape)} holds no pixel"
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4)):
        return None
    return (
        f"got an array of shape {tuple(shape)}; "
        "expected (height, width) or (height, width, channels) with 1, 3 or 4 channels"
    )


def value_problem(a: np.ndarray, *, batch: bool) -> str | None:
    """Why the values of ``a`` are not pixels; None when they are. Copies nothing of size.

    With ``batch`` the first axis counts rows, and the text names the first bad one.
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
        mend = "use X.astype('uint16')" if low >= 0 and high <= 65535 else "scale to 0..255 first"
        return f"got {a.dtype} values from {low} to {high}; expected 0 to 255: for 16-bit pixels {mend}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return _not_finite(a, batch)
    if low >= -_SLACK and high <= 1 + _SLACK:
        return None
    more = "" if high <= 255 else " For 16-bit whole numbers use X.astype('uint16')."
    return (
        f"got {a.dtype} values from {low:g} to {high:g}; expected floats in [0, 1], or uint8 in 0..255: "
        f"use X / 255, or X.astype('uint8').{more}"
    )


def _not_finite(a: np.ndarray, batch: bool) -> str:
    if not batch:
        return f"{a.size - np.isfinite(a).sum()} values are NaN or infinite; expected floats in [0, 1]"
    bad = [int(row.size - np.isfinite(row).sum()) for row in a]
    first = next(i for i, count in enumerate(bad) if count)
    return (
        f"{sum(bad)} values in {sum(map(bool, bad))} rows are NaN or infinite, the first in row {first}; "
        "expected floats in [0, 1]: drop these rows, or fill them with np.nan_to_num"
    )


def _is_16_bit(a: np.ndarray) -> bool:
    return a.dtype.kind == "u" and a.dtype.itemsize == 2  # in either byte order


def depth_note(a: np.ndarray) -> str | None:
    """What the range of 16-bit values gives away: "12-bit", "8-bit" or nothing."""
    high = int(a.max()) if _is_16_bit(a) and a.size else 0
    return None if high == 0 or high > 4095 else "12-bit" if high > 255 else "8-bit"


def depth_warning(note: str, count: int, first: str) -> str:
    """Warning text for ``count`` pictures with the same `depth_note`."""
    limit, mend = ("4095", "X / 4095") if note == "12-bit" else ("255", "X.astype('uint8')")
    return (
        f"{count} 16-bit image(s) hold no value above {limit}, the first {first}: this looks like {note} "
        f"data and will be nearly black. Pass {mend} (as arrays) if so."
    )


def to_uint8(a: np.ndarray) -> np.ndarray:
    """Pixels of any accepted dtype as uint8; values are taken as checked."""
    if a.dtype == np.uint8:
        return a
    if a.dtype.kind == "b":
        return a.astype(np.uint8) * np.uint8(255)
    if _is_16_bit(a):
        wide = a.astype(np.uint32)
        wide += 128
        wide //= 257  # 65535 -> 255, rounded, never clipped
        return wide.astype(np.uint8)
    if a.dtype.kind == "f":
        wide = a.astype(np.promote_types(a.dtype, np.float32)) * 255
        return np.clip(np.rint(wide, out=wide), 0, 255, out=wide).astype(np.uint8)
    return a.astype(np.uint8)
