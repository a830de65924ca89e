"""The network whose weights are in the package: a small depthwise-separable ConvNet."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlfeatures._keras import keras

__all__ = ["BLOCKS", "Tiny", "preprocess_input", "read_arrays"]

_STEM = 24
# (channels, stride) of each block
BLOCKS = (
    (48, 2), (64, 1), (96, 1),
    (192, 2), (192, 1),
    (256, 2), (256, 1), (256, 1), (256, 1), (320, 1),
)  # fmt: skip


def preprocess_input(x: Any) -> Any:
    """Scale RGB values from [0, 255] to [-1, 1]."""
    return x / 127.5 - 1.0


def Tiny(
    *,
    include_top: bool = False,
    weights: None = None,
    input_shape: tuple[int, int, int] = (96, 96, 3),
    batch_norm: bool = False,
) -> Any:
    """Build the network, without weights.

    Parameters
    ----------
    include_top : ignored
        The network has no top; accepted because the builders of ``keras.applications`` accept it.
    weights : None
    input_shape : (int, int, int), default=(96, 96, 3)
        At least 32 pixels high and wide.
    batch_norm : bool, default=False
        Add batch normalization, for training. In the weights file it is folded into the convolutions.

    Returns
    -------
    keras.Model
        Stride 16: 96x96 pixels become maps of 6x6.
    """
    if min(input_shape[:2]) < 32:
        raise ValueError(f"Input size must be at least 32x32; received input_shape={input_shape}.")
    layers = keras().layers

    def convolve(layer: str, name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = getattr(layers, layer)(*args, padding="same", use_bias=not batch_norm, name=name, **kwargs)(x)
        if batch_norm:
            x = layers.BatchNormalization(epsilon=1e-3, momentum=0.98, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    inputs = keras().Input(input_shape, name="pixels")
    x = convolve("Conv2D", "stem", inputs, _STEM, 3, strides=2)
    for i, (width, stride) in enumerate(BLOCKS, start=1):
        y = convolve("DepthwiseConv2D", f"block{i}_dw", x, 3, strides=stride)
        y = convolve("Conv2D", f"block{i}_pw", y, width, 1)
        # residual connections in the last stage only
        x = layers.Add(name=f"block{i}_add")([x, y]) if i > 6 and y.shape == x.shape else y
    return keras().Model(inputs, x, name="tiny")


def read_arrays(model: Any, path: Any) -> None:
    """Fill a network without batch normalization from an ``.npz`` file of float16 arrays.

    The arrays are named "<layer>/kernel" and "<layer>/bias".
    """
    with np.load(path, allow_pickle=False) as arrays:
        for layer in model.layers:
            for variable in layer.weights:
                variable.assign(arrays[f"{layer.name}/{variable.name}"].astype(np.float32))
