"""The head as a Keras model: built from widths, layers or a callable, with new weights or those of a linear model."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from tlfeatures._keras import is_layer, keras, seeded_random_state, untouched_random_state
from tlfeatures._params import describe_value
from tlfeatures.errors import InvalidParameterError
from tlfeatures.finetune._linear_start import LinearStart
from tlfeatures.finetune._trunk import copy_layer

__all__ = ["as_layers", "build_head", "check_head", "takes_map"]


def as_layers(value: Any) -> list[Any] | None:
    """Return a Keras layer, or a sequence of them, as a list; None for anything else."""
    if is_layer(value):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(map(is_layer, value)):
        return list(value)
    return None


def takes_map(head: Any) -> bool:
    """Return whether a head is made of Keras layers or by a callable: its input is then the feature map."""
    return callable(head) or as_layers(head) is not None


def check_head(head: Any) -> tuple[float, ...] | None:
    """Return the widths and dropout rates of hidden layers; None for Keras layers and callables.

    Raises
    ------
    InvalidParameterError
        If ``head`` is anything else.
    """
    if takes_map(head):
        return None
    try:
        values = tuple(head)
        is_valid = all(
            isinstance(v, Real)
            and not isinstance(v, bool)
            and ((isinstance(v, Integral) and v >= 1) or 0 < v < 1)
            for v in values
        )
    except TypeError:
        is_valid = False
    if isinstance(head, str) or not is_valid:
        raise InvalidParameterError(
            "`head` must be a list of the widths of hidden layers such as [128], where a number below 1 is a dropout "
            "rate ([256, 0.5]), () for no hidden layers, a list of Keras layers, or a callable from a feature map to "
            f"a vector; got {describe_value(head)}.",
            parameter="head",
        )
    return values


def build_head(
    head: Any, width: int, map_shape: tuple[int, ...], outputs: int, seed: int, start: LinearStart | None
) -> Any:
    """Build a ``keras.Model`` from an embedding to the logits, or to the standardized target.

    Parameters
    ----------
    head : sequence of numbers, Keras layers, or callable
        Hidden layers. The weights of Keras layers are not used, only their configuration.
    width : int
        Width of the embedding.
    map_shape : tuple of int
        Shape of the feature map that was flattened to the embedding; only for Keras layers and callables.
    outputs : int
        Number of outputs.
    seed : int
    start : LinearStart or None
        Weights of the output layer, which is then the only layer.
    """

    layers = keras().layers

    def build() -> tuple[Any, Any]:
        x = vector = layers.Input((width,), name="embedding")
        if takes_map(head):
            x = _apply_to_map(head, layers.Reshape(map_shape, name="head_map")(x))
        else:
            for i, value in enumerate(check_head(head), start=1):
                if value < 1:
                    x = layers.Dropout(float(value), name=f"head_{i}_dropout")(x)
                else:
                    x = layers.Dense(int(value), "relu", name=f"head_{i}", dtype="float32")(x)
        output = layers.Dense(outputs, name="head_output", dtype="float32")
        return keras().Model(vector, output(x), name="head"), output

    if callable(head):
        with untouched_random_state():
            earlier, _ = build()
    with seeded_random_state(seed):
        model, output = build()
    if callable(head):
        _check_new_layers(earlier, model)
    if start is not None:
        output.set_weights([start.coef.T.astype(np.float32), start.intercept.astype(np.float32)])
    return model


def _apply_to_map(head: Any, feature_map: Any) -> Any:
    hidden = [copy_layer(layer) for layer in as_layers(head) or ()]
    y = feature_map if hidden else head(feature_map)
    if not hidden and (hidden := as_layers(y)):  # the callable returned layers
        y = feature_map
    for layer in hidden or ():
        y = layer(y)
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] is None:
        result = describe_value(y) if shape is None else f"the shape {tuple(shape)}"
        raise InvalidParameterError(
            "`head` must lead from the feature map to a Keras tensor of shape (None, width), to which the output layer "
            f"is added; got {result} from a feature map of shape {tuple(feature_map.shape)}. End with "
            "keras.layers.Flatten() or keras.layers.GlobalAveragePooling2D(), for example.",
            parameter="head",
        )
    return y


def _check_new_layers(earlier: Any, model: Any) -> None:
    """Raise an error if two calls of a callable used the same layer, because its weights would survive a fit."""
    ids = {id(variable) for variable in earlier.variables}
    for layer in model.layers:
        if any(id(variable) in ids for variable in layer.variables):
            raise InvalidParameterError(
                f"`head` must make new layers in each call; got layer {layer.name!r} from two calls, so fits would "
                "share its weights. Make the layers inside the callable, or pass them as a list: head=[...].",
                parameter="head",
            )
