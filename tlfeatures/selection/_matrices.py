"""All embeddings of a search, from one pass a network, size and way to resize."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlfeatures.errors import LowContrastImagesWarning, UnreadableImagesWarning
from tlfeatures.extract import Plan, extract
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.images import Images
from tlfeatures.selection._candidates import Embedding, Pass
from tlfeatures.selection._progress import Steps
from tlfeatures.store import EmbeddingStore

__all__ = ["Matrices"]

_HELD_BYTES = 2 << 30  # kept in memory; beyond that rows are read from the store when needed


class Matrices:
    """Run every pass, then give each embedding as a matrix.

    Parameters
    ----------
    images : Images
    passes : sequence of Pass
    store : EmbeddingStore or None
    steps : Steps
        Told of the progress.
    **options
        ``batch_size`` and ``on_error`` of :func:`~tlfeatures.extract.extract`.

    Attributes
    ----------
    errors : dict
        {row: reason} of the images that could not be read.
    low_contrast : dict
        {row: reason} of the decoded images that span fewer than 16 of 256 levels.
    keys : ndarray of uint8, shape (n, 16)
    timings : list of dict
        Of each pass: ``step``, ``images``, ``computed`` and ``seconds``.
    """

    def __init__(
        self,
        images: Images,
        passes: Sequence[Pass],
        store: EmbeddingStore | None,
        steps: Steps,
        **options: Any,
    ) -> None:
        self._images, self._store, self._options = images, store, options
        self._plans: dict[str, Plan] = {}
        self._held: dict[str, np.ndarray] = {}
        self.errors: dict[int, str] = {}
        self.low_contrast: dict[int, str] = {}
        self.timings: list[dict[str, Any]] = []
        with warnings.catch_warnings():
            for category in (UnreadableImagesWarning, LowContrastImagesWarning):
                warnings.simplefilter("ignore", category)  # the search warns once, and says what it did
            for one in passes:
                self._run(one, steps)

    def _run(self, one: Pass, steps: Steps) -> None:
        start = time.perf_counter()
        steps.begin(str(one))
        found = extract(self._images, one.plan, store=self._store, on_batch=steps.advance, **self._options)
        self.keys = found.keys
        self.errors |= found.errors
        self.low_contrast |= found.low_contrast
        held = sum(block.nbytes for block in self._held.values())
        keep = self._store is None or held + found.features.nbytes <= _HELD_BYTES
        for column, place in zip(one.plan.columns, one.plan.slices, strict=True):
            digest = recipe_digest(column.recipe)
            self._plans[digest] = one.plan
            if keep:
                self._held[digest] = found.features[:, place]
        self.timings.append(
            {
                "step": f"network: {one}",
                "images": len(self._images),
                "computed": found.computed,
                "seconds": time.perf_counter() - start,
            }
        )

    def of(self, embedding: Embedding, rows: np.ndarray) -> np.ndarray:
        """Rows of one embedding, float32 (len(rows), d)."""
        blocks = [self._held.get(digest) for digest in embedding.identity]
        if all(block is not None for block in blocks):
            return np.concatenate([block[rows] for block in blocks], axis=1)
        whole = self._plans[embedding.identity[0]]
        plan = Plan(whole.backbone, whole.description, whole.decoder, embedding.columns)
        return extract(self._images.take(rows), plan, store=self._store, **self._options).features
