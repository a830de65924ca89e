"""The optional packages of the export."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from tlfeatures.errors import MissingDependencyError

__all__ = ["OPSET", "OPSETS", "check_packages", "import_package"]

OPSET = 17  # the first with LayerNormalization; all versions of ONNX Runtime since 1.12 read it
OPSETS = {"": OPSET, "ai.onnx.ml": 3}


def import_package(name: str) -> ModuleType:
    """Import an optional package.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _make_error(name, error) from error


def check_packages() -> None:
    """Raise an error, before any work is done, if a package is missing.

    Raises
    ------
    MissingDependencyError
        If one of the packages of the extra "onnx" is not installed, or Keras is older than 3.12.
    """
    for name in ("onnx", "onnxruntime", "skl2onnx"):
        import_package(name)
    try:
        importlib.metadata.version(
            "tf2onnx"
        )  # importing it would import TensorFlow with its start-up messages
    except importlib.metadata.PackageNotFoundError as error:
        raise _make_error("tf2onnx", error) from error
    version = importlib.metadata.version("keras")
    if tuple(map(int, version.split(".")[:2])) < (3, 12):  # cannot set the version of the operators
        raise MissingDependencyError(
            f"Export in ONNX format needs keras 3.12 or later; got {version}: pip install 'keras>=3.12'"
        )


def _make_error(name: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"Export in ONNX format needs {name}, an optional package: pip install 'tlfeatures[onnx]' ({error})"
    )
