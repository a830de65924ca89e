"""The network of an extraction: compiled when the first batch arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

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
        """
        results = [y[: len(batch)] for y in self.load()(_padded(batch, self.batch_size))]
        if not all(np.isfinite(values).all() for values in results):
            raise FloatingPointError(
                f"The network computed non-finite embeddings with precision={self.spec.backbone.precision!r} and "
                f"normalization={self.spec.description.normalization!r}. Use precision='float32' (or 'bfloat16', which "
                "has the same range), and check the normalization and the weights."
            )
        return results


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    if len(batch) == size:
        return batch
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)])
