"""Validation of labels, groups and seeds, and inference of the task from the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, Literal

import numpy as np
from sklearn.utils import column_or_1d

from tlfeatures._inputs import as_labels, is_missing, to_array
from tlfeatures._params import describe_value
from tlfeatures.errors import InvalidParameterError, UnknownNameError

__all__ = ["check_groups", "check_labels", "check_seed", "infer_task"]

Task = Literal["classification", "regression"]


def infer_task(y: Iterable[Any]) -> Task:
    """Infer from the labels whether the task is classification or regression.

    Strings, booleans and pandas categories are classes. Floating-point numbers with a fraction are regression
    targets. Whole numbers are classes, unless they take more than 20 values with fewer than five images each on
    average. Pass the task explicitly where this rule is wrong.

    Parameters
    ----------
    y : array-like of shape (n,)

    Returns
    -------
    {"classification", "regression"}

    Raises
    ------
    ValueError
        If ``y`` is empty, has missing values or several columns, or contains neither classes nor numbers, or text
        that is not Unicode.

    Examples
    --------
    >>> infer_task(["cat", "dog"]), infer_task([0, 1, 2]), infer_task([0.5, 1.5])
    ('classification', 'classification', 'regression')
    """
    categorical = getattr(getattr(y, "dtype", None), "name", "") == "category"
    values = _to_array(y)
    if values.ndim != 1 or not len(values):
        raise InvalidParameterError(
            f"`y` must have the shape (n,), one label for each image; got the shape {values.shape}. Pass one column, "
            "such as y[:, 0] or table['label'], or y.argmax(axis=1) for one-hot labels.",
            "y",
        )
    if problem := _describe_not_finite(values):
        count, kind = problem
        raise ValueError(f"{count} of {len(values)} labels are {kind}; fill them in or drop their images.")
    if values.dtype == object:  # pandas columns of text or of nullable numbers
        if len({isinstance(value, str) for value in values}) == 2:
            raise ValueError("Labels mix text with other types; convert all of them to text: y.astype(str).")
        values = np.array(values.tolist())
    kind = values.dtype.kind
    if kind == "U":
        _check_text(values)
    if categorical or kind in "bUS":
        return "classification"
    if kind not in "iuf":
        raise ValueError(
            f"Labels of type {values.dtype} are neither classes nor numbers; give text, booleans or numbers."
        )
    if (values != np.round(values)).any():
        return "regression"
    return "regression" if len(np.unique(values)) > max(20, len(values) / 5) else "classification"


def check_labels(y: Any, n: int, task: str = "auto") -> tuple[np.ndarray, str]:
    """Convert labels to an array and determine the task.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, 1)
    n : int
        Number of images.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" calls :func:`infer_task`.

    Returns
    -------
    y : ndarray of shape (n,)
        Labels as an array, of dtype float64 for regression.
    task : {"classification", "regression"}

    Raises
    ------
    ValueError
        If labels are missing or infinite, their number differs from ``n``, or all of them are equal.

    Examples
    --------
    >>> check_labels(["cat", "dog", "cat"], 3)
    (array(['cat', 'dog', 'cat'], dtype='<U3'), 'classification')
    """
    y = list(y) if isinstance(y, Iterator) else y
    values = _to_array(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = column_or_1d(values, warn=True)
    if values.ndim == 1 and len(values) != n:
        raise ValueError(f"Got {n} images but {len(values)} labels; give one label for each image.")
    inferred = infer_task(y if values.ndim == 1 and getattr(y, "ndim", 1) == 1 else values)
    if task == "auto":
        task = inferred
    elif task not in ("classification", "regression"):
        raise UnknownNameError.of("task", task, ("auto", "classification", "regression"))
    if values.dtype == object:
        values = np.array(values.tolist())
    if task == "regression" and values.dtype.kind not in "biuf":
        raise InvalidParameterError(
            f"`task='regression'` needs numeric labels; got labels such as {values.tolist()[0]!r}. "
            "Use `task='classification'`.",
            "task",
        )
    if task == "regression":
        values = values.astype(float)
    elif values.dtype.kind == "f" and (fractions := values[values != np.round(values)]).size:
        raise InvalidParameterError(
            f"`task='classification'` needs classes as labels; got continuous numbers, such as {fractions[0]:g}. "
            "Use `task='regression'`, or convert them to classes.",
            "task",
        )
    _check_variation(values, task)
    return values, task


def _check_variation(values: np.ndarray, task: str) -> None:
    if len(values) == 1:
        raise ValueError(
            f"Got n_samples=1 image, with the label {values.tolist()[0]!r}; expected at least 2 images."
        )
    if (values == values[0]).all():
        description = (
            f"class, {values.tolist()[0]!r}" if task == "classification" else f"value, {values[0]:g}"
        )
        raise ValueError(
            f"All {len(values)} labels are one {description}; expected two or more. Add images with other labels."
        )


def _to_array(y: Any) -> np.ndarray:
    """Convert labels of any container to an array of any shape, without changing missing values."""
    if y is None:
        raise ValueError(
            "This estimator requires y to be passed, but the target y is None: give one label for each image."
        )
    y = as_labels(y)
    if hasattr(y, "column_names"):
        raise InvalidParameterError(
            f"`y` must be one column; got a table with the columns {', '.join(y.column_names)}. Pass one of them, such "
            f"as table[{y.column_names[-1]!r}].",
            "y",
        )
    if isinstance(y, (str, bytes, Mapping)) or not (isinstance(y, Iterable) or hasattr(y, "__array__")):
        raise InvalidParameterError(
            f"`y` must be a list, array or column with one label for each image; got {describe_value(y)}.",
            "y",
        )
    try:
        values = y.to_numpy() if hasattr(y, "to_numpy") else to_array(y)
    except ValueError as error:  # lists of different lengths
        raise InvalidParameterError(
            "`y` must have one label for each image; got sequences of different lengths. Several labels for one image "
            "are not supported: fit one estimator for each label.",
            "y",
        ) from error
    return values.astype(str) if values.dtype.kind == "T" else values


def _check_text(labels: np.ndarray) -> None:
    for label in np.unique(labels).tolist():
        try:
            label.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Labels must be Unicode text; got {label!r}, as from the name of a folder that is not UTF-8. Rename "
                "the folder or the label."
            ) from None


def check_groups(groups: Any, n: int) -> np.ndarray | None:
    """Encode groups as integers.

    Parameters
    ----------
    groups : array-like of shape (n,) or None
        Group of each image, such as a patient; images of one group are kept in one fold.
    n : int
        Number of images.

    Returns
    -------
    ndarray of int, shape (n,), or None
        Integer codes, starting at 0.

    Raises
    ------
    ValueError
        If groups are missing or infinite, or their number differs from ``n``.

    Examples
    --------
    >>> check_groups(["anna", "ben", "anna"], 3)
    array([0, 1, 0])
    """
    if groups is None:
        return None
    values = to_array(groups)
    if values.shape != (n,):
        raise InvalidParameterError(
            f"`groups` must have one group for each of the {n} images; got groups of shape {values.shape}.",
            "groups",
        )
    if problem := _describe_not_finite(values):
        count, kind = problem
        raise InvalidParameterError(
            f"`groups` must not have {kind} values; {count} of {n} groups are {kind}. Fill them in or drop their "
            "images.",
            "groups",
        )
    values = values.astype(str) if values.dtype == object else values
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def check_seed(random_state: Any) -> int:
    """Convert ``random_state`` to an integer seed.

    Parameters
    ----------
    random_state : int, RandomState or None
        None draws a seed from the operating system, so global random state is neither read nor changed.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``random_state`` is of another type, negative or too large.

    Examples
    --------
    >>> check_seed(3)
    3
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        if not 0 <= random_state < 2**32:
            raise InvalidParameterError(
                f"`random_state` must be from 0 to 2**32 - 1; got {random_state}.", "random_state"
            )
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise InvalidParameterError(
        f"`random_state` must be None, an integer or a RandomState; got {describe_value(random_state)}.",
        "random_state",
    )


def _describe_not_finite(values: np.ndarray) -> tuple[int, str] | None:
    """Count the values that are missing or infinite, and say which they are; None if there are none."""
    is_infinite = [isinstance(v, (float, np.floating)) and bool(np.isinf(v)) for v in values.tolist()]
    n_infinite, n_missing = sum(is_infinite), sum(map(is_missing, values.tolist()))
    kinds = ["missing"] * bool(n_missing) + ["infinite"] * bool(n_infinite)
    return (n_missing + n_infinite, " or ".join(kinds)) if kinds else None
