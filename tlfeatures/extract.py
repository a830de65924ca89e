"""Ask the store, compute the misses once, write them, gather in input order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import ImageReadError, UnreadableImagesWarning
from tlfeatures.fingerprints import KEY_BYTES, recipe_digest
from tlfeatures.images import Decoder, Images, Note, decode_batches, decoder_recipe, warn_of_notes
from tlfeatures.networks import Backbone, Description, Tap, pooling_parts, pooling_width
from tlfeatures.store import EmbeddingStore

__all__ = ["Column", "Extracted", "Plan", "extract"]

_RECIPE_FORMAT = 2  # rows of other formats are not found in a store, and computed again
_MAX_CHANGES = 4  # times that a file may change while it is being read


@dataclass(frozen=True)
class Column:
    """One pooled tap: a block of columns, stored under a recipe of its own."""

    tap: Tap
    part: str
    recipe: dict[str, Any] = field(hash=False)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.recipe["width"]


@dataclass(frozen=True)
class Plan:
    """What is to be computed: a network, pixels, and the blocks of columns of the result, in order."""

    backbone: Backbone
    description: Description
    decoder: Decoder
    columns: tuple[Column, ...]

    @classmethod
    def make(
        cls,
        backbone: Backbone,
        layers: Sequence[str] | None,
        pooling: str,
        store: EmbeddingStore | None = None,
        **decoding: Any,
    ) -> Plan:
        """Plan the concatenation of ``layers`` (None: the last convolutional output).

        Parameters
        ----------
        backbone : Backbone
        layers : sequence of str or None
        pooling : str
        store : EmbeddingStore or None
            Where side notes on the network are kept.
        **decoding
            ``resize``, ``interpolation``, ``decode`` and ``max_value`` of :class:`~tlfeatures.images.Decoder`.
        """
        pooling_parts(pooling, 4)  # a wrong name must fail before a network is loaded
        description = backbone.describe(layers, store)
        decoder = Decoder(description.image_size, **decoding)
        plan = cls(backbone, description, decoder, ())
        columns = [
            plan.column(tap, part)
            for tap in description.taps
            for part in pooling_parts(pooling, len(tap.shape) + 1)
        ]
        return cls(backbone, description, decoder, tuple(columns))

    def column(self, tap: Tap, part: str) -> Column:
        """The block of columns of one tap and stored pooling, with its recipe."""
        recipe = {
            "format": _RECIPE_FORMAT,
            "network": self.description.name,
            "digest": tap.digest,
            "layer": tap.layer,
            "pooling": part,
            "normalization": self.description.normalization,
            "precision": self.backbone.precision,
            "width": pooling_width(part, tap.shape),
            "dtype": "float32",
            **self.decoder.recipe(),
        }
        if tap.process is not None:
            recipe["process"] = tap.process
        return Column(tap, part, recipe)

    @cached_property
    def slices(self) -> list[slice]:
        """Where each block stands in the result."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return [slice(end - column.width, end) for end, column in zip(ends, self.columns, strict=True)]

    @property
    def width(self) -> int:
        """Columns of the result."""
        return sum(column.width for column in self.columns)

    def in_one_pass(self, wanted: Sequence[Column]) -> list[Column]:
        """``wanted`` and what comes with it nearly free: the average and the maximum of the same taps."""
        free = [
            self.column(c.tap, part) for c in wanted for part in pooling_parts("avgmax", len(c.tap.shape) + 1)
        ]
        return list({(c.tap.layer, c.part): c for c in [*wanted, *free]}.values())


@dataclass
class Extracted:
    """Embeddings in input order, and what became of each image.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d)
        NaN rows where an image could not be read.
    errors : dict
        {row: reason} of the unreadable images.
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images; zeros where unreadable.
    computed : int
        Images that went through the network in this call.
    seconds : float
    low_contrast : dict
        {row: reason} of the images that span fewer than 16 of 256 levels, as far as this call decoded them: rows
        that come from the store are not decoded.
    """

    features: np.ndarray
    errors: dict[int, str]
    keys: np.ndarray
    computed: int = 0
    seconds: float = 0.0
    low_contrast: dict[int, str] = field(default_factory=dict)


