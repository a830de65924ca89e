"""Images in object storage: each is read once, and its digest is stored, so that it is not read again."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tlfeatures._object_digests import digest_of_stamp, find_stamp, remember_digest, request_stamps
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images
from tlfeatures.store import EmbeddingStore

__all__ = ["CHUNK_ROWS", "KEEP_BYTES", "ObjectKeys", "read_ahead"]

CHUNK_ROWS = 256  # objects that are read before the network runs on them
KEEP_BYTES = 256 << 20  # maximum size of the objects that are kept in memory between reading and decoding
# number of ETags that are requested first; if none of their digests is stored, the other ETags are not requested
_SAMPLE = 8

# Each object that was read has one row. Its key is the digest of URI, ETag and size, and its value is the digest of the
# content, stored as four float32 values, which the store returns without changes.
_RECIPE: dict[str, Any] = {
    "network": "digests of objects",
    "version": 1,
    "width": KEY_BYTES // 4,
    "dtype": "float32",
}


class ObjectKeys:
    """Digests of images, some of them in object storage; those of objects are read from a store and written to it.

    As a context manager it publishes the new digests at the end of the block, also after an exception.

    Parameters
    ----------
    store : EmbeddingStore or None
    n_threads : int or None
        Number of reading threads.
    on_failure : {"warn", "raise"}
        Whether a failed write to the store warns or raises.
    """

    def __init__(self, store: EmbeddingStore | None, n_threads: int | None, on_failure: str = "warn") -> None:
        self.store, self.n_threads = store, n_threads
        self._writer = None if store is None else store.writer(_RECIPE, on_failure)

    def __enter__(self) -> ObjectKeys:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*error)

    def read(self, images: Images, uris: list[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Return what `Images.keys` returns; the content of objects that are read is kept for the decoder.

        ``uris`` are those of the images in object storage.
        """
        if not uris:
            return images.keys(self.n_threads)
        stored = self.load(uris)
        keys = images.keys(self.n_threads, KEEP_BYTES)
        self._save(uris, stored)
        return keys

    def load(self, uris: list[str]) -> set[bytes]:
        """Remember the stored digests of objects that have not changed; return their stamps."""
        if self.store is None:
            return set()
        stored = self._load_stamps([stamp for stamp in map(find_stamp, uris) if stamp])
        unknown = [uri for uri in uris if find_stamp(uri) is None]
        for part in (unknown[:_SAMPLE], unknown[_SAMPLE:]):
            loaded = self._load_stamps(list(filter(None, request_stamps(part))))
            stored |= loaded
            if not loaded:  # the digests of this chunk are not stored: its objects are read instead
                break
        return stored

    def _load_stamps(self, stamps: list[bytes]) -> set[bytes]:
        if not stamps:
            return set()
        rows, is_stored = self.store.get(_RECIPE, _as_keys(stamps))
        digests = rows.view(np.uint8)
        loaded = set()
        for i in np.flatnonzero(is_stored):
            remember_digest(stamps[i], digests[i].tobytes())
            loaded.add(stamps[i])
        return loaded

    def _save(self, uris: list[str], stored: set[bytes]) -> None:
        """Store the digests of the objects that were read."""
        stamps = {stamp for stamp in map(find_stamp, uris) if stamp} - stored
        self.add({stamp: digest for stamp in stamps if (digest := digest_of_stamp(stamp))})

    def add(self, digests: dict[bytes, bytes]) -> None:
        """Add digests of the content of objects, with the stamps of the objects as keys.

        They are published in batches, as `StoreWriter` does, and by `commit`.
        """
        if self._writer is not None and digests:
            self._writer.add(_as_keys(list(digests)), [_as_keys(list(digests.values())).view(np.float32)])

    def commit(self) -> None:
        """Publish the digests that were added."""
        if self._writer is not None:
            self._writer.commit()


def read_ahead(parts: Iterator[Any]) -> Generator[Any, None, None]:
    """Iterate over parts in order, each made in a thread while the consumer works on the one before."""
    with ThreadPoolExecutor(1, "tlfeatures-object") as pool:
        end = object()
        future = pool.submit(next, parts, end)
        while (part := future.result()) is not end:
            future = pool.submit(next, parts, end)
            yield part


def _as_keys(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, KEY_BYTES)
