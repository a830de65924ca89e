"""Access to Keras: import, backend, random state and weights.

No other package imports keras. Global settings of Keras are not changed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tlfeatures.errors import ForkedProcessError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "PRECISIONS",
    "check_fork",
    "count_bytes",
    "is_callback",
    "is_layer",
    "is_model",
    "is_out_of_memory",
    "keras",
    "keras_version",
    "read_checkpoint",
    "seeded_random_state",
    "to_numpy",
    "untouched_random_state",
    "weights_folders",
]

# precision -> dtype policy of the layers
PRECISIONS = {
    "float32": "float32",
    "tf32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
# Context manager used around the import of Keras. `quiet_imports` replaces it to hide the messages of the backend.
import_context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def keras() -> ModuleType:
    """Import keras; if it or its backend is missing, raise an error with the install command."""
    try:
        with import_context():
            import keras
    except ImportError as error:
        raise MissingDependencyError(
            f"tlfeatures needs Keras and its backend to run a network, and importing them failed: {error}. "
            "Install the default with `pip install tensorflow`, or set KERAS_BACKEND to jax or torch and "
            "install that one."
        ) from error
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Keras is set to image_data_format='channels_first'; tlfeatures needs 'channels_last'. "
            "Change it in ~/.keras/keras.json or by keras.config.set_image_data_format('channels_last')."
        )
    return keras


_backend_before_fork: str | None = None  # backend that had started in the parent of this process


def check_fork() -> None:
    """Raise an error if a network would hang in this process.

    Raises
    ------
    ForkedProcessError
        When this process was forked after its parent had started TensorFlow or JAX: the threads of the backend do not
        exist in the forked process, so a network would wait for them forever.
    """
    if _backend_before_fork is not None:
        raise ForkedProcessError(
            f"A network cannot run in this process: it was forked after {_backend_before_fork} had started in its "
            "parent process. The threads of the backend do not exist in the forked process, so a network would wait "
            "for them forever. Use worker processes that are not forked: joblib's default backend "
            '(joblib.parallel_config(backend="loky") in place of "multiprocessing"), or multiprocessing with the '
            '"spawn" context. Or compute the embeddings first, with CNNFeatures(...).fit_transform(X) and a cache: '
            "workers that find all rows in the store need no network."
        )


def _started_backend() -> str | None:
    """Return the backend that was started in this process, or in its parent before the fork; imports nothing."""
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if getattr(context, "_context_handle", None) is not None:
        return "TensorFlow"
    if getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None):
        return "JAX"
    return None


def _remember_backend_of_parent() -> None:
    global _backend_before_fork
    _backend_before_fork = _started_backend() or _backend_before_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_backend_of_parent)


@functools.cache  # called by every fit; takes half a millisecond
def keras_version() -> str:
    """Return the version of the installed Keras from its metadata; imports nothing."""
    try:
        return importlib.metadata.version("keras")
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def is_callback(value: object) -> bool:
    """Whether ``value`` is a ``keras.callbacks.Callback``; does not import keras."""
    return any(c.__module__.startswith("keras.") and c.__name__ == "Callback" for c in type(value).__mro__)


def is_layer(value: object) -> bool:
    """Whether ``value`` is a ``keras.Layer``, such as a model; does not import keras."""
    return any(c.__module__.startswith("keras.") and c.__name__ == "Layer" for c in type(value).__mro__)


def is_model(value: object) -> bool:
    """Whether ``value`` is a ``keras.Model``; does not import keras."""
    return any(c.__module__.startswith("keras.") and c.__name__ == "Model" for c in type(value).__mro__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a backend, or Python, ran out of memory; each backend has its own exception."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(
        isinstance(error, MemoryError)
        or names & {"ResourceExhaustedError", "OutOfMemoryError"}
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
    )


def weights_folders() -> list[Path]:
    """Return the folders where Keras keeps weights; new files are saved in the first one that is writable."""
    home = Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"))
    return [home / "models", Path.home() / ".keras" / "models", Path("/tmp/.keras/models")]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a PyTorch checkpoint as a dict of name to array, without running code from the file.

    Raises
    ------
    MissingDependencyError
        If PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {os.fspath(path)!r} needs PyTorch: pip install torch. Embeddings that are in the store are read "
            "without it."
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


@contextlib.contextmanager
def untouched_random_state() -> Iterator[None]:
    """Restore Python's global generator after the block; Keras's initializers draw their seeds from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def seeded_random_state(seed: int) -> Iterator[None]:
    """Seed the initializers and random layers that are made in the block; restore Python's generator after it."""
    with untouched_random_state():
        random.seed(seed)
        yield


def count_bytes(model: Any) -> int:
    """Return the size of the weights of a ``keras.Model`` in float32."""
    return sum(math.prod(v.shape) * 4 for v in model.variables)


def to_numpy(variable: Any) -> np.ndarray:
    """Return the value of a Keras variable."""
    if keras().backend.backend() == "tensorflow":
        return variable.value.numpy()  # convert_to_numpy warns under numpy 2
    return keras().ops.convert_to_numpy(variable.value)
