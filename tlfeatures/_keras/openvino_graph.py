"""Graphs of TensorFlow in OpenVINO, on the CPU. The only module that imports openvino."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tlfeatures.errors import MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["compile_graph", "import_openvino"]

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def import_openvino() -> ModuleType:
    """Import openvino without its telemetry.

    Raises
    ------
    MissingDependencyError
        If it is not installed, or an older version than 2025.0.
    """
    # importing openvino would create files in the home folder and send data to its makers; it does without this package
    telemetry = "openvino_telemetry"
    is_imported = telemetry in sys.modules
    if not is_imported:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        import openvino

        openvino.Core  # noqa: B018  in a submodule in older versions
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            "runtime='openvino' needs openvino, an optional package: pip install 'tlfeatures[openvino]' "
            f"({error}). Leave out `runtime` to run the network without it; in float32, the embeddings are the same."
        ) from error
    finally:
        if not is_imported:
            del sys.modules[telemetry]
    return openvino


def compile_graph(
    graph: Any, outputs: Sequence[str], precision: str
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile a graph without variables.

    Parameters
    ----------
    graph : tensorflow.compat.v1.GraphDef
        With one input of a fixed shape.
    outputs : sequence of str
        Names of the tensors to return.
    precision : {"float32", "bfloat16"}

    Returns
    -------
    callable
        Threads call it one at a time.

    Raises
    ------
    ValueError
        If OpenVINO cannot run an operation, or the processor does not compute in this precision.
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
    # functions with their own gradients, such as swish, have further outputs
    tensors = {name: tensor for tensor in model.outputs for name in tensor.get_names()}
    results = [tensors[name].get_node().input_value(0) for name in outputs]
    model = openvino.Model(results, model.get_parameters())
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
