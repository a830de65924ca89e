"""The only package that imports keras: backend, precision and compilation. Global state is not changed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tlfeatures._torch import tf32_switches as torch_switches
from tlfeatures.errors import ForkedProcessError, MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "PRECISIONS",
    "FrozenNetwork",
    "check_fork",
    "compile_frozen",
    "count_bytes",
    "is_callback",
    "is_layer",
    "is_model",
    "keras",
    "keras_version",
    "precise",
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
# entered around every import of Keras, see `quiet_imports`
importing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
_tf32_lock = threading.Lock()  # TF32 is switched for the whole process
_FROZEN_LIMIT = 128 << 20  # bytes of weights; larger ones would need gigabytes for a speed-up by a tenth
_FROZEN_COPIES = 8  # of the weights in the graphs and kernels of TensorFlow; twice as many during compilation


def keras() -> ModuleType:
    """Import keras; if it or its backend is missing, raise an error with the install command."""
    try:
        with importing():
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


_forked_after: str | None = None  # backend that had started in the parent of this process


def check_fork() -> None:
    """Raise an error in a process in which a network would never finish.

    Raises
    ------
    ForkedProcessError
        When this process was forked after its parent had started TensorFlow or JAX: their threads do not exist
        in this process, and their work would wait forever.
    """
    if _forked_after is not None:
        raise ForkedProcessError(
            f"A network cannot run in this process: it was forked after {_forked_after} had started in its parent "
            "process, and would wait forever. Use worker processes that are not forked: joblib's default backend "
            '(joblib.parallel_config(backend="loky") in place of "multiprocessing"), or multiprocessing with the '
            '"spawn" context. Or compute the embeddings first, with CNNFeatures(...).fit_transform(X) and a cache: '
            "workers that find all rows in the store need no network."
        )


def _started_backend() -> str | None:
    """Return the backend whose threads run in this process; imports nothing."""
    context = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if getattr(context, "_context_handle", None) is not None:
        return "TensorFlow"
    if getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None):
        return "JAX"
    return None


def _remember_backend() -> None:
    global _forked_after
    _forked_after = _started_backend() or _forked_after


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_backend)


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


def weights_folders() -> list[Path]:
    """Return the folders where Keras keeps weights; it writes to the first."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return [home / "models", Path.home() / ".keras" / "models", Path("/tmp/.keras/models")]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint of PyTorch by their names; no code in it is executed.

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


@dataclass(frozen=True)
class FrozenNetwork:
    """A compiled function from uint8 pixels (b, h, w, 3) to a list of float32 arrays (b, d).

    Parameters
    ----------
    run : callable
    precision : str
    nbytes : int
        Approximate memory of the function.
    """

    run: Callable[[np.ndarray], list[np.ndarray]]
    precision: str
    nbytes: int

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        check_fork()
        with precise(self.precision):
            return self.run(batch)


def compile_frozen(
    model: Any,
    preprocess: Callable[[Any], Any],
    postprocess: Callable[[list[Any]], list[Any]],
    precision: str,
) -> FrozenNetwork:
    """Compile ``postprocess(model(preprocess(x)))`` in inference mode with the weights frozen.

    Parameters
    ----------
    model : keras.Model
        With a list of outputs.
    preprocess, postprocess : callable
        Functions of backend tensors: from uint8 pixels to the input, and from the outputs to the results.
    precision : str
        "float32" means IEEE float32 also on GPUs; "tf32" and the others allow faster arithmetic.

    Returns
    -------
    FrozenNetwork
        One trace per shape.
    """
    backend = keras().backend.backend()
    compiler = {"tensorflow": _compile_tensorflow, "jax": _compile_jax, "torch": _compile_torch}
    if backend not in compiler:
        raise ValueError(
            f"Unsupported Keras backend {backend!r}; set KERAS_BACKEND to one of {list(compiler)}."
        )

    def outputs(trainable: Any, fixed: Any, x: Any) -> list[Any]:
        y, _ = model.stateless_call(trainable, fixed, preprocess(x), training=False)
        return postprocess(y if isinstance(y, (list, tuple)) else [y])

    check_fork()
    copies = _FROZEN_COPIES if backend == "tensorflow" and _is_frozen(model) else 1
    return FrozenNetwork(compiler[backend](model, outputs), precision, copies * count_bytes(model))


def to_numpy(variable: Any) -> np.ndarray:
    """Return the value of a Keras variable."""
    if keras().backend.backend() == "tensorflow":
        return variable.value.numpy()  # convert_to_numpy warns under numpy 2
    return keras().ops.convert_to_numpy(variable.value)


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [to_numpy(variable) for variable in variables]


def _is_frozen(model: Any) -> bool:
    """Whether the weights become constants, which fold batch normalization into convolutions.

    Networks without batch normalization would only start more slowly.
    """
    # the statistics; other non-trainable variables are seeds of Dropout, which are integers
    has_statistics = any("float" in str(v.dtype) for v in model.non_trainable_variables)
    return has_statistics and count_bytes(model) <= _FROZEN_LIMIT


def _compile_tensorflow(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    import tensorflow as tf

    freeze = _is_frozen(model)

    # only constants that are made inside the function are folded into the graph
    @tf.function(autograph=False)
    def run(x: Any) -> list[Any]:
        if not freeze:
            groups = model.trainable_variables, model.non_trainable_variables
            return outputs(*([tf.convert_to_tensor(v.value) for v in g] for g in groups), x)
        with tf.init_scope():  # outside the trace, where variables have values
            groups = _values(model.trainable_variables), _values(model.non_trainable_variables)
        return outputs(*([tf.constant(v) for v in g] for g in groups), x)

    # a dict of our own, because TensorFlow warns of "retracing" with its cache
    traces: dict[tuple[int, ...], Any] = {}

    def call(batch: np.ndarray) -> list[np.ndarray]:
        if batch.shape not in traces:
            traces[batch.shape] = run.get_concrete_function(tf.TensorSpec(batch.shape, tf.uint8))
        return [y.numpy() for y in traces[batch.shape](tf.constant(batch))]

    return call


def _compile_jax(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    import jax
    import numpy as np

    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]
    run = jax.jit(lambda t, f, x: outputs(t, f, x))
    return lambda batch: [np.asarray(y) for y in run(trainable, fixed, batch)]


def _compile_torch(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    import torch

    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]

    def call(batch: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            x = keras().ops.convert_to_tensor(batch)
            return [y.detach().cpu().numpy() for y in outputs(trainable, fixed, x)]

    return call


@contextlib.contextmanager
def precise(precision: str) -> Iterator[None]:
    """Use IEEE float32 on GPUs inside the block, or TF32 if ``precision`` allows it; then restore the setting."""
    fast = precision != "float32"
    if keras().backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("default" if fast else "highest"):
            yield
        return
    switches = _tf32_switches()
    with _tf32_lock if switches else contextlib.nullcontext():
        previous = [get() for get, _ in switches]
        for _, set_tf32 in switches:
            set_tf32(fast)
        try:
            yield
        finally:
            for (_, set_tf32), value in zip(switches, previous, strict=True):
                set_tf32(value)


def _tf32_switches() -> list[tuple[Callable[[], bool], Callable[[bool], None]]]:
    """Return getters and setters of TF32 in TensorFlow or PyTorch; none without a GPU, where it has no effect."""
    if keras().backend.backend() == "tensorflow":
        import tensorflow as tf

        switch = tf.config.experimental
        switches = [(switch.tensor_float_32_execution_enabled, switch.enable_tensor_float_32_execution)]
        return switches if tf.config.list_physical_devices("GPU") else []
    return torch_switches()
