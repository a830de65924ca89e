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
