"""One pass: ask the store, compute the missing rows once, write them, gather in input order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.images import Images, Note, decode_batches, decoder_recipe
from tlfeatures.networks import pooling_parts
from tlfeatures.store import EmbeddingStore

__all__ = ["ExtractionPass"]

_MAX_CHANGES = 4  # times that a file may change while it is being read


class ExtractionPass:
    """One extraction, of images that are all encoded or all pixels.

    Attributes
    ----------
    out : ndarray of float32, shape (n, d)
    keys : ndarray of uint8, shape (n, 16)
    errors : dict
        {row: reason} of unreadable images.
    notes : dict
        {row: Note} of images whose values look wrong.
    computed : int
        Images that went through the network.
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
        self.keys, unreadable = images.keys(n_threads)
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
        if self._refused:
            failures = [(self.images.name(row), reason) for row, reason in sorted(self.errors.items())]
            hint = "on_error='nan' continues with rows of NaN in their place; check_images(X) lists them all."
            raise ImageReadError.of(failures, len(self.images), hint)

    @property
    def _refused(self) -> bool:
        """Whether nothing more is to be computed: the other images are only decoded, to count all errors."""
        return self.on_error == "raise" and bool(self.errors)

    def _execute(self) -> None:
        todo = np.ones(len(self.images), bool)
        todo[list(self.errors)] = False
        for _ in range(_MAX_CHANGES):
            missing = self._load(todo)
            if not missing.any():
                return
            with self._lock_layers(missing):
                if self.store is not None:  # another process may have computed them while this one waited
                    missing = self._load(missing.any(axis=0))
                todo = self._compute(missing) if missing.any() else np.zeros_like(todo)
            if not todo.any():
                return
        self._fail(
            np.flatnonzero(todo), "the file keeps changing while it is being read; wait until it is complete"
        )

    def _load(self, todo: np.ndarray) -> np.ndarray:
        """Fill rows from the store; bool (columns, n), True where a row of ``todo`` is missing."""
        missing = np.tile(todo, (len(self.spec.columns), 1))
        if self.store is None or not todo.any():
            return missing
        rows = np.flatnonzero(todo)
        for i, (column, place) in enumerate(zip(self.spec.columns, self.spec.slices, strict=True)):
            if len(rows) == len(todo):
                hits = self.store.get(self._recipe(column), self.keys, out=self.out[:, place])[1]
            else:
                values, hits = self.store.get(self._recipe(column), self.keys[rows])
                self.out[rows[hits], place] = values[hits]
            missing[i, rows] = ~hits
        return missing

    def _recipe(self, block: FeatureBlock) -> dict[str, Any]:
        """The recipe under which the store has a block of columns of these images."""
        return {**block.recipe, **self.decoder_recipe}

    @contextlib.contextmanager
    def _lock_layers(self, missing: np.ndarray) -> Iterator[None]:
        """Hold the lock of every layer that has rows missing, in one order for all processes."""
        with contextlib.ExitStack() as stack:
            if self.store is not None:
                columns = [c for c, rows in zip(self.spec.columns, missing, strict=True) if rows.any()]
                # one lock per layer, because a pass stores its average and its maximum
                locks = [
                    self.spec.column(c.tap, pooling_parts("avgmax", len(c.tap.shape) + 1)[0]) for c in columns
                ]
                recipes = {recipe_digest(recipe): recipe for recipe in map(self._recipe, locks)}
                for digest in sorted(recipes):
                    stack.enter_context(self.store.single_flight(recipes[digest]))
            yield

    def _compute(self, missing: np.ndarray) -> np.ndarray:
        """Run the network on the rows that miss any column; return which files changed in between, bool (n,)."""
        wanted = [c for c, rows in zip(self.spec.columns, missing, strict=True) if rows.any()]
        places = [s for s, rows in zip(self.spec.slices, missing, strict=True) if rows.any()]
        outputs = self.spec.in_one_pass(wanted) if self.store is not None else wanted
        rows = np.flatnonzero(missing.any(axis=0))
        _, first, inverse = np.unique(_as_void(self.keys[rows]), return_index=True, return_inverse=True)
        order = np.argsort(first)  # each image once, in input order
        once, same = rows[first[order]], rows[first][inverse.reshape(-1)]
        changed = np.zeros(len(self.images), bool)
        batch_size = min(self.batch_size, 1 << (len(once) - 1).bit_length())
        network, notes = None, {}
        recipes = [self._recipe(column) for column in outputs]
        writing = self.store.writer(recipes, self.on_failure) if self.store else None
        with writing or contextlib.nullcontext():
            for part, keys, batch, errors in decode_batches(
                self.images, once, self.spec.decoder, batch_size, self.n_threads, notes=notes
            ):
                for row, reason in errors.items():
                    self._fail(rows[same == row], reason)
                if len(part) and not self._refused:
                    if network is None:
                        network = self.spec.backbone.compile(
                            [(c.tap, c.part) for c in outputs], self.spec.description
                        )
                    results = [y[: len(part)] for y in network(_padded(batch, batch_size))]
                    self._check_finite(results)
                    if writing is not None:
                        writing.add(keys, results)
                    for place, values in zip(places, results, strict=False):  # outputs begin with wanted
                        self.out[part, place] = values
                    moved = (keys != self.keys[part]).any(axis=1)
                    changed[part[moved]] = True
                    self.keys[part[moved]] = keys[moved]
                    self.computed += len(part)
                for hook in self.on_batch:
                    hook(len(part) + len(errors), len(once))
        self.notes |= {
            row: notes[first]
            for row, first in zip(rows.tolist(), same.tolist(), strict=True)
            if first in notes
        }
        duplicates = rows != same
        changed[rows[duplicates & changed[same]]] = True
        duplicates &= ~changed[same] & np.array([row not in self.errors for row in rows.tolist()])
        for place in places:
            self.out[rows[duplicates], place] = self.out[same[duplicates], place]
        return changed

    def _check_finite(self, results: Sequence[np.ndarray]) -> None:
        if not all(np.isfinite(values).all() for values in results):
            raise FloatingPointError(
                f"The network gave embeddings that are not finite under precision={self.spec.backbone.precision!r} and "
                f"normalization={self.spec.description.normalization!r}. Use precision='float32' (or 'bfloat16', which "
                "has its range), and check the normalization and the weights."
            )

    def _fail(self, rows: Sequence[int] | np.ndarray, reason: str) -> None:
        for row in rows:
            self.errors[int(row)] = reason
        self.out[rows] = np.nan
        self.keys[rows] = 0


def _as_void(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).reshape(-1)


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    """``batch`` with rows of zeros up to ``size``: another shape would mean another compilation."""
    if len(batch) == size:
        return batch
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)])
