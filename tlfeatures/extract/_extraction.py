"""`extract`: compute the embeddings of images, or read them from the store."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import ImageReadError, UnreadableImagesWarning
from tlfeatures.extract._counts import ImageCounts
from tlfeatures.extract._object_storage import CHUNK_ROWS, ObjectKeys, read_ahead
from tlfeatures.extract._pass import ExtractionPass
from tlfeatures.extract._progress import show_progress
from tlfeatures.extract._spec import FeatureSpec
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images import Images, Note, warn_of_notes
from tlfeatures.store import EmbeddingStore

__all__ = ["Extracted", "extract", "split_by_kind", "warn_of_unreadable"]


@dataclass
class Extracted:
    """Embeddings in input order, with the errors and digests of the images.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d)
        NaN rows where an image could not be read.
    errors : dict
        {row: reason} of the unreadable images.
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images; zeros where unreadable.
    computed : int
        Number of images that went through the network in this call.
    seconds : float
    low_contrast : dict
        {row: reason} of the images that span fewer than 16 of 256 levels. Images whose rows are read from the
        store are not decoded, and so not checked.
    """

    features: np.ndarray
    errors: dict[int, str]
    keys: np.ndarray
    computed: int = 0
    seconds: float = 0.0
    low_contrast: dict[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the images that could be read, ndarray of int."""
        return np.setdiff1d(np.arange(len(self.keys)), list(self.errors)).astype(int)

    @property
    def counts(self) -> ImageCounts:
        """Number of images by the source of their embeddings."""
        return ImageCounts.of(self.keys[self.rows], len(self.errors), self.computed, self.seconds)


def extract(
    X: Any,
    spec: FeatureSpec,
    *,
    store: EmbeddingStore | None = None,
    batch_size: int = 32,
    n_threads: int | None = None,
    on_error: str = "raise",
    on_failure: str = "warn",
    on_batch: Callable[[int, int], None] | None = None,
    verbose: int = 0,
) -> Extracted:
    """Compute embeddings of images, or read them from a store.

    Parameters
    ----------
    X : images, as :class:`~tlfeatures.images.Images` accepts them
    spec : FeatureSpec
    store : EmbeddingStore or None
        Where rows are read first; computed rows are written to it about every 8 MB or 60 s.
    batch_size : int
        Number of images in a batch.
    n_threads : int or None
        Number of decoding threads.
    on_error : {"raise", "nan"}
        Whether an unreadable image raises an error or gives a row of NaN.
    on_failure : {"warn", "raise"}
        Whether a failed write to the store warns or raises.
    on_batch : callable or None
        Called after each batch with the number of its images and the number of all images that are computed.
    verbose : int
        If greater than 0, show a progress bar on standard error.

    Returns
    -------
    Extracted

    Raises
    ------
    ImageReadError
        With ``on_error="raise"``, when an image cannot be read. Rows computed before are in the store. The
        remaining images are decoded before the error is raised, so that it counts all unreadable images (of images in
        object storage, those of the next 256).
    TransientReadError, ObjectStorageError
        When the storage of an image fails repeatedly, or denies access. Rows computed before are in the store.

    Notes
    -----
    Threads decode a few batches ahead while the network runs. On two cores this reached the speed that decoder and
    network allow together, and 10 times the speed of Keras's one-image loop
    (``python benchmarks/extract.py``). Beyond the result, 20,000 images took 38 MB more memory than 2,000
    (``python benchmarks/memory.py``).
    """
    if spec.views is not None:
        options: dict[str, Any] = {"store": store, "batch_size": batch_size, "n_threads": n_threads}
        options |= {"on_error": on_error, "on_failure": on_failure, "on_batch": on_batch, "verbose": verbose}
        images = Images.of(X)
        return _average_views(images, [partial(extract, images, view, **options) for view in spec.by_view()])
    start = time.perf_counter()
    images = Images.of(X)
    passes: list[tuple[np.ndarray, ExtractionPass]] = []
    with contextlib.ExitStack() as stack:
        hooks = [h for h in (on_batch, stack.enter_context(show_progress(verbose, spec))) if h is not None]
        object_keys = stack.enter_context(ObjectKeys(store, n_threads, on_failure))

        def make_pass(part: tuple[np.ndarray, bool, list[str]]) -> tuple[np.ndarray, ExtractionPass]:
            rows, is_encoded, uris = part
            subset = images if len(rows) == len(images) else images.take(rows)
            options = (int(batch_size), n_threads, on_error, on_failure, object_keys.read(subset, uris))
            return rows, ExtractionPass(subset, spec, is_encoded, store, *options)

        parts = _cut_objects(images)
        steps = map(make_pass, parts)
        if len(parts) > 2:  # object storage is read while the network runs
            steps = stack.enter_context(contextlib.closing(read_ahead(steps)))
        for rows, extraction in steps:
            computed = sum(earlier.computed for _, earlier in passes)
            later = sum(len(part[0]) for part in parts[len(passes) + 1 :]) if len(parts) > 2 else 0
            extraction.on_batch = [_with_offset(hook, computed + later) for hook in hooks]
            extraction.execute()
            extraction.images.forget_contents()
            passes.append((rows, extraction))
    result, notes = _collect(passes, len(images), spec.width)
    result.seconds = time.perf_counter() - start
    result.low_contrast = warn_of_notes(images, notes)
    warn_of_unreadable(images, result.errors)
    return result


