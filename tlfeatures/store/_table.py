"""Sorted tables from keys to rows of segments, in memory or mapped from index files; an index combines several."""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from tlfeatures.fingerprints import KEY_BYTES, bytes_key
from tlfeatures.store._disk import open_file

__all__ = ["MAX_TABLE_BYTES", "Index", "Table", "first_rows", "load_table"]

MAX_TABLE_BYTES = 4 << 30  # larger index files are neither written nor read
_HEADER = struct.Struct("<16s16sQQ")  # magic, digest of the recipe, rows, segments
_MAGIC = b"tlfeatures index"
_DTYPES = ("<u8", "<u8", "<i4", "<i4")  # dtypes of the columns of a table
_ROW_BYTES = 8 + 8 + 4 + 4


def first_rows(keys: np.ndarray) -> np.ndarray:
    """Return the indices of the first occurrence of each key, in ascending order."""
    words = _to_words(keys)
    order = np.lexsort((words[:, 1], words[:, 0]))
    words = words[order]
    return np.sort(order[np.r_[True, (words[1:] != words[:-1]).any(1)][: len(words)]])


class Table:
    """Immutable map from keys to (segment, row).

    A key is two big-endian 64-bit words, and rows are sorted by the first one. Keys are digests, so the first word is
    nearly always unique, and a lookup is one ``searchsorted``.

    Parameters
    ----------
    names : tuple of str
        File names of the segments.
    columns : tuple of four ndarrays of shape (n,)
        First and second word of each key, uint64; number of the segment in ``names`` and row in it, int32.
    path : str or None
        The index file that the columns are mapped from.
    """

    def __init__(
        self, names: tuple[str, ...], columns: Sequence[np.ndarray], path: str | None = None
    ) -> None:
        self.names, self.path = names, path
        self.first, self.second, self.numbers, self.rows = columns
        in_memory = 0 if path else sum(column.nbytes for column in columns)
        self.nbytes = in_memory + 128 * len(names)  # private memory only

    def __len__(self) -> int:
        return len(self.first)

    @staticmethod
    def of_keys(keys: dict[str, np.ndarray]) -> Table:
        """Make a table of the keys of each segment, uint8 (n, 16), in the order of the rows."""
        lengths = [len(k) for k in keys.values()]
        words = _to_words(np.concatenate([*keys.values(), np.empty((0, KEY_BYTES), np.uint8)]))
        numbers = np.repeat(np.arange(len(keys), dtype=np.int32), lengths)
        rows = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths] or [np.empty(0, np.int32)])
        return Table(tuple(keys), _sorted(words[:, 0], words[:, 1], numbers, rows))

    @staticmethod
    def merge(names: tuple[str, ...], tables: Sequence[tuple[Table, np.ndarray]]) -> Table:
        """Merge tables; each comes with the new number of each of its segments, or -1 to leave the segment out."""
        parts = [Table.of_keys({})._columns]
        for table, new_numbers in tables:
            numbers = new_numbers[table.numbers]
            kept = numbers >= 0
            parts.append((table.first[kept], table.second[kept], numbers[kept], table.rows[kept]))
        return Table(names, _sorted(*map(np.concatenate, zip(*parts, strict=True))))

    def find(self, words: np.ndarray, new_numbers: np.ndarray) -> np.ndarray:
        """Return (new number of the segment, row) of each key, int32 (n, 2); -1 for absent ones.

        ``words`` are uint64 (n, 2), sorted by their first column. A segment with the new number -1 is left out.
        """
        places = np.full((len(words), 2), -1, np.int32)
        todo = np.arange(len(words))
        positions = np.searchsorted(self.first, words[:, 0])
        while len(todo):  # a further iteration is only needed for equal first words and for segments left out
            inside = positions < len(self)
            todo, positions = todo[inside], positions[inside]
            same = self.first[positions] == words[todo, 0]
            todo, positions = todo[same], positions[same]
            numbers = new_numbers[self.numbers[positions]]
            hit = (self.second[positions] == words[todo, 1]) & (numbers >= 0)
            places[todo[hit], 0], places[todo[hit], 1] = numbers[hit], self.rows[positions[hit]]
            todo, positions = todo[~hit], positions[~hit] + 1
        return places

    def encode(self, recipe: str) -> bytes:
        """Return the content of an index file for the recipe with the hexadecimal digest ``recipe``."""
        parts = [_HEADER.pack(_MAGIC, bytes.fromhex(recipe), len(self), len(self.names))]
        parts += [bytes.fromhex(name[:-3]) for name in self.names]
        parts += [
            np.ascontiguousarray(column, dtype) for column, dtype in zip(self._columns, _DTYPES, strict=True)
        ]
        return b"".join(parts)

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.first, self.second, self.numbers, self.rows


