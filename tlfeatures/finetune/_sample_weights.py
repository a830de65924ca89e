"""Weights of training images."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["training_weights"]


def training_weights(
    y: np.ndarray,
    classes: np.ndarray | None,
    class_weight: Any,
    sample_weight: np.ndarray | None,
    train: np.ndarray,
) -> np.ndarray:
    """Return the weights of all rows, with a mean of 1 over the training rows."""
    weight = np.ones(len(y)) if sample_weight is None else sample_weight.astype(float)
    if class_weight is not None:
        from sklearn.utils.class_weight import compute_class_weight

        if class_weight == "balanced":
            balance = compute_class_weight("balanced", classes=np.arange(len(classes)), y=y[train])
        else:
            balance = _by_class(class_weight, classes.tolist())
        weight = weight * balance[y]
    parts = {"training": weight[train], "validation": np.delete(weight, train)}
    for name, part in parts.items():
        if len(part) and not part.sum() > 0:
            raise ValueError(f"The weights of the {name} images sum to 0; expected some weights above 0.")
    return weight / weight[train].mean()


def _by_class(class_weight: Mapping[Any, float], classes: list[Any]) -> np.ndarray:
    if unknown := set(class_weight) - set(classes):
        raise ValueError(
            f"class_weight names {sorted(map(str, unknown))}, which are not in y; the classes are {classes}."
        )
    weights = [class_weight.get(name, 1.0) for name in classes]
    if not all(isinstance(w, Real) and np.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"class_weight={class_weight!r}; expected weights of 0 or more.")
    return np.array(weights, float)
