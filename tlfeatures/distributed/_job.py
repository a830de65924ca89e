"""Jobs: what to compute, in any process; and the computation of one work unit."""

from __future__ import annotations

import contextlib
import copy
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tlfeatures._inputs import split_frame
from tlfeatures._object_digests import request_stamps
from tlfeatures.distributed._units import WorkUnit, absolute_name
from tlfeatures.errors import ImageReadError, RecipeMismatchError
from tlfeatures.extract import FeatureBlock, FeatureSpec, find_recipe_changes
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.extract._object_storage import KEEP_BYTES
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images, Note, decode_batches, decoder_recipe

__all__ = [
    "MISSING_STAMP",
    "UNKNOWN_STAMP",
    "Job",
    "KnownKeys",
    "UnitResult",
    "compute_batches",
    "compute_unit",
    "probe_unit",
    "read_stamps",
]

KnownKeys = Callable[
    [np.ndarray], np.ndarray
]  # keys uint8 (n, 16) -> bool (n,), True where rows need no computation

UNKNOWN_STAMP = -1  # of a file that has just changed, and may change again with the same times: read it again
MISSING_STAMP = -2
_FRESH_NS = 2_000_000_000


@dataclass(frozen=True)
class Job:
    """Images and the specification of their embeddings; can be pickled and computed in any process.

    Parameters
    ----------
    images : Images
        Either all files and bytes, or all pixels.
    spec : FeatureSpec
        Names the network; it is loaded by the process that runs it.
    outputs : tuple of FeatureBlock
        The blocks of columns that are computed and stored: those of ``spec``, then the free poolings.
    recipes : tuple of dict
        The recipe of each block in the store, with that of the image decoder.
    batch_size : int
    n_threads : int or None
        Number of decoding threads.
    """

    images: Images
    spec: FeatureSpec
    outputs: tuple[FeatureBlock, ...]
    recipes: tuple[dict[str, Any], ...] = field(hash=False)
    batch_size: int = 32
    n_threads: int | None = None

    @classmethod
    def make(cls, images: Any, spec: FeatureSpec, batch_size: int = 32, n_threads: int | None = None) -> Job:
        """Make the job of images of one kind: all files and bytes, or all pixels.

        Raises
        ------
        ValueError
            If there are images of both kinds, or the specification has views.
        """
        images = Images.of(images)
        encoded = images.encoded()
        if encoded.any() != encoded.all():
            raise ValueError(
                "A job must have either files and bytes, or pixels; got both: make one job for each."
            )
        if spec.views is not None:
            raise ValueError("A job computes one view: make one job for each of spec.by_view().")
        spec = replace(spec, backbone=_with_absolute_paths(spec.backbone))
        outputs = tuple(spec.add_free_poolings(spec.columns))
        decoder = decoder_recipe() if encoded.any() else {}
        recipes = tuple({**block.recipe, **decoder} for block in outputs)
        batch_size = min(int(batch_size), 1 << (len(images) - 1).bit_length())
        return cls(images, spec, outputs, recipes, batch_size, n_threads)

    def take(self, unit: WorkUnit) -> Job:
        """Return the job with only the images of a unit, in the order of ``unit.todo()``; small when pickled."""
        return replace(self, images=self.images.take(unit.todo()).detach(absolute_name))

    def without_images(self) -> Job:
        """Return the job without its images, for processes that get those of each unit."""
        return replace(self, images=self.images.take([]))

    def prepare(self) -> None:
        """Load the network in this process, and check that it computes the same embeddings as that of the driver.

        Raises
        ------
        RecipeMismatchError
            If the weights, the architecture or the image decoder differ from those of the process that made the job.
        """
        layers = list(dict.fromkeys(block.tap.layer for block in self.outputs))
        description = self.spec.backbone.describe(layers)
        spec = replace(self.spec, description=description)
        taps = {tap.layer: tap for tap in description.taps}
        blocks = [spec.column(taps[block.tap.layer], block.part) for block in self.outputs]
        decoder = decoder_recipe() if "pixel_probe" in self.recipes[0] else {}
        changes = find_recipe_changes(list(self.recipes), [{**block.recipe, **decoder} for block in blocks])
        if changes:
            raise RecipeMismatchError(
                f"{platform.node()!r} would compute other embeddings than the machine that started the job: "
                f"{'; '.join(changes[:4])}. Use the same weights files and the same versions of tlfeatures, Keras and "
                "Pillow on all machines."
            )
        BatchNetwork(self.spec, self.outputs, self.batch_size).load()


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


