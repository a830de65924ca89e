"""Embeddings of a search, from one pass per network, image size and resize mode."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlfeatures.errors import ImageReadError, LowContrastImagesWarning, UnreadableImagesWarning
from tlfeatures.extract import Extracted, FeatureSpec, extract
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.images import Images
from tlfeatures.selection._candidates import Embedding, Pass
from tlfeatures.selection._progress import ProgressSteps
from tlfeatures.store import EmbeddingStore

__all__ = ["EmbeddingMatrices"]

_MAX_BYTES_IN_MEMORY = 1 << 29  # beyond that, rows are read from the store when needed


class EmbeddingMatrices:
    """Embeddings of a search as matrices; the passes run in the constructor.

    Parameters
    ----------
    images : Images
    passes : sequence of Pass
    store : EmbeddingStore or None
    steps : ProgressSteps
    **options
        ``batch_size`` and ``on_error`` of :func:`~tlfeatures.extract.extract`.

    Attributes
    ----------
    errors : dict
        {row: reason} of images that could not be read.
    low_contrast : dict
        {row: reason} of decoded images that span fewer than 16 of 256 levels.
    keys : ndarray of uint8, shape (n, 16)
    timings : list of dict
        ``step``, ``images``, ``computed`` and ``seconds`` of each pass.
    """

    def __init__(
        self,
        images: Images,
        passes: Sequence[Pass],
        store: EmbeddingStore | None,
        steps: ProgressSteps,
        **options: Any,
    ) -> None:
        self._images, self._store, self._options = images, store, options
        self._plans: dict[str, FeatureSpec] = {}
        self._in_memory: dict[str, np.ndarray] = {}
        self.errors: dict[int, str] = {}
        self.low_contrast: dict[int, str] = {}
        self.timings: list[dict[str, Any]] = []
        with warnings.catch_warnings():
            for category in (UnreadableImagesWarning, LowContrastImagesWarning):
                warnings.simplefilter("ignore", category)  # the search issues one warning for all passes
            for planned in passes:
                self._run(planned, steps)

    def _run(self, planned: Pass, steps: ProgressSteps) -> None:
        start = time.perf_counter()
        steps.begin(str(planned))
        n, plan = len(self._images), planned.plan
        free = _MAX_BYTES_IN_MEMORY - sum(block.nbytes for block in self._in_memory.values())
        keep = self._store is None or 4 * n * plan.width <= free
        rows_per_part = n if keep else max(1, _MAX_BYTES_IN_MEMORY // (8 * plan.width))
        keys, computed = [], 0
        for first in range(0, n, rows_per_part):
            rows = np.arange(first, min(n, first + rows_per_part))
            extracted = self._extract(rows, plan, steps, computed + n - 1 - rows[-1])
            keys.append(extracted.keys)
            computed += extracted.computed
            self.errors |= {first + row: reason for row, reason in extracted.errors.items()}
            self.low_contrast |= {first + row: reason for row, reason in extracted.low_contrast.items()}
        self.keys = np.concatenate(keys)
        for column, positions in zip(plan.columns, plan.slices, strict=True):
            digest = recipe_digest(column.recipe)
            self._plans[digest] = plan
            if keep:
                self._in_memory[digest] = extracted.features[:, positions]
        seconds = time.perf_counter() - start
        step = {"step": f"network: {planned}", "images": n, "computed": computed, "seconds": seconds}
        self.timings.append(step)

    def _extract(self, rows: np.ndarray, plan: FeatureSpec, steps: ProgressSteps, others: int) -> Extracted:
        """Extract the embeddings of some rows; the progress counts ``others`` too, as images of other parts."""
        complete = len(rows) == len(self._images)
        images = self._images if complete else self._images.take(rows)
        options: dict[str, Any] = {"store": self._store, **self._options}
        try:
            return extract(
                images, plan, on_batch=lambda done, total: steps.advance(done, total + others), **options
            )
        except ImageReadError:
            if complete:
                raise
            return extract(self._images, plan, **options)  # raises an error that counts all unreadable images

    def load(self, embedding: Embedding, rows: np.ndarray) -> np.ndarray:
        """Load some rows of one embedding, float32 of shape (len(rows), d)."""
        blocks = [self._in_memory.get(digest) for digest in embedding.digests]
        if all(block is not None for block in blocks):
            return np.concatenate([block[rows] for block in blocks], axis=1)
        joint = self._plans[embedding.digests[0]]
        plan = replace(joint, columns=embedding.columns)
        return extract(self._images.take(rows), plan, store=self._store, **self._options).features
