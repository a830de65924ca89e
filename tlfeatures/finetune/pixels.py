"""Pictures of the training set, in any order, over and over: from memory where they fit, else decoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.images import Decoder, Images, decode_batches

__all__ = ["KEPT_BYTES", "Pixels"]

KEPT_BYTES = 512 << 20  # decoded pictures are kept in memory up to this size in all


class Pixels:
    """Decoded pictures by row.

    Parameters
    ----------
    images : Images
    decoder : Decoder
    n_threads : int or None
    """

    def __init__(self, images: Images, decoder: Decoder, n_threads: int | None = None) -> None:
        self.images, self.decoder, self.n_threads = images, decoder, n_threads
        shape = (len(images), *decoder.image_size, 3)
        self._kept = np.empty(shape, np.uint8) if np.prod(shape, dtype=float) <= KEPT_BYTES else None
        self._here = np.zeros(len(images), bool)

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, uint8 pixels) in the order of ``rows``, ``batch_size`` at a time.

        Raises
        ------
        ImageReadError
            At the first that cannot be read, which it could be before training began.
        """
        if self._kept is not None:
            self._fill(np.unique(rows[~self._here[rows]]))
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                yield part, self._kept[part]
            return
        for part, _, batch, errors in decode_batches(
            self.images, rows, self.decoder, batch_size, self.n_threads, notes={}
        ):
            self._refuse(errors)
            yield part, batch

    def unreadable(self) -> dict[int, str]:
        """{row: reason} of those that cannot be read; every one is decoded to find out."""
        found: dict[int, str] = {}
        rows = np.arange(len(self.images))
        for part, _, batch, errors in decode_batches(self.images, rows, self.decoder, 64, self.n_threads):
            found.update(errors)
            if self._kept is not None:
                self._kept[part] = batch
                self._here[part] = True
        return found

    def _fill(self, rows: np.ndarray) -> None:
        for part, _, batch, errors in decode_batches(
            self.images, rows, self.decoder, 64, self.n_threads, notes={}
        ):
            self._refuse(errors)
            self._kept[part] = batch
            self._here[part] = True

    def _refuse(self, errors: dict[int, str]) -> None:
        for row, reason in errors.items():
            raise ImageReadError(self.images.name(row), f"it can no longer be read while training: {reason}")

    def mean_std(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Mean and standard deviation of each colour over ``rows``, in parts of 255."""
        count, total, squares = 0, np.zeros(3), np.zeros(3)
        for _, batch in self.batches(rows, 64):
            flat = batch.reshape(-1, 3).astype(np.float64) / 255
            count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())
