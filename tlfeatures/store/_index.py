"""Index of the verified rows of a recipe's folder; one per process."""

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

CACHE_BYTES = 64 << 20  # verified segments kept in memory, by process
INDEX_BYTES = 256 << 20  # indexes kept in memory, by process
RETRIES = 16  # each retry means that another process has removed a file
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class _ByteLRU:
    """Cache of the most recently used values, bounded by their ``nbytes``; always keeps the last one."""

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

    A key is two big-endian 64-bit words. Keys are digests, so the first word nearly always decides, and a lookup is
    one ``searchsorted``.
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

    def changed(self, gone: Iterable[str], new: dict[str, np.ndarray]) -> Index:
        """A copy without the segments ``gone``, with the keys of the segments ``new``."""
        gone = set(gone)
        names = [n for n in self.names if n not in gone]
        stays = np.array([n not in gone for n in self.names], bool)
        number = (np.cumsum(stays) - 1).astype(np.int32)
        kept = stays[self.places[:, 0]]
        words, rows = [self.words[kept]], [self.places[kept]]
        rows[0][:, 0] = number[rows[0][:, 0]]
        for name, keys in new.items():
            words.append(as_words(keys))
            rows.append(
                np.stack([np.full(len(keys), len(names), np.int32), np.arange(len(keys), dtype=np.int32)], 1)
            )
            names.append(name)
        return Index(tuple(names), np.concatenate(words), np.concatenate(rows))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Position of each key in `places`, or -1."""
        at = np.full(len(keys), -1, np.int64)
        if not len(self.words) or not len(keys):
            return at
        wanted = as_words(keys)
        low = np.minimum(np.searchsorted(self.first, wanted[:, 0]), len(self.words) - 1)
        same = self.words[low] == wanted
        at[same.all(1)] = low[same.all(1)]
        for i in np.flatnonzero(same[:, 0] & ~same[:, 1]):  # equal first words: keys that are not digests
            high = np.searchsorted(self.first, wanted[i, 0], side="right")
            j = low[i] + np.searchsorted(self.words[low[i] : high, 1], wanted[i, 1])
            if j < high and self.words[j, 1] == wanted[i, 1]:
                at[i] = j
        return at

    def rows(self) -> dict[str, int]:
        """Number of rows of each segment."""
        return dict(zip(self.names, np.bincount(self.places[:, 0], minlength=len(self.names)), strict=True))

    def unique_rows(self, order: Sequence[str]) -> dict[str, np.ndarray]:
        """Rows of each segment without duplicates, of which the first segment in ``order`` keeps one."""
        place = {name: i for i, name in enumerate(order)}
        ranks = np.array([place[n] for n in self.names], np.int32)[self.places[:, 0]]
        by_key = np.lexsort((self.places[:, 1], ranks, self.words[:, 1], self.words[:, 0]))
        words = self.words[by_key]
        first = by_key[np.r_[True, (words[1:] != words[:-1]).any(1)][: len(words)]]
        places = self.places[first]
        places = places[np.lexsort((places[:, 1], places[:, 0]))]
        ends = np.cumsum(np.bincount(places[:, 0], minlength=len(self.names)))
        return dict(zip(self.names, np.split(places[:, 1], ends[:-1]) if len(ends) else [], strict=True))


def as_words(keys: np.ndarray) -> np.ndarray:
    """Keys uint8 (n, 16) as uint64 (n, 2) that sort alike."""
    return np.ascontiguousarray(keys).view(">u8").astype(np.uint64)


def first_rows(keys: np.ndarray) -> np.ndarray:
    """Indices of the first occurrence of each key, ascending."""
    words = as_words(keys)
    order = np.lexsort((words[:, 1], words[:, 0]))
    words = words[order]
    return np.sort(order[np.r_[True, (words[1:] != words[:-1]).any(1)][: len(words)]])


class Folder:
    """The segments of one recipe, as this process has read them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.index = Index.empty()
        self.bad: dict[str, tuple[int, ...]] = {}  # damaged files that could not be moved away
        self.lock = threading.Lock()
        self.problems: deque[tuple[str, str]] = deque()  # of any thread; the caller's thread warns

    @property
    def nbytes(self) -> int:
        """Memory of the index."""
        return self.index.nbytes

    def refresh(self) -> Index:
        """Bring the index up to date with the folder; loads and verifies new segments only."""
        with self.lock:
            for _ in range(RETRIES):
                names = self._listed()
                indexed = set(self.index.names)
                gone = indexed - names
                new, vanished = {}, False
                wanted = sorted(n for n in names - indexed if not self._is_bad(n))
                for name, (keys, lost) in zip(wanted, pool_map(self._load_keys, wanted), strict=True):
                    vanished |= lost
                    if keys is not None:
                        new[name] = keys
                if gone or new:
                    for name in gone:
                        _segments.drop(self._path(name))
                    self.index = self.index.changed(gone, new)
                if not vanished:
                    break
            _folders.put(self.path, self)
            index = self.index
        self.warn_of_problems()
        return index

    def warn_of_problems(self) -> None:
        """Warn of the problems since the last call."""
        while True:
            try:
                problem = self.problems.popleft()
            except IndexError:  # also when another thread was faster
                return
            warn_once(*problem)

    def segment(self, name: str) -> Segment | None:
        """A verified segment, from memory or from its file; None when it is gone or damaged."""
        if (segment := _segments.get(self._path(name))) is not None:
            return segment
        return self._load(name)[0]

    def forget(self, names: Iterable[str]) -> None:
        """Drop segments from the index until they are seen and verified again."""
        self.warn_of_problems()
        with self.lock:
            names = set(names) & set(self.index.names)
            if names:
                self.index = self.index.changed(names, {})

    def _listed(self) -> frozenset[str]:
        before = frozenset(self.index.names)
        try:
            for _ in range(RETRIES):
                if not is_folder(os.path.dirname(self.path)):
                    return frozenset()
                names = list_names(self.path, SEGMENT_NAME)
                if names == before:  # a listing made during a compaction may miss old and new alike
                    return names
                before = names
        except OSError as error:
            self._add_problem(self.path, error)
        return before

    def _load_keys(self, name: str) -> tuple[np.ndarray | None, bool]:
        segment, lost = self._load(name)
        return (
            None if segment is None else segment.keys.copy(),
            lost,
        )  # a view would keep the segment in memory

    def _load(self, name: str) -> tuple[Segment | None, bool]:
        """(segment, False), or (None, whether the file has vanished)."""
        path = self._path(name)
        for last in (False, True):  # a read may fail for a temporary reason
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
    """The folder with its index, created if this process has none yet."""
    folder = _folders.get(path)
    if folder is None:
        folder = Folder(path)
        _folders.put(path, folder)
    return folder


def pool_map(function, items: list) -> Iterator:
    """``map`` over a few threads, at most a few results ahead; reading and hashing release the GIL."""
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
    """In a forked child: a thread of the parent may have held these locks."""
    global _segments, _folders
    _segments, _folders = _ByteLRU(CACHE_BYTES), _ByteLRU(INDEX_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
