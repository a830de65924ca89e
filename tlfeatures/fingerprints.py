"""Digests of image content, of arrays and of recipes: blake2b, 128 bits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tlfeatures._files import stamp

__all__ = [
    "KEY_BYTES",
    "array_key",
    "bytes_key",
    "canonical_json",
    "file_key",
    "memoized_keys",
    "read_file",
    "recipe_digest",
]

KEY_BYTES = 16
_MEMO_LIMIT = 1_000_000  # entries; about 200 bytes each, and the path unless the caller holds it
_FRESH_NS = 2_000_000_000  # a file that changed more recently may change again with the same times
# path -> packed stamp and digest; no lock: a child forked while one is held would hang
_memo: dict[str, bytes] = {}
_pack_stamp = struct.Struct("<QQqq").pack


def bytes_key(*parts: Any) -> bytes:
    """Compute the digest of the concatenation of bytes-like ``parts``; 16 bytes.

    >>> bytes_key(b"ab").hex() == bytes_key(b"a", b"b").hex()
    True
    """
    h = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        h.update(part)
    return h.digest()


def array_key(array: np.ndarray) -> bytes:
    """Compute the digest of dtype, shape and content of ``array``; memory layout and byte order do not matter.

    >>> a = np.arange(6, dtype="uint8").reshape(2, 3)
    >>> array_key(a) == array_key(np.asfortranarray(a)), array_key(a) == array_key(a.reshape(3, 2))
    (True, False)
    """
    a = np.ascontiguousarray(array)
    a = a.astype(a.dtype.newbyteorder("<"), copy=False)
    header = f"{a.dtype.str}{a.shape}|".encode()
    return bytes_key(header, a.reshape(-1).view(np.uint8).data)


def file_key(path: str | os.PathLike[str]) -> bytes:
    """Compute the digest of the bytes of a file; 16 bytes, memoized by path, inode, size and times.

    A file that changed in the last two seconds is read every time: within the resolution of the file
    system's clock it may change again with the same times.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    (key,) = memoized_keys([path])
    if key is not None:
        return key
    with open(path, "rb") as f:
        before = os.fstat(f.fileno())
        key = hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
        _memoize(path, before, os.fstat(f.fileno()), key)
    return key


def memoized_keys(paths: Iterable[Any]) -> list[bytes | None]:
    """Return the digests of files that have not changed since this process read them; None for all others.

    In a search, every fit but the first finds all digests here, so this loop dominates its cost.
    """
    keys: list[bytes | None] = []
    for path in paths:
        entry = _memo.get(path if type(path) is str else _path_text(path))
        if entry is not None:
            try:
                if not entry.startswith(_pack(os.stat(path))):
                    entry = None
            except OSError:
                entry = None
        keys.append(entry and entry[-KEY_BYTES:])
    return keys


def _path_text(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else None


def read_file(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """Read a file and return its digest and bytes; a memoized digest is used if the file has not changed.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with open(path, "rb") as f:
        before = os.fstat(f.fileno())
        content = f.read()
        after = os.fstat(f.fileno())
    entry = _memo.get(os.fspath(path))
    if entry is not None and stamp(before) == stamp(after) and entry.startswith(_pack(before)):
        return entry[-KEY_BYTES:], content
    key = bytes_key(content)
    _memoize(path, before, after, key)
    return key, content


def _memoize(path: str | os.PathLike[str], before: os.stat_result, after: os.stat_result, key: bytes) -> None:
    """Memoize a digest, unless the file changed while it was read or so recently that it may change again unnoticed."""
    if stamp(before) != stamp(after):
        return
    if time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _FRESH_NS:
        with contextlib.suppress(StopIteration, KeyError, RuntimeError):  # another thread changes it too
            while len(_memo) >= _MEMO_LIMIT:
                del _memo[next(iter(_memo))]  # the oldest
        _memo[os.fspath(path)] = _pack(after) + key


def _pack(status: os.stat_result) -> bytes:
    """Return the stamp of a file in few bytes."""
    inode = status.st_ino & 0xFFFFFFFFFFFFFFFF  # 128 bits on some file systems
    return _pack_stamp(inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def canonical_json(value: Any) -> bytes:
    """Encode ``value`` as canonical JSON: sorted keys, no spaces, ASCII.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def recipe_digest(recipe: dict[str, Any] | Iterable[Any]) -> str:
    """Compute the hexadecimal digest of a recipe (any JSON value); 32 characters.

    >>> recipe_digest({"a": 1, "b": 2}) == recipe_digest({"b": 2, "a": 1})
    True
    """
    return bytes_key(canonical_json(recipe)).hex()
