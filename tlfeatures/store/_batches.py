"""Rows in batches: each key once per pass, shuffled or in the order of the files, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO

import numpy as np

from tlfeatures._files import stamp
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.store._disk import open_file
from tlfeatures.store._index import Folder, pool_map
from tlfeatures.store._table import Index

__all__ = ["WINDOW_BYTES", "StoredRows", "read_windows"]

BLOCK_BYTES = 128 << 10  # consecutive rows of a segment that are read at once
WINDOW_BYTES = 128 << 20  # rows that are shuffled among each other
_FIND_KEYS = 1 << 20  # per step, so that temporary arrays stay small


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
        self.numbers, self.rows = np.ascontiguousarray(places.T)  # of segments, and rows in them
        self.is_stored = self.numbers >= 0
        self.block_rows = max(1, BLOCK_BYTES // (4 * width))

    def order(self, rng: np.random.Generator | None) -> np.ndarray:
        """Return all positions by segment and row, or with ``rng`` in blocks of neighbouring rows in random order."""
        # names of segments, because their numbers depend on the history of the process
        rank = np.argsort(np.argsort(self.index.names))
        if rng is None:
            return np.lexsort((self.rows, rank[self.numbers]))
        blocks = self.rows // self.block_rows
        n_blocks = int(blocks.max(initial=0)) + 1
        blocks += rank.astype(np.int32)[self.numbers] * np.int32(n_blocks)
        shuffled = rng.permutation(len(rank) * n_blocks).astype(np.int32)
        return np.argsort(shuffled[blocks], kind="stable")

    def read(self, positions: np.ndarray, targets: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill rows ``targets`` of ``out`` with those at ``positions``; return the targets that could not be read."""
        order = np.lexsort((self.rows[positions], self.numbers[positions]))
        numbers, starts = np.unique(self.numbers[positions[order]], return_index=True)
        work = list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))

        def fill(item: tuple[int, np.ndarray]) -> bool:
            number, part = item
            return self._read_segment(self.index.names[number], positions[part], targets[part], out)

        results = zip(work, pool_map(fill, work), strict=True)
        return np.concatenate([np.empty(0, int), *(targets[part] for (_, part), done in results if not done)])

    def _read_segment(self, name: str, positions: np.ndarray, targets: np.ndarray, out: np.ndarray) -> bool:
        """Fill rows from one segment, where those at ``positions`` are in ascending order; return whether it worked."""
        layout, rows = self.folder.verify(name), self.rows[positions]
        if layout is None or rows[-1] >= layout.n_rows:
            return False
        ends = np.flatnonzero(np.diff(rows // self.block_rows)) + 1
        try:
            with open(open_file(os.path.join(self.folder.path, name)), "rb", buffering=0) as file:
                if stamp(os.fstat(file.fileno())) != layout.stamp:
                    return False
                for block in np.split(np.arange(len(rows)), ends):
                    consecutive = range(int(rows[block[0]]), int(rows[block[-1]]) + 1)
                    keys = _read_array(file, layout.keys_start, consecutive, KEY_BYTES, "u1")
                    features = _read_array(file, layout.features_start, consecutive, self.width, "<f4")
                    part = rows[block] - consecutive.start
                    if not np.array_equal(keys[part], self.keys[positions[block]]):
                        return False  # an index file of unknown origin may be wrong
                    out[targets[block]] = features[part]
        except (OSError, ValueError):
            return False
        return True


def read_windows(
    parts: Sequence[StoredRows], window: int, rng: np.random.Generator | None
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Read all rows once in windows; a thread reads the next window while the caller uses one.

    Parameters
    ----------
    parts : sequence of StoredRows
        The same keys under one or several recipes, whose rows are concatenated.
    window : int
        Number of rows that are read together and, with ``rng``, shuffled among each other.
    rng : Generator or None
        None for the order of the files.

    Yields
    ------
    positions : ndarray of int, shape (m,)
    rows : ndarray of float32, shape (m, d)
    unread : list of ndarray of int
        For each of ``parts``, the indices into ``positions`` of the rows that could not be read.
    """
    order, width = parts[0].order(rng), sum(part.width for part in parts)

    def read(start: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        positions = order[start : start + window]
        targets = np.arange(len(positions)) if rng is None else rng.permutation(len(positions))
        rows, unread, column = np.empty((len(positions), width), np.float32), [], 0
        for part in parts:
            unread.append(part.read(positions, targets, rows[:, column : column + part.width]))
            column += part.width
        shuffled = np.empty_like(positions)
        shuffled[targets] = positions
        return shuffled, rows, unread

    with ThreadPoolExecutor(1, "tlfeatures-batches") as executor:
        pending = executor.submit(read, 0) if len(order) else None
        for start in range(0, len(order), window):
            result = pending.result()
            if start + window < len(order):
                pending = executor.submit(read, start + window)
            yield result
            del result


def _read_array(file: FileIO, start: int, rows: range, width: int, dtype: str) -> np.ndarray:
    """Read consecutive rows of an array that begins at byte ``start`` of a file.

    Raises
    ------
    ValueError
        If the file ends before.
    """
    array = np.empty((len(rows), width), dtype)
    file.seek(start + rows.start * width * array.itemsize)
    buffer = memoryview(array).cast("B")
    while buffer:
        if not (size := file.readinto(buffer)):
            raise ValueError("the file is too short")
        buffer = buffer[size:]
    return array
