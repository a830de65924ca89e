"""Conversion of results to types of JSON."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["to_json"]


def to_json(value: Any) -> Any:
    """Convert tables, arrays and their elements, at any depth, to types of JSON.

    A table becomes a list of rows. NaN and infinity, which JSON does not have, become None. Other objects, such as
    paths, become text.

    >>> import numpy as np
    >>> to_json({"scores": np.array([0.5, np.nan]), 1: np.int64(2)})
    {'scores': [0.5, None], '1': 2}
    """
    if hasattr(value, "columns"):
        value = value.to_dict("records")
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
