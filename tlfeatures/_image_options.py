"""Names and constraints of the parameters for decoding images, without the code that decodes."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from tlfeatures._params import Constraint, integer

__all__ = ["IMAGE_CONSTRAINTS", "VIEWS"]

VIEWS = ("flip", "crops", "flip+crops")

_MAX_VALUE_HINT = "It is the largest value that 16-bit images can have, such as 4095 for 12-bit data."
_WINDOW_HINT = "It is the range of values that becomes black to white, such as (40, 400) in Hounsfield units."


def _is_window(value: Any) -> bool:
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        return False
    if not all(isinstance(v, Real) and not isinstance(v, bool) and np.isfinite(v) for v in value):
        return False
    return value[1] > 0


IMAGE_CONSTRAINTS: dict[str, list[Any]] = {
    "resize": ["stretch", "crop", "pad"],
    "interpolation": ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"],
    "decode": ["scaled", "exact"],
    "max_value": [None, integer(1, 65535, hint=_MAX_VALUE_HINT)],
    "window": [
        None,
        Constraint("(center, width), two numbers with a positive width", _is_window, _WINDOW_HINT),
    ],
}
