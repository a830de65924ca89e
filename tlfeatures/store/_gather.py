"""Reading of rows from segments into an array."""

from __future__ import annotations

import numpy as np

from tlfeatures.store._index import Folder, pool_map
from tlfeatures.store._segment import Segment
from tlfeatures.store._table import Index

__all__ = ["gather"]

_GATHER_BYTES = 1 << 20  # bytes per step, so that temporary arrays stay small


def gather(
    folder: Folder,
    index: Index,
    keys: np.ndarray,
    todo: np.ndarray,
    out: np.ndarray,
    is_stored: np.ndarray,
) -> list[str]:
    """Fill rows ``todo`` of ``out``; return the names of segments that could not be read."""
    numbers, rows = index.find(keys[todo]).T
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers, 0, sorter=order) :]  # without absent keys, whose number is -1
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))

    def fill(part: np.ndarray) -> str | None:
        name, targets, part_rows = index.names[numbers[part[0]]], todo[part], rows[part]
        segment = folder.segment(name)
        if segment is None or not _contains_keys(segment, part_rows, keys[targets]):
            return name
        if len(part) == len(out) and out.flags.c_contiguous:
            # all rows are in one segment, and the sort is stable, so that the targets are in order
            np.take(segment.features, part_rows, axis=0, out=out, mode="clip")  # "raise" would copy `out`
        else:
            step = max(1, _GATHER_BYTES // segment.features[:1].nbytes)
            for i in range(0, len(part), step):
                out[targets[i : i + step]] = segment.features[part_rows[i : i + step]]
        is_stored[targets] = True
        return None

    parts = np.split(order, starts)[1:]
    in_memory = all(folder.is_loaded(index.names[numbers[part[0]]]) for part in parts)
    # starting threads takes longer than copying
    filled = map(fill, parts) if in_memory else pool_map(fill, parts)
    return [name for name in filled if name]


def _contains_keys(segment: Segment, rows: np.ndarray, keys: np.ndarray) -> bool:
    """Return whether the rows of a segment have these keys; an index file of unknown origin may be wrong."""
    return bool(
        0 <= rows.min() <= rows.max() < len(segment.keys) and np.array_equal(segment.keys[rows], keys)
    )
