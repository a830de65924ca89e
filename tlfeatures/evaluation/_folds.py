"""Folds of cross-validation that balance classes and keep groups together."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from tlfeatures._params import describe_value
from tlfeatures.errors import InvalidParameterError

__all__ = ["Fold", "make_folds", "make_inner_folds", "split_validation"]

Fold = tuple[np.ndarray, np.ndarray]
"""Rows to train on and rows to test on."""


def make_folds(cv: Any, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int) -> list[Fold]:
    """Split rows into folds, and check that every fold can be trained and tested.

    Parameters
    ----------
    cv : int, splitter or sequence of (train, test)
        If an int, the number of folds, which are shuffled and stratified by class, with each group in one fold.
    y : ndarray of shape (n,)
    groups : ndarray of int, shape (n,), or None
    task : {"classification", "regression"}
    seed : int

    Returns
    -------
    list of (train, test)
        Integer row indices.

    Raises
    ------
    ValueError
        If the classes or the groups cannot be split in this way; the message says how to fix this.

    Examples
    --------
    >>> y = np.array(["cat", "dog"] * 3)
    >>> [sorted(y[test].tolist()) for _, test in make_folds(3, y, None, "classification", seed=0)]
    [['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog']]
    """
    if isinstance(cv, Integral) and not isinstance(cv, bool):
        folds = _split_default(int(cv), y, groups, task, seed)
    elif hasattr(cv, "split") and not isinstance(cv, str):
        try:
            folds = list(cv.split(np.zeros((len(y), 1)), y, groups))
        except ValueError as error:
            raise InvalidParameterError(
                f"`cv={cv!r}` cannot split these {len(y)} images: {error}", "cv"
            ) from error
    elif isinstance(cv, Sequence) and not isinstance(cv, str):
        folds = list(cv)
    else:
        raise InvalidParameterError(
            f"`cv` must be a number of folds, a splitter or a list of (train, test); got {describe_value(cv)}.",
            "cv",
        )
    folds = [_check_pair(pair, i, len(y)) for i, pair in enumerate(folds)]
    if len(folds) < 2:
        raise InvalidParameterError(f"`cv` must give at least 2 folds; got {len(folds)}.", "cv")
    for i, (train, test) in enumerate(folds):
        _check_fold(i, train, test, y, task)
    return folds


def make_inner_folds(
    cv: Any, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int, outer: Sequence[Fold]
) -> list[list[Fold]]:
    """Split the training rows of each outer fold again, for nested cross-validation.

    Parameters
    ----------
    cv, y, groups, task, seed
        As in :func:`make_folds`.
    outer : sequence of (train, test)

    Returns
    -------
    list of list of (train, test)
        Inner folds of each outer fold, as row indices into ``y``.

    Raises
    ------
    ValueError
        As in :func:`make_folds`.

    Examples
    --------
    >>> y = np.array(["cat", "dog"] * 4)
    >>> outer = make_folds(2, y, None, "classification", seed=0)
    >>> inner = make_inner_folds(2, y, None, "classification", 0, outer)
    >>> [len(folds) for folds in inner], set(inner[0][0][1]) <= set(outer[0][0])
    ([2, 2], True)
    """
    inner = []
    for i, (train, _) in enumerate(outer):
        try:
            folds = make_folds(cv, y[train], None if groups is None else groups[train], task, seed)
        except ValueError as error:
            raise InvalidParameterError(
                f"`nested=True` splits the training rows of fold {i} again: {error}",
                getattr(error, "parameter", None),
            ) from error
        inner.append([(train[a], train[b]) for a, b in folds])
    return inner


def split_validation(
    y: np.ndarray,
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    fraction: float,
    seed: list[int],
    fix: str = "Pass more images, or pass `validation_fraction=0` to train on all.",
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and validation rows.

    The split is stratified by class. Without groups, both parts have images of each class. Groups are not split: then
    the training rows have images of each class, but the validation rows may not, and the fraction is rounded to 1/2,
    1/3, 1/4 and so on.

    Parameters
    ----------
    y : ndarray of shape (n,)
        Class codes, or regression targets.
    classes : ndarray or None
        Class names in the order of the codes; None for regression.
    groups : ndarray of shape (n,) or None
    fraction : float
        Fraction of validation images; 0 for no validation.
    seed : list of int
    fix : str
        End of the messages of errors.

    Returns
    -------
    train, validation : ndarray of int
        Sorted row indices.

    Raises
    ------
    ValueError
        If a class has only one image, there are too few images, or the groups cannot be split.

    Examples
    --------
    >>> train, validation = split_validation(np.array([0, 1] * 5), np.array(["cat", "dog"]), None, 0.2, [0])
    >>> len(train), len(validation)
    (8, 2)
    """
    rows, rng = np.arange(len(y)), np.random.default_rng(seed)
    if not fraction:
        return rows, rows[:0]
    if classes is not None:
        counts = np.bincount(y, minlength=len(classes))
        if counts.min() < 2:
            raise ValueError(
                f"Class {classes.tolist()[counts.argmin()]!r} has one image, so it cannot be both trained on and "
                f"validated on. {fix}"
            )
    if len(y) < 2:
        raise ValueError(f"{len(y)} image cannot be split for validation. {fix}")
    if groups is not None:
        validation = _split_groups(y, classes, groups, fraction, rng, fix)
    elif classes is None:
        count = min(max(1, round(fraction * len(y))), len(y) - 1)
        validation = rng.permutation(rows)[:count]
    else:
        parts = []
        for code, count in enumerate(counts.tolist()):
            of_class = rng.permutation(np.flatnonzero(y == code))
            parts.append(of_class[: min(max(1, round(fraction * count)), count - 1)])
        validation = np.concatenate(parts)
    validation = np.sort(validation)
    return np.setdiff1d(rows, validation), validation


