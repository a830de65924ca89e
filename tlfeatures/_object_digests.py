"""Digests of the content of objects, by URI, ETag and size: unchanged objects are not read again."""

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
    "digest_of", "find_digest", "find_stamp", "read_digest_and_content", "remember_digest", "remember_listing",
    "request_stamps",
]  # fmt: skip

_TRUSTED_SECONDS = 60.0  # a stamp that is older is requested again
_LIMIT = 1_000_000  # objects
_THREADS = 16
_stamps: dict[str, tuple[bytes, float]] = {}  # URI -> stamp, and the time until which it is trusted
_digests: dict[bytes, bytes] = {}  # stamp -> digest of the content


def remember_listing(uris: Iterable[str], infos: Iterable[ObjectInfo]) -> None:
    """Remember the ETags of a listing. Each is used once, however long ago the listing was made."""
    for uri, info in zip(uris, infos, strict=True):
        _put(_stamps, uri, (_make_stamp(uri, info), math.inf))


def find_stamp(uri: str) -> bytes | None:
    """Return the digest of URI, ETag and size if they are known without a request; empty if there is no ETag."""
    stamp, trusted_until = _stamps.get(uri, (None, 0.0))
    return stamp if time.monotonic() < trusted_until else None


def request_stamp(uri: str) -> bytes:
    """Return the digest of URI, ETag and size, requested if it is older than a minute; empty without an ETag.

    Raises
    ------
    OSError
        As :func:`~tlfeatures._objects.stat_object`.
    """
    stamp = find_stamp(uri)
    return _trust(uri, _make_stamp(uri, stat_object(uri))) if stamp is None else stamp


def request_stamps(uris: Sequence[str]) -> list[bytes | None]:
    """Return `request_stamp` of several objects, requested at the same time.

    It is None for missing objects, and empty for objects that cannot be read because of an error of that object.
    """

    def request(uri: str) -> bytes | None:
        try:
            return request_stamp(uri)
        except FileNotFoundError:
            return None
        except (ObjectStorageError, TransientReadError):
            raise
        except OSError:  # reading the object fails too, which is the error of this image
            return b""

    stamps = [find_stamp(uri) for uri in uris]
    unknown = [i for i, stamp in enumerate(stamps) if stamp is None]
    if unknown:
        with ThreadPoolExecutor(_THREADS, "tlfeatures-object") as pool:
            for i, stamp in zip(unknown, pool.map(request, [uris[i] for i in unknown]), strict=True):
                stamps[i] = stamp
    return stamps


def find_digest(uri: str) -> bytes | None:
    """Return the digest of the content of an object; None if this process has not read it or if it has changed.

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


def digest_of(stamp: bytes) -> bytes | None:
    """Return the digest of the content of the object with this stamp, if it is known."""
    return _digests.get(stamp)


def remember_digest(stamp: bytes, digest: bytes) -> None:
    """Remember the digest of the content of the object with this stamp."""
    if stamp:
        _put(_digests, stamp, digest)


def read_digest_and_content(uri: str, max_bytes: int) -> tuple[bytes, bytes]:
    """Read an object and return the digest of its content and the content.

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
