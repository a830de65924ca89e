"""Recognition of the forms in which images are passed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from tlfeatures._inputs import is_missing, library_types
from tlfeatures.errors import ImageInputError
from tlfeatures.images._notes import check_depth
from tlfeatures.images._other_libraries import ARROW_ARRAYS, EXPECTED, refuse_other_libraries
from tlfeatures.images._pixels import find_layout_problem, find_value_problem

__all__ = ["recognize_images"]

Recognized = tuple[Any, int, bool, bool]


def recognize_images(X: Any) -> Recognized:
    """Recognize a batch of images in any accepted form.

    Parameters
    ----------
    X : array-like
        See `Images.of`.

    Returns
    -------
    data : list or array
        A list of images, an array in memory, or an array on disk.
    n : int
        Number of images.
    checked : bool
        Whether layout and values of the whole array were checked.
    full_depth : bool
        Whether the values were checked and use the full range of their dtype.

    Raises
    ------
    ImageInputError
        If ``X`` as a whole is not a batch of images.
    """
    if isinstance(X, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        description = f"the path {os.fspath(X)!r}" if isinstance(X, (str, os.PathLike)) else type(X).__name__
        raise ImageInputError(f"Got one image ({description}) where a list is expected: pass [X].")
    refuse_other_libraries(X)
    if library_types(X) & ARROW_ARRAYS:
        return _recognize_list(X.to_pylist())
    if hasattr(X, "to_numpy"):  # pandas, polars
        columns = getattr(X, "columns", None)
        if columns is not None and len(columns) != 1:
            raise ImageInputError(
                f"Got a table of {len(columns)} columns; expected one column of images: "
                f"choose it, e.g. X[{next(iter(columns)) if len(columns) else 'path'!r}]."
            )
        X = X.to_numpy()
        X = X.ravel() if X.ndim == 2 and X.shape[1] == 1 else X
    if isinstance(X, (list, tuple)):
        return _recognize_list(list(X))
    if not isinstance(X, np.ndarray) and _is_array_on_disk(X):
        _raise_input(find_layout_problem(tuple(X.shape)))
        return X, X.shape[0], False, False
    if hasattr(X, "__array__") and not isinstance(X, type):
        return _recognize_array(np.asarray(X))
    fix = " Use list(X)." if hasattr(X, "__iter__") and not isinstance(X, (dict, type)) else ""
    raise ImageInputError(f"Got an object of type {type(X).__name__}; {EXPECTED}.{fix}")


def _recognize_array(X: np.ndarray) -> Recognized:
    if X.dtype.kind in "OUT":
        if X.ndim == 2 and X.shape[1] == 1:
            X = X.ravel()
        if X.ndim == 1:
            return _recognize_list(X.tolist())
        raise ImageInputError(
            f"Got an array of {X.dtype} of shape {X.shape}; {EXPECTED}. "
            "For pixels use X.astype('uint8'); for paths X.ravel()."
        )
    if X.dtype.kind == "S":
        raise ImageInputError(f"Got an array of {X.dtype}; for paths use X.astype(str).")
    _raise_input(find_layout_problem(X.shape))
    _raise_input(find_value_problem(X, batch=True))
    return X, len(X), True, check_depth(X) is None


def _recognize_list(items: list[Any]) -> Recognized:
    if not items:
        raise ImageInputError("Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required.")
    if set(map(type, items)) == {str}:  # fast path for the most frequent input
        return items, len(items), False, False
    for i, item in enumerate(items):
        if not _is_image_like(item):
            if isinstance(item, (list, tuple)) and len(item) == 2 and _is_image_like(item[0]):
                raise ImageInputError(
                    f"X[{i}] is a pair, {type(item[0]).__name__} and {type(item[1]).__name__}; expected images "
                    "without their labels: X, y = map(list, zip(*X))."
                )
            fix = " Use np.asarray(X)." if isinstance(item, (list, tuple)) else ""
            raise ImageInputError(f"X[{i}] is of type {type(item).__name__}; {EXPECTED}.{fix}")
    if all(isinstance(item, np.ndarray) and item.ndim < 2 for item in items):
        raise ImageInputError(f"Got a list of arrays of shape {items[0].shape} and similar; {EXPECTED}.")
    return items, len(items), False, False


def _raise_input(problem: str | None) -> None:
    if problem:
        raise ImageInputError(problem[0].upper() + problem[1:])


def _is_array_on_disk(X: Any) -> bool:
    if not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    try:
        return np.dtype(X.dtype).kind in "biuf" and len(X.shape) > 0
    except TypeError:  # a dtype of another library
        return False


def _is_image_like(item: Any) -> bool:
    if isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or is_missing(item):
        return True
    return hasattr(item, "__array__") and not isinstance(item, (type, np.generic))
