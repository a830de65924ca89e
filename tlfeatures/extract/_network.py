"""The network of an extraction: compiled when the first batch arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tlfeatures._keras import is_out_of_memory
from tlfeatures._warnings import warn
from tlfeatures.errors import OutOfMemoryError
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec

__all__ = ["BatchNetwork"]


class BatchNetwork:
    """Function from batches of pixels to blocks of columns; the network is loaded by the first call.

    Parameters
    ----------
    spec : FeatureSpec
    outputs : sequence of FeatureBlock
    batch_size : int
        Largest number of images in a batch; smaller batches are padded, because each new shape is compiled again.
        It is halved, with a warning, when memory runs out.
    """

    def __init__(self, spec: FeatureSpec, outputs: Sequence[FeatureBlock], batch_size: int) -> None:
        self.spec, self.outputs, self.batch_size = spec, outputs, batch_size
        self._function: Callable[[np.ndarray], list[np.ndarray]] | None = None

    def load(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Load and compile the network, if this has not been done; return the compiled function."""
        if self._function is None:
            outputs = [(block.tap, block.part) for block in self.outputs]
            self._function = self.spec.backbone.compile(outputs, self.spec.description)
        return self._function

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Compute one float32 array (b, d) for each block of columns from uint8 pixels (b, height, width, 3).

        Raises
        ------
        FloatingPointError
            If an embedding is not finite.
        OutOfMemoryError
            If the memory does not suffice for a single image.
        """
        parts: list[list[np.ndarray]] = []
        n_done = 0
        while n_done < len(batch):
            part = batch[n_done : n_done + self.batch_size]
            try:
                parts.append([y[: len(part)] for y in self.load()(_padded(part, self.batch_size))])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_batch_size(error)
            else:
                n_done += len(part)
        results = (
            parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]
        )
        if not all(np.isfinite(values).all() for values in results):
            raise FloatingPointError(
                f"The network computed non-finite embeddings with precision={self.spec.backbone.precision!r} and "
                f"normalization={self.spec.description.normalization!r}. Use precision='float32' (or 'bfloat16', which "
                "has the same range), and check the normalization and the weights."
            )
        return results

    def _halve_batch_size(self, error: Exception) -> None:
        name, size = self.spec.backbone.name, self.batch_size
        if size == 1:
            height, width = self.spec.description.image_size
            raise OutOfMemoryError(
                f"{name} ran out of memory on a single image of {height}x{width} pixels. Use a smaller `image_size`, "
                "precision='bfloat16', or a machine or device with more free memory."
            ) from error
        self.batch_size = size // 2
        warn(
            f"{name} ran out of memory with batches of {size} images; batches of {self.batch_size} are used now. The "
            f"result does not change. Pass `batch_size={self.batch_size}` to start with it."
        )


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    if len(batch) == size:
        return batch
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)])