def warn_of_unreadable(images: Images, errors: dict[int, str]) -> None:
    """Issue one warning that counts the unreadable images, {row: reason}, and names the first."""
    if errors:
        first = min(errors)
        warn(
            f"{len(errors)} of {len(images)} images could not be read; their rows are NaN. The first is "
            f"{images.name(first)!r}: {errors[first]}. See check_images(X) for all.",
            UnreadableImagesWarning,
        )


def _average_views(images: Images, extract_views: Sequence[Callable[[], Extracted]]) -> Extracted:
    """Extract the embeddings of all views, and average them; errors and notes are those of the first view.

    Raises
    ------
    ImageReadError
        If an image changes, or cannot be read any more, after the first view was read.
    """
    result = extract_views[0]()
    features = result.features.copy()
    for extract_view in extract_views[1:]:
        with warnings.catch_warnings():  # the first view has warned
            warnings.simplefilter("ignore")
            other = extract_view()
        changed = np.flatnonzero((other.keys != result.keys).any(axis=1))
        if len(changed):
            reason = "the file changed while its views were being read; wait until it is complete"
            raise ImageReadError(images.name(changed[0]), reason)
        features += other.features
        result.computed = max(result.computed, other.computed)
        result.seconds += other.seconds
    result.features = features / np.float32(len(extract_views))
    return result


def split_by_kind(images: Images) -> Iterator[tuple[np.ndarray, bool]]:
    """Iterate over the rows of encoded images and those of images passed as pixels; their recipes differ."""
    encoded = images.encoded()
    for is_encoded in (True, False):
        rows = np.flatnonzero(encoded == is_encoded)
        if len(rows):
            yield rows, is_encoded


def _cut_objects(images: Images) -> list[tuple[np.ndarray, bool, list[str]]]:
    """Return the parts of `split_by_kind`, with objects in chunks of rows, and the URIs of the objects in each."""
    all_uris, parts = images.uris(), [(rows, is_encoded, []) for rows, is_encoded in split_by_kind(images)]
    if not all_uris:
        return parts
    objects, uris = np.array(list(all_uris)), list(all_uris.values())
    local = [(np.setdiff1d(rows, objects), is_encoded, []) for rows, is_encoded, _ in parts]
    chunks = [slice(i, i + CHUNK_ROWS) for i in range(0, len(objects), CHUNK_ROWS)]
    return [part for part in local if len(part[0])] + [(objects[c], True, uris[c]) for c in chunks]


def _with_offset(hook: Callable[[int, int], None], computed: int) -> Callable[[int, int], None]:
    """Return ``hook`` with the number of images of earlier passes added to the total."""
    return lambda done, total: hook(done, computed + total)


def _collect(
    passes: Sequence[tuple[np.ndarray, ExtractionPass]], n: int, width: int
) -> tuple[Extracted, dict[int, Note]]:
    """Combine the results and notes of all passes in input order."""
    if len(passes) == 1:
        only = passes[0][1]
        result = Extracted(only.out, dict(sorted(only.errors.items())), only.keys, only.computed)
        return result, dict(sorted(only.notes.items()))
    result = Extracted(np.empty((n, width), np.float32), {}, np.empty((n, KEY_BYTES), np.uint8))
    notes: dict[int, Note] = {}
    for rows, extraction in passes:
        result.features[rows], result.keys[rows] = extraction.out, extraction.keys
        extraction.out = result.features[:0]  # frees its memory: there may be many passes
        result.errors |= {int(rows[i]): reason for i, reason in extraction.errors.items()}
        notes |= {int(rows[i]): note for i, note in extraction.notes.items()}
        result.computed += extraction.computed
    result.errors = dict(sorted(result.errors.items()))
    return result, dict(sorted(notes.items()))
