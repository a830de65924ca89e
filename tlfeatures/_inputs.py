"""Checks of inputs: missing values, URLs, labels, and types of other libraries, which are not imported."""

from __future__ import annotations

import os
import re
from typing import Any

__all__ = [
    "URL_HINT", "as_labels", "has_lost_slash", "is_missing", "is_url", "library_types", "split_frame", "to_array",
]  # fmt: skip

URL_HINT = "expected s3://, gs://, az://, https:// or file://, or a local path"


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas.NA.

    >>> [is_missing(value) for value in (None, float("nan"), "", 0)]
    [True, True, False, False]
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    import numpy as np  # imported here, because the command line starts without numpy

    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64)) and bool(value != value)


def to_array(values: Any) -> Any:
    """Convert labels or groups to a NumPy array, in which missing values stay missing.

    NumPy alone converts the NaN in a list of strings and NaN to the string "nan".

    >>> to_array(["cat", float("nan")]).tolist()
    ['cat', nan]
    """
    import numpy as np

    if hasattr(values, "__array__"):
        return np.asarray(values)
    values = list(values)
    array = np.asarray(values)
    return np.array(values, object) if array.dtype.kind in "US" and any(map(is_missing, values)) else array


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL.

    >>> is_url("s3://bucket/cat.jpg"), is_url("C:/cat.jpg")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", os.fspath(path)) is not None


def has_lost_slash(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL from which pathlib has removed a slash.

    >>> from pathlib import PurePosixPath
    >>> has_lost_slash(PurePosixPath("s3://bucket/cat.jpg")), has_lost_slash("s3://bucket/cat.jpg")
    (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]", os.fspath(path)) is not None


def split_frame(path: str | os.PathLike[str]) -> tuple[str, int]:
    """Split the path of an image into the file and the index of its frame.

    ``"scan.dcm[3]"`` is the frame at index 3 of ``"scan.dcm"``; the first frame has index 0.
    The index is 0 if the path does not end with a number in brackets, or if there is a file with this very name.

    >>> split_frame("scan.dcm[3]"), split_frame("scan.dcm")
    (('scan.dcm', 3), ('scan.dcm', 0))
    """
    text = os.fsdecode(path)
    match = re.fullmatch(r"(.+)\[(\d{1,9})\]", text, re.DOTALL)
    if match is None or os.path.lexists(text):
        return text, 0
    return match[1], int(match[2])


def library_types(value: Any) -> set[str]:
    """Return the names of a value's class and of all its base classes, each with its library, such as "torch.Tensor".

    >>> import numpy as np
    >>> "numpy.floating" in library_types(np.float64(1))
    True
    """
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(value).__mro__}


def as_labels(y: Any) -> Any:
    """Return ``y``, with Arrow arrays converted to NumPy arrays.

    Raises
    ------
    ValueError
        If ``y`` is a sparse matrix.
    """
    if hasattr(y, "toarray") and "scipy" in {name.partition(".")[0] for name in library_types(y)}:
        fix = "y.toarray().ravel()" if 1 in y.shape or len(y.shape) == 1 else "y.toarray().argmax(axis=1)"
        raise ValueError(
            f"`y` must have one label for each image; got a sparse matrix of shape {y.shape}. Use {fix}."
        )
    if library_types(y) & {"pyarrow.Array", "pyarrow.ChunkedArray"}:
        import numpy as np

        return np.asarray(y.to_pylist())
    return y
