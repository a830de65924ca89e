"""Groups from the attributes of DICOM files, such as the patient."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from tlfeatures._dicom import ignore_warnings, import_pydicom, is_dicom, read_dataset
from tlfeatures._files import read_with_retries
from tlfeatures._inputs import split_frame
from tlfeatures._objects import is_object, read_object
from tlfeatures.errors import (
    MissingDependencyError,
    ObjectStorageError,
    SourceError,
    TransientReadError,
    UnknownNameError,
)

__all__ = ["PREFIX", "read_dicom_groups"]

PREFIX = "dicom:"


def read_dicom_groups(paths: Sequence[str | os.PathLike[str]], keyword: str = "PatientID") -> np.ndarray:
    """Read the group of each DICOM file, such as its patient, for grouped cross-validation.

    Parameters
    ----------
    paths : sequence of paths
        DICOM files; a frame, such as ``"scan.dcm[3]"``, has the group of its file.
    keyword : str, default="PatientID"
        Keyword of a DICOM attribute, such as "PatientID", "StudyInstanceUID" or "SeriesInstanceUID".

    Returns
    -------
    ndarray of int, shape (n,)
        Number of the group of each file, in order of appearance. The values of the attribute, which may identify
        patients, are neither returned nor mentioned in messages. A file that cannot be read has a group of its own.

    Raises
    ------
    UnknownNameError
        If there is no such attribute; the message lists the nearest keywords. The error is also a ``ValueError``.
    SourceError
        If a file is not a DICOM file, or lacks the attribute. The error is also a ``ValueError``.
    MissingDependencyError
        If pydicom is not installed; the message has the install command.

    Examples
    --------
    >>> from tlfeatures.sources import read_dicom_groups
    >>> groups = read_dicom_groups(paths, "StudyInstanceUID")  # doctest: +SKIP
    """
    _check_keyword(keyword)
    groups: dict[Any, int] = {}
    values: dict[str, Any] = {}
    without: list[str] = []
    rows = []
    for row, path in enumerate(paths):
        file = split_frame(path)[0]
        if file not in values:
            values[file] = _read_value(file, keyword, row)
            if values[file] is None:
                without.append(file)
        rows.append(groups.setdefault(values[file], len(groups)))
    if without:
        raise SourceError(
            f"{len(without)} of {len(values)} files have no {keyword}, the first {without[0]!r}; expected a value in "
            "each file. Choose another keyword, such as StudyInstanceUID, or write a manifest with a column of groups."
        )
    return np.array(rows, dtype=np.int64)


def _check_keyword(keyword: str) -> None:
    pydicom = import_pydicom()
    if pydicom.datadict.tag_for_keyword(keyword) is None:
        keywords = pydicom.datadict.keyword_dict
        near = difflib.get_close_matches(keyword, keywords, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UnknownNameError(
            f"Unknown DICOM attribute {keyword!r}.{hint} Examples: PatientID, StudyInstanceUID."
        )


def _read_value(path: str, keyword: str, row: int) -> Any:
    """Read the value as text, None if the file has none, or a unique object if the file cannot be read."""

    def read() -> Any:
        with io.BytesIO(read_object(path)[0]) if is_object(path) else open(path, "rb") as file:
            return _read_value_of_file(file, path, keyword, row)

    try:
        return read() if is_object(path) else read_with_retries(read, path)
    except (SourceError, ObjectStorageError, TransientReadError, MissingDependencyError):
        raise
    except Exception:
        return ("unreadable", row)


def _read_value_of_file(file: BinaryIO, path: str, keyword: str, row: int) -> Any:
    head = file.read(132)
    if head and not is_dicom(head) and not path.lower().endswith((".dcm", ".dicom", ".ima")):
        raise SourceError(
            f"{path!r} is not a DICOM file; groups by {PREFIX}{keyword} need DICOM files only. Write a manifest with a "
            "column of groups instead."
        )
    file.seek(0)
    with ignore_warnings():
        ds = read_dataset(file, stop_before_pixels=True, specific_tags=[keyword, "Rows"])
        value = str(ds.get(keyword) or "").strip()
        if not value and "Rows" not in ds:  # damaged, or not an image
            return ("unreadable", row)
    return value or None
