"""Extensions of Keras's training for fine-tuning: learning rates by layer, frozen layers, batches by epoch."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["EpochBatches", "InferenceMode", "LayerwiseAdamW", "make_schedule",
           "preserved_random_state", "quiet_tracing", "seed_random_layers", "supports_many_steps"]  # fmt: skip

_WARMUP = 0.05  # fraction of the steps


@keras.saving.register_keras_serializable("tlfeatures")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate is multiplied by a factor for each variable.

    Parameters
    ----------
    *args, **kwargs
        Arguments of ``keras.optimizers.AdamW``.
    factors : sequence of float
        Factor of the learning rate for each trainable variable, in the order of the model.
    """

    def __init__(self, *args: Any, factors: Sequence[float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factors = tuple(factors)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        factor = self.factors[self._get_variable_index(variable)]  # as in Keras's example of an optimizer
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with which callbacks such as ``ModelCheckpoint`` save the optimizer."""
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable("tlfeatures")
class InferenceMode(keras.layers.Layer):
    """Layer that runs a network in inference mode inside a model that is trained.

    Dropout is off and batch normalization uses its moving statistics. Otherwise, `fit` would pass ``training=True`` to
    all nested layers, even if they were called with ``training=False``.
    """

    def __init__(self, network: Any, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, "name": "frozen_layers", **kwargs})
        self.network = network

    def call(self, x: Any) -> Any:
        """Run the network in inference mode."""
        return self.network(x, training=False)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with which callbacks such as ``ModelCheckpoint`` save the model."""
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InferenceMode:
        """Make the layer and its network."""
        return cls(**{**config, "network": keras.saving.deserialize_keras_object(config["network"])})


class EpochBatches(keras.utils.PyDataset):
    """Batches of several epochs, which depend only on the epoch and the index, so that training can be resumed.

    With ``fit(steps_per_epoch=...)``, one iterator reads all epochs; in TensorFlow, a new iterator costs 40 ms.

    Parameters
    ----------
    open_epoch : callable
        Function from an epoch to a function from the index of a batch to (inputs, targets, sample weights).
    steps : int
        Number of batches per epoch.
    first, last : int
        First and last epoch.

    Attributes
    ----------
    error : Exception or None
        Exception raised while a batch was loaded; backends raise another exception in its place.
    """

    def __init__(
        self, open_epoch: Callable[[int], Callable[[int], Any]], steps: int, first: int = 0, last: int = 0
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.steps, self._first, self._last = steps, first, last
        self._open_epoch, self._epoch = open_epoch, -1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.steps * (self._last - self._first + 1)

    def __getitem__(self, index: int) -> Any:
        epoch, batch = divmod(index, self.steps)
        epoch += self._first
        with self._lock:
            try:
                if epoch != self._epoch:
                    self._load = self._open_epoch(epoch)
                    self._epoch = epoch
                return self._load(batch)
            except Exception as error:
                self.error = error
                raise


def make_schedule(name: str, learning_rate: float, steps: int) -> Any:
    """Return the learning rate for an optimizer: a Keras schedule over all steps, or a number.

    "cosine": linear warm-up in the first 5% of the steps, then cosine decay to 0. "step": division by 10 after 50% and
    75% of the steps. "constant": the number, which callbacks such as ``ReduceLROnPlateau`` can change.
    """
    schedules = keras.optimizers.schedules
    if name == "constant":
        return learning_rate
    if name == "step":
        boundaries = [-(-steps // 2) - 1, -(-3 * steps // 4) - 1]
        return schedules.PiecewiseConstantDecay(
            boundaries, [learning_rate, learning_rate / 10, learning_rate / 100]
        )
    warmup = round(_WARMUP * steps)
    if not warmup:
        return schedules.CosineDecay(learning_rate, steps)
    return schedules.CosineDecay(
        learning_rate / (warmup + 1), steps - warmup, warmup_target=learning_rate, warmup_steps=warmup
    )


def seed_random_layers(model: Any, seed: Sequence[int]) -> None:
    """Set the seeds of dropout and of other random layers."""
    rng = np.random.default_rng(seed)
    for variable in model.non_trainable_variables:
        if "seed_generator" in variable.path:
            variable.assign(rng.integers(0, 2**32, variable.shape, dtype=np.uint32))
    if keras.backend.backend() == "torch":  # some layers draw from PyTorch's own generator
        import torch

        torch.manual_seed(int(rng.integers(2**63)))


def supports_many_steps() -> bool:
    """Return whether the backend supports ``steps_per_execution``."""
    return keras.backend.backend() in ("tensorflow", "jax")


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Silence the warning of TensorFlow that training functions are compiled again for each training."""
    logger = logging.getLogger("tensorflow")

    def is_other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def preserved_random_state() -> contextlib.AbstractContextManager[None]:
    """Restore the random state of PyTorch after the block, if it is the backend."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.random.fork_rng()
