"""Folds that keep groups together and classes balanced; labels and folds that cannot work are named."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from tlfeatures.heads import infer_task

__all__ = ["Pair", "check_groups", "check_labels", "inner_folds", "make_folds", "random_seed"]

Pair = tuple[np.ndarray, np.ndarray]


def random_seed(random_state: Any) -> int:
    """A seed; None draws one from the operating system, so that no global state is read."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise ValueError(f"random_state={random_state!r}; expected None, a whole number or a RandomState.")


def check_labels(y: Any, n: int, task: str) -> tuple[np.ndarray, str]:
    """Labels as an array of shape (n,), and the task.

    Raises
    ------
    ValueError
        When labels are missing, of another number than images, or all equal.
    """
    if y is None:
        raise ValueError("y is None, but FeatureSearchCV requires y to be passed: one label for each image.")
    values = y.to_numpy() if hasattr(y, "to_numpy") else np.asarray(y if hasattr(y, "__array__") else list(y))
    if values.ndim == 2 and values.shape[1] == 1:
        values = values.ravel()
    if values.ndim == 1 and len(values) != n:
        raise ValueError(f"Got {n} images but {len(values)} labels; give one label for each image.")
    guessed = infer_task(
        y if values.ndim == 1 and getattr(y, "ndim", 1) == 1 else values
    )  # names what is missing
    if task == "auto":
        task = guessed
    elif task not in ("classification", "regression"):
        raise ValueError(f"task={task!r}; expected 'auto', 'classification' or 'regression'.")
    if values.dtype == object:
        values = np.array(values.tolist())
    if task == "regression":
        if values.dtype.kind not in "biuf":
            raise ValueError(
                f"task='regression' needs numbers as labels; these are others, such as {values.tolist()[0]!r}. "
                "Use task='classification'."
            )
        values = values.astype(float)
    if len(values) and (values == values[0]).all():
        what = f"class, {values.tolist()[0]!r}" if task == "classification" else f"value, {values[0]:g}"
        raise ValueError(
            f"All {n} labels are one {what}; expected two or more, or there is nothing to learn."
        )
    return values, task


def check_groups(groups: Any, n: int) -> np.ndarray | None:
    """Groups as whole numbers from 0, shape (n,).

    Raises
    ------
    ValueError
        When groups are missing or of another number than images.
    """
    if groups is None:
        return None
    values = np.asarray(groups if hasattr(groups, "__array__") else list(groups))
    if values.shape != (n,):
        raise ValueError(f"Got {n} images but groups of shape {values.shape}; give one group for each image.")
    missing = np.array([g is None or g != g or type(g).__name__ == "NAType" for g in values.tolist()])
    if missing.any():
        raise ValueError(f"{missing.sum()} of {n} groups are missing; fill them in or drop their images.")
    return np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[
        1
    ].reshape(-1)


def make_folds(cv: Any, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int) -> list[Pair]:
    """Rows of training and test for each fold.

    Parameters
    ----------
    cv : int, splitter or iterable of (train, test)
        A number of folds is stratified by class, shuffled, and keeps groups together.
    y, groups : ndarray of shape (n,), or no groups
    task : {"classification", "regression"}
    seed : int

    Raises
    ------
    ValueError
        When a class or the groups cannot be split so; says what can.
    """
    if isinstance(cv, Integral) and not isinstance(cv, bool):
        folds = _default_folds(int(cv), y, groups, task, seed)
    elif hasattr(cv, "split") and not isinstance(cv, str):
        try:
            folds = list(cv.split(np.zeros((len(y), 1)), y, groups))
        except ValueError as error:
            raise ValueError(f"cv={cv!r} cannot split these {len(y)} images: {error}") from error
    elif isinstance(cv, Sequence) and not isinstance(cv, str):
        folds = list(cv)
    else:
        raise ValueError(
            f"cv={cv!r}; expected a number of folds, a splitter, or a list of (train, test) rows."
        )
    folds = [tuple(_rows(part, i, len(y)) for part in pair) for i, pair in enumerate(folds)]
    if len(folds) < 2:
        raise ValueError(f"cv={cv!r} gives {len(folds)} folds; expected at least 2.")
    for i, (train, test) in enumerate(folds):
        _check_fold(i, train, test, y, task)
    return folds


