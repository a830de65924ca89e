"""Convert TensorFlow graphs to ONNX and run them with ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tlfeatures.errors import MissingDependencyError

__all__ = [
    "OPSET",
    "check_converter",
    "compile_graph",
    "convert_graph",
    "import_onnxruntime",
    "import_package",
]

OPSET = 17  # the first with LayerNormalization; all versions of ONNX Runtime since 1.12 read it


def import_package(name: str, purpose: str) -> ModuleType:
    """Import a package of the extra "onnx".

    Raises
    ------
    MissingDependencyError
        If it is not installed. Its message begins with ``purpose``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name, purpose, error) from error


def check_converter(purpose: str) -> None:
    """Raise an error if onnx or tf2onnx is not installed.

    tf2onnx is not imported, because this would print TensorFlow's start-up messages.

    Raises
    ------
    MissingDependencyError
        If one of them is not installed. Its message begins with ``purpose``.
    """
    import_package("onnx", purpose)
    try:
        importlib.metadata.version("tf2onnx")
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing("tf2onnx", purpose, error) from error


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime if graphs can also be converted.

    Raises
    ------
    MissingDependencyError
        If a package is not installed.
    """
    purpose = "runtime='onnxruntime'"
    try:
        check_converter(purpose)
        return import_package("onnxruntime", purpose)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}. Leave out `runtime` to run the network without it; the embeddings are the same."
        ) from error


def _missing(name: str, purpose: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"{purpose} needs {name}, an optional package: pip install 'tlfeatures[onnx]' ({error})"
    )


def compile_graph(
    graph: Any, pixels: str, outputs: Sequence[str]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Compile a graph without variables.

    Parameters
    ----------
    graph, pixels, outputs
        As for `convert_graph`.

    Returns
    -------
    callable
        Function from an array to a list with one array for each output. It is thread-safe.

    Raises
    ------
    ValueError
        If an operation cannot be converted, or ONNX Runtime cannot run it.
    """
    onnxruntime, hint = import_onnxruntime(), "Leave out runtime='onnxruntime'."
    try:
        content = convert_graph(graph, pixels, outputs)
    except ValueError as error:
        raise ValueError(f"{error}. {hint}") from error
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # exceptions of ONNX Runtime have no common base class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"A layer of the network cannot be run by ONNX Runtime: {reason}. {hint}") from error
    return lambda batch: session.run(list(outputs), {pixels: batch})


def convert_graph(graph: Any, pixels: str, outputs: Sequence[str]) -> bytes:
    """Convert a graph without variables to ONNX format.

    Parameters
    ----------
    graph : tensorflow.compat.v1.GraphDef
        Only the batch dimension may be unknown.
    pixels : str
        Name of its input.
    outputs : sequence of str
        Names of the output tensors, which the ONNX model keeps.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If an operation cannot be converted.
    """
    import tf2onnx.convert

    loggers = {logger: logger.level for logger in map(logging.getLogger, ("tf2onnx", "tensorflow"))}
    for logger in loggers:  # silence warnings about deprecated functions that tf2onnx calls
        logger.setLevel(logging.CRITICAL)
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            graph, input_names=[pixels], output_names=list(outputs), opset=OPSET
        )
    except MemoryError:
        raise
    except Exception as error:  # tf2onnx raises many kinds of errors
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"A layer of the network cannot be converted to ONNX by tf2onnx: {reason}"
        ) from error
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
    _replace_erfc(model.graph)
    return model.SerializeToString()


def _replace_erfc(graph: Any) -> None:
    """Replace nodes Erfc, which tf2onnx writes for the exact GELU and which ONNX does not have, by 1 - Erf."""
    from onnx import helper, numpy_helper

    one, nodes = "one_of_erfc", []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf = f"{node.output[0]}/erf"
        nodes.append(helper.make_node("Erf", list(node.input), [erf], name=erf))
        nodes.append(helper.make_node("Sub", [one, erf], list(node.output), name=node.name))
    if len(nodes) > len(graph.node):
        graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), one))
        del graph.node[:]
        graph.node.extend(nodes)
