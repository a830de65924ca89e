"""Replace grouped convolutions by depthwise ones, which TensorFlow computes faster."""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import keras

__all__ = ["replace_grouped_convolutions"]


def replace_grouped_convolutions(model: Any) -> Any:
    """Replace grouped convolutions by depthwise convolutions where possible.

    They can be replaced if they have one input channel and one filter per group, as in ConvNeXt. On CPUs, Keras
    compiles grouped convolutions with XLA, which is several times slower than TensorFlow's depthwise convolutions.
    tf2onnx cannot convert grouped convolutions.

    Parameters
    ----------
    model : keras.Model
        Not modified. Convolutions in nested models are not replaced.

    Returns
    -------
    keras.Model
        ``model`` itself if it has no such convolution; otherwise a copy that shares all other layers with it.
    """
    layers = keras().layers
    replaced: list[tuple[Any, Any]] = []

    def is_depthwise(layer: Any) -> bool:
        return (
            isinstance(layer, layers.Conv2D)
            and 1 < layer.groups == layer.filters
            and layer.kernel.shape[-2] == 1  # one input channel per group
            and layer.strides[0] == layer.strides[1]  # TensorFlow has no others in depthwise convolutions
        )

    def replace(layer: Any) -> Any:
        if not is_depthwise(layer):
            return layer
        settings = ("kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias", "name")
        options = {name: getattr(layer, name) for name in settings}
        new = layers.DepthwiseConv2D(**options, data_format=layer.data_format, dtype=layer.dtype_policy)
        replaced.append((layer, new))
        return new

    if not any(map(is_depthwise, model.layers)):
        return model
    copy = keras().models.clone_model(model, clone_function=replace)
    for layer, new in replaced:
        kernel, *bias = layer.get_weights()
        new.set_weights([kernel.transpose(0, 1, 3, 2), *bias])
    return copy
