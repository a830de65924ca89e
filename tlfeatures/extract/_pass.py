"""One pass: read rows from the store, compute and store the missing ones, in input order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec
from tlfeatures.images import Images, Note, decode_batches, decoder_recipe
from tlfeatures.store import EmbeddingStore, RowLocks

__all__ = ["ExtractionPass", "raise_unreadable"]

_CLAIMED_ROWS = 256  # number of rows that are locked at a time
_MAX_LOCKED = 2048  # number of finished rows that may be locked; then they are stored and released
_MAX_CHANGES = 4  # number of times that files may change while they are read; then they are unreadable


class ExtractionPass:
    """Extraction of embeddings from images that are either all encoded files or all arrays of pixels.

    Attributes
    ----------
    out : ndarray of float32, shape (n, d)
    keys : ndarray of uint8, shape (n, 16)
    errors : dict
        {row: reason} of unreadable images.
    notes : dict
        {row: Note} of images with suspicious values.
    computed : int
        Number of images that the network has processed.
    """

    def __init__(
        self,
        images: Images,
        spec: FeatureSpec,
        is_encoded: bool,
        store: EmbeddingStore | None,
        batch_size: int,
        n_threads: int | None,
        on_error: str,
        on_failure: str,
        keys: tuple[np.ndarray, dict[int, str]],
    ) -> None:
        self.images, self.spec, self.store = images, spec, store
        self.decoder_recipe = decoder_recipe() if is_encoded else {}
        self.batch_size, self.n_threads = batch_size, n_threads
        self.on_error, self.on_failure = on_error, on_failure
        self.on_batch: list[Callable[[int, int], None]] = []
        self.out = np.full((len(images), spec.width), np.nan, np.float32)
        self.computed = 0
        self._n_todo = self._n_reported = 0
        self._changed = np.zeros(len(images), bool)  # files that changed while they were read
        self._busy = np.zeros(len(images), bool)  # images that other processes or threads are computing
        self.errors: dict[int, str] = {}
        self.notes: dict[int, Note] = {}
        self.keys, unreadable = keys
        for row, reason in unreadable.items():
            self._fail([row], reason)

    def execute(self) -> None:
        """Read or compute all rows.

        Raises
        ------
        ImageReadError
            With ``on_error="raise"``, if any image cannot be read.
        """
        self._execute()
        if self._has_stopped:
            raise_unreadable(self.images, self.errors)

    @property
    def _has_stopped(self) -> bool:
        """Whether to stop computing: the remaining images are only decoded, to count all errors."""
        return self.on_error == "raise" and bool(self.errors)

    def _execute(self) -> None:
        todo = np.ones(len(self.images), bool)
        todo[list(self.errors)] = False
        n_changes = 0
        while todo.any():
            rows = np.flatnonzero(todo)
            missing = self._load(rows, self.spec.columns)
            incomplete = [
                c for c, is_missing in zip(self.spec.columns, missing, strict=True) if is_missing.any()
            ]
            if not incomplete:
                return
            self._busy[:] = self._changed[:] = False
            self._compute(rows[missing.any(axis=0)], incomplete)
            if self._busy.any() and not self._has_stopped:
                with self._lock_rows(incomplete) as locks:
                    locks.wait(self.keys[np.argmax(self._busy)])
            n_changes += int(self._changed.any())
            if n_changes >= _MAX_CHANGES:
                reason = "the file keeps changing while it is being read; wait until it is complete"
                self._fail(np.flatnonzero(self._changed), reason)
                self._changed[:] = False
            todo = self._busy | self._changed

    def _load(self, rows: np.ndarray, columns: Sequence[FeatureBlock]) -> np.ndarray:
        """Fill columns of rows from the store; return a mask of the missing ones, bool (columns, len(rows))."""
        blocks = self._blocks(columns)
        missing = np.ones((len(blocks), len(rows)), bool)
        if self.store is None:
            return missing
        for i, (column, column_slice) in enumerate(blocks):
            if len(rows) == len(self.out):
                hits = self.store.get(self._recipe(column), self.keys, out=self.out[:, column_slice])[1]
            else:
                values, hits = self.store.get(self._recipe(column), self.keys[rows])
                self.out[rows[hits], column_slice] = values[hits]
            missing[i] = ~hits
        return missing

    def _recipe(self, block: FeatureBlock) -> dict[str, Any]:
        """Return the recipe of a block of columns of these images in the store."""
        return {**block.recipe, **self.decoder_recipe}

    def _lock_rows(self, columns: Sequence[FeatureBlock]) -> RowLocks:
        """Return locks on the rows of these columns."""
        # the rows of the average are locked, because a pass stores both the average and the maximum of a layer
        parts = [self.spec.column(c.tap, c.tap.parts("avgmax")[0]) for c in columns]
        return RowLocks([]) if self.store is None else self.store.row_locks(list(map(self._recipe, parts)))

    def _compute(self, rows: np.ndarray, columns: Sequence[FeatureBlock]) -> None:
        """Run the network on rows with missing columns, except for those that other processes are computing."""
        outputs = self.spec.add_free_poolings(columns) if self.store is not None else columns
        _, first, inverse = np.unique(_as_void(self.keys[rows]), return_index=True, return_inverse=True)
        # each image once, in input order
        distinct, first_rows = rows[np.sort(first)], rows[first][inverse.reshape(-1)]
        batch_size = min(self.batch_size, 1 << (len(distinct) - 1).bit_length())
        network = BatchNetwork(self.spec, outputs, batch_size)
        recipes = [self._recipe(column) for column in outputs]
        writer = self.store.writer(recipes, self.on_failure) if self.store else None
        notes: dict[int, Note] = {}
        with self._lock_rows(columns) as locks, writer or contextlib.nullcontext():
            claimed = self._claim(distinct, columns, locks)
            batches = decode_batches(
                self.images, claimed, self.spec.decoder, batch_size, self.n_threads, notes=notes
            )
            finished: list[np.ndarray] = []  # keys of the rows that are locked until they are stored
            for part, keys, batch, errors in batches:
                finished.append(self.keys[[*part.tolist(), *errors]])
                for row, reason in errors.items():
                    self._fail(rows[first_rows == row], reason)
                if len(part) and not self._has_stopped:
                    results = network(batch)
                    if writer is not None:
                        writer.add(keys, results)
                    self._fill(part, keys, columns, dict(zip(outputs, results, strict=True)))
                if writer is not None:
                    if sum(map(len, finished)) >= _MAX_LOCKED:
                        writer.commit()
                    if writer.is_empty:
                        locks.release(np.concatenate(finished))
                        finished.clear()
                self._report(len(part) + len(errors), len(distinct))
        self._copy_to_duplicates(rows, first_rows, columns)
        self.notes |= {
            row: notes[first]
            for row, first in zip(rows.tolist(), first_rows.tolist(), strict=True)
            if first in notes
        }

    def _claim(self, rows: np.ndarray, columns: Sequence[FeatureBlock], locks: RowLocks) -> Iterator[int]:
        """Lock and yield the rows that no other process is computing or has stored."""
        for i in range(0, len(rows), _CLAIMED_ROWS):
            part = rows[i : i + _CLAIMED_ROWS]
            if self.store is not None and not self._has_stopped:
                is_locked = locks.acquire(self.keys[part])
                self._busy[part[~is_locked]] = True
                n, part = len(part), part[is_locked]
                # others may have stored rows before they were locked
                is_missing = self._load(part, columns).any(axis=0)
                locks.release(self.keys[part[~is_missing]])
                part = part[is_missing]
                self._report(n - len(part), len(rows))
            yield from part.tolist()

    def _fill(
        self,
        part: np.ndarray,
        keys: np.ndarray,
        columns: Sequence[FeatureBlock],
        results: dict[FeatureBlock, np.ndarray],
    ) -> None:
        """Fill columns of rows from the results of the network."""
        for column, column_slice in self._blocks(columns):
            self.out[part, column_slice] = results[column]
        has_changed = (keys != self.keys[part]).any(axis=1)
        self._changed[part[has_changed]] = True
        self.keys[part[has_changed]] = keys[has_changed]
        self.computed += len(part)

    def _blocks(self, columns: Sequence[FeatureBlock]) -> list[tuple[FeatureBlock, slice]]:
        """Return columns with their slices of the result; a layer may occur more than once."""
        return [(c, s) for c, s in zip(self.spec.columns, self.spec.slices, strict=True) if c in columns]

    def _copy_to_duplicates(
        self, rows: np.ndarray, first_rows: np.ndarray, columns: Sequence[FeatureBlock]
    ) -> None:
        """Copy the results of ``first_rows`` to rows of identical images, unless a file has changed."""
        duplicates = rows != first_rows
        for mask in (self._changed, self._busy):
            mask[rows[duplicates & mask[first_rows]]] = True
            duplicates &= ~mask[first_rows]
        duplicates &= np.array([row not in self.errors for row in rows.tolist()])
        for _, column_slice in self._blocks(columns):
            self.out[rows[duplicates], column_slice] = self.out[first_rows[duplicates], column_slice]

    def _report(self, done: int, total: int) -> None:
        """Report finished images; images that are skipped because other processes compute them count as finished."""
        self._n_todo = self._n_todo or total
        done = min(done, self._n_todo - self._n_reported)
        self._n_reported += done
        if done:
            for hook in self.on_batch:
                hook(done, self._n_todo)

    def _fail(self, rows: Sequence[int] | np.ndarray, reason: str) -> None:
        for row in rows:
            self.errors[int(row)] = reason
        self.out[rows] = np.nan
        self.keys[rows] = 0


def raise_unreadable(images: Images, errors: dict[int, str]) -> NoReturn:
    """Raise the `ImageReadError` for the unreadable images, {row: reason}."""
    failures = [(images.name(row), reason) for row, reason in sorted(errors.items())]
    hint = "on_error='nan' continues with rows of NaN in their place; check_images(X) lists them all."
    raise ImageReadError.of(failures, len(images), hint)


def _as_void(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).reshape(-1)
