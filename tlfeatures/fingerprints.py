"""Digests of image content, of arrays and of recipes: blake2b, 128 bits."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = [
    "KEY_BYTES",
    "array_key",
    "bytes_key",
    "canonical_json",
    "file_key",
    "held_keys",
    "read_file",
    "recipe_digest",
]

KEY_BYTES = 16
_MEMO_LIMIT = 2_000_000  # entries; about 300 bytes each
_FRESH_NS = 2_000_000_000  # younger files may change again without a new mtime
_memo: dict[str, tuple[tuple[int, int, int, int], bytes]] = {}
_memo_lock = threading.Lock()


def bytes_key(*parts: Any) -> bytes:
    """Digest of the concatenation of bytes-like ``parts``; 16 bytes.

    >>> bytes_key(b"ab").hex() == bytes_key(b"a", b"b").hex()
    True
    """
    h = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        h.update(part)
    return h.digest()


def array_key(array: np.ndarray) -> bytes:
    """Digest of dtype, shape and content of ``array``; memory layout and byte order do not matter.

    >>> a = np.arange(6, dtype="uint8").reshape(2, 3)
    >>> array_key(a) == array_key(np.asfortranarray(a)), array_key(a) == array_key(a.reshape(3, 2))
    (True, False)
    """
    a = np.ascontiguousarray(array)
    a = a.astype(a.dtype.newbyteorder("<"), copy=False)
    header = f"{a.dtype.str}{a.shape}|".encode()
    return bytes_key(header, a.reshape(-1).view(np.uint8).data)


def file_key(path: str | os.PathLike[str]) -> bytes:
    """Digest of the bytes of a file; 16 bytes, memoized by path, inode, size and times.

    A file that changed in the last two seconds is read anew each time: within the resolution
    of its clock it may change again without a trace.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    (held,) = held_keys([path])
    if held is not None:
        return held
    with open(path, "rb") as f:
        before = os.fstat(f.fileno())
        key = hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
        _hold(path, before, os.fstat(f.fileno()), key)
    return key


def held_keys(paths: Iterable[Any]) -> list[bytes | None]:
    """Digests of files that have not changed since this process read them; None for all else.

    In a search all but the first fits find every digest here, so this loop is what a fit costs.
    """
    keys: list[bytes | None] = []
    for path in paths:
        held = _memo.get(path if type(path) is str else _name(path))
        if held is not None:
            try:
                stat = os.stat(path)
                if held[0] != (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns):
                    held = None
            except OSError:
                held = None
        keys.append(held and held[1])
    return keys


def _name(path: Any) -> Any:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else None


def read_file(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """Digest and bytes of a file; the digest is not computed anew when it is held and still true.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with open(path, "rb") as f:
        before = os.fstat(f.fileno())
        data = f.read()
        after = os.fstat(f.fileno())
    held = _memo.get(os.fspath(path))
    if held is not None and held[0] == _stamp(before) == _stamp(after):
        return held[1], data
    key = bytes_key(data)
    _hold(path, before, after, key)
    return key, data


def _stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hold(path: str | os.PathLike[str], before: os.stat_result, after: os.stat_result, key: bytes) -> None:
    """Memoize a digest, unless the file changed while it was read, or so lately that it may again unseen."""
    if _stamp(before) != _stamp(after):
        return
    if time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > _FRESH_NS:
        with _memo_lock:
            if len(_memo) >= _MEMO_LIMIT:
                _memo.clear()
            _memo[os.fspath(path)] = (_stamp(after), key)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of ``value``: sorted keys, no spaces, ASCII.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def recipe_digest(recipe: dict[str, Any] | Iterable[Any]) -> str:
    """Hexadecimal digest of a recipe (any JSON value); 32 characters.

    >>> recipe_digest({"a": 1, "b": 2}) == recipe_digest({"b": 2, "a": 1})
    True
    """
    return bytes_key(canonical_json(recipe)).hex()
