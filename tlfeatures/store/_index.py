"""Index of the verified rows in the folder of a recipe; one per process."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tlfeatures._files import stamp
from tlfeatures.store._disk import SEGMENT_NAME, is_folder, list_names, load_segment, quarantine, warn_once
from tlfeatures.store._segment import Segment

__all__ = ["Folder", "first_rows", "open_folder", "pool_map"]

CACHE_BYTES = 64 << 20  # of verified segments in memory, per process
INDEX_BYTES = 256 << 20  # of indexes in memory, per process
RETRIES = 16  # a retry is needed when another process removes a file
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class _ByteLRU:
    """Cache of the most recently used values, bounded by their ``nbytes``; the last value always stays."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        self.values: OrderedDict[str, tuple[object, int]] = OrderedDict()  # with their size when added
        self.lock = threading.Lock()

    def get(self, name: str):
        with self.lock:
            if name not in self.values:
                return None
            self.values.move_to_end(name)
            return self.values[name][0]

    def put(self, name: str, value) -> None:
        with self.lock:
            self._drop(name)
            self.values[name] = value, value.nbytes
            self.total += value.nbytes
            while self.total > self.limit and len(self.values) > 1:
                self._drop(next(iter(self.values)))

    def drop(self, name: str) -> None:
        with self.lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if (old := self.values.pop(name, None)) is not None:
            self.total -= old[1]


class Index:
    """Immutable map from keys to (segment, row), sorted by key.

    A key is two big-endian 64-bit words. Keys are digests, so the first word is nearly always unique, and a lookup
    is one ``searchsorted``.
    """

    def __init__(self, names: tuple[str, ...], words: np.ndarray, places: np.ndarray) -> None:
        order = np.lexsort((words[:, 1], words[:, 0]))
        self.names = names
        self.words = words[order]  # uint64 (n, 2)
        self.places = places[order]  # int32 (n, 2): number of the segment, row
        self.first = np.ascontiguousarray(self.words[:, 0])
        self.nbytes = self.first.nbytes + self.words.nbytes + self.places.nbytes + 1024

    @staticmethod
    def empty() -> Index:
        return Index((), np.empty((0, 2), np.uint64), np.empty((0, 2), np.int32))

    def updated(self, removed: Iterable[str], added: dict[str, np.ndarray]) -> Index:
        """Return a new index without the segments ``removed``, with the keys of the segments ``added``."""
        removed = set(removed)
        names = [n for n in self.names if n not in removed]
        is_kept = np.array([n not in removed for n in self.names], bool)
        new_numbers = (np.cumsum(is_kept) - 1).astype(np.int32)
        kept_rows = is_kept[self.places[:, 0]]
        words, places = [self.words[kept_rows]], [self.places[kept_rows]]
        places[0][:, 0] = new_numbers[places[0][:, 0]]
        for name, keys in added.items():
            words.append(_to_words(keys))
            places.append(
                np.stack([np.full(len(keys), len(names), np.int32), np.arange(len(keys), dtype=np.int32)], 1)
            )
            names.append(name)
        return Index(tuple(names), np.concatenate(words), np.concatenate(places))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the position of each key in `places`, or -1."""
        positions = np.full(len(keys), -1, np.int64)
        if not len(self.words) or not len(keys):
            return positions
        words = _to_words(keys)
        low = np.minimum(np.searchsorted(self.first, words[:, 0]), len(self.words) - 1)
        is_equal = self.words[low] == words
        positions[is_equal.all(1)] = low[is_equal.all(1)]
        for i in np.flatnonzero(
            is_equal[:, 0] & ~is_equal[:, 1]
        ):  # equal first words: keys that are not digests
            high = np.searchsorted(self.first, words[i, 0], side="right")
            j = low[i] + np.searchsorted(self.words[low[i] : high, 1], words[i, 1])
            if j < high and self.words[j, 1] == words[i, 1]:
                positions[i] = j
        return positions

    def rows(self) -> dict[str, int]:
        """Return the number of rows of each segment."""
        return dict(zip(self.names, np.bincount(self.places[:, 0], minlength=len(self.names)), strict=True))

    def unique_rows(self, order: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the rows of each segment without duplicates; the first segment in ``order`` keeps a key."""
        rank = {name: i for i, name in enumerate(order)}
        ranks = np.array([rank[n] for n in self.names], np.int32)[self.places[:, 0]]
        by_key = np.lexsort((self.places[:, 1], ranks, self.words[:, 1], self.words[:, 0]))
        words = self.words[by_key]
        first = by_key[np.r_[True, (words[1:] != words[:-1]).any(1)][: len(words)]]
        places = self.places[first]
        places = places[np.lexsort((places[:, 1], places[:, 0]))]
        ends = np.cumsum(np.bincount(places[:, 0], minlength=len(self.names)))
        return dict(zip(self.names, np.split(places[:, 1], ends[:-1]) if len(ends) else [], strict=True))


def _to_words(keys: np.ndarray) -> np.ndarray:
    """Convert keys, uint8 (n, 16), to uint64 (n, 2) in the same sort order."""
    return np.ascontiguousarray(keys).view(">u8").astype(np.uint64)