def _split_default(k: int, y: np.ndarray, groups: np.ndarray | None, task: str, seed: int) -> list[Fold]:
    n = len(y)
    if k < 2:
        raise InvalidParameterError(f"`cv` must be at least 2; got {k}.", "cv")
    if k > n:
        raise InvalidParameterError(f"`cv={k}` needs at least {k} images; got n_samples={n}.", "cv")
    if groups is not None and (count := len(np.unique(groups))) < k:
        raise InvalidParameterError(
            f"`cv={k}` needs at least {k} groups; the images are in {count} group(s). "
            + (f"Use `cv={count}` or more groups." if count > 1 else "Pass two groups or more, or none."),
            "cv",
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
            small = names[counts < k]
            raise InvalidParameterError(
                f"`cv={k}` needs at least {k} images of every class; {len(small)} of {len(names)} classes have fewer, "
                f"the smallest {names.tolist()[counts.argmin()]!r} with {counts.min()}. "
                + (f"Use `cv={counts.min()}`, or" if counts.min() > 1 else "Add images, or")
                + " merge or drop small classes.",
                "cv",
            )
        return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(rows, codes))
    for code, name in enumerate(names.tolist()):
        if len(np.unique(groups[codes == code])) < 2:
            raise InvalidParameterError(
                f"`groups` must divide every class; all {counts[code]} images of class {name!r} are in one group, or "
                "are duplicates, so no fold can both train on it and test it. Drop the class, add images, or "
                "divide the group.",
                "groups",
            )
    folds = _split_stratified_groups(k, codes, groups, seed)
    if any(len(test) == 0 for _, test in folds):  # one group may be larger than a fold
        largest = np.bincount(groups).max()
        raise InvalidParameterError(
            f"`cv={k}` leaves a fold without images, because groups are not split: the largest group has "
            f"{largest} of {n} images. Use fewer folds.",
            "cv",
        )
    return folds


def _split_stratified_groups(k: int, y: np.ndarray, groups: np.ndarray, seed: int) -> list[Fold]:
    """Split as ``StratifiedGroupKFold(shuffle=True)``, which does not stratify before scikit-learn 1.8."""
    names, numbers = np.unique(groups, return_inverse=True)
    order = np.random.RandomState(seed).permutation(len(names))
    return list(StratifiedGroupKFold(k).split(y, y, np.argsort(order)[numbers]))


def _check_pair(pair: Any, i: int, n: int) -> Fold:
    try:
        train, test = pair
    except (TypeError, ValueError):
        raise InvalidParameterError(
            f"`cv` must be a number of folds, a splitter or a list of (train, test); element {i} is "
            f"{describe_value(pair)}.",
            "cv",
        ) from None
    return _check_rows(train, i, n), _check_rows(test, i, n)


def _check_rows(part: Any, i: int, n: int) -> np.ndarray:
    """Convert row indices or a boolean mask to row indices."""
    rows = np.asarray(part)
    if rows.dtype == bool and rows.ndim == 1:
        if len(rows) != n:
            raise InvalidParameterError(
                f"`cv` must give boolean masks of {n} values, one for each image; fold {i} has a mask of "
                f"{len(rows)} values.",
                "cv",
            )
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= n)):
        raise InvalidParameterError(
            f"`cv` must give rows from 0 to {n - 1}; fold {i} has other rows. Pass integer indices or boolean masks.",
            "cv",
        )
    return rows.astype(int)


def _check_fold(i: int, train: np.ndarray, test: np.ndarray, y: np.ndarray, task: str) -> None:
    if not len(train) or not len(test):
        problem = f"has {len(train)} training and {len(test)} test images; expected some of both"
    elif np.intersect1d(train, test).size:
        problem = "tests images that it is trained on; expected separate rows"
    elif task == "classification" and (absent := np.setdiff1d(y[test], y[train])).size:
        problem = (
            f"has no training image of class {absent.tolist()[0]!r}, so it cannot test it. Use fewer folds, more "
            "images or groups of that class, or another `random_state`"
        )
    elif task == "classification" and (y[train] == y[train[0]]).all():
        problem = "trains on a single class. Use fewer folds, more groups, or another `random_state`"
    else:
        return
    raise InvalidParameterError(f"`cv` cannot be used: fold {i} {problem}.", "cv")


def _split_groups(
    y: np.ndarray,
    classes: np.ndarray | None,
    groups: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    fix: str,
) -> np.ndarray:
    n = len(np.unique(groups))
    if n < 2:
        raise ValueError(f"All images are in one group, so none can be kept for validation. {fix}")
    folds = min(n, max(2, round(1 / fraction)))
    seed = int(rng.integers(1 << 31))
    if classes is None:
        splits = list(GroupKFold(folds, shuffle=True, random_state=seed).split(y, y, groups))
    else:
        splits = _split_stratified_groups(folds, y, groups, seed)
    for train, validation in splits:
        if classes is None or len(np.unique(y[train])) == len(classes):
            return validation
    raise ValueError(f"No split of the groups leaves training images of every class. {fix}")
