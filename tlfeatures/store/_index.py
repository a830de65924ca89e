"""Index of the rows in the folder of a recipe; each process has its own."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tlfeatures._files import stamp
from tlfeatures.fingerprints import bytes_key
from tlfeatures.store._byte_lru import ByteLRU
from tlfeatures.store._disk import (
    INDEX_NAME,
    SEGMENT_NAME,
    is_folder,
    list_names,
    load_segment,
    publish_file,
    quarantine,
    unlink_quietly,
    warn_once,
)
from tlfeatures.store._segment import Segment
from tlfeatures.store._table import MAX_TABLE_BYTES, Index, Table, load_table

__all__ = ["Folder", "VerifiedFile", "open_folder", "pool_map"]

CACHE_BYTES = 64 << 20  # largest size of the verified segments in memory, per process
INDEX_BYTES = 256 << 20  # largest size of the indexes in memory, per process
TABLE_SEGMENTS = 8  # an index file is written for at least this number of segments
RETRIES = 16  # a retry is needed when another process removes a file
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


@dataclass(frozen=True)
class VerifiedFile:
    """A segment whose content was verified while its file had this stamp, and where its arrays begin in the file."""

    stamp: tuple[int, ...]
    n_rows: int
    keys_start: int
    features_start: int


class Folder:
    """The segments of one recipe and their index in this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.index = Index()
        self.bad: dict[str, tuple[int, ...]] = {}  # damaged files that could not be moved away
        self.ignored: set[str] = set()  # damaged index files
        self.untrusted: set[str] = set()  # segments whose keys must be read from the segment itself
        self.verified: dict[str, VerifiedFile] = {}
        self.lock = threading.Lock()
        # (path, message) from all threads; the calling thread issues the warnings
        self.problems: deque[tuple[str, str]] = deque()

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes."""
        return self.index.nbytes

    def refresh(self) -> Index:
        """Bring the index up to date with the folder.

        Keys are read from index files. Those of segments that are in no index file are read from the segments, and
        written to a new index file if there are enough of them. Segments are verified when their rows or keys are read.
        """
        with self.lock:
            for _ in range(RETRIES):
                names = self._list_segments()
                segments = {n for n in names if not self._is_bad(n)}
                indexed = set(self.index.names)
                if segments == indexed:
                    break
                for name in indexed - segments:
                    _segments.drop(self._path(name))
                    self.verified.pop(name, None)
                tables = [table for table, _ in self.index.tables]
                unread = segments - indexed - self.untrusted
                any_vanished = False
                if len(unread) >= TABLE_SEGMENTS:  # fewer segments are read faster than index files
                    loaded, any_vanished = self._load_tables()
                    tables += loaded
                    unread -= {name for table in loaded for name in table.names}
                keys, has_vanished = self._load_keys(sorted(unread | (self.untrusted & segments)))
                self.untrusted -= set(keys)
                segments -= self.untrusted
                self.index = Index([Table.of_keys(keys), *tables], segments)
                self._write_table()
                if not (any_vanished or has_vanished):
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

    def is_loaded(self, name: str) -> bool:
        """Return whether a verified segment is in memory."""
        return _segments.get(self._path(name)) is not None

    def verify(self, name: str) -> VerifiedFile | None:
        """Verify the file of a segment unless its stamp is still the same; None if it was removed or is damaged."""
        path = self._path(name)
        before, verified = _stamp(path), self.verified.get(name)
        if verified is None or verified.stamp != before:
            segment = self._load(name)[0]
            if segment is None or _stamp(path) != before:
                return None
            verified = VerifiedFile(before, len(segment.keys), segment.keys_start, segment.features_start)
            self.verified[name] = verified
        return verified

    def forget(self, names: Iterable[str]) -> None:
        """Drop segments from the index until they are read and verified again."""
        self.warn_of_problems()
        with self.lock:
            names = set(names) & set(self.index.names)
            if names:
                self.untrusted |= names
                segments = set(self.index.names) - names
                self.index = Index([table for table, _ in self.index.tables], segments)

    def write_table(self) -> None:
        """Write one index file of all segments, unless there are few, and delete all other index files."""
        index = self.refresh()
        with self.lock:
            if len(index.names) < TABLE_SEGMENTS:
                self.index = Index([index.table()], index.names)
            else:
                self._write_table(merge_all=True)
            in_use = {table.path for table, _ in self.index.tables}
            for name in list_names(self.path, INDEX_NAME):
                if (path := self._path(name)) not in in_use:
                    unlink_quietly(path)

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

    def _load_keys(self, names: list[str]) -> tuple[dict[str, np.ndarray], bool]:
        """Read the keys of segments; return those that are readable, and whether a file has vanished."""
        keys, any_vanished = {}, False
        for name, (segment_keys, has_vanished) in zip(names, pool_map(self._copy_keys, names), strict=True):
            any_vanished |= has_vanished
            if segment_keys is not None:
                keys[name] = segment_keys
        return keys, any_vanished

    def _copy_keys(self, name: str) -> tuple[np.ndarray | None, bool]:
        segment, has_vanished = self._load(name)
        keys = None if segment is None else segment.keys.copy()  # a view would keep the segment in memory
        return keys, has_vanished

    def _load_tables(self) -> tuple[list[Table], bool]:
        """Map the index files that are not in use; return them, and whether a file has vanished."""
        in_use = {table.path for table, _ in self.index.tables}
        tables, any_vanished = [], False
        with contextlib.suppress(OSError):
            for name in sorted(list_names(self.path, INDEX_NAME) - self.ignored):
                if (path := self._path(name)) in in_use:
                    continue
                try:
                    tables.append(load_table(path))
                except OSError as error:
                    any_vanished |= error.errno in _ABSENT
                except ValueError as error:
                    self.ignored.add(name)
                    quarantine(path)
                    message = f"{path} in the embedding store is damaged: {error}. A new one is written."
                    self.problems.append((path, message))
        return sorted(tables, key=len, reverse=True), any_vanished

    def _write_table(self, merge_all: bool = False) -> None:
        """Write pending keys to an index file, merged with the smaller index files; errors of the disk are ignored."""
        pending = [entry for entry in self.index.tables if entry[0].path is None]
        mapped = sorted(
            (entry for entry in self.index.tables if entry[0].path), key=lambda entry: len(entry[0])
        )
        n_segments = sum(np.count_nonzero(numbers >= 0) for _, numbers in pending)
        if n_segments < TABLE_SEGMENTS and not merge_all:
            return
        merged, n_rows = pending, sum(len(table) for table, _ in pending)
        # merging files of similar size keeps their number small
        while mapped and (merge_all or len(mapped[0][0]) <= 2 * n_rows):
            merged.append(mapped.pop(0))
            n_rows += len(merged[-1][0])
        used = sorted({n for _, numbers in merged for n in numbers[numbers >= 0].tolist()})
        renumber = np.full(len(self.index.names) + 1, -1, np.int32)  # the last is for segments left out
        renumber[used] = np.arange(len(used), dtype=np.int32)
        names = tuple(self.index.names[n] for n in used)
        content = Table.merge(names, [(t, renumber[numbers]) for t, numbers in merged]).encode(
            os.path.basename(self.path)
        )
        path = self._path(f"{bytes_key(content).hex()}.index")
        try:
            if len(content) > MAX_TABLE_BYTES or not is_folder(self.path):
                return
            publish_file(path, content)
            table = load_table(path)
        except (OSError, ValueError):
            return
        self.index = Index([table, *(table for table, _ in mapped)], set(self.index.names))
        for old, _ in merged:
            if old.path and old.path != path:
                unlink_quietly(old.path)

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
    """Apply ``function`` in up to four threads, which work ahead of the caller; reading and hashing release the GIL."""
    if len(items) < 2 or (workers := min(4, os.cpu_count() or 1, len(items))) < 2:
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


_segments = ByteLRU(CACHE_BYTES)
_folders = ByteLRU(INDEX_BYTES)


def _reset_after_fork() -> None:
    """Replace the caches in a forked child: a thread of the parent may have held their locks."""
    global _segments, _folders
    _segments, _folders = ByteLRU(CACHE_BYTES), ByteLRU(INDEX_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
