"""Remember the digest of each object's content. As long as its URI, ETag and size are the same, it is not read again.

The *stamp* of an object is a hash of its URI, ETag and size. The *digest* is a hash of its content.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tlfeatures._objects import ObjectInfo, read_object, redact, stat_object
from tlfeatures.errors import ObjectStorageError, TransientReadError
from tlfeatures.fingerprints import bytes_key

__all__ = [
    "digest_of_stamp", "digest_of_uri", "find_stamp", "read_digest_and_content", "remember_digest",
    "remember_listing", "request_stamps",
]  # fmt: skip

_TRUSTED_SECONDS = 60.0  # a stamp that is older is requested again
_LIMIT = 1_000_000  # objects
_THREADS = 16
_stamps: dict[str, tuple[bytes, float]] = {}  # URI -> stamp, and the time until which it is trusted
_digests: dict[bytes, bytes] = {}  # stamp -> digest


def remember_listing(uris: Iterable[str], infos: Iterable[ObjectInfo]) -> None:
    """Remember the stamps of the objects in a listing.

    They are trusted without a time limit until the object is next looked up with `digest_of_uri` or read.
    """
    for uri, info in zip(uris, infos, strict=True):
        _put(_stamps, uri, (_make_stamp(uri, info), math.inf))


def find_stamp(uri: str) -> bytes | None:
    """Return the stamp of an object if it is known without a request, else None.

    The stamp is empty if the object has no ETag.
    """
    stamp, trusted_until = _stamps.get(uri, (None, 0.0))
    return stamp if time.monotonic() < trusted_until else None


def request_stamp(uri: str) -> bytes:
    """Return the stamp of an object; request it if the known one is older than a minute.

    Raises
    ------
    OSError
        As :func:`~tlfeatures._objects.stat_object`.
    """
    stamp = find_stamp(uri)
    return _trust(uri, _make_stamp(uri, stat_object(uri))) if stamp is None else stamp


def request_stamps(uris: Sequence[str]) -> list[bytes | None]:
    """Return the stamps of several objects, requested in parallel.

    A stamp is None if the object does not exist, and empty if only this object cannot be read. Errors of the whole
    storage are raised.
    """

    def request(uri: str) -> bytes | None:
        try:
            return request_stamp(uri)
        except FileNotFoundError:
            return None
        except (ObjectStorageError, TransientReadError):
            raise
        except OSError:  # reading the object later fails too, and that error is reported for its image
            return b""

    stamps = [find_stamp(uri) for uri in uris]
    unknown = [i for i, stamp in enumerate(stamps) if stamp is None]
    if unknown:
        with ThreadPoolExecutor(_THREADS, "tlfeatures-object") as pool:
            for i, stamp in zip(unknown, pool.map(request, [uris[i] for i in unknown]), strict=True):
                stamps[i] = stamp
    return stamps


def digest_of_uri(uri: str) -> bytes | None:
    """Return the digest of an object; None if it is not known in this process, or if the object has changed.

    Raises
    ------
    OSError
        The errors of :func:`~tlfeatures._objects.stat_object`, which is called if the last request was more than a
        minute ago.
    """
    if uri not in _stamps:
        return None
    stamp = request_stamp(uri)
    _, trusted_until = _stamps.get(uri, (stamp, 0.0))
    if trusted_until == math.inf:  # the stamp is that of a listing
        _trust(uri, stamp)
    return _digests.get(stamp)


def digest_of_stamp(stamp: bytes) -> bytes | None:
    """Return the digest of the object with this stamp, or None if it is not known."""
    return _digests.get(stamp)


def remember_digest(stamp: bytes, digest: bytes) -> None:
    """Remember the digest of the object with this stamp."""
    if stamp:
        _put(_digests, stamp, digest)


def read_digest_and_content(uri: str, max_bytes: int) -> tuple[bytes, bytes]:
    """Read an object and return its digest and its content.

    Raises
    ------
    OSError
        As :func:`~tlfeatures._objects.read_object`.
    """
    content, info = read_object(uri, max_bytes)
    digest = bytes_key(content)
    remember_digest(_trust(uri, _make_stamp(uri, info)), digest)
    return digest, content


def _make_stamp(uri: str, info: ObjectInfo) -> bytes:
    return bytes_key(f"{redact(uri)}\0{info.etag}\0{info.size}".encode()) if info.etag else b""


def _trust(uri: str, stamp: bytes) -> bytes:
    _put(_stamps, uri, (stamp, time.monotonic() + _TRUSTED_SECONDS))
    return stamp


def _put(memo: dict, key: object, value: object) -> None:
    with contextlib.suppress(StopIteration, KeyError, RuntimeError):  # another thread changes it too
        while len(memo) >= _LIMIT and key not in memo:
            del memo[next(iter(memo))]  # the oldest
    memo[key] = value
