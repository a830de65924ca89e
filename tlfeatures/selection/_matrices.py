"""Embeddings of a search, from one pass per network, image size and resize mode."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlfeatures.errors import LowContrastImagesWarning, UnreadableImagesWarning
from tlfeatures.extract import FeatureSpec, extract
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.images import Images
from tlfeatures.selection._candidates import Embedding, Pass
from tlfeatures.selection._progress import ProgressSteps
from tlfeatures.store import EmbeddingStore

__all__ = ["EmbeddingMatrices"]

_MAX_BYTES_IN_MEMORY = 2 << 30  # beyond that, rows are read from the store when needed


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
        extracted = extract(
            self._images, planned.plan, store=self._store, on_batch=steps.advance, **self._options
        )
        self.keys = extracted.keys
        self.errors |= extracted.errors
        self.low_contrast |= extracted.low_contrast
        n_bytes = sum(block.nbytes for block in self._in_memory.values())
        keep = self._store is None or n_bytes + extracted.features.nbytes <= _MAX_BYTES_IN_MEMORY
        for column, positions in zip(planned.plan.columns, planned.plan.slices, strict=True):
            digest = recipe_digest(column.recipe)
            self._plans[digest] = planned.plan
            if keep:
                self._in_memory[digest] = extracted.features[:, positions]
        self.timings.append(
            {
                "step": f"network: {planned}",
                "images": len(self._images),
                "computed": extracted.computed,
                "seconds": time.perf_counter() - start,
            }
        )

    def load(self, embedding: Embedding, rows: np.ndarray) -> np.ndarray:
        """Load some rows of one embedding, float32 of shape (len(rows), d)."""
        blocks = [self._in_memory.get(digest) for digest in embedding.digests]
        if all(block is not None for block in blocks):
            return np.concatenate([block[rows] for block in blocks], axis=1)
        joint = self._plans[embedding.digests[0]]
        plan = replace(joint, columns=embedding.columns)
        return extract(self._images.take(rows), plan, store=self._store, **self._options).features
