"""Run TensorFlow graphs with OpenVINO on the CPU. This is the only module that imports openvino and nncf."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tlfeatures.errors import MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["compile_graph", "import_nncf", "import_openvino", "nncf_version", "quantize"]

# int8: the operations that are not quantized compute in float32
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep packages that are imported inside the block from creating files in the home folder and sending data."""
    telemetry = "openvino_telemetry"
    is_imported = telemetry in sys.modules
    if not is_imported:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not is_imported:
            del sys.modules[telemetry]


def import_openvino() -> ModuleType:
    """Import openvino without its telemetry.

    Raises
    ------
    MissingDependencyError
        If it is not installed, or an older version than 2025.0.
    """
    try:
        with _without_telemetry():
            import openvino

        openvino.Core  # noqa: B018  in a submodule in older versions
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            "runtime='openvino' needs openvino, an optional package: pip install 'tlfeatures[openvino]' "
            f"({error}). Leave out `runtime` to run the network without it; in float32, the embeddings are the same."
        ) from error
    return openvino


def import_nncf() -> ModuleType:
    """Import nncf, which quantizes networks, without its telemetry.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    import_openvino()
    try:
        with _without_telemetry():
            import nncf
    except ImportError as error:
        raise _missing_nncf(error) from error
    return nncf


def nncf_version() -> str:
    """Return the major and minor version of nncf, without importing it.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return ".".join(importlib.metadata.version("nncf").split(".")[:2])
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing_nncf(error) from error


def _missing_nncf(error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"precision='int8' needs nncf, an optional package: pip install 'tlfeatures[openvino]' ({error}). "
        "precision='bfloat16' does not need it."
    )


def quantize(model: Any, images: np.ndarray) -> Any:
    """Quantize an OpenVINO model to 8-bit integers, where nncf supports it.

    The result depends on ``images``, uint8 (n, h, w, 3), and on the outputs of the model, but not on the batch size.
    """
    nncf = import_nncf()
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            return nncf.quantize(
                model,
                nncf.Dataset([image[None] for image in images]),
                preset=nncf.QuantizationPreset.MIXED,  # swish has negative values
                subset_size=len(images),
            )
    finally:
        logger.setLevel(level)


def compile_graph(
    graph: Any, outputs: Sequence[str], precision: str, calibration_pixels: np.ndarray | None = None
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile a graph without variables.

    Parameters
    ----------
    graph : tensorflow.compat.v1.GraphDef
        With one input; only its batch dimension may be unknown.
    outputs : sequence of str
        Names of the tensors to return.
    precision : {"float32", "bfloat16", "int8"}
    calibration_pixels : ndarray of uint8, shape (n, h, w, 3), or None, default=None
        Images from which the ranges of the activations are measured; only for "int8".

    Returns
    -------
    callable
        Thread-safe function from an array to a list of arrays; a lock serializes the calls.

    Raises
    ------
    ValueError
        If OpenVINO cannot read an operation, or the processor does not compute in this precision.
    """
    openvino = import_openvino()
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "network.pb")
        with open(path, "wb") as file:
            file.write(graph.SerializeToString())
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise ValueError(
                f"A layer of the network cannot be run by OpenVINO: {' '.join(str(error).split())[:300]}. Leave out "
                "runtime='openvino'."
            ) from error
    # functions with custom gradients, such as swish, add outputs to the model
    tensors = {name: tensor for tensor in model.outputs for name in tensor.get_names()}
    results = [tensors[name].get_node().input_value(0) for name in outputs]
    model = openvino.Model(results, model.get_parameters())
    if calibration_pixels is not None:
        model = quantize(model, calibration_pixels)
    hint = _PRECISIONS[precision]
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    )
    actual = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if actual != hint:
        raise ValueError(
            f"This processor does not compute in precision={precision!r} with OpenVINO, which would use {actual}. "
            "Leave out `precision` to use float32."
        )
    request, lock = compiled.create_infer_request(), threading.Lock()

    def call(batch: np.ndarray) -> list[np.ndarray]:
        with lock:
            values = request.infer([batch])  # copies
        return [values[i] for i in range(len(outputs))]

    return call
