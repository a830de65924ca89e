"""Export of Keras models in ONNX format."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._keras import keras, untouched_random_state
from tlfeatures._keras.grouped import replace_grouped_convolutions

__all__ = ["convert_to_onnx"]


def convert_to_onnx(model: Any, opset: int) -> bytes:
    """Convert a model from float32 pixels to one from uint8 pixels in ONNX format, in inference mode.

    Parameters
    ----------
    model : keras.Model
        With one input of shape (n, height, width, 3), and one output.
    opset : int
        Version of the operators of ONNX.

    Returns
    -------
    bytes
        The batch dimension is free.

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
    shape = model.inputs[0].shape[1:]
    with untouched_random_state():
        pixels = keras().Input(shape, dtype="uint8", name="pixels")
        whole = keras().Model(
            pixels, replace_grouped_convolutions(model)(keras().ops.cast(pixels, "float32"))
        )
    signature = [keras().InputSpec(dtype="uint8", shape=(None, *shape), name="pixels")]
    with tempfile.TemporaryDirectory() as folder, _constant_statistics(model), _patches():
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated functions that TensorFlow itself calls
            try:
                whole.export(
                    str(path), format="onnx", verbose=False, input_signature=signature, opset_version=opset
                )
            except Exception as error:  # tf2onnx raises many kinds of errors
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise ValueError(
                    f"A layer of the network cannot be converted to ONNX by Keras and tf2onnx: {reason}"
                ) from error
        return path.read_bytes()


@contextlib.contextmanager
def _constant_statistics(model: Any) -> Iterator[None]:
    """Make the statistics of Normalization layers arrays, which become constants; tensors would become inputs."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras().layers.Normalization)]
    statistics = [(layer, layer.mean, layer.variance) for layer in layers]
    try:
        for layer, mean, variance in statistics:
            layer.mean, layer.variance = (
                np.asarray(keras().ops.convert_to_numpy(v)) for v in (mean, variance)
            )
        yield
    finally:
        for layer, mean, variance in statistics:
            layer.mean, layer.variance = mean, variance


@contextlib.contextmanager
def _patches() -> Iterator[None]:
    """Define ``numpy.object``, which tf2onnx 1.17 reads and NumPy 2 does not have; hide the messages of tf2onnx."""
    is_absent, logger = "object" not in vars(np), logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    if is_absent:
        np.object = object  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        if is_absent:
            del np.object  # type: ignore[attr-defined]