class Index:
    """Immutable map from keys to (segment, row) over several tables.

    Parameters
    ----------
    tables : sequence of Table
        A segment is taken from the first table that contains it.
    segments : collection of str
        The segments to include; rows of other segments in the tables are left out.
    """

    def __init__(self, tables: Iterable[Table] = (), segments: Collection[str] = ()) -> None:
        self.names: list[str] = []
        self.tables: list[
            tuple[Table, np.ndarray]
        ] = []  # each with the number in `names` of its segments, or -1
        indexed: set[str] = set()
        for table in tables:
            numbers = np.full(len(table.names), -1, np.int32)
            for i, name in enumerate(table.names):
                if name in segments and name not in indexed:
                    indexed.add(name)
                    numbers[i] = len(self.names)
                    self.names.append(name)
            if (numbers >= 0).any():
                self.tables.append((table, numbers))
        self.nbytes = sum(table.nbytes for table, _ in self.tables) + 1024

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return (number of the segment in ``names``, row) of each key, int32 (n, 2); -1 for absent keys."""
        words = _to_words(keys)
        todo = np.argsort(words[:, 0])  # sorted lookups read memory in order
        places = np.full((len(keys), 2), -1, np.int32)
        for table, numbers in self.tables:
            places[todo] = table.find(words[todo], numbers)
            todo = todo[places[todo, 0] < 0]
        return places

    def table(self) -> Table:
        """Return all rows as one table in memory."""
        return Table.merge(tuple(self.names), self.tables)

    def count_rows(self) -> dict[str, int]:
        """Return the number of rows of each segment."""
        counts = np.zeros(len(self.names) + 1, int)
        for table, numbers in self.tables:
            np.add.at(counts, numbers, np.bincount(table.numbers, minlength=len(table.names)))
        return dict(
            zip(self.names, counts.tolist(), strict=False)
        )  # the last count is that of the segments left out

    def unique_rows(self, order: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the rows of each segment without duplicates; the first segment in ``order`` with a key keeps it."""
        table = self.table()
        rank = {name: i for i, name in enumerate(order)}
        ranks = np.array([rank[n] for n in self.names], np.int32)[table.numbers]
        by_key = np.lexsort((table.rows, ranks, table.second, table.first))
        first, second = table.first[by_key], table.second[by_key]
        kept = by_key[np.r_[True, (first[1:] != first[:-1]) | (second[1:] != second[:-1])][: len(table)]]
        numbers, rows = table.numbers[kept], table.rows[kept]
        by_row = np.lexsort((rows, numbers))
        ends = np.cumsum(np.bincount(numbers, minlength=len(self.names)))
        return dict(zip(self.names, np.split(rows[by_row], ends[:-1]) if len(ends) else [], strict=True))


def load_table(path: str) -> Table:
    """Map and verify an index file.

    Raises
    ------
    OSError
        If a system call fails.
    ValueError
        If `Table.encode` did not write the file, or its name is not its digest; the message is the reason.
    """
    folder, name = os.path.split(path)
    fd = open_file(path)
    try:
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _HEADER.size <= size <= MAX_TABLE_BYTES:
            raise ValueError(f"it is not a regular file of {_HEADER.size} to {MAX_TABLE_BYTES} bytes")
        content = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    magic, recipe, n_rows, n_segments = _HEADER.unpack_from(content)
    start = _HEADER.size + KEY_BYTES * n_segments
    if magic != _MAGIC or recipe.hex() != os.path.basename(folder) or size != start + _ROW_BYTES * n_rows:
        raise ValueError("it is not an index of this folder")
    if bytes_key(content).hex() != os.path.splitext(name)[0]:
        raise ValueError("the digest of its content does not match its file name")
    digests = np.frombuffer(content, "V16", n_segments, _HEADER.size)
    columns = []
    for dtype in _DTYPES:
        columns.append(np.frombuffer(content, dtype, n_rows, start))
        start += columns[-1].nbytes
    if n_rows and not 0 <= columns[2].min() <= columns[2].max() < n_segments:
        raise ValueError("it names segments that it does not list")
    return Table(tuple(f"{digest.tobytes().hex()}.h5" for digest in digests), columns, path)


def _to_words(keys: np.ndarray) -> np.ndarray:
    """Convert keys, uint8 (n, 16), to uint64 (n, 2) in the same sort order."""
    return np.ascontiguousarray(keys).view(">u8").astype(np.uint64)


def _sorted(first: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.argsort(first, kind="stable")
    return tuple(column[order] for column in (first, *others))
