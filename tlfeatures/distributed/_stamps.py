"""Stamps of files and objects, which differ after a change, so that their content need not be read."""

from __future__ import annotations

import os
import time

import numpy as np

from tlfeatures._inputs import split_frame
from tlfeatures._object_digests import find_stamp, request_stamps
from tlfeatures.images import Images

__all__ = ["MISSING_STAMP", "UNKNOWN_STAMP", "read_stamps"]

UNKNOWN_STAMP = -1
MISSING_STAMP = -2
_FRESH_NS = 2_000_000_000  # a file that changed more recently may change again with the same times


def read_stamps(images: Images, may_request: bool = True) -> np.ndarray:
    """Return a stamp of each image that differs if its file or object has changed; no content is read.

    Parameters
    ----------
    images : Images
    may_request : bool, default=True
        Whether to request the ETags that no listing and no earlier read has returned.

    Returns
    -------
    ndarray of int64, shape (n, 2)
        - File: size in bytes, and time of the last change in nanoseconds.
        - Object: digest of its ETag and size.
        - Missing file or object: -2.
        - File that changed in the last two seconds and may change again with the same times, or unknown ETag: -1.
        - Other images: 0, because the id of their unit contains their content.
    """
    stamps, uris = np.zeros((len(images), 2), np.int64), images.uris()
    limit = time.time_ns() - _FRESH_NS
    for row, path in enumerate(images.paths()):
        if path is not None and row not in uris:
            stamps[row] = _read_file_stamp(path, limit)
    if uris:
        names = list(uris.values())
        for row, stamp in zip(
            uris, request_stamps(names) if may_request else map(find_stamp, names), strict=True
        ):
            if stamp:
                stamps[row] = np.frombuffer(stamp, "<i8")
            else:
                stamps[row] = MISSING_STAMP if may_request and stamp is None else UNKNOWN_STAMP
    return stamps


def _read_file_stamp(path: str, limit: int) -> tuple[int, int]:
    try:
        status = os.stat(split_frame(path)[0])
    except (FileNotFoundError, NotADirectoryError):
        return MISSING_STAMP, MISSING_STAMP
    except (OSError, ValueError):  # a null character in the path is a ValueError
        return UNKNOWN_STAMP, UNKNOWN_STAMP
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return (UNKNOWN_STAMP, UNKNOWN_STAMP) if changed > limit else (status.st_size, changed)
