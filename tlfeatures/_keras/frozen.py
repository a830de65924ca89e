"""Networks as compiled functions with frozen weights, and the precision of their arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures._keras import (
    check_fork,
    count_bytes,
    keras,
    onnx_graph,
    openvino_graph,
    to_numpy,
    untouched_random_state,
)
from tlfeatures._keras.grouped import replace_grouped_convolutions
from tlfeatures._torch import Switches, allow_tf32
from tlfeatures._torch import tf32_switches as torch_switches

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FrozenNetwork", "compile_frozen", "convert_to_onnx", "precise"]

_FROZEN_LIMIT = 128 << 20  # bytes of weights; larger networks would need gigabytes for a speed-up of 10%
# number of copies of the weights in the graphs and kernels of TensorFlow; during compilation there are twice as many
_FROZEN_COPIES = 8


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
    runtime: str | None = None,
    calibration_pixels: np.ndarray | None = None,
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
    runtime : "openvino", "onnxruntime" or None
        What runs the compiled function; None is the backend of Keras.
    calibration_pixels : ndarray of uint8, shape (n, h, w, 3), or None, default=None
        Images with which the network is quantized, if the precision is "int8".

    Returns
    -------
    FrozenNetwork
        One trace per shape.

    Raises
    ------
    MissingDependencyError
        If a package of the runtime, or nncf for "int8", is not installed.
    ValueError
        If the backend is not supported, or the runtime cannot run the network.
    """
    backend = keras().backend.backend()
    compiler = {"tensorflow": _compile_tensorflow, "jax": _compile_jax, "torch": _compile_torch}
    if runtime is not None:
        _check_packages(runtime, precision, backend)
    if backend not in compiler:
        raise ValueError(
            f"Unsupported Keras backend {backend!r}; set KERAS_BACKEND to one of {list(compiler)}."
        )

    if backend == "tensorflow":
        with untouched_random_state():
            model = replace_grouped_convolutions(model)

    def outputs(trainable: Any, fixed: Any, x: Any) -> list[Any]:
        y, _ = model.stateless_call(trainable, fixed, preprocess(x), training=False)
        return postprocess(y if isinstance(y, (list, tuple)) else [y])

    check_fork()
    is_frozen = runtime is not None or (backend == "tensorflow" and _is_frozen(model))
    copies = _FROZEN_COPIES if is_frozen else 1
    if runtime == "openvino":
        run = _compile_openvino(model, outputs, precision, calibration_pixels)
    elif runtime == "onnxruntime":
        run = _compile_onnxruntime(model, outputs)
    else:
        run = compiler[backend](model, outputs)
    return FrozenNetwork(run, precision, copies * count_bytes(model))


def _check_packages(runtime: str, precision: str, backend: str) -> None:
    """Check the packages and the backend before the network is traced, because tracing takes seconds."""
    if runtime == "openvino":
        openvino_graph.import_nncf() if precision == "int8" else openvino_graph.import_openvino()
    else:
        onnx_graph.import_onnxruntime()
    if backend != "tensorflow":
        raise ValueError(
            f"{runtime=} needs the TensorFlow backend of Keras; got {backend!r}. Set KERAS_BACKEND=tensorflow, or "
            "leave out `runtime`."
        )


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [to_numpy(variable) for variable in variables]


def _is_frozen(model: Any) -> bool:
    """Whether the weights become constants, so that batch normalization is folded into the convolutions.

    A network without batch normalization would start more slowly and run no faster.
    """
    # floating-point variables that are not trained are the statistics of batch normalization; the seeds of Dropout
    # are integers
    has_statistics = any("float" in str(v.dtype) for v in model.non_trainable_variables)
    return has_statistics and count_bytes(model) <= _FROZEN_LIMIT


