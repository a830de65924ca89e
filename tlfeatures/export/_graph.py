"""Small changes of ONNX graphs: added nodes, named outputs, and two graphs joined to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlfeatures.errors import InvalidParameterError
from tlfeatures.export._packages import OPSETS, import_package

__all__ = ["GraphEditor", "join_graphs", "make_graph"]

_IR_VERSION = 8  # of opset 17


class GraphEditor:
    """Adds nodes to a model.

    Parameters
    ----------
    model : onnx.ModelProto
        It is modified.
    """

    def __init__(self, model: Any) -> None:
        self.onnx = import_package("onnx")
        self.model, self._count = model, 0

    def constant(self, value: Any) -> str:
        """Add an array, and return its name."""
        tensor = self.onnx.numpy_helper.from_array(np.asarray(value), self._make_name("constant"))
        self.model.graph.initializer.append(tensor)
        return tensor.name

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = self._make_name(operator)
        node = self.onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self.model.graph.node.append(node)
        return name

    def set_outputs(self, outputs: Mapping[str, tuple[str, int, Sequence[Any]]]) -> None:
        """Replace all outputs of the graph by others: by their names, the tensor, the element type and the shape."""
        graph = self.model.graph
        del graph.output[:]
        for name, (tensor, element_type, shape) in outputs.items():
            node = self.onnx.helper.make_node("Identity", [tensor], [name], name=self._make_name("output"))
            graph.node.append(node)
            graph.output.append(self.onnx.helper.make_tensor_value_info(name, element_type, list(shape)))

    def _make_name(self, stem: str) -> str:
        self._count += 1
        return f"tlfeatures_{stem.lower()}_{self._count}"


def make_graph(name: str, width: int) -> Any:
    """Make a model with one input, float32 of shape (n, width), and without nodes."""
    onnx = import_package("onnx")
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
    graph = onnx.helper.make_graph([], "head", [value], [])
    return onnx.helper.make_model(graph, opset_imports=_make_opsets(), ir_version=_IR_VERSION)


def join_graphs(network: Any, head: Any, image_size: Sequence[int]) -> Any:
    """Join the only output of a network to the only input of a head.

    Parameters
    ----------
    network, head : onnx.ModelProto
        They are modified.
    image_size : (int, int)
        Height and width.

    Returns
    -------
    onnx.ModelProto
        With the input "pixels", uint8 of shape (n, height, width, 3), and the outputs of the head.

    Raises
    ------
    InvalidParameterError
        If the network contains an operator that ONNX does not have.
    """
    onnx = import_package("onnx")
    compose = import_package("onnx.compose")
    for model in (network, head):
        model.ir_version = _IR_VERSION
        del model.opset_import[:]
        model.opset_import.extend(_make_opsets())
        del model.graph.value_info[:]  # inferred shapes, which a free batch dimension can contradict
    try:
        onnx.checker.check_model(network)
    except onnx.checker.ValidationError as error:  # for example of an operator of TensorFlow
        reason = " ".join(str(error).split())[:300]
        raise InvalidParameterError(
            f"A layer of the network cannot be converted to ONNX by tf2onnx: {reason}. Fit a model with "
            "another network, such as mobilenet, resnet50 or efficientnet_b0.",
            "model",
        ) from error
    network = compose.add_prefix(network, "network/")
    source, target = network.graph.output[0].name, head.graph.input[0].name
    joined = compose.merge_models(network, head, io_map=[(source, target)])
    editor, pixels = GraphEditor(joined), joined.graph.input[0].name
    for node in joined.graph.node:
        node.input[:] = ["pixels" if name == pixels else name for name in node.input]
    del joined.graph.input[:]
    joined.graph.input.append(
        editor.onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["n", *image_size, 3])
    )
    return joined


def _make_opsets() -> list[Any]:
    onnx = import_package("onnx")
    return [onnx.helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
