"""One pass: read rows from the store, compute and store the missing ones, in input order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.images import Images, Note, decode_batches, decoder_recipe
from tlfeatures.networks import pooling_parts
from tlfeatures.store import EmbeddingStore

__all__ = ["ExtractionPass", "raise_unreadable"]

_MAX_CHANGES = 4  # number of times that a file may change while it is being read


class ExtractionPass:
    """Extraction of images that are either all encoded or all pixels.

    Attributes
    ----------
    out : ndarray of float32, shape (n, d)
    keys : ndarray of uint8, shape (n, 16)
    errors : dict
        {row: reason} of unreadable images.
    notes : dict
        {row: Note} of images with suspicious values.
    computed : int
        Number of images that went through the network.
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
        for _ in range(_MAX_CHANGES):
            missing = self._load(todo)
            if not missing.any():
                return
            with self._lock_layers(missing):
                if self.store is not None:  # another process may have computed rows while this one waited
                    missing = self._load(missing.any(axis=0))
                todo = self._compute(missing) if missing.any() else np.zeros_like(todo)
            if not todo.any():
                return
        self._fail(
            np.flatnonzero(todo), "the file keeps changing while it is being read; wait until it is complete"
        )

    def _load(self, todo: np.ndarray) -> np.ndarray:
        """Fill rows from the store; return bool (columns, n), True where a row of ``todo`` is missing."""
        missing = np.tile(todo, (len(self.spec.columns), 1))
        if self.store is None or not todo.any():
            return missing
        rows = np.flatnonzero(todo)
        for i, (column, column_slice) in enumerate(zip(self.spec.columns, self.spec.slices, strict=True)):
            if len(rows) == len(todo):
                hits = self.store.get(self._recipe(column), self.keys, out=self.out[:, column_slice])[1]
            else:
                values, hits = self.store.get(self._recipe(column), self.keys[rows])
                self.out[rows[hits], column_slice] = values[hits]
            missing[i, rows] = ~hits
        return missing

    def _recipe(self, block: FeatureBlock) -> dict[str, Any]:
        """Return the recipe of a block of columns of these images in the store."""
        return {**block.recipe, **self.decoder_recipe}

    @contextlib.contextmanager
    def _lock_layers(self, missing: np.ndarray) -> Iterator[None]:
        """Lock every layer with missing rows, in the same order in all processes."""
        with contextlib.ExitStack() as stack:
            if self.store is not None:
                incomplete = [c for c, rows in zip(self.spec.columns, missing, strict=True) if rows.any()]
                # one lock per layer, because a pass stores both its average and its maximum
                lock_columns = [
                    self.spec.column(c.tap, pooling_parts("avgmax", len(c.tap.shape) + 1)[0])
                    for c in incomplete
                ]
                recipes = {recipe_digest(recipe): recipe for recipe in map(self._recipe, lock_columns)}
                for digest in sorted(recipes):
                    stack.enter_context(self.store.single_flight(recipes[digest]))
            yield

    def _compute(self, missing: np.ndarray) -> np.ndarray:
        """Run the network on rows with missing columns; return bool (n,), True where a file has changed."""
        incomplete = [c for c, rows in zip(self.spec.columns, missing, strict=True) if rows.any()]
        slices = [s for s, rows in zip(self.spec.slices, missing, strict=True) if rows.any()]
        outputs = self.spec.add_free_poolings(incomplete) if self.store is not None else incomplete
        rows = np.flatnonzero(missing.any(axis=0))
        _, first, inverse = np.unique(_as_void(self.keys[rows]), return_index=True, return_inverse=True)
        order = np.argsort(first)  # each image once, in input order
        distinct, first_rows = rows[first[order]], rows[first][inverse.reshape(-1)]
        changed = np.zeros(len(self.images), bool)
        batch_size = min(self.batch_size, 1 << (len(distinct) - 1).bit_length())
        network, notes = BatchNetwork(self.spec, outputs, batch_size), {}
        recipes = [self._recipe(column) for column in outputs]
        writer = self.store.writer(recipes, self.on_failure) if self.store else None
        with writer or contextlib.nullcontext():
            for part, keys, batch, errors in decode_batches(
                self.images, distinct, self.spec.decoder, batch_size, self.n_threads, notes=notes
            ):
                for row, reason in errors.items():
                    self._fail(rows[first_rows == row], reason)
                if len(part) and not self._has_stopped:
                    results = network(batch)
                    if writer is not None:
                        writer.add(keys, results)
                    # the outputs begin with those of `incomplete`
                    for column_slice, values in zip(slices, results, strict=False):
                        self.out[part, column_slice] = values
                    has_changed = (keys != self.keys[part]).any(axis=1)
                    changed[part[has_changed]] = True
                    self.keys[part[has_changed]] = keys[has_changed]
                    self.computed += len(part)
                for hook in self.on_batch:
                    hook(len(part) + len(errors), len(distinct))
        self.notes |= {
            row: notes[first]
            for row, first in zip(rows.tolist(), first_rows.tolist(), strict=True)
            if first in notes
        }
        duplicates = rows != first_rows
        changed[rows[duplicates & changed[first_rows]]] = True
        duplicates &= ~changed[first_rows] & np.array([row not in self.errors for row in rows.tolist()])
        for column_slice in slices:
            self.out[rows[duplicates], column_slice] = self.out[first_rows[duplicates], column_slice]
        return changed

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
