"""Names and constraints of the parameters of a network, without the code that loads it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from tlfeatures._keras import PRECISIONS, is_model
from tlfeatures._params import Constraint, integer, path
from tlfeatures._torch import is_module

__all__ = ["MODULE_CONSTRAINT", "NETWORK_CONSTRAINTS", "POOLINGS", "RUNTIMES", "is_network", "size_pair"]

# what runs a network, and its precisions; None is the backend of Keras, or PyTorch
RUNTIMES = {"openvino": ("float32", "bfloat16", "int8"), "onnxruntime": ("float32",)}
POOLINGS = ("avg", "max", "avgmax", "gem", "flatten", "cls", "clsavg")


def _is_pair_of_sizes(value: Any) -> bool:
    return (
        isinstance(value, (Sequence, np.ndarray))
        and len(value) == 2
        and all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in value)
    )


def _is_mean_and_std(value: Any) -> bool:
    try:
        mean, std = (tuple(float(v) for v in triple) for triple in value)
    except (TypeError, ValueError):
        return False
    return len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0


def size_pair(image_size: Any) -> tuple[int, int] | None:
    """Convert a checked ``image_size`` to (height, width); None stays None."""
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    return int(height), int(width)


def is_network(value: Any) -> bool:
    """Whether ``value`` is a network in memory: a ``keras.Model`` or a ``torch.nn.Module``."""
    return is_model(value) or is_module(value)


NETWORK_CONSTRAINTS: dict[str, list[Any]] = {
    "model": [
        Constraint(
            "the name of a network, the path of a .keras file or of a preset, or a keras.Model",
            lambda value: is_model(value) or isinstance(value, (str, os.PathLike)),
            hint="See `tlfeatures models` for the names.",
        )
    ],
    "weights": ["imagenet", "bundled", path("the path of a .weights.h5 or .h5 file"), None],
    "image_size": [
        None,
        integer(minimum=1),
        Constraint("a pair (height, width) of such integers, in pixels", _is_pair_of_sizes),
    ],
    "normalization": [
        "auto",
        Constraint(
            "a pair (mean, std) of RGB triples with positive std",
            _is_mean_and_std,
            hint="For example ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).",
        ),
    ],
    "precision": list(PRECISIONS),
}

# for estimators that only compute embeddings
MODULE_CONSTRAINT = Constraint("a torch.nn.Module", is_module)
