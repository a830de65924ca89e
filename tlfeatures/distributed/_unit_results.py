"""The computation of one work unit of a job, and its result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tlfeatures.distributed._job import Job
from tlfeatures.distributed._stamps import MISSING_STAMP, UNKNOWN_STAMP, read_stamps
from tlfeatures.distributed._units import WorkUnit
from tlfeatures.errors import ImageReadError
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.extract._object_storage import CHUNK_ROWS, KEEP_BYTES, read_ahead
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images, Note, decode_batches

__all__ = ["IsStored", "UnitResult", "compute_batches", "compute_unit", "probe_unit"]

# keys uint8 (n, 16) -> bool (n,), True where rows need no computation
IsStored = Callable[[np.ndarray], np.ndarray]


@dataclass
class UnitResult:
    """Embeddings of the images of a unit, or the reasons why they cannot be read.

    Attributes
    ----------
    unit : WorkUnit
        An engine may yield several results of a unit; ``unit.todo()`` is then a part of its rows.
    rows : ndarray of int, shape (m,)
        Rows of the input that went through the network; of identical images only the first.
    keys : ndarray of uint8, shape (m, 16)
        Digests of their content.
    arrays : list of ndarray of float32, shape (m, d)
        One for each of ``job.recipes``.
    known_rows : ndarray of int, shape (k,)
        Other rows that could be read: their keys are known to be stored, or are among ``keys``.
    known_keys : ndarray of uint8, shape (k, 16)
    errors : dict
        {row: reason} of the unreadable images. Each row of ``unit.todo()`` is in ``rows``, ``known_rows`` or here.
    notes : dict
        {row: `Note`} of images that look wrong.
    stamps : ndarray of int64, shape (len(unit.todo()), 2)
        Size and time of change of each file before it was read; see `read_stamps`.
    """

    unit: WorkUnit
    rows: np.ndarray
    keys: np.ndarray
    arrays: list[np.ndarray]
    known_rows: np.ndarray
    known_keys: np.ndarray
    errors: dict[int, str]
    notes: dict[int, Note]
    stamps: np.ndarray


def compute_unit(job: Job, unit: WorkUnit, is_stored: IsStored | None = None) -> UnitResult:
    """Decode the images of a unit and run the network; neither a store nor a lock is used.

    Parameters
    ----------
    job : Job
        With the images of the unit, as ``job.take(unit)`` returns it.
    unit : WorkUnit
    is_stored : callable, optional
        Returns which keys, uint8 (n, 16), are stored; such images are read, but not decoded.

    Returns
    -------
    UnitResult

    Raises
    ------
    TransientReadError
        If the storage of an image fails repeatedly. Such images are never treated as unreadable.
    """
    parts = list(compute_batches(job, unit, is_stored))
    stamps = np.zeros((len(unit.todo()), 2), np.int64)
    for part in parts:
        stamps[np.searchsorted(unit.todo(), part.unit.todo())] = part.stamps
    return UnitResult(
        unit,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.keys for part in parts]),
        [np.concatenate(blocks) for blocks in zip(*(part.arrays for part in parts), strict=True)],
        np.concatenate([part.known_rows for part in parts]),
        np.concatenate([part.known_keys for part in parts]),
        {row: reason for part in parts for row, reason in part.errors.items()},
        {row: note for part in parts for row, note in part.notes.items()},
        stamps,
    )


def compute_batches(job: Job, unit: WorkUnit, is_stored: IsStored | None = None) -> Iterator[UnitResult]:
    """Compute a unit as `compute_unit` does; yield the result of each batch, whose ``unit`` has only its rows."""
    stamps = np.zeros((len(job.images), 2), np.int64)
    notes: dict[int, Note] = {}
    keys_done: set[bytes] = set()
    network = BatchNetwork(job.spec, job.outputs, job.batch_size)
    for rows, keys, batch, errors in _decode(job, notes, stamps, is_stored):
        is_new, arrays = np.zeros(len(keys), bool), [np.empty((0, b.width), np.float32) for b in job.outputs]
        if batch is not None:
            is_new = _first_of_each(keys, keys_done)
            arrays = network(batch[is_new]) if is_new.any() else arrays
        yield _make_result(unit, rows, keys, is_new, arrays, errors, notes, stamps)


def _decode(
    job: Job, notes: dict[int, Note], stamps: np.ndarray, is_stored: IsStored | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[int, str]]]:
    """Iterate over rows, keys, pixels and errors of batches; there are no pixels if the embeddings are stored.

    Objects are read by many threads, in chunks and ahead of the network. Without images there is one empty batch.
    """
    n, has_objects = len(job.images), bool(job.images.uris())
    if has_objects:
        chunks = (np.arange(i, min(i + CHUNK_ROWS, n)) for i in range(0, n, CHUNK_ROWS))
    else:
        chunks = iter([np.arange(n)])
    loaded = (_load_chunk(job, rows, stamps, has_objects, is_stored) for rows in chunks)
    with contextlib.closing(read_ahead(loaded) if has_objects else loaded) as parts:
        for rows, images, todo, keys, errors in parts:
            if errors or not todo.all() or not n:
                is_known = ~todo
                is_known[list(errors)] = False
                yield rows[is_known], keys[is_known], None, {int(rows[i]): r for i, r in errors.items()}
            chunk_notes: dict[int, Note] = {}
            for part, batch_keys, batch, batch_errors in decode_batches(
                images,
                np.flatnonzero(todo),
                job.spec.decoder,
                job.batch_size,
                job.n_threads,
                notes=chunk_notes,
            ):
                notes |= {int(rows[i]): note for i, note in chunk_notes.items()}
                yield rows[part], batch_keys, batch, {int(rows[i]): r for i, r in batch_errors.items()}
            images.forget_contents()


def _load_chunk(
    job: Job, rows: np.ndarray, stamps: np.ndarray, has_objects: bool, is_stored: IsStored | None
) -> tuple[np.ndarray, Images, np.ndarray, np.ndarray, dict[int, str]]:
    """Read what can be known before images are decoded: rows, images, mask of those to decode, keys and errors."""
    images = job.images.take(rows)
    stamps[rows] = read_stamps(images, may_request=False)
    keys, errors = np.zeros((len(rows), KEY_BYTES), np.uint8), {}
    todo = np.ones(len(rows), bool)
    if has_objects or is_stored is not None:
        keys, errors = images.keys(job.n_threads, KEEP_BYTES)
        todo[list(errors)] = False
    if has_objects:  # the stamps of the content that was read
        stamps[rows] = read_stamps(images, may_request=False)
        unknown = np.array([i for i in sorted(errors) if stamps[rows[i], 0] == UNKNOWN_STAMP], int)
        requested = read_stamps(images.take(unknown))
        is_missing = requested[:, 0] == MISSING_STAMP  # any other stamp may be that of a later object
        stamps[rows[unknown[is_missing]]] = MISSING_STAMP
    if is_stored is not None:
        todo &= ~is_stored(keys)
    return rows, images, todo, keys, errors


def _make_result(
    unit: WorkUnit,
    rows: np.ndarray,
    keys: np.ndarray,
    is_new: np.ndarray,
    arrays: list[np.ndarray],
    errors: dict[int, str],
    notes: dict[int, Note],
    stamps: np.ndarray,
) -> UnitResult:
    """Make the result of the images ``rows`` of a job and of the unreadable ones."""
    unit_rows = unit.todo()
    positions = np.sort(np.concatenate([rows, np.array(list(errors), int)]))
    return UnitResult(
        replace(unit, rows=tuple(unit_rows[positions].tolist())),
        unit_rows[rows[is_new]],
        keys[is_new],
        arrays,
        unit_rows[rows[~is_new]],
        keys[~is_new],
        {int(unit_rows[row]): reason for row, reason in sorted(errors.items())},
        {int(unit_rows[row]): notes.pop(row) for row in rows.tolist() if row in notes},
        stamps[positions],
    )


def probe_unit(job: Job, unit: WorkUnit) -> Iterator[int]:
    """Decode the images of a unit one after the other, without the network.

    An image that crashes the process is found in this way: it is the last one whose row was yielded.

    Parameters
    ----------
    job : Job
        With the images of the unit, as ``job.take(unit)`` returns it.
    unit : WorkUnit

    Yields
    ------
    int
        The row of each image, before it is decoded.
    """
    for i, row in enumerate(unit.todo().tolist()):
        yield row
        with contextlib.suppress(ImageReadError):
            job.images.decode_with_note(i, job.spec.decoder)


def _first_of_each(keys: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """Return a mask of the keys that are not in ``seen``, each once, and add them."""
    is_new = np.zeros(len(keys), bool)
    for i, key in enumerate(map(bytes, keys)):
        is_new[i] = key not in seen
        seen.add(key)
    return is_new
