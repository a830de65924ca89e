"""The run of one job: an engine computes the units that are not stored, and this process stores them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlfeatures.distributed._claims import Claims
from tlfeatures.distributed._engines import Engine
from tlfeatures.distributed._job import Job
from tlfeatures.distributed._ledger import Ledger, Place, UnitRecord
from tlfeatures.distributed._stamps import MISSING_STAMP, UNKNOWN_STAMP, read_stamps
from tlfeatures.distributed._unit_results import UnitResult
from tlfeatures.distributed._units import WorkUnit
from tlfeatures.errors import StoreError, TransientReadError
from tlfeatures.extract._object_storage import ObjectKeys
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Note, depends_on_machine
from tlfeatures.store import EmbeddingStore, StoreWriter
from tlfeatures.store._disk import store_error

__all__ = ["JobRun"]

_NO_STAMPS = (UNKNOWN_STAMP, MISSING_STAMP)
_ATTEMPTS = 3  # number of attempts to compute rows that are in the ledger, but not in the store


class JobRun:
    """Run of one job.

    Parameters
    ----------
    job : Job
    units : sequence of WorkUnit
    store : EmbeddingStore
    engine : Engine
    stop_at_errors : bool
        Whether to stop after the first unreadable image.

    Attributes
    ----------
    computed : int
        Number of images that went through the network.
    errors : dict
        {row: reason} of the unreadable images.
    notes : dict
        {row: `Note`} of the decoded images that look wrong.
    n_todo : int
        Number of images of the units that were not in the ledger.
    on_progress : list of callable
        Called with the number of images that are finished, and with ``n_todo``.
    """

    def __init__(
        self, job: Job, units: Sequence[WorkUnit], store: EmbeddingStore, engine: Engine, stop_at_errors: bool
    ) -> None:
        self.job, self.units, self.store, self.engine = job, units, store, engine
        self.stop_at_errors = stop_at_errors
        self.computed = 0
        self.errors: dict[int, str] = {}
        self.notes: dict[int, Note] = {}
        self.on_progress: list[Callable[[int, int], None]] = []
        self.n_todo = 0
        self._places: dict[int, Place] = {}  # unit -> place of its record in the ledger
        self._results: dict[int, list[UnitResult]] = {}  # unit -> results since the last commit
        self._new_keys: set[bytes] = set()  # keys of the results since the last commit
        self._missing: dict[int, int] = {}  # number of rows of each claimed unit that no result has
        self._ledger = Ledger(store, job.recipes[0])
        self._claims = Claims(self._ledger.folder)
        self._object_keys = ObjectKeys(store, None, "raise")

    @property
    def _has_stopped(self) -> bool:
        return self.stop_at_errors and bool(self.errors)

    def execute(self) -> None:
        """Compute and store the units that are not in the ledger, or whose files have changed.

        Raises
        ------
        TransientReadError
            If the storage of an image fails repeatedly; says how many units are stored.
        StoreError
            If the store cannot be written.
        """
        self.n_todo = sum(unit.stop - unit.start for unit in self.units if unit.id not in self._ledger)
        pending: Sequence[WorkUnit] = self.units
        try:
            while pending and not self._has_stopped:
                pending = self._compute(pending)
                if pending and not self._has_stopped:
                    self._claims.wait(pending[0])  # while this process has no claim
                self._ledger.refresh()
        except TransientReadError as error:
            raise self._describe(error) from error
        finally:
            self._ledger.close()

    def read(self, unit: WorkUnit) -> tuple[np.ndarray, np.ndarray]:
        """Return the embeddings, float32 (n, d), and the keys, uint8 (n, 16), of the images of an executed unit.

        Rows that are no longer in the store are computed again.
        """
        for _ in range(_ATTEMPTS):
            record = self._ledger.read(self._places[unit.number])
            rows = _all_rows(unit)
            if record is not None:
                features, missing = self._gather(record)
                if not missing.any():
                    return features, record.keys
                rows = rows[missing]
            try:
                for busy in self._compute([replace(unit, rows=tuple(rows.tolist()))], is_repeated=True):
                    self._claims.wait(busy)
            finally:
                self._ledger.close()
        raise StoreError(
            0, "rows disappear from the embedding store while they are read", str(self.store.root)
        )

    def _gather(self, record: UnitRecord) -> tuple[np.ndarray, np.ndarray]:
        """Read rows from the store; return them, and a mask of those that are missing."""
        spec, n = self.job.spec, len(record.keys)
        features, missing = np.full((n, spec.width), np.nan, np.float32), np.zeros(n, bool)
        readable = np.setdiff1d(np.arange(n), list(record.errors)).astype(int)
        for recipe, columns in zip(self._list_recipes(), spec.slices, strict=True):
            features[readable, columns], is_stored = self.store.get(recipe, record.keys[readable])
            missing[readable[~is_stored]] = True
        return features, missing

    def _list_recipes(self) -> list[dict[str, Any]]:
        """Return the recipe of each block of columns; a layer may be there more than once."""
        recipes = dict(zip(self.job.outputs, self.job.recipes, strict=True))
        return [recipes[column] for column in self.job.spec.columns]

    def _find_remaining(self, unit: WorkUnit) -> WorkUnit | None:
        """Return the unit with the rows that are to be computed; None if there are none.

        These are the rows that are not in the ledger, those whose files have changed, and those of images that may be
        readable now because a package was installed.
        """
        if unit.id not in self._ledger:
            return unit
        rows = _all_rows(unit)
        match = self._ledger.find(unit.id, read_stamps(self.job.images.take(rows)))
        if match is None:
            return unit
        self._places[unit.number], record, is_current = match
        is_current[[i for i, reason in record.errors.items() if depends_on_machine(reason)]] = False
        self.errors |= {unit.start + i: reason for i, reason in record.errors.items() if is_current[i]}
        return None if is_current.all() else replace(unit, rows=tuple(rows[~is_current].tolist()))

    def _compute(self, units: Sequence[WorkUnit], is_repeated: bool = False) -> list[WorkUnit]:
        """Compute and store units; return those that another process has claimed."""
        writer = self.store.writer(list(self.job.recipes), "raise")
        busy: list[WorkUnit] = []
        claimed = self._claim(units, busy, is_repeated)
        try:
            with contextlib.closing(
                self.engine.run(self.job, claimed, None if is_repeated else self._contain)
            ) as results:
                for result in results:
                    self._add(result, writer)
                    if self._has_stopped:
                        break
        finally:
            try:
                self._commit(writer)
            finally:
                self._claims.release_all()
        return busy

    def _claim(
        self, units: Sequence[WorkUnit], busy: list[WorkUnit], is_repeated: bool
    ) -> Iterator[WorkUnit]:
        """Iterate over the units that remain to be computed and that no other process has claimed."""
        for unit in units:
            remaining: WorkUnit | None = unit if is_repeated else self._find_remaining(unit)
            if self._has_stopped:
                return
            if remaining is None:
                self._claims.remove(unit)
                continue
            if not self._claims.take(unit):
                busy.append(unit)
                continue
            if not is_repeated:
                self._ledger.refresh()  # another process may have stored it before this one claimed it
                remaining = self._find_remaining(unit)
            if remaining is None:
                self._claims.release(unit, is_stored=True)
                continue
            self._missing[unit.number] = len(remaining.todo())
            self._object_keys.load(list(self.job.images.take(remaining.todo()).uris().values()))
            yield remaining

    def _contain(self, keys: np.ndarray) -> np.ndarray:
        is_stored = np.ones(len(keys), bool)
        for recipe in self._list_recipes():
            is_stored &= self.store.contains(recipe, keys)
        return is_stored | np.array([key in self._new_keys for key in map(bytes, keys)], bool)

    def _add(self, result: UnitResult, writer: StoreWriter) -> None:
        writer.add(result.keys, result.arrays)
        self._new_keys.update(map(bytes, result.keys))
        number = result.unit.number
        self._results.setdefault(number, []).append(result)
        self._missing[number] -= len(result.unit.todo())
        self.computed += len(result.rows)
        self.errors |= result.errors
        self.notes |= result.notes
        if writer.is_empty:
            self._commit(writer)
        self._report(len(result.unit.todo()))

    def _commit(self, writer: StoreWriter) -> None:
        """Store the rows, then write the ledger, then release the units that are complete."""
        writer.commit()
        self._new_keys.clear()
        results, self._results = list(self._results.values()), {}
        if not results:
            return
        self._save_digests([part for parts in results for part in parts])
        records = [(parts[0].unit.id, self._make_record(parts)) for parts in results]
        try:
            places = self._ledger.append(records)
        except OSError as error:
            raise store_error(error, "write to", str(self.store.root)) from error
        for (part, *_), place in zip(results, places, strict=True):
            self._places[part.unit.number] = place
            if not self._missing[part.unit.number]:
                self._claims.release(part.unit, is_stored=True)

    def _save_digests(self, results: Sequence[UnitResult]) -> None:
        """Store the digests of objects, so that other embeddings of them need not read them."""
        for result in results:
            rows = np.concatenate([result.rows, result.known_rows])
            keys = np.concatenate([result.keys, result.known_keys])
            images = self.job.images.take(rows)
            paths = images.paths()
            whole = [i for i, uri in images.uris().items() if uri == paths[i]]  # a frame has another key
            stamps = result.stamps[np.searchsorted(result.unit.todo(), rows)]
            self._object_keys.add(
                {stamps[i].tobytes(): keys[i].tobytes() for i in whole if stamps[i, 0] not in _NO_STAMPS}
            )
        self._object_keys.commit()

    def _make_record(self, results: Sequence[UnitResult]) -> UnitRecord:
        """Make the record of a unit from its results and its earlier record."""
        unit = results[0].unit
        n = unit.stop - unit.start
        earlier = self._places.get(unit.number)
        record = None if earlier is None else self._ledger.read(earlier)
        keys, stamps = np.zeros((n, KEY_BYTES), np.uint8), np.full((n, 2), UNKNOWN_STAMP, np.int64)
        errors: dict[int, str] = {}
        if record is not None:
            keys, stamps, errors = record.keys.copy(), record.stamps.copy(), dict(record.errors)
        for result in results:
            rows = result.unit.todo() - unit.start
            keys[rows], stamps[rows] = 0, result.stamps
            keys[result.rows - unit.start] = result.keys
            keys[result.known_rows - unit.start] = result.known_keys
            for row in rows.tolist():
                errors.pop(row, None)
            errors |= {row - unit.start: reason for row, reason in result.errors.items()}
        return UnitRecord(keys, stamps, errors)

    def _report(self, done: int) -> None:
        for hook in self.on_progress:
            hook(done, self.n_todo)

    def _describe(self, error: TransientReadError) -> TransientReadError:
        """Add to an error how much is stored."""
        stored = sum(unit.id in self._ledger for unit in self.units)
        text = f"{error.strerror}. {stored:,} of {len(self.units):,} work units are stored"
        return TransientReadError(error.errno, text, error.filename)


def _all_rows(unit: WorkUnit) -> np.ndarray:
    return np.arange(unit.start, unit.stop)
