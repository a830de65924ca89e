"""Rows in batches: each key once per pass, shuffled or in the order of the files, in bounded memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO

import numpy as np

from tlfeatures._files import stamp
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.store._disk import open_file
from tlfeatures.store._index import Folder, VerifiedFile, pool_map
from tlfeatures.store._table import Index

__all__ = ["WINDOW_BYTES", "StoredRows", "cut_batches"]

BLOCK_BYTES = 128 << 10  # consecutive rows of a segment that are read at once
WINDOW_BYTES = 64 << 20  # rows that are shuffled together
_FIND_KEYS = 1 << 20  # keys per step, so that temporary arrays stay small


class StoredRows:
    """The rows of some keys under one recipe, to be read in any order.

    Parameters
    ----------
    folder : Folder
    keys : ndarray of uint8, shape (n, 16)
    width : int
        Number of values in a row.

    Attributes
    ----------
    is_stored : ndarray of bool, shape (n,)
    """

    def __init__(self, folder: Folder, keys: np.ndarray, width: int) -> None:
        self.folder, self.keys, self.width = folder, keys, width
        self.index: Index = folder.refresh()
        places = np.empty((len(keys), 2), np.int32)
        for i in range(0, len(keys), _FIND_KEYS):
            places[i : i + _FIND_KEYS] = self.index.find(keys[i : i + _FIND_KEYS])
        self.numbers, self.rows = np.ascontiguousarray(
            places.T
        )  # segment number, and row in the segment, of each key
        # segments sorted by name, because their numbers depend on the history of the process
        self._rank = np.argsort(np.argsort(self.index.names)).astype(np.int32)
        self.is_stored = self.numbers >= 0
        self.block_rows = max(1, BLOCK_BYTES // (4 * width))

    def order(self, rng: np.random.Generator | None) -> np.ndarray:
        """Return all positions in the order of the files; with ``rng``, blocks of consecutive rows are shuffled."""
        if rng is None:
            return self.sort(np.arange(len(self.rows)))
        blocks = self.rows // self.block_rows
        n_blocks = int(blocks.max(initial=0)) + 1
        blocks += self._rank[self.numbers] * np.int32(n_blocks)
        shuffled = rng.permutation(len(self._rank) * n_blocks).astype(np.int32)
        return np.argsort(shuffled[blocks], kind="stable")

    def sort(self, positions: np.ndarray) -> np.ndarray:
        """Return positions in the order of the files."""
        return positions[np.lexsort((self.rows[positions], self._rank[self.numbers[positions]]))]

    def read(self, positions: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` with the rows at ``positions``; return the indices of those that could not be read.

        Consecutive rows are read directly into ``out``, if its rows are contiguous and ``positions`` are sorted.
        """
        order = np.lexsort((self.rows[positions], self.numbers[positions]))
        numbers, starts = np.unique(self.numbers[positions[order]], return_index=True)
        work = list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))

        def fill(item: tuple[int, np.ndarray]) -> bool:
            number, targets = item
            return self._read_segment(self.index.names[number], positions[targets], targets, out)

        results = zip(work, pool_map(fill, work), strict=True)
        return np.concatenate([np.empty(0, int), *(targets for (_, targets), done in results if not done)])

    def _read_segment(self, name: str, positions: np.ndarray, targets: np.ndarray, out: np.ndarray) -> bool:
        """Fill rows from one segment, where those at ``positions`` are in ascending order; return whether it worked."""
        layout, rows = self.folder.verify(name), self.rows[positions]
        if layout is None or rows[-1] >= layout.n_rows:
            return False
        ends = np.flatnonzero(np.diff(rows // self.block_rows)) + 1
        gaps = np.cumsum(
            (np.diff(rows, prepend=rows[:1]) != 1) | (np.diff(targets, prepend=targets[:1]) != 1)
        )
        try:
            with open(open_file(os.path.join(self.folder.path, name)), "rb", buffering=0) as file:
                if stamp(os.fstat(file.fileno())) != layout.stamp:
                    return False
                for first, end in zip([0, *ends.tolist()], [*ends.tolist(), len(rows)], strict=True):
                    block, has_gaps = slice(first, end), gaps[first] != gaps[end - 1]
                    keys = self.keys[positions[block]]
                    if not self._read_block(file, layout, rows[block], keys, targets[block], out, has_gaps):
                        return False  # the index file is wrong
        except (OSError, ValueError):
            return False
        return True

    def _read_block(
        self,
        file: FileIO,
        layout: VerifiedFile,
        rows: np.ndarray,
        keys: np.ndarray,
        targets: np.ndarray,
        out: np.ndarray,
        has_gaps: bool,
    ) -> bool:
        """Fill the rows of one block; return whether the file has ``keys`` at these rows."""
        first, n = int(rows[0]), int(rows[-1] - rows[0]) + 1
        stored_keys = np.empty((n, KEY_BYTES), np.uint8)
        _read_array(file, layout.keys_start + first * KEY_BYTES, stored_keys)
        start = layout.features_start + first * 4 * self.width
        if not has_gaps and out.flags.c_contiguous and sys.byteorder == "little":
            _read_array(file, start, out[targets[0] : targets[0] + n])
            return np.array_equal(stored_keys, keys)
        features = np.empty((n, self.width), "<f4")
        _read_array(file, start, features)
        out[targets] = features[rows - first]
        return np.array_equal(stored_keys[rows - first], keys)


def cut_batches(
    parts: Sequence[StoredRows],
    batch_size: int,
    window: int,
    rng: np.random.Generator | None,
    read_again: Callable[[int, np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read all rows once, and iterate over batches of them.

    Parameters
    ----------
    parts : sequence of StoredRows
        The same keys under one or several recipes, whose rows are concatenated.
    batch_size : int
        Number of rows in a batch.
    window : int
        Number of rows that are read together and, with ``rng``, shuffled together; a multiple of ``batch_size``.
    rng : Generator or None
        None for the order of the files.
    read_again : callable
        Function ``(i, keys)`` that returns the rows of ``keys`` under the recipe of ``parts[i]``. It is called for rows
        that could not be read, which another segment may contain.

    Yields
    ------
    positions : ndarray of int, shape (m,)
    rows : ndarray of float32, shape (m, d)
    """
    for positions, rows, order, unread in _read_windows(parts, window, rng):
        column = 0
        for i, (part, failed) in enumerate(zip(parts, unread, strict=True)):
            if len(failed):
                rows[failed, column : column + part.width] = read_again(i, part.keys[positions[failed]])
            column += part.width
        for start in range(0, len(rows), batch_size):
            batch = order[start : start + batch_size]
            yield positions[batch], rows[batch]


def _read_windows(
    parts: Sequence[StoredRows], window: int, rng: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Read all rows once in windows; a thread reads the next window while the caller uses one.

    Yields
    ------
    positions : ndarray of int, shape (m,)
    rows : ndarray of float32, shape (m, d)
        Valid until the next window is requested.
    order : ndarray of int, shape (m,)
        The order of the rows in which they are to be used.
    unread : list of ndarray of int
        For each of ``parts``, the indices of the rows that could not be read.
    """
    order, width = parts[0].order(rng), sum(part.width for part in parts)
    n_buffers = min(2, -(-len(order) // window))
    buffers = [np.empty((min(window, len(order)), width), np.float32) for _ in range(n_buffers)]

    def read(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        positions = parts[0].sort(order[start : start + window])
        rows = buffers[start // window % 2][: len(positions)]
        unread, column = [], 0
        for part in parts:
            columns = rows if len(parts) == 1 else rows[:, column : column + part.width]
            unread.append(part.read(positions, columns))
            column += part.width
        shuffled = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
        return positions, rows, shuffled, unread

    with ThreadPoolExecutor(1, "tlfeatures-batches") as executor:
        pending = executor.submit(read, 0) if len(order) else None
        for start in range(0, len(order), window):
            result = pending.result()
            if start + window < len(order):
                pending = executor.submit(read, start + window)
            yield result
            del result


def _read_array(file: FileIO, start: int, array: np.ndarray) -> None:
    """Fill a contiguous array with the content of a file from byte ``start``.

    Raises
    ------
    ValueError
        If the file ends before the array is full.
    """
    file.seek(start)
    buffer = memoryview(array).cast("B")
    while buffer:
        if not (size := file.readinto(buffer)):
            raise ValueError("the file is too short")
        buffer = buffer[size:]