def _compile_tensorflow(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    import tensorflow as tf

    def compile_shape(shape: tuple[int | None, ...]) -> Callable[[np.ndarray], list[np.ndarray]]:
        trace = run.get_concrete_function(tf.TensorSpec(shape, tf.uint8))
        return lambda batch: [y.numpy() for y in trace(tf.constant(batch))]

    run = _trace(model, outputs, _is_frozen(model))
    return _compile_by_shape(compile_shape)


def _compile_openvino(
    model: Any, outputs: Callable[..., list[Any]], precision: str, calibration_pixels: np.ndarray | None
) -> Callable[..., Any]:
    def compile_shape(shape: tuple[int | None, ...]) -> Callable[[np.ndarray], list[np.ndarray]]:
        graph, _, names = _make_graph(model, outputs, shape)
        return openvino_graph.compile_graph(graph, names, precision, calibration_pixels)

    return _compile_by_shape(compile_shape, is_batch_fixed=calibration_pixels is None)


def _compile_onnxruntime(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    def compile_shape(shape: tuple[int | None, ...]) -> Callable[[np.ndarray], list[np.ndarray]]:
        return onnx_graph.compile_graph(*_make_graph(model, outputs, shape))

    return _compile_by_shape(compile_shape, is_batch_fixed=False)


def convert_to_onnx(model: Any) -> bytes:
    """Convert a model to ONNX, in inference mode. The ONNX model takes uint8 pixels instead of float32.

    Parameters
    ----------
    model : keras.Model
        With one input of shape (n, height, width, 3), and one output.

    Returns
    -------
    bytes
        The ONNX model; its batch size is variable.

    Raises
    ------
    ValueError
        If the backend is not TensorFlow, or a layer cannot be converted.
    """
    backend = keras().backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"Export needs the TensorFlow backend of Keras; got {backend!r}. Set KERAS_BACKEND=tensorflow: saved "
            "models do not depend on the backend."
        )
    with untouched_random_state():
        model = replace_grouped_convolutions(model)

    def outputs(trainable: Any, fixed: Any, x: Any) -> list[Any]:
        y, _ = model.stateless_call(trainable, fixed, keras().ops.cast(x, "float32"), training=False)
        return [y]

    return onnx_graph.convert_graph(*_make_graph(model, outputs, model.inputs[0].shape))


def _make_graph(
    model: Any, outputs: Callable[..., list[Any]], shape: tuple[int | None, ...]
) -> tuple[Any, str, list[str]]:
    """Return a TensorFlow graph, the name of its input, and the names of its outputs.

    The graph takes uint8 pixels and contains the weights as constants.
    """
    import tensorflow as tf

    # a new function for each graph, because a function that is kept would keep the weights in memory
    trace = _trace(model, outputs, freeze=True).get_concrete_function(tf.TensorSpec(shape, tf.uint8))
    return trace.graph.as_graph_def(), trace.inputs[0].name, [y.name for y in trace.outputs]


def _trace(model: Any, outputs: Callable[..., list[Any]], freeze: bool) -> Any:
    """Return the function of TensorFlow that computes the outputs; ``freeze`` makes the weights constants."""
    import tensorflow as tf

    # only constants that are made inside the function are folded into the graph
    @tf.function(autograph=False)
    def run(x: Any) -> list[Any]:
        if not freeze:
            groups = model.trainable_variables, model.non_trainable_variables
            return outputs(*([tf.convert_to_tensor(v.value) for v in g] for g in groups), x)
        with tf.init_scope():  # outside the trace, where variables have values
            groups = _values(model.trainable_variables), _values(model.non_trainable_variables)
        return outputs(*([tf.constant(v) for v in g] for g in groups), x)

    return run


def _compile_by_shape(
    compile_shape: Callable[[tuple[int | None, ...]], Callable[..., Any]], is_batch_fixed: bool = True
) -> Callable[..., Any]:
    """Return a function that compiles one function for each new batch shape, and calls it."""
    # a dict of our own, because TensorFlow warns of "retracing" with its cache
    compiled: dict[tuple[int | None, ...], Callable[..., Any]] = {}

    def call(batch: np.ndarray) -> list[np.ndarray]:
        shape = batch.shape if is_batch_fixed else (None, *batch.shape[1:])
        if shape not in compiled:
            compiled[shape] = compile_shape(shape)
        return compiled[shape](batch)

    return call


def _compile_jax(model: Any, outputs: Callable[..., list[Any]]) -> Callable[..., Any]:
    import jax
    import numpy as np

    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]
    run = jax.jit(outputs)
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
    with allow_tf32(_tf32_switches(), fast):
        yield


def _tf32_switches() -> Switches:
    """Return getters and setters of TF32 in TensorFlow or PyTorch; none without a GPU, where it has no effect."""
    if keras().backend.backend() == "tensorflow":
        import tensorflow as tf

        switch = tf.config.experimental
        switches = [(switch.tensor_float_32_execution_enabled, switch.enable_tensor_float_32_execution)]
        return switches if tf.config.list_physical_devices("GPU") else []
    return torch_switches()
