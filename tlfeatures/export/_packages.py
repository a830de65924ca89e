"""The optional packages of the export."""

from __future__ import annotations

from types import ModuleType

from tlfeatures._keras import onnx_graph

__all__ = ["OPSETS", "check_packages", "import_package"]

_PURPOSE = "Export in ONNX format"
OPSETS = {"": onnx_graph.OPSET, "ai.onnx.ml": 3}


def import_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    return onnx_graph.import_package(name, _PURPOSE)


def check_packages() -> None:
    """Raise an error, before any work is done, if a package is missing.

    Raises
    ------
    MissingDependencyError
        If one of the packages of the extra "onnx" is not installed.
    """
    onnx_graph.check_converter(_PURPOSE)
    for name in ("onnxruntime", "skl2onnx"):
        import_package(name)