def extract(
    X: Any,
    plan: Plan,
    *,
    store: EmbeddingStore | None = None,
    batch_size: int = 32,
    n_threads: int | None = None,
    on_error: str = "raise",
    on_failure: str = "warn",
    on_batch: Callable[[int, int], None] | None = None,
    verbose: int = 0,
) -> Extracted:
    """Embeddings of images under a plan.

    Parameters
    ----------
    X : images, as :class:`~tlfeatures.images.Images` accepts them
    plan : Plan
    store : EmbeddingStore or None
        Asked first; what is computed is written to it about every 8 MB or 60 s.
    batch_size : int
        Images through the network at a time.
    n_threads : int or None
        Decoding threads.
    on_error : {"raise", "nan"}
        What an unreadable image does.
    on_failure : {"warn", "raise"}
        What a store that cannot be written does.
    on_batch : callable or None
        Called after each batch with the number of images in it and of all that this call computes.
    verbose : int
        Above 0, a progress bar on standard error.

    Returns
    -------
    Extracted

    Raises
    ------
    ImageReadError
        With ``on_error="raise"``, when an image cannot be read. What was computed until then is in the store; the
        other images are decoded before the error is raised, so that it counts all that cannot be read.

    Notes
    -----
    Threads decode beside the network, a few batches ahead. On two cores this reached 0.97 of what decoder and
    network allow together, 14 times Keras's one-image loop (``python benchmarks/extract.py``); 20,000
    images took 8 MB more memory than 2,000, beyond the result (``python benchmarks/memory.py``).
    """
    start = time.perf_counter()
    images = Images.of(X)
    result = Extracted(
        np.full((len(images), plan.width), np.nan, np.float32),
        {},
        np.zeros((len(images), KEY_BYTES), np.uint8),
    )
    notes: dict[int, Note] = {}
    with _progress(verbose, plan) as bar:
        hooks = [hook for hook in (on_batch, bar) if hook is not None]
        for rows, is_encoded in _kinds(images):
            part = images if len(rows) == len(images) else images.take(rows)
            one = _ExtractionPass(
                part, plan, is_encoded, store, int(batch_size), n_threads, on_error, on_failure
            )
            one.on_batch = [_offset(hook, result.computed) for hook in hooks]
            one.execute()
            if part is images:
                result = Extracted(one.out, one.errors, one.keys, one.computed)
                notes = one.notes
                break
            result.features[rows], result.keys[rows] = one.out, one.keys
            result.errors |= {int(rows[i]): reason for i, reason in one.errors.items()}
            notes |= {int(rows[i]): note for i, note in one.notes.items()}
            result.computed += one.computed
    result.errors = dict(sorted(result.errors.items()))
    result.seconds = time.perf_counter() - start
    result.low_contrast = warn_of_notes(images, dict(sorted(notes.items())))
    if result.errors:
        first = next(iter(result.errors))
        warn(
            f"{len(result.errors)} of {len(images)} images could not be read; their rows are NaN. The first is "
            f"{images.name(first)!r}: {result.errors[first]}. See check_images(X) for all.",
            UnreadableImagesWarning,
        )
    return result


def _kinds(images: Images) -> Iterator[tuple[np.ndarray, bool]]:
    """Rows of the images that a decoder must read, and of those given as pixels: their recipes differ."""
    encoded = images.encoded()
    for is_encoded in (True, False):
        rows = np.flatnonzero(encoded == is_encoded)
        if len(rows):
            yield rows, is_encoded


def _offset(hook: Callable[[int, int], None], computed: int) -> Callable[[int, int], None]:
    """``hook`` with what earlier passes computed added to the total."""
    return lambda done, total: hook(done, computed + total)


