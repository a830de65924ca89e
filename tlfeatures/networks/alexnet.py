"""AlexNet in its one-column variant, with the weights of torchvision's checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlfeatures._keras import keras

__all__ = ["AlexNet", "preprocess_input", "read_state_dict"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
_GRID = 6  # rows and columns of the maps that the fully connected layers get
# layers with weights -> modules of torchvision's network
_MODULES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


def preprocess_input(x: Any) -> Any:
    """Scale RGB values from [0, 255] to [0, 1], subtract ImageNet's mean and divide by its standard deviation."""
    return (x / 255.0 - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)


def AlexNet(
    *, include_top: bool = True, weights: None = None, input_shape: tuple[int, int, int] = (224, 224, 3)
) -> Any:
    """Build the network, without weights.

    Parameters
    ----------
    include_top : bool, default=True
        Include the fully connected layers, for 1,000 classes.
    weights : None
    input_shape : (int, int, int), default=(224, 224, 3)
        At least 63 pixels high and wide.

    Returns
    -------
    keras.Model

    Raises
    ------
    ValueError
        If the input is too small; or if it needs adaptive pooling, which the installed Keras does not have.

    Notes
    -----
    The network of Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"
    (arXiv:1404.5997), as in torchvision. Convolutions and fully connected layers include their ReLU, as in Keras's
    VGG. PyTorch pads all sides alike: a "same" padding does so for stride 1, and `conv1_pad` before stride 4.

    The fully connected layers need maps of 6x6. At 224 pixels `pool5` has that size, so that PyTorch's
    ``AdaptiveAvgPool2d`` is the identity, and there is no layer for it. At other sizes ``avgpool`` averages the maps
    to 6x6 over the same windows as PyTorch; it needs a Keras with ``layers.AdaptiveAveragePooling2D``.
    """
    if min(input_shape[:2]) < 63:
        raise ValueError(f"Input size must be at least 63x63; received input_shape={input_shape}.")
    layers = keras().layers

    def convolve(name: str, x: Any, width: int, size: int, **kwargs: Any) -> Any:
        return layers.Conv2D(width, size, activation="relu", name=name, **{"padding": "same", **kwargs})(x)

    def pool(name: str, x: Any) -> Any:
        return layers.MaxPooling2D(3, strides=2, name=name)(x)

    inputs = keras().Input(input_shape, name="pixels")
    x = layers.ZeroPadding2D(2, name="conv1_pad")(inputs)
    x = pool("pool1", convolve("conv1", x, 64, 11, strides=4, padding="valid"))
    x = pool("pool2", convolve("conv2", x, 192, 5))
    x = convolve("conv3", x, 384, 3)
    x = convolve("conv4", x, 256, 3)
    x = pool("pool5", convolve("conv5", x, 256, 3))
    if include_top:
        x = layers.Flatten(name="flatten")(_average_to_grid(x, input_shape))
        for i, name in enumerate(("fc6", "fc7")):
            x = layers.Dropout(0.5, name=f"drop{6 + i}")(x)
            x = layers.Dense(4096, activation="relu", name=name)(x)
        x = layers.Dense(1000, name="fc8")(x)
        x = layers.Softmax(name="predictions")(x)
    return keras().Model(inputs, x, name="alexnet")


def _average_to_grid(x: Any, input_shape: tuple[int, int, int]) -> Any:
    """Average maps to 6x6 as PyTorch's AdaptiveAvgPool2d does."""
    if tuple(x.shape[1:3]) == (_GRID, _GRID):
        return x
    layer = getattr(keras().layers, "AdaptiveAveragePooling2D", None)
    if layer is None:
        raise ValueError(
            f"The fully connected layers of AlexNet need maps of {_GRID}x{_GRID}, which images of 224x224 pixels give; "
            f"received input_shape={input_shape}. Use image_size=224, or install a Keras with "
            "layers.AdaptiveAveragePooling2D: pip install -U keras."
        )
    return layer((_GRID, _GRID), name="avgpool")(x)


def read_state_dict(model: Any, arrays: dict[str, np.ndarray]) -> None:
    """Fill the network with the arrays of a PyTorch checkpoint, named as in torchvision.

    Raises
    ------
    KeyError, ValueError
        If an array is absent or has another shape.
    """
    for layer in model.layers:
        if layer.name not in _MODULES:
            continue
        kernel, bias = (arrays[f"{_MODULES[layer.name]}.{kind}"] for kind in ("weight", "bias"))
        if (
            layer.name == "fc6"
        ):  # its inputs are ordered (channel, row, column), Keras's (row, column, channel)
            maps = kernel.reshape(len(kernel), -1, _GRID, _GRID)
            kernel = maps.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
        else:  # (out, in, ...) -> (..., in, out)
            kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
        layer.set_weights([kernel, bias])
