"""Pixels of the training images: kept in memory if small enough, otherwise decoded again in each epoch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.images import Decoder, Images, decode_batches

__all__ = ["MEMORY_LIMIT", "Pixels"]

MEMORY_LIMIT = 512 << 20  # bytes of decoded images that are kept in memory


class Pixels:
    """Decoded images by row.

    Parameters
    ----------
    images : Images
    decoder : Decoder
    n_threads : int or None
    """

    def __init__(self, images: Images, decoder: Decoder, n_threads: int | None = None) -> None:
        self.images, self.decoder, self.n_threads = images, decoder, n_threads
        shape = (len(images), *decoder.image_size, 3)
        fits = np.prod(shape, dtype=float) <= MEMORY_LIMIT
        self._in_memory = np.empty(shape, np.uint8) if fits else None
        self._is_decoded = np.zeros(len(images), bool)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the pixels of ``rows``, uint8 of shape (n, height, width, 3).

        Raises
        ------
        ImageReadError
            If an image cannot be read that was readable before training.
        """
        missing = rows if self._in_memory is None else np.unique(rows[~self._is_decoded[rows]])
        if not len(missing):
            return self._in_memory[rows]
        batches = decode_batches(self.images, missing, self.decoder, len(missing), self.n_threads, notes={})
        ((part, _, pixels, errors),) = batches
        for row, reason in errors.items():
            raise ImageReadError(self.images.name(row), f"it became unreadable during training: {reason}")
        if self._in_memory is None:
            return pixels
        self._keep(part, pixels)
        return self._in_memory[rows]

    def read_batches(self, rows: np.ndarray, size: int) -> Callable[[int], np.ndarray]:
        """Return a function from the number of a batch of ``rows`` to its pixels.

        Each call decodes the next batch in a background thread, also with backends that load batches in the thread
        that trains.
        """
        ahead: dict[int, Future[np.ndarray]] = {}

        def read(i: int) -> np.ndarray:
            return self.read(rows[i * size : (i + 1) * size])

        def read_and_prefetch(i: int) -> np.ndarray:
            future = ahead.pop(i, None)
            ahead.clear()
            if (i + 1) * size < len(rows):
                ahead[i + 1] = self._executor.submit(read, i + 1)
            return future.result() if future else read(i)

        return read if self._is_decoded[rows].all() else read_and_prefetch

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "decode")

    def find_unreadable(self) -> dict[int, str]:
        """Decode all images; return {row: reason} of those that cannot be read."""
        unreadable: dict[int, str] = {}
        rows = np.arange(len(self.images))
        for part, _, pixels, errors in decode_batches(self.images, rows, self.decoder, 64, self.n_threads):
            unreadable.update(errors)
            self._keep(part, pixels)
        return unreadable

    def _keep(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        if self._in_memory is not None:
            self._in_memory[rows] = pixels
            self._is_decoded[rows] = True  # last, because a thread may read

    def mean_std(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Return the mean and standard deviation of each color over ``rows``, of pixels scaled to 0..1."""
        count, total, squares = 0, np.zeros(3), np.zeros(3)
        for start in range(0, len(rows), 64):
            flat = self.read(rows[start : start + 64]).reshape(-1, 3).astype(np.float64) / 255
            count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())
