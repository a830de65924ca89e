"""Zip files of one JSON object and arrays, in which models and checkpoints are saved; reading one runs no code."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import struct
import zipfile
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from tlfeatures._files import atomic_write
from tlfeatures.errors import SavedModelError

__all__ = [
    "MODEL_FORMAT",
    "MODEL_START",
    "describe_training",
    "is_archive",
    "library_versions",
    "read_about",
    "read_arrays",
    "write_arrays",
]

# of files of `tlfeatures.save`; those of fine-tuned estimators have another one
MODEL_FORMAT = "tlfeatures.model/1"
MODEL_START = f'{{"format": "{MODEL_FORMAT}"'

_ABOUT = "about.json"  # the first member of every file
_DIGESTS = "digests"  # its list of the digests of the arrays
_MAGIC = b"PK\3\4"  # a zip file, whose first member has its name 30 bytes from the start
_ARRAY_NAME = re.compile(r"\d{1,5}\.npy")
_KINDS = "biufcUS"  # of arrays: numbers and text

# Limits that are checked before memory is allocated. Only the arrays of small models are compressed; all others are
# limited by the size of the file.
_MAX_JSON_BYTES = 16 << 20
_MAX_JSON_VALUES = 2_000_000
_MAX_DIRECTORY_BYTES = 4 << 20  # about 40,000 arrays
_MAX_COMPRESSED_BYTES = 1 << 20  # sum of the sizes of the arrays before compression
_MAX_HEADER_BYTES = 1024  # of an array
_END = struct.Struct("<4s4H2LH")  # the end record of a zip file without a comment
_LOCATOR = b"PK\6\7"  # of a second end record, which only files of 2 GiB or more need


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that determine predictions.

    Nothing is imported.

    >>> sorted(library_versions())
    ['keras', 'numpy', 'pillow', 'python', 'scikit-learn', 'tlfeatures']
    """
    from tlfeatures import __version__

    versions = {"tlfeatures": __version__, "python": platform.python_version()}
    for name in ("keras", "numpy", "pillow", "scikit-learn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def describe_training(digests: np.ndarray | None) -> dict[str, Any]:
    """Return the number of training images and the digest of all of them, from the digest of each.

    >>> describe_training(np.zeros((2, 16), "uint8"))["training_images"]
    2
    """
    if digests is None:
        return {"training_images": None, "training_digest": None}
    rows = sorted(row.tobytes() for row in np.asarray(digests, np.uint8))
    return {"training_images": len(rows), "training_digest": _hash(b"".join(rows)).hexdigest()}


def is_archive(path: str | os.PathLike[str], start: str = "") -> bool:
    """Return whether a file was written by :func:`write_arrays`, from its first bytes; also for damaged files.

    Parameters
    ----------
    path : path
    start : str, default=""
        First characters of the JSON object.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(30 + len(_ABOUT) + len(start))
    return head.startswith(_MAGIC) and head[30:] == (_ABOUT + start).encode()


def write_arrays(path: str | os.PathLike[str], about: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a JSON object and arrays to a zip file, which replaces ``path`` when it is complete and on the disk.

    Raises
    ------
    OSError
        If the disk is full or the folder is not writable; an existing file at ``path`` is unchanged.
    ValueError
        If the JSON object is larger than the limit for reading.
    """
    arrays = [np.asarray(array) for array in arrays]
    text = json.dumps({**about, _DIGESTS: [_digest(array) for array in arrays]}).encode()
    if not _is_small(text):
        raise ValueError(
            f"The description of the model, without its arrays, is too large: {len(text):,} bytes in JSON format."
        )
    n_bytes = sum(array.nbytes + _MAX_HEADER_BYTES for array in arrays)
    method = zipfile.ZIP_DEFLATED if n_bytes <= _MAX_COMPRESSED_BYTES else zipfile.ZIP_STORED
    with (
        atomic_write(os.path.realpath(path)) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(_ABOUT), text)  # no time: equal content has equal bytes
        for i, array in enumerate(arrays):
            info = zipfile.ZipInfo(f"{i:05}.npy")
            info.compress_type = method
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a file of :func:`write_arrays`; checksums and digests are verified, and no code from the file is run.

    Raises
    ------
    SavedModelError
        If the file is damaged or has another format.
    OSError
        If the file cannot be opened.
    """
    about, contents = _read(path, with_arrays=True)
    try:
        digests = about.pop(_DIGESTS, None)  # files of versions before 0.2 have none
        if digests is not None and digests != [_hash(content).hexdigest() for content in contents]:
            raise ValueError("the digests of its arrays differ from those in about.json")
        return about, [_parse_array(content) for content in contents]
    except Exception as error:
        raise _damaged(path, error) from error


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the JSON object of a file of :func:`write_arrays`, which imports no library that models need.

    Raises
    ------
    SavedModelError
        If the file is damaged or has another format.
    OSError
        If the file cannot be opened.
    """
    return _read(path, with_arrays=False)[0]


def _read(path: str | os.PathLike[str], with_arrays: bool) -> tuple[dict[str, Any], list[bytes]]:
    with open(path, "rb") as file:
        try:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                members = _check_members(archive.infolist(), os.fstat(file.fileno()).st_size)
                text = archive.read(_ABOUT)
                if not _is_small(text):
                    raise ValueError("about.json is too large")
                about = json.loads(text)
                if not isinstance(about, dict):
                    raise ValueError("about.json is not a JSON object")
                # with a size, because a compressed member can be larger than the directory says
                contents = [archive.open(m).read(m.file_size) for m in members if with_arrays]
                return about, contents
        except Exception as error:  # damaged files raise many kinds of errors
            raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: Exception) -> SavedModelError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return SavedModelError(f"{os.fspath(path)!r} is damaged or has another format: {reason}")