def first_rows(keys: np.ndarray) -> np.ndarray:
    """Return the indices of the first occurrence of each key, in ascending order."""
    words = _to_words(keys)
    order = np.lexsort((words[:, 1], words[:, 0]))
    words = words[order]
    return np.sort(order[np.r_[True, (words[1:] != words[:-1]).any(1)][: len(words)]])


class Folder:
    """The segments of one recipe and their index in this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.index = Index.empty()
        self.bad: dict[str, tuple[int, ...]] = {}  # damaged files that could not be moved away
        self.lock = threading.Lock()
        self.problems: deque[tuple[str, str]] = (
            deque()
        )  # (path, message) from all threads; the calling thread issues the warnings

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes."""
        return self.index.nbytes

    def refresh(self) -> Index:
        """Bring the index up to date with the folder; loads and verifies new segments only."""
        with self.lock:
            for _ in range(RETRIES):
                names = self._list_segments()
                indexed = set(self.index.names)
                removed = indexed - names
                added, any_vanished = {}, False
                unread = sorted(n for n in names - indexed if not self._is_bad(n))
                for name, (keys, has_vanished) in zip(unread, pool_map(self._load_keys, unread), strict=True):
                    any_vanished |= has_vanished
                    if keys is not None:
                        added[name] = keys
                if removed or added:
                    for name in removed:
                        _segments.drop(self._path(name))
                    self.index = self.index.updated(removed, added)
                if not any_vanished:
                    break
            _folders.put(self.path, self)
            index = self.index
        self.warn_of_problems()
        return index

    def warn_of_problems(self) -> None:
        """Issue warnings about the problems since the last call."""
        while True:
            try:
                problem = self.problems.popleft()
            except IndexError:  # empty; another thread may have taken the last one
                return
            warn_once(*problem)

    def segment(self, name: str) -> Segment | None:
        """Return a verified segment, from memory or from its file; None if it was removed or is damaged."""
        if (segment := _segments.get(self._path(name))) is not None:
            return segment
        return self._load(name)[0]

    def forget(self, names: Iterable[str]) -> None:
        """Drop segments from the index until they are read and verified again."""
        self.warn_of_problems()
        with self.lock:
            names = set(names) & set(self.index.names)
            if names:
                self.index = self.index.updated(names, {})

    def _list_segments(self) -> frozenset[str]:
        previous = frozenset(self.index.names)
        try:
            for _ in range(RETRIES):
                if not is_folder(os.path.dirname(self.path)):
                    return frozenset()
                names = list_names(self.path, SEGMENT_NAME)
                if names == previous:  # a listing during a compaction may miss both old and new segments
                    return names
                previous = names
        except OSError as error:
            self._add_problem(self.path, error)
        return previous

    def _load_keys(self, name: str) -> tuple[np.ndarray | None, bool]:
        segment, has_vanished = self._load(name)
        keys = None if segment is None else segment.keys.copy()  # a view would keep the segment in memory
        return keys, has_vanished

    def _load(self, name: str) -> tuple[Segment | None, bool]:
        """Return (segment, False), or (None, whether the file has vanished)."""
        path = self._path(name)
        for last in (False, True):  # a read may fail temporarily
            try:
                segment = load_segment(path)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None, True
                if last:
                    self._add_problem(path, error)
            except ValueError as error:
                if last:
                    self._add_problem(path, error)
                    before = _stamp(path)
                    quarantine(path)
                    if _stamp(path) == before:
                        self.bad[name] = before
            else:
                _segments.put(path, segment)
                return segment, False
        return None, False

    def _add_problem(self, path: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        self.problems.append(
            (path, f"{path} in the embedding store is unreadable: {reason}. Its rows are recomputed.")
        )

    def _is_bad(self, name: str) -> bool:
        return name in self.bad and self.bad[name] == _stamp(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self.path, name)


def open_folder(path: str) -> Folder:
    """Return the folder with its index; the first call in a process creates it."""
    folder = _folders.get(path)
    if folder is None:
        folder = Folder(path)
        _folders.put(path, folder)
    return folder


def pool_map(function, items: list) -> Iterator:
    """Apply ``function`` in a few threads, a few results ahead; reading and hashing release the GIL."""
    workers = min(4, os.cpu_count() or 1, len(items))
    if workers < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, "tlfeatures-store") as pool:
        pending = [pool.submit(function, item) for item in items[:workers]]
        for item in items[workers:]:
            result = pending.pop(0).result()
            pending.append(pool.submit(function, item))
            yield result
            del result
        while pending:
            yield pending.pop(0).result()


def _stamp(path: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        return stamp(os.lstat(path))
    return ()


_segments = _ByteLRU(CACHE_BYTES)
_folders = _ByteLRU(INDEX_BYTES)


def _reset_after_fork() -> None:
    """Replace the caches in a forked child: a thread of the parent may have held their locks."""
    global _segments, _folders
    _segments, _folders = _ByteLRU(CACHE_BYTES), _ByteLRU(INDEX_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