def inner_folds(
    cv: Any, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int, outer: Sequence[Pair]
) -> list[list[Pair]]:
    """Folds within the training rows of each outer fold."""
    inner = []
    for i, (train, _) in enumerate(outer):
        try:
            found = make_folds(cv, y[train], None if groups is None else groups[train], task, seed)
        except ValueError as error:
            raise ValueError(f"nested=True splits the training rows of fold {i} again: {error}") from error
        inner.append([(train[a], train[b]) for a, b in found])
    return inner


def _default_folds(k: int, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int) -> list[Pair]:
    n = len(y)
    if k < 2:
        raise ValueError(f"cv={k}; expected at least 2 folds.")
    if k > n:
        raise ValueError(f"Cannot make cv={k} folds of {n} images; n_samples={n} should be at least cv.")
    if groups is not None and (count := len(np.unique(groups))) < k:
        raise ValueError(
            f"The images are in {count} group(s), which cannot be split into cv={k} folds: "
            + (f"use cv={count} or more groups." if count > 1 else "give two groups or more, or none.")
        )
    rows = np.zeros((n, 1))
    if task == "regression":
        splitter = (
            KFold(k, shuffle=True, random_state=seed)
            if groups is None
            else GroupKFold(k, shuffle=True, random_state=seed)
        )
        return list(splitter.split(rows, y, groups))
    names, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    if groups is None:
        if counts.min() < k:
            few = names[counts < k]
            raise ValueError(
                f"{len(few)} of {len(names)} classes have fewer images than cv={k} folds, the smallest "
                f"{names.tolist()[counts.argmin()]!r} with {counts.min()}: "
                + (f"use cv={counts.min()}, " if counts.min() > 1 else "")
                + "merge or drop small classes, or pass a splitter such as ShuffleSplit."
            )
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(rows, codes))
    for code, name in enumerate(names.tolist()):
        if len(np.unique(groups[codes == code])) < 2:
            raise ValueError(
                f"All {counts[code]} images of class {name!r} are in one group: no fold can both learn and test it. "
                "Drop the class, or divide the group."
            )
    folds = list(StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(rows, codes, groups))
    if any(len(test) == 0 for _, test in folds):  # one group may be larger than a fold
        largest = np.bincount(groups).max()
        raise ValueError(
            f"The groups cannot be split into cv={k} folds with images in each: the largest has {largest} of {n} "
            f"images. Use a smaller cv."
        )
    return folds


def _rows(part: Any, i: int, n: int) -> np.ndarray:
    """Numbers of rows, of a mask too."""
    rows = np.asarray(part)
    if rows.shape == (n,) and rows.dtype == bool:
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n)):
        raise ValueError(f"Fold {i} names rows that there are not; expected whole numbers from 0 to {n - 1}.")
    return rows.astype(int)


def _check_fold(i: int, train: np.ndarray, test: np.ndarray, y: np.ndarray, task: str) -> None:
    if not len(train) or not len(test):
        raise ValueError(
            f"Fold {i} has {len(train)} training and {len(test)} test images; expected some of both."
        )
    if np.intersect1d(train, test).size:
        raise ValueError(f"Fold {i} tests images that it is trained on; expected separate rows.")
    if task == "classification":
        absent = np.setdiff1d(y[test], y[train])
        if absent.size or (y[train] == y[train[0]]).all():
            what = (
                f"no training image of class {absent.tolist()[0]!r}"
                if absent.size
                else "one class only in training"
            )
            raise ValueError(
                f"Fold {i} has {what}, so it cannot test it. Use fewer folds, more images or groups of that "
                "class, or another random_state."
            )