def _is_small(text: bytes) -> bool:
    """Return whether a JSON text and its values, of at most 64 bytes each for a list, fit in little memory."""
    return len(text) <= _MAX_JSON_BYTES and sum(map(text.count, (b",", b"[", b"{"))) <= _MAX_JSON_VALUES


def _check_end(file: IO[bytes]) -> None:
    """Raise an error unless the directory of the members is small; zipfile would read a directory of any size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - 20))
    end = file.read()
    if len(end) < _END.size or not end.endswith(b"\0\0") or not end[-_END.size :].startswith(b"PK\5\6"):
        raise ValueError("its end is missing")
    directory = _END.unpack(end[-_END.size :])[5]
    if directory > _MAX_DIRECTORY_BYTES or (size < 2**31 and end.startswith(_LOCATOR)):
        raise ValueError("it has too many members")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> list[zipfile.ZipInfo]:
    """Return the arrays in order, or raise an error if the file has other members, or arrays that are too large."""
    names = sorted(member.filename for member in members)
    arrays = sorted((m for m in members if _ARRAY_NAME.fullmatch(m.filename)), key=lambda m: m.filename)
    if len(set(names)) != len(names) or names != sorted([*(m.filename for m in arrays), _ABOUT]):
        raise ValueError("it has other members than about.json and arrays, or members with the same name")
    if any(member.flag_bits & 1 for member in members):
        raise ValueError("its members are encrypted")
    if sum(m.file_size for m in arrays if m.compress_type == zipfile.ZIP_DEFLATED) > _MAX_COMPRESSED_BYTES:
        raise ValueError("its compressed members are too large")
    others = [m for m in members if m.compress_type != zipfile.ZIP_DEFLATED or m.filename == _ABOUT]
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in others) or (
        sum(m.file_size for m in others) > size
    ):
        raise ValueError("its members are larger than the file, or have another compression")
    return arrays


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def _digest(array: np.ndarray) -> str:
    """Return the digest of the bytes of an array's member, without a second copy of the array in memory."""
    digest = _hash()
    np.lib.format.write_array(SimpleNamespace(write=digest.update), array, allow_pickle=False)
    return digest.hexdigest()


def _parse_array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[version](file)
    if dtype.kind not in _KINDS or (math.prod(shape) and not dtype.itemsize):
        raise ValueError(f"arrays of the dtype {dtype} are not allowed")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(
            f"an array with the shape {shape} and the dtype {dtype} cannot have {len(data)} bytes"
        )
    array = np.frombuffer(data, dtype, offset=file.tell()) if math.prod(shape) else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
