"""Which images a training watches itself by, and how much each one counts."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["split_validation", "training_weights"]


def split_validation(
    y: np.ndarray, classes: np.ndarray | None, groups: np.ndarray | None, fraction: float, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, sorted.

    Every class keeps its share, one image at least on either side; groups stay whole.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Codes of classes, or numbers.
    classes : ndarray or None
        Names of the codes.
    groups : ndarray of shape (n,) or None
    fraction : float
        Of the images; 0 for no validation.
    seed : list of int

    Raises
    ------
    ValueError
        A class with one image, too few images, or groups that cannot be split.
    """
    everything, rng = np.arange(len(y)), np.random.default_rng(seed)
    if not fraction:
        return everything, everything[:0]
    mend = "Give more images, or pass validation_fraction=0 to train on all."
    if classes is not None:
        counts = np.bincount(y, minlength=len(classes))
        if counts.min() < 2:
            raise ValueError(
                f"Class {classes.tolist()[counts.argmin()]!r} has one image, so it cannot be both trained on and "
                f"validated on. {mend}"
            )
    if len(y) < 2:
        raise ValueError(f"{len(y)} image cannot be split for validation. {mend}")
    if groups is not None:
        validation = _grouped(y, classes, groups, fraction, rng, mend)
    elif classes is None:
        count = min(max(1, round(fraction * len(y))), len(y) - 1)
        validation = rng.permutation(everything)[:count]
    else:
        parts = []
        for code, count in enumerate(counts.tolist()):
            rows = rng.permutation(np.flatnonzero(y == code))
            parts.append(rows[: min(max(1, round(fraction * count)), count - 1)])
        validation = np.concatenate(parts)
    validation = np.sort(validation)
    return np.setdiff1d(everything, validation), validation


def _grouped(
    y: np.ndarray,
    classes: np.ndarray | None,
    groups: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    mend: str,
) -> np.ndarray:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    n = len(np.unique(groups))
    if n < 2:
        raise ValueError(f"All images are of one group, so none can be set apart for validation. {mend}")
    folds = min(n, max(2, round(1 / fraction)))
    splitter = (GroupKFold if classes is None else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=int(rng.integers(1 << 31))
    )
    for train, validation in splitter.split(y, y, groups):
        if classes is None or len(np.unique(y[train])) == len(classes):
            return validation
    raise ValueError(f"Wherever the groups are split, a class is left without images to train on. {mend}")


def training_weights(
    y: np.ndarray,
    classes: np.ndarray | None,
    class_weight: Any,
    sample_weight: np.ndarray | None,
    train: np.ndarray,
) -> np.ndarray:
    """Weights of all rows, with a mean of 1 over those that are trained on."""
    weight = np.ones(len(y)) if sample_weight is None else sample_weight.astype(float)
    if class_weight is not None:
        from sklearn.utils.class_weight import compute_class_weight

        if class_weight == "balanced":
            balance = compute_class_weight("balanced", classes=np.arange(len(classes)), y=y[train])
        else:
            balance = _by_class(class_weight, classes.tolist())
        weight = weight * balance[y]
    parts = {"train": weight[train], "validate": np.delete(weight, train)}
    for name, part in parts.items():
        if len(part) and not part.sum() > 0:
            raise ValueError(
                f"The weights of the images to {name} on add up to nothing; some must be above zero."
            )
    return weight / weight[train].mean()


def _by_class(class_weight: Any, classes: list[Any]) -> np.ndarray:
    if not isinstance(class_weight, Mapping):
        raise ValueError(
            f"class_weight={class_weight!r}; expected None, 'balanced', or a dict from a class to its weight."
        )
    if unknown := set(class_weight) - set(classes):
        raise ValueError(
            f"class_weight names {sorted(map(str, unknown))}, which are no labels; the classes are {classes}."
        )
    weights = [class_weight.get(each, 1.0) for each in classes]
    if not all(isinstance(w, Real) and np.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"class_weight={class_weight!r}; expected weights of 0 or more.")
    return np.array(weights, float)
