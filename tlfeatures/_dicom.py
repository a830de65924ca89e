"""Reading of DICOM files without pydicom's warnings; pydicom is imported when it is first needed."""

from __future__ import annotations

import contextlib
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from tlfeatures.errors import MissingDependencyError

__all__ = ["has_dicom_prefix", "ignore_warnings", "import_pydicom", "is_dicom", "read_dataset"]

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax
_GROUP_LENGTH = b"\x02\0\0\0UL\x04\0"  # element with the length of the header
_MAX_INFLATED = 1 << 30  # bytes of a deflated data set
_thread = threading.local()


def has_dicom_prefix(head: bytes) -> bool:
    """Whether the first 132 bytes of a file end with the prefix of DICOM.

    >>> has_dicom_prefix(bytes(128) + b"DICM")
    True
    """
    return head[128:132] == b"DICM"


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a DICOM file, with or without preamble and prefix."""
    has_value_representation = head[4:6].isalpha() and head[4:6].isupper()
    starts_with_element = head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"
    return has_dicom_prefix(head) or (
        starts_with_element and (has_value_representation or head[6:8] == b"\0\0")
    )


def import_pydicom() -> Any:
    """Import pydicom.

    Raises
    ------
    MissingDependencyError
        If it is not installed; the message has the install command.
    """
    try:
        import pydicom
    except ImportError:
        raise MissingDependencyError(
            "DICOM files need pydicom, an optional package: pip install 'tlfeatures[dicom]'"
        ) from None
    return pydicom


def read_dataset(file: BinaryIO, **options: Any) -> Any:
    """Read a DICOM file.

    Parameters
    ----------
    file : file object
    **options
        Options of ``pydicom.dcmread``.

    Returns
    -------
    pydicom.Dataset

    Raises
    ------
    MissingDependencyError
        If pydicom is not installed; the message has the install command.
    Exception
        Any exception, if the file is damaged.
    """
    pydicom = import_pydicom()
    with ignore_warnings():
        _check_inflated_size(file)
        file.seek(0)
        return pydicom.dcmread(file, force=True, **options)


def _check_inflated_size(file: BinaryIO) -> None:
    """Raise an error if a deflated data set is too large, before pydicom inflates all of it."""
    head = file.read(2048)  # the header is shorter
    if _DEFLATED not in head:
        return
    length = head.find(_GROUP_LENGTH)
    file.seek(length + 12 + int.from_bytes(head[length + 8 : length + 12], "little"))
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflater.eof and (part := inflater.unconsumed_tail or file.read(1 << 16)):
        size += len(inflater.decompress(part, 1 << 24))
        if size > _MAX_INFLATED:
            raise ValueError(f"the deflated data set is larger than {_MAX_INFLATED:,} bytes")


class _IgnoredType(type):
    def __subclasscheck__(cls, kind: type) -> bool:
        return getattr(_thread, "ignores_warnings", False)


class _IgnoredWarning(Warning, metaclass=_IgnoredType):
    """Category of all warnings that are issued while the current thread is in `ignore_warnings`."""


@contextlib.contextmanager
def ignore_warnings() -> Iterator[None]:
    """Ignore the warnings that the current thread issues inside the block.

    ``warnings.catch_warnings`` is not used, because it changes the filters of all threads, and blocks that overlap in
    time can leave the wrong filters behind. The filter added here stays, but has no effect outside the block or
    in other threads.
    """
    if not warnings.filters or warnings.filters[0][2] is not _IgnoredWarning:
        warnings.simplefilter("ignore", _IgnoredWarning)
    before = getattr(_thread, "ignores_warnings", False)
    _thread.ignores_warnings = True
    try:
        yield
    finally:
        _thread.ignores_warnings = before
