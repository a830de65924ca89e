"""The embedding store: rows by recipe and image content, in immutable HDF5 segments."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures.fingerprints import canonical_json, recipe_digest
from tlfeatures.store import _maintenance
from tlfeatures.store._disk import default_root, publish_file, store_error
from tlfeatures.store._index import RETRIES, Folder, open_folder, pool_map
from tlfeatures.store._lock import flock
from tlfeatures.store._maintenance import MALFORMED, read_sidecar
from tlfeatures.store._segment import Segment, check_keys, check_rows, check_width, encode, rows_per_segment
from tlfeatures.store._table import Index, first_rows
from tlfeatures.store._writer import StoreWriter

__all__ = ["EmbeddingStore", "StoreWriter"]

_GATHER_BYTES = 1 << 20  # per step, so that temporary arrays stay small
_TOUCH_SECONDS = 60.0
_touched: dict[str, float] = {}


class EmbeddingStore:
    """Embeddings on disk, safe for any number of readers and writers.

    Parameters
    ----------
    root : path, optional
        The folder; by default ``$TLFEATURES_CACHE``, or else ``tlfeatures`` in the user's cache folder.
        It is created by the first write.

    Attributes
    ----------
    root : pathlib.Path
        The folder, absolute.

    Notes
    -----
    The object has no state but its path, which is what pickle saves. A row is returned
    bit-identical or is missing. Damaged files are quarantined with one `StoreWarning` and never raise.
    A recipe is a JSON object with everything that determines the embedding; it must contain
    ``"width"``, the length d of a row, and ``"dtype": "float32"``. A key is the digest of an image's
    content, 16 bytes. The store does not compute embeddings and does not interpret keys.
    On two cores it read 570,000 rows of width 512 per second (``python benchmarks/store.py``), and opened ten
    million rows in 0.5 s (``--rows 10000000``).

    Examples
    --------
    >>> import tempfile
    >>> recipe = {"network": "toy", "width": 2, "dtype": "float32"}
    >>> keys = np.arange(48, dtype="uint8").reshape(3, 16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = EmbeddingStore(folder)
    ...     store.publish(recipe, keys[:2], np.ones((2, 2), "float32"))
    ...     rows, is_stored = store.get(recipe, keys)
    >>> is_stored
    array([ True,  True, False])
    >>> rows
    array([[ 1.,  1.],
           [ 1.,  1.],
           [nan, nan]], dtype=float32)
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        root = default_root() if root is None else root
        self.root = Path(os.path.abspath(os.path.expanduser(os.fspath(root))))

    @classmethod
    def resolve(cls, cache: str | os.PathLike[str] | EmbeddingStore | None) -> EmbeddingStore | None:
        """Return the store of a ``cache`` parameter: "auto", a path, a store, or None for no store.

        Raises
        ------
        TypeError
            For anything else.
        """
        if cache is None or isinstance(cache, cls):
            return cache
        if isinstance(cache, str) and cache == "auto":
            return cls()
        if isinstance(cache, (str, os.PathLike)) and os.fspath(cache):
            return cls(cache)
        raise TypeError(
            f"`cache` must be 'auto', the path of a folder, an EmbeddingStore, or None for no store; got {cache!r} of "
            f"type {type(cache).__name__}."
        )

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (str(self.root),)

    def __eq__(self, other: object) -> bool:
        return self.root == other.root if isinstance(other, EmbeddingStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.root)

    def contains(self, recipe: Mapping[str, Any], keys: np.ndarray) -> np.ndarray:
        """Return whether each key has a row: uint8 (n, 16) -> bool (n,).

        Rows are verified when `get` reads them, so a damaged row may count as stored here.
        """
        keys, _ = check_keys(keys), check_width(recipe)
        return self._folder(recipe).refresh().find(keys)[:, 0] >= 0

    def get(
        self, recipe: Mapping[str, Any], keys: np.ndarray, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read rows in the order of the keys.

        Parameters
        ----------
        recipe : mapping
            The recipe that the rows were computed under.
        keys : uint8 array (n, 16)
            In any order, duplicates allowed.
        out : float32 array (n, d), optional
            Filled in place; may be a slice of columns of a larger array.

        Returns
        -------
        rows : float32 array (n, d)
            ``out`` if it is passed. Rows that are not in the store are NaN.
        is_stored : bool array (n,)
        """
        keys, width = check_keys(keys), check_width(recipe)
        if out is None:
            out = np.empty((len(keys), width), np.float32)
        elif out.shape != (len(keys), width) or out.dtype != np.float32:
            raise ValueError(
                f"`out` must be float32 of shape {(len(keys), width)}; got {out.dtype} of shape {out.shape}."
            )
        folder, is_stored = self._folder(recipe), np.zeros(len(keys), bool)
        todo = np.arange(len(keys))
        for _ in range(RETRIES):
            index = folder.refresh()
            unreadable = _gather(folder, index, keys, todo, out, is_stored)
            if not unreadable:
                break
            folder.forget(unreadable)  # removed or damaged: another segment may have the rows
            todo = todo[~is_stored[todo]]
        out[~is_stored] = np.nan
        if is_stored.any():
            self._touch(recipe)
        return out, is_stored

    def publish(self, recipe: Mapping[str, Any], keys: np.ndarray, features: np.ndarray) -> None:
        """Store rows: ``keys`` uint8 (n, 16), ``features`` float32 (n, d); durable on return.

        The first of duplicate keys is stored. Rows of NaN are stored too: leave out those of unreadable images.

        Raises
        ------
        ValueError
            If the arrays do not fit the recipe.
        StoreError
            When the disk is full, read-only or fails; no partial file is left.
        """
        keys, features = check_rows(recipe, keys, features)
        if not len(keys):
            return
        first = first_rows(keys)
        if len(first) < len(keys):
            keys, features = keys[first], features[first]
        text = canonical_json(dict(recipe))
        folder = self._path(recipe)
        step = rows_per_segment(features.shape[1])
        with self._errors("write to"):
            _maintenance.publish_recipe(folder, text)
            for i in range(0, len(keys), step):
                _maintenance.publish_segment(folder, encode(text, keys[i : i + step], features[i : i + step]))

    def writer(
        self, recipes: Mapping[str, Any] | Sequence[Mapping[str, Any]], on_failure: str = "warn"
    ) -> StoreWriter:
        """Return a `StoreWriter` for one recipe, or for several recipes that are filled together."""
        return StoreWriter(self, [recipes] if isinstance(recipes, Mapping) else list(recipes), on_failure)

    @contextlib.contextmanager
    def single_flight(self, recipe: Mapping[str, Any]) -> Iterator[None]:
        """Wait until no other process computes rows of this recipe, if the file system supports locks.

        This only avoids duplicate work; correctness does not depend on it. The lock of a dead process is released.
        """
        with flock(os.path.join(self._path(recipe), "lock")):
            yield

    def get_sidecar(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a small JSON object stored under a JSON key; None if it is absent or damaged."""
        path, text = self._sidecar(key), canonical_json(dict(key))
        with contextlib.suppress(OSError, *MALFORMED):
            sidecar = read_sidecar(path)
            if canonical_json(sidecar["key"]) == text:
                return sidecar["value"]
        return None

    def put_sidecar(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Store a small JSON object under a JSON key; errors of the file system are ignored."""
        key, value = dict(key), dict(value)
        image = canonical_json({"digest": recipe_digest([key, value]), "key": key, "value": value})
        with contextlib.suppress(OSError):
            publish_file(self._sidecar(key), image)

    def info(self) -> dict[str, Any]:
        """Describe the contents of the store: ``root``, ``bytes`` and a list ``recipes``.

        Each recipe has ``digest``, ``recipe``, ``rows``, ``unique_rows``, ``bytes``, ``segments``,
        ``quarantined`` and ``last_used`` (seconds since 1970).
        """
        with self._errors("read"):
            return _maintenance.info(self._v1, str(self.root))

    def verify(self) -> list[dict[str, str]]:
        """Read and verify every file; return a list of {"path", "reason"} of the damaged ones. Changes nothing."""
        with self._errors("read"):
            return _maintenance.verify(self._v1)

    def compact(self) -> dict[str, int]:
        """Merge small segments and drop duplicate rows; other processes may read and write meanwhile.

        Returns counts: ``segments_before``, ``segments_after``, ``bytes_before``, ``bytes_after``.

        Raises
        ------
        StoreError
            When a write fails; no row is lost.
        """
        with self._errors("write to"):
            return _maintenance.compact(self._v1)

    def prune(self, max_bytes: int) -> dict[str, int]:
        """Delete the least recently used recipes until at most ``max_bytes`` remain.

        Returns ``removed_recipes``, ``removed_bytes`` and ``bytes``.
        """
        if max_bytes < 0:
            raise ValueError(f"`max_bytes` must be 0 or more; got {max_bytes}.")
        with self._errors("write to"):
            return _maintenance.prune(self._v1, max_bytes)

    def clear(self) -> dict[str, int]:
        """Delete the files of this library and no others; return ``removed_files`` and ``removed_bytes``."""
        with self._errors("write to"):
            return _maintenance.clear(self._v1)

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(error, action, str(self.root)) from error

    @property
    def _v1(self) -> str:
        return os.path.join(self.root, "v1")

    def _path(self, recipe: Mapping[str, Any]) -> str:
        return os.path.join(self._v1, recipe_digest(dict(recipe)))

    def _sidecar(self, key: Mapping[str, Any]) -> str:
        return os.path.join(self._v1, "networks", f"{recipe_digest(dict(key))}.json")

    def _folder(self, recipe: Mapping[str, Any]) -> Folder:
        return open_folder(self._path(recipe))

    def _touch(self, recipe: Mapping[str, Any]) -> None:
        """Record the time of use for `prune`, at most once a minute."""
        path = os.path.join(self._path(recipe), "recipe.json")
        if time.time() - _touched.get(path, 0) > _TOUCH_SECONDS:
            _touched[path] = time.time()
            with contextlib.suppress(OSError, NotImplementedError):
                os.utime(path, follow_symlinks=False)


def _gather(
    folder: Folder,
    index: Index,
    keys: np.ndarray,
    todo: np.ndarray,
    out: np.ndarray,
    is_stored: np.ndarray,
) -> list[str]:
    """Fill rows ``todo`` of ``out``; return the names of segments that could not be read."""
    places = index.find(keys[todo])
    hits = np.flatnonzero(places[:, 0] >= 0)
    order = hits[np.lexsort((places[hits, 1], places[hits, 0]))]
    target, places = todo[order], places[order]
    numbers, starts = np.unique(places[:, 0], return_index=True)
    parts = np.split(np.arange(len(places)), starts[1:]) if len(numbers) else []

    def fill(work: tuple[int, np.ndarray]) -> str | None:
        number, part = work
        segment, rows = folder.segment(index.names[number]), places[part, 1]
        if segment is None or not _contains_keys(segment, rows, keys[target[part]]):
            return index.names[number]
        step = max(1, _GATHER_BYTES // segment.features[:1].nbytes)
        for i in range(0, len(part), step):
            out[target[part[i : i + step]]] = segment.features[rows[i : i + step]]
        is_stored[target[part]] = True
        return None

    return [name for name in pool_map(fill, list(zip(numbers, parts, strict=True))) if name]


def _contains_keys(segment: Segment, rows: np.ndarray, keys: np.ndarray) -> bool:
    """Return whether the rows of a segment have these keys; an index file of unknown origin may be wrong."""
    return bool(
        0 <= rows.min() <= rows.max() < len(segment.keys) and np.array_equal(segment.keys[rows], keys)
    )
