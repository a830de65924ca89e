"""Reading of one image of a list: its digest and its content, which are bytes or an array."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from tlfeatures._files import read_with_retries
from tlfeatures._inputs import is_missing
from tlfeatures._object_digests import read_digest_and_content
from tlfeatures.fingerprints import array_key, bytes_key, file_key, read_file
from tlfeatures.images._decode import is_deep, read_upright_values, to_rgb
from tlfeatures.images._formats import MAX_FILE_BYTES, Unreadable, check_file, readable
from tlfeatures.images._pixels import find_row_layout_problem, find_value_problem

__all__ = ["frame_key", "read_content", "read_file_key", "read_item", "read_object"]

_pil_lock = threading.Lock()  # PIL images load lazily, and loading is not thread-safe


def read_file_key(path: str) -> bytes:
    """Return the digest of a file."""

    def read() -> bytes:
        check_file(path)
        return file_key(path)

    return read_with_retries(read, path)


def read_content(path: str) -> tuple[bytes, bytes]:
    """Return the digest and the content of a file."""

    def read() -> tuple[bytes, bytes]:
        check_file(path)
        return read_file(path)

    return read_with_retries(read, path)


def read_object(uri: str) -> tuple[bytes, bytes]:
    """Return the digest and the content of an object in object storage."""
    key, content = read_digest_and_content(uri, MAX_FILE_BYTES)
    if not content:
        raise Unreadable("the object is empty")
    return key, content


def read_item(item: Any, checked: bool) -> tuple[bytes, Any]:
    """Return the digest and the content (bytes or array) of an image that is not a path.

    Parameters
    ----------
    item : bytes, PIL image or array
    checked : bool
        Whether layout and values of an array were checked before.
    """
    if isinstance(item, (bytes, bytearray, memoryview)):
        if not len(item):
            raise Unreadable("the bytes are empty")
        data = bytes(item)
        return bytes_key(data), data
    if is_missing(item):
        raise Unreadable(f"the value is missing ({item!r})")
    if isinstance(item, Image.Image):
        with _pil_lock, readable():
            item = read_upright_values(item) if is_deep(item) else np.asarray(to_rgb(item)[0])
    array = np.asarray(item)
    if not checked:
        problem = find_row_layout_problem(array.shape) or find_value_problem(array, batch=False)
        if problem:
            raise Unreadable(problem)
    return array_key(array), array


def frame_key(key: bytes, frame: int) -> bytes:
    """Return the digest of a frame of a file; the first frame has the digest of the file."""
    return bytes_key(key, f"[{frame}]".encode()) if frame else key