def compute_unit(job: Job, unit: WorkUnit, known_keys: KnownKeys | None = None) -> UnitResult:
    """Decode the images of a unit and run the network; neither a store nor a lock is used.

    Parameters
    ----------
    job : Job
        With the images of the unit, as ``job.take(unit)`` returns it.
    unit : WorkUnit
    known_keys : callable, optional
        Returns which keys, uint8 (n, 16), are stored; such images are read, but not decoded.

    Returns
    -------
    UnitResult

    Raises
    ------
    TransientReadError
        If the storage of an image fails repeatedly. Such images are never treated as unreadable.
    """
    parts = list(compute_batches(job, unit, known_keys))
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


def compute_batches(job: Job, unit: WorkUnit, known_keys: KnownKeys | None = None) -> Iterator[UnitResult]:
    """Compute a unit as `compute_unit` does; yield the result of each batch, whose ``unit`` has only its rows."""
    images, unit_rows = job.images, unit.todo()
    if images.uris():  # the answer to one request has the content of an object and its ETag
        images.keys(job.n_threads, KEEP_BYTES)
    stamps = read_stamps(images)
    notes: dict[int, Note] = {}
    computed_keys: set[bytes] = set()

    def make(
        rows: np.ndarray,
        keys: np.ndarray,
        is_new: np.ndarray,
        arrays: list[np.ndarray],
        errors: dict[int, str],
    ) -> UnitResult:
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

    todo = np.arange(len(images))
    empty = [np.empty((0, block.width), np.float32) for block in job.outputs]
    if not len(images):
        yield make(todo, np.empty((0, KEY_BYTES), np.uint8), np.zeros(0, bool), empty, {})
    if known_keys is not None:
        keys, errors = images.keys(job.n_threads)
        is_readable = np.array([row not in errors for row in todo.tolist()], bool)
        is_known = is_readable & known_keys(keys)
        if is_known.any() or errors:
            stored = np.flatnonzero(is_known)
            yield make(stored, keys[stored], np.zeros(len(stored), bool), empty, errors)
        todo = todo[is_readable & ~is_known]
    network = BatchNetwork(job.spec, job.outputs, job.batch_size)
    for rows, keys, batch, errors in decode_batches(
        images, todo, job.spec.decoder, job.batch_size, job.n_threads, notes=notes
    ):
        is_new = _first_of_each(keys, computed_keys)
        yield make(rows, keys, is_new, network(batch[is_new]) if is_new.any() else empty, errors)


def probe_unit(job: Job, unit: WorkUnit) -> Iterator[int]:
    """Decode the images of a unit one after the other, without the network.

    An image whose decoder ends the process is found in this way: it is the last one that was announced.

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


def read_stamps(images: Images) -> np.ndarray:
    """Return what shows that files have changed, without reading them.

    Returns
    -------
    ndarray of int64, shape (n, 2)
        Size in bytes and time of change in nanoseconds of each file; -2 if the file is missing, and -1 if it changed in
        the last two seconds, so that it may change again with the same times. 0 for images that are not files: the id
        of their unit contains their content. For objects in object storage, the 16 bytes of the digest of their ETag
        and size; -2 if missing, and -1 without ETag.
    """
    stamps = np.zeros((len(images), 2), np.int64)
    limit = time.time_ns() - _FRESH_NS
    uris = images.uris()
    for row, stamp in zip(uris, request_stamps(list(uris.values())), strict=True):
        absent = MISSING_STAMP if stamp is None else UNKNOWN_STAMP
        stamps[row] = np.frombuffer(stamp, np.int64) if stamp else absent
    for row, path in enumerate(images.paths()):
        if path is not None and row not in uris:
            try:
                status = os.stat(split_frame(path)[0])
            except OSError as error:
                is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
                stamps[row] = MISSING_STAMP if is_missing else UNKNOWN_STAMP
                continue
            changed = max(status.st_mtime_ns, status.st_ctime_ns)
            stamps[row] = UNKNOWN_STAMP if changed > limit else (status.st_size, changed)
    return stamps


def _first_of_each(keys: np.ndarray, seen: set[bytes]) -> np.ndarray:
    """Return a mask of the keys that are not in ``seen``, each once, and add them."""
    is_new = np.zeros(len(keys), bool)
    for i, key in enumerate(map(bytes, keys)):
        is_new[i] = key not in seen
        seen.add(key)
    return is_new


def _with_absolute_paths(backbone: Any) -> Any:
    """Return a network whose files are found from any folder."""
    backbone = copy.copy(backbone)
    if backbone.path is not None:
        backbone.path = os.path.abspath(backbone.path)
    if backbone.weights not in (None, "imagenet"):
        backbone.weights = os.path.abspath(backbone.weights)
    return backbone