class _ExtractionPass:
    """The state of one extraction, of images that are all encoded or all pixels."""

    def __init__(
        self,
        images: Images,
        plan: Plan,
        is_encoded: bool,
        store: EmbeddingStore | None,
        batch_size: int,
        n_threads: int | None,
        on_error: str,
        on_failure: str,
    ) -> None:
        self.images, self.plan, self.store = images, plan, store
        self.decoder_recipe = decoder_recipe() if is_encoded else {}
        self.batch_size, self.n_threads = batch_size, n_threads
        self.on_error, self.on_failure = on_error, on_failure
        self.on_batch: list[Callable[[int, int], None]] = []
        self.out = np.full((len(images), plan.width), np.nan, np.float32)
        self.computed = 0
        self.errors: dict[int, str] = {}
        self.notes: dict[int, Note] = {}
        self.keys, unreadable = images.keys(n_threads)
        for row, reason in unreadable.items():
            self._fail([row], reason)

    def execute(self) -> None:
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
            with self._flights(missing):
                if self.store is not None:  # another process may have computed them meanwhile
                    missing = self._load(missing.any(axis=0))
                todo = self._compute(missing) if missing.any() else np.zeros_like(todo)
            if not todo.any():
                return
        self._fail(
            np.flatnonzero(todo), "the file keeps changing while it is being read; wait until it is complete"
        )

    def _load(self, todo: np.ndarray) -> np.ndarray:
        """Fill rows from the store; bool (columns, n), True where a row of ``todo`` is not there."""
        missing = np.tile(todo, (len(self.plan.columns), 1))
        if self.store is None or not todo.any():
            return missing
        rows = np.flatnonzero(todo)
        for i, (column, place) in enumerate(zip(self.plan.columns, self.plan.slices, strict=True)):
            if len(rows) == len(todo):
                hits = self.store.get(self._recipe(column), self.keys, out=self.out[:, place])[1]
            else:
                values, hits = self.store.get(self._recipe(column), self.keys[rows])
                self.out[rows[hits], place] = values[hits]
            missing[i, rows] = ~hits
        return missing

    def _recipe(self, column: Column) -> dict[str, Any]:
        """The recipe under which the store has a block of columns of these images."""
        return {**column.recipe, **self.decoder_recipe}

    @contextlib.contextmanager
    def _flights(self, missing: np.ndarray) -> Iterator[None]:
        """Hold the lock of every layer that has rows missing, in one order for all processes."""
        with contextlib.ExitStack() as stack:
            if self.store is not None:
                columns = [c for c, rows in zip(self.plan.columns, missing, strict=True) if rows.any()]
                # one lock a layer: whoever computes the average stores the maximum too
                locks = [
                    self.plan.column(c.tap, pooling_parts("avgmax", len(c.tap.shape) + 1)[0]) for c in columns
                ]
                recipes = {recipe_digest(recipe): recipe for recipe in map(self._recipe, locks)}
                for digest in sorted(recipes):
                    stack.enter_context(self.store.single_flight(recipes[digest]))
            yield

    def _compute(self, missing: np.ndarray) -> np.ndarray:
        """Run the network on the rows that miss any column; bool (n,), rows that changed meanwhile."""
        wanted = [c for c, rows in zip(self.plan.columns, missing, strict=True) if rows.any()]
        places = [s for s, rows in zip(self.plan.slices, missing, strict=True) if rows.any()]
        outputs = self.plan.in_one_pass(wanted) if self.store is not None else wanted
        rows = np.flatnonzero(missing.any(axis=0))
        _, first, inverse = np.unique(_as_void(self.keys[rows]), return_index=True, return_inverse=True)
        order = np.argsort(first)  # once each, in input order
        once, same = rows[first[order]], rows[first][inverse.reshape(-1)]
        changed = np.zeros(len(self.images), bool)
        batch_size = min(self.batch_size, 1 << (len(once) - 1).bit_length())
        network, notes = None, {}
        recipes = [self._recipe(column) for column in outputs]
        writing = self.store.writer(recipes, self.on_failure) if self.store else None
        with writing or contextlib.nullcontext():
            for part, keys, batch, errors in decode_batches(
                self.images, once, self.plan.decoder, batch_size, self.n_threads, notes=notes
            ):
                for row, reason in errors.items():
                    self._fail(rows[same == row], reason)
                if len(part) and not self._refused:
                    if network is None:
                        network = self.plan.backbone.compile(
                            [(c.tap, c.part) for c in outputs], self.plan.description
                        )
                    results = [y[: len(part)] for y in network(_padded(batch, batch_size))]
                    self._check_finite(results)
                    if writing is not None:
                        writing.add(keys, results)
                    for place, values in zip(places, results, strict=False):  # wanted come first in outputs
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
        copies = rows != same
        changed[rows[copies & changed[same]]] = True
        copies &= ~changed[same] & np.array([row not in self.errors for row in rows.tolist()])
        for place in places:
            self.out[rows[copies], place] = self.out[same[copies], place]
        return changed

    def _check_finite(self, results: Sequence[np.ndarray]) -> None:
        if not all(np.isfinite(values).all() for values in results):
            raise FloatingPointError(
                f"The network gave embeddings that are not finite under precision={self.plan.backbone.precision!r} and "
                f"normalization={self.plan.description.normalization!r}. Use precision='float32' (or 'bfloat16', which "
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


@contextlib.contextmanager
def _progress(verbose: int, plan: Plan) -> Iterator[Callable[[int, int], None] | None]:
    if not verbose:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=10) as progress:
        task: Any = None

        def on_batch(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(plan.description.name, total=total, rate="")
            progress.update(task, advance=done, total=total)
            state = progress.tasks[0]
            speed = state.finished_speed or state.speed or state.completed / max(state.elapsed or 0, 1e-3)
            progress.update(task, rate=f"{speed:.0f} images/s")

        yield on_batch
