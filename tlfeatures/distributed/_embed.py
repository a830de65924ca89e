"""`embed_images`: embeddings of many images, computed by an engine in work units and kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlfeatures._params import Constraint, check_parameter, integer
from tlfeatures.distributed._engines import Engine, LocalEngine
from tlfeatures.distributed._job import Job
from tlfeatures.distributed._run import JobRun
from tlfeatures.distributed._units import UNIT_SIZE, Shard, cut_units
from tlfeatures.errors import ImageReadError, InvalidParameterError
from tlfeatures.extract import Extracted, FeatureSpec, ImageCounts
from tlfeatures.extract._extraction import split_by_kind, warn_of_unreadable
from tlfeatures.extract._pass import raise_unreadable
from tlfeatures.extract._progress import show_progress
from tlfeatures.features import CNNFeatures, check_fitted_recipes
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images, Note, warn_of_notes
from tlfeatures.sources import Source
from tlfeatures.store import EmbeddingStore

__all__ = ["EmbeddingChunk", "EmbeddingRun", "embed_images", "fill_store", "iter_embeddings"]

_SHARDS = [None, Constraint("a Shard, such as Shard(3, 16)", lambda value: isinstance(value, Shard))]


@dataclass(frozen=True)
class EmbeddingChunk:
    """Embeddings of consecutive images.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Rows of the input, in its order.
    features : ndarray of float32, shape (m, d)
        NaN rows where an image could not be read.
    keys : ndarray of uint8, shape (m, 16)
        Digests of the images; zeros where unreadable.
    errors : dict
        {row of the input: reason} of the unreadable images.
    """

    rows: np.ndarray
    features: np.ndarray
    keys: np.ndarray
    errors: dict[int, str]


class EmbeddingRun:
    """Computation of the embeddings of a source: first all units are stored, then their rows are read in order.

    Parameters
    ----------
    X : images, as :class:`~tlfeatures.CNNFeatures` takes them, or Source
    cnn : CNNFeatures
        Need not be fitted. Its ``cache`` must be a store.
    engine, unit_size, shard, on_error, verbose
        As in `embed_images` and `fill_store`.

    Attributes
    ----------
    images : Images
    width : int
        Number of columns.
    errors : dict
        {row: reason} of the unreadable images.
    computed : int
        Number of images that went through the network.
    seconds : float
    low_contrast : dict
        {row: reason} of the decoded images that span fewer than 16 of 256 levels.
    """

    def __init__(
        self,
        X: Any,
        cnn: CNNFeatures,
        engine: Engine | None = None,
        *,
        unit_size: int = UNIT_SIZE,
        shard: Shard | None = None,
        on_error: str | None = None,
        verbose: int | None = None,
    ) -> None:
        self.images = Images.of(X.images if isinstance(X, Source) else X)
        self.on_error = cnn.on_error if on_error is None else on_error
        self.verbose = cnn.verbose if verbose is None else verbose
        check_parameter("on_error", self.on_error, ["raise", "nan"])
        check_parameter("unit_size", unit_size, [integer(1, 1_000_000)])
        check_parameter("shard", shard, _SHARDS)
        store = EmbeddingStore.resolve(cnn.cache)
        if store is None:
            raise InvalidParameterError(
                "`cache` must be 'auto', the path of a folder or an EmbeddingStore, because work units are stored; got "
                "None. Without a store, use CNNFeatures.transform.",
                "cache",
            )
        self.spec: FeatureSpec = check_fitted_recipes(cnn, self.images)
        self.width = self.spec.width
        self.errors: dict[int, str] = {}
        self.computed, self.seconds = 0, 0.0
        self.low_contrast: dict[int, str] = {}
        # for each view, the rows and the run of each kind of images
        self._runs: list[list[tuple[np.ndarray, JobRun]]] = []
        views = [self.spec] if self.spec.views is None else self.spec.by_view()
        kinds = [rows for rows, _ in split_by_kind(self.images)]
        for spec in views:
            runs = []
            for rows in kinds:
                images = self.images if len(kinds) == 1 else self.images.take(rows)
                job = Job.make(images, spec, cnn.batch_size, cnn._n_threads)
                units = list(cut_units(images, job.recipes, int(unit_size), shard))
                stop_at_errors = self.on_error == "raise"
                runs.append((rows, JobRun(job, units, store, engine or LocalEngine(), stop_at_errors)))
            self._runs.append(runs)

    @property
    def counts(self) -> ImageCounts:
        """Number of images by the source of their embeddings; duplicates are not counted separately."""
        n = sum(unit.stop - unit.start for _, run in self._runs[0] for unit in run.units)
        from_store = n - self.computed - len(self.errors)
        return ImageCounts(n, from_store, self.computed, 0, len(self.errors), round(self.seconds, 3))

    def execute(self) -> None:
        """Compute and store all units that are not stored.

        Raises
        ------
        ImageReadError
            With ``on_error="raise"``, if images cannot be read; units that were computed before are stored.
        TransientReadError
            If the storage of an image fails repeatedly; the same call resumes.
        StoreError
            If the store cannot be written.
        """
        start = time.perf_counter()
        notes: dict[int, Note] = {}
        for number, runs in enumerate(self._runs):
            with show_progress(self.verbose, self.spec) as bar:
                offset = 0
                for rows, run in runs:
                    if bar is not None:
                        run.on_progress = [_with_offset(bar, offset)]
                    run.execute()
                    offset += run.n_todo
                    if number == 0:
                        self.errors |= {int(rows[row]): reason for row, reason in run.errors.items()}
                        notes |= {int(rows[row]): note for row, note in run.notes.items()}
            self.computed = max(self.computed, sum(run.computed for _, run in runs))
            if self.errors and self.on_error == "raise":
                raise_unreadable(self.images, self.errors)
        self.errors = dict(sorted(self.errors.items()))
        self.seconds = time.perf_counter() - start
        self.low_contrast = warn_of_notes(self.images, dict(sorted(notes.items())))
        warn_of_unreadable(self.images, self.errors)

    def chunks(self) -> Iterator[EmbeddingChunk]:
        """Iterate over the embeddings in input order, one unit at a time.

        If X has both files and pixels, there is only one chunk.

        Yields
        ------
        EmbeddingChunk
            The rows of a unit and their embeddings.
        """
        parts = (self._read_unit(kind, unit) for kind, unit in self._list_units())
        if len(self._runs[0]) == 1:
            yield from parts
            return
        chunks = list(parts)
        order = np.argsort(np.concatenate([chunk.rows for chunk in chunks]))
        rows, features, keys = (
            np.concatenate([getattr(chunk, name) for chunk in chunks])[order]
            for name in ("rows", "features", "keys")
        )
        yield EmbeddingChunk(rows, features, keys, dict(self.errors))

    def _list_units(self) -> Iterator[tuple[int, int]]:
        for kind, (_, run) in enumerate(self._runs[0]):
            for number in range(len(run.units)):
                yield kind, number

    def _read_unit(self, kind: int, number: int) -> EmbeddingChunk:
        """Read one unit, and average its views."""
        all_rows, first = self._runs[0][kind]
        unit = first.units[number]
        features, keys = first.read(unit)
        rows = all_rows[unit.start : unit.stop]
        for runs in self._runs[1:]:
            view = runs[kind][1]
            view_features, view_keys = view.read(view.units[number])
            changed = np.flatnonzero((view_keys != keys).any(axis=1))
            if len(changed):
                reason = "the file changed while its views were being read; wait until it is complete"
                raise ImageReadError(self.images.name(int(rows[changed[0]])), reason)
            features += view_features
        features /= np.float32(len(self._runs))
        errors = {int(row): self.errors[int(row)] for row in rows if int(row) in self.errors}
        return EmbeddingChunk(rows, features, keys, errors)


def embed_images(X: Any, cnn: CNNFeatures, engine: Engine | None = None, **options: Any) -> Extracted:
    """Compute the embeddings of many images in work units, by an engine, and return them in input order.

    Parameters
    ----------
    X : images, as :class:`~tlfeatures.CNNFeatures` takes them, or Source
    cnn : CNNFeatures
        Need not be fitted. Its ``cache`` must be a store.
    engine : Engine, optional
        Where the units are computed; `LocalEngine` by default, or a `RayEngine`.
    **options
        Options of `fill_store` except for ``shard``.

    Returns
    -------
    Extracted
        Embeddings, reasons of unreadable images and digests, as those of ``CNNFeatures.transform``, bit for bit.

    Raises
    ------
    ImageReadError, TransientReadError, StoreError, InvalidParameterError
        As `fill_store`.

    See Also
    --------
    iter_embeddings : The same in chunks, for results that do not fit into memory.
    fill_store : Only fill the store, for example with one of several shards.

    Examples
    --------
    >>> import tempfile
    >>> X = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=tempfile.mkdtemp())
    >>> embed_images(X, cnn).features.shape
    (3, 320)
    >>> embed_images(X, cnn).computed  # now in the store
    0
    """
    run = EmbeddingRun(X, cnn, engine, **options)
    run.execute()
    features = np.empty((len(run.images), run.width), np.float32)
    keys = np.empty((len(run.images), KEY_BYTES), np.uint8)
    for chunk in run.chunks():
        features[chunk.rows], keys[chunk.rows] = chunk.features, chunk.keys
    return Extracted(features, run.errors, keys, run.computed, run.seconds, run.low_contrast)


def iter_embeddings(
    X: Any, cnn: CNNFeatures, engine: Engine | None = None, **options: Any
) -> Iterator[EmbeddingChunk]:
    """Compute the embeddings of many images in work units, and iterate over them in input order.

    Parameters and errors are those of `embed_images`. All units are computed and stored before the first chunk.

    Parameters
    ----------
    X : images
        As in `embed_images`.
    cnn : CNNFeatures
        As in `embed_images`.
    engine : Engine, optional
        As in `embed_images`.
    **options
        Further parameters of `embed_images`.

    Yields
    ------
    EmbeddingChunk
        The embeddings of one unit.
    """
    run = EmbeddingRun(X, cnn, engine, **options)
    run.execute()
    yield from run.chunks()


def fill_store(
    X: Any,
    cnn: CNNFeatures,
    engine: Engine | None = None,
    *,
    unit_size: int = UNIT_SIZE,
    shard: Shard | None = None,
    on_error: str | None = None,
    verbose: int | None = None,
) -> ImageCounts:
    """Compute the embeddings of many images in work units, and only store them.

    Units that are stored already are skipped without reading their images, unless a file has changed. Processes that
    run at the same time share the units, on one machine or on a file system with locks.

    Parameters
    ----------
    X : images, as :class:`~tlfeatures.CNNFeatures` takes them, or Source
    cnn : CNNFeatures
        Need not be fitted. Its ``cache`` must be a store.
    engine : Engine, optional
        Where the units are computed; `LocalEngine` by default, or a `RayEngine`.
    unit_size : int, default=1024
        Number of images in a work unit. Use the same number to resume.
    shard : Shard, optional
        Compute only this part of the units, for example that of one task of a job array.
    on_error : {"raise", "nan"}, optional
        By default the value of ``cnn``. "raise" ends with an error soon after the first unreadable image; with "nan"
        such images become rows of NaN, with one warning.
    verbose : int, optional
        By default the value of ``cnn``. If greater than 0, show a progress bar on standard error.

    Returns
    -------
    ImageCounts

    Raises
    ------
    ImageReadError
        With ``on_error="raise"``, if images cannot be read; units that were computed before are stored.
    TransientReadError
        If the storage of an image fails repeatedly, whatever ``on_error`` is; the same call resumes.
    StoreError
        If the store cannot be written.
    InvalidParameterError
        If ``cnn`` has no store, or a parameter is invalid.

    Examples
    --------
    >>> import tempfile
    >>> X = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=tempfile.mkdtemp())
    >>> [fill_store(X, cnn, unit_size=1, shard=Shard(i, 3)).computed for i in (1, 2, 3)]
    [2, 1, 1]
    """
    run = EmbeddingRun(X, cnn, engine, unit_size=unit_size, shard=shard, on_error=on_error, verbose=verbose)
    run.execute()
    return run.counts


def _with_offset(hook: Callable[[int, int], None], offset: int) -> Callable[[int, int], None]:
    return lambda done, total: hook(done, offset + total)
