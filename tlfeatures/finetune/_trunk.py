"""Trainable copies of networks, without nested models, with normalization as layers, and with some layers frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlfeatures._keras import PRECISIONS, keras, untouched_random_state
from tlfeatures.errors import UnknownNameError
from tlfeatures.extract import FeatureSpec
from tlfeatures.networks import copy_operation, find_autocasts, pool, walk

__all__ = [
    "Trunk",
    "block_starts",
    "build_trainable",
    "copy_layer",
    "first_trained",
    "freeze",
    "frozen_copy",
    "is_batchnorm",
    "join",
    "rate_factors",
]


@dataclass
class Trunk:
    """A trainable copy of a network, from RGB pixels in 0..255 to the taps of a plan.

    Attributes
    ----------
    model : keras.Model
        Flat model, in which nested models are replaced by their layers. Its outputs are the taps in the order of the
        plan.
    layers : dict of str to operation
        Operations without the normalization, from input to output, by the names that `tlfeatures layers` shows.
    shapes : dict of str to tuple
        Output shape of each operation, without the batch axis.
    """

    model: Any
    layers: dict[str, Any]
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: FeatureSpec) -> Trunk:
        """Copy the network of a plan, with its weights."""
        shared, canonical = plan.backbone.load_shared(plan.description)
        policy = PRECISIONS[plan.backbone.precision]
        pixels = keras().Input((*plan.description.image_size, 3), name="pixels")
        operations: dict[str, tuple[Any, Any]] = {}
        with untouched_random_state():
            normalized = _add_normalization(pixels, plan.backbone.normalizer(plan.description))
            outputs = _copy_flat(shared, normalized, policy, operations)
        layers = {canonical.get(name, name): operation for name, (operation, _) in operations.items()}
        model = keras().Model(pixels, outputs, name=f"finetuned_{shared.name}")
        shapes = {canonical.get(name, name): _shape(y) for name, (_, y) in operations.items()}
        return cls(model, layers, shapes)


def _shape(y: Any) -> tuple[int | None, ...]:
    return tuple(getattr(y, "shape", (None,)))[1:]


def _add_normalization(pixels: Any, normalize: Callable[[Any], Any]) -> Any:
    """Add layers that compute ``normalize``, which is affine in all networks, and in some reverses the channels."""
    layers = keras().layers
    unit = np.concatenate([np.zeros((1, 3)), np.eye(3)]).astype(np.float32).reshape(4, 1, 1, 3)
    values = np.asarray(keras().ops.convert_to_numpy(normalize(unit * 255)), np.float64).reshape(4, 3)
    offset, matrix = values[0], (values[1:] - values[0]) / 255  # row i: derivative by color i
    is_reversed = abs(np.diag(matrix)[[0, 2]]).max() == 0
    if is_reversed:
        offset, matrix = offset[::-1], matrix[:, ::-1]
    scale = np.diag(matrix)
    if not (np.allclose(scale, 1) and np.allclose(offset, 0)):
        pixels = layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32", name="normalization_in")(
            pixels
        )
    return keras().ops.flip(pixels, axis=-1) if is_reversed else pixels


def copy_layer(layer: Any, **settings: Any) -> Any:
    """Make a layer with new weights from the configuration of another layer, in which ``settings`` replace values.

    Raises
    ------
    ValueError
        If no layer can be made from the configuration.
    """
    try:
        return copy_operation(layer, **settings)
    except Exception as error:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied for fine-tuning: "
            f"{' '.join(str(error).split())[:200]}. Give its class get_config and a dtype argument."
        ) from error


def _copy_flat(model: Any, x: Any, policy: str, operations: dict[str, tuple[Any, Any]]) -> Any:
    """Apply copies of the layers of ``model`` and its nested models to ``x``, and add the copies to ``operations``."""
    originals = {operation.name: operation for operation in model.operations}
    original_names: dict[str, str] = {}
    autocasts, dtype = find_autocasts(model), keras().DTypePolicy(policy).compute_dtype

    def copy(operation: Any) -> Any:
        if hasattr(operation, "operations"):
            return operation  # a nested model, which is copied when it is called
        name = f"{model.name}_{operation.name}" if operation.name in operations else operation.name
        settings = {"name": name} if "name" in operation.get_config() else {}
        if getattr(operation, "dtype_policy", None) is not None:
            settings["dtype"] = policy
        elif operation.name in autocasts:
            settings["dtype"] = dtype
        new = copy_layer(operation, **settings)
        new.name = name  # the configuration of custom layers may have no name
        original_names[new.name] = operation.name
        return new

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(operation, "operations"):
            return _copy_flat(operation, args[0], policy, operations)
        y = operation(*args, **kwargs)
        original = originals[original_names.get(operation.name, operation.name)]
        if getattr(original, "weights", None):
            operation.set_weights(original.get_weights())
            for layer in (operation, *(walk(operation) if hasattr(operation, "layers") else ())):
                if hasattr(layer, "finalize_state"):  # Normalization derives attributes from its weights
                    layer.finalize_state()
        operations[operation.name] = operation, y
        return y

    outputs: list[Any] = []

    def call_and_record(operation: Any, *args: Any, **kwargs: Any) -> Any:
        y = call(operation, *args, **kwargs)
        outputs.append((operation.name, y))
        return y

    keras().models.clone_model(model, input_tensors=x, clone_function=copy, call_function=call_and_record)
    by_original = {original_names.get(name, name): y for name, y in outputs}
    results = [by_original[tensor._keras_history.operation.name] for tensor in model.outputs]
    return results if len(results) > 1 else results[0]


def join(
    trunk: Any, columns: list[tuple[int, str, int | None]], head: Any, inputs: list[Any] | None = None
) -> Any:
    """Build a model from pixels, or ``inputs``, to the output of the head.

    Each of ``columns`` is the index of an output of the trunk, its pooling, and the number of its first tokens that are
    not those of patches, or None if it has no tokens.
    """
    parts = [pool(trunk.outputs[index], *pooling) for index, *pooling in columns]
    vector = parts[0] if len(parts) == 1 else keras().ops.concatenate(parts, axis=-1)
    return keras().Model(trunk.inputs[0] if inputs is None else inputs, head(vector), name="finetuned")


def build_trainable(trunk: Trunk, first: int, columns: list[tuple[int, str, int | None]], head: Any) -> Any:
    """Build a model from pixels to the output of the head, with the layers before index ``first`` in inference mode."""
    from tlfeatures._keras.training import InferenceMode

    below, cut = _divide(trunk, first)
    top = join(trunk.model, columns, head, cut)
    if len(cut) == 1 and cut[0] is trunk.model.inputs[0]:
        return top
    pixels = keras().Input(trunk.model.inputs[0].shape[1:], name="pixels")
    return keras().Model(pixels, top(InferenceMode(below)(pixels)), name="finetuned")


def _divide(trunk: Trunk, first: int) -> tuple[Any, list[Any]]:
    """Return a model of the layers below the first trained layer, and its output tensors."""
    trained = {id(operation) for operation in list(trunk.layers.values())[first:]}
    above: set[int] = set()
    cut: dict[int, Any] = {}
    for _, nodes in sorted(trunk.model._nodes_by_depth.items(), reverse=True):  # from input to output
        for node in nodes:
            inputs = {id(tensor): tensor for tensor in node.input_tensors}
            if id(node.operation) in trained or above & inputs.keys():
                cut |= {key: tensor for key, tensor in inputs.items() if key not in above}
                above |= {id(tensor) for tensor in node.output_tensors}
    cut |= {id(tensor): tensor for tensor in trunk.model.outputs if id(tensor) not in above}
    return keras().Model(trunk.model.inputs[0], list(cut.values()), name="frozen"), list(cut.values())


def block_starts(trunk: Trunk, taps: tuple[str, ...] = ()) -> list[str]:
    """List the first layer of each block, from input to output.

    A block of a named network ends at a standard tap, and a block of a custom model where the feature map shrinks.
    """
    names = list(trunk.layers)
    ends = [tap for tap in taps if tap in names]
    if ends:
        indices = [0, *(names.index(end) + 1 for end in ends)]
        return [names[index] for index in indices if index < len(names)]
    starts, size = names[:1], None
    for name in names:
        shape = trunk.shapes[name]
        area = shape[0] * shape[1] if len(shape) == 3 and None not in shape[:2] else None
        if area is not None:
            if size is not None and area < size:
                starts.append(name)
            size = area if size is None else min(size, area)
    return list(dict.fromkeys(starts))


def first_trained(trunk: Trunk, train_from: str | int, taps: tuple[str, ...], network: str) -> int:
    """Return the index of the first trained layer; the number of layers if only the head is trained.

    Raises
    ------
    UnknownNameError
        If there is no such layer before the head; the message lists similar names.
    ValueError
        If there are fewer than ``train_from`` blocks.
    """
    names = list(trunk.layers)
    if isinstance(train_from, str):
        if train_from in ("head", "all"):
            return len(names) if train_from == "head" else 0
        if train_from not in trunk.layers:
            raise UnknownNameError.of(
                f"layer of {network} between its input and the head",
                train_from,
                [*names, "head", "all"],
                f"`tlfeatures layers {network}`, or pass 'head', 'all' or a number of blocks",
            )
        return names.index(train_from)
    starts = block_starts(trunk, taps)
    if not 0 <= train_from <= len(starts):
        raise ValueError(
            f"`train_from={train_from}`, but {network} has {len(starts)} blocks before the head, which begin with "
            f"{', '.join(starts)}. Expected a number from 0 (the head alone) to {len(starts)} (all)."
        )
    return names.index(starts[-int(train_from)]) if train_from else len(names)


def freeze(trunk: Trunk, first: int, train_batchnorm: bool) -> None:
    """Make only the layers from index ``first`` on trainable, and their batch normalization only if requested."""
    for layer in trunk.model.layers:
        layer.trainable = False
    for operation in list(trunk.layers.values())[first:]:
        if not hasattr(operation, "trainable"):
            continue
        operation.trainable = True
        for layer in operation._flatten_layers():  # the layer and its nested layers
            if is_batchnorm(layer) and not train_batchnorm:
                layer.trainable = False


def frozen_copy(plan: FeatureSpec) -> Any:
    """Return a copy of the network of a plan with no trainable layers."""
    trunk = Trunk.of(plan)
    freeze(trunk, len(trunk.layers), False)
    return trunk.model


def is_batchnorm(layer: Any) -> bool:
    """Return whether a layer is batch normalization."""
    return "BatchNormalization" in type(layer).__name__


def rate_factors(trunk: Trunk, taps: tuple[str, ...], decay: float) -> dict[str, float]:
    """Return the factor of the learning rate for each layer: ``decay`` to the power of the number of later blocks."""
    starts, factors, block = block_starts(trunk, taps), {}, -1
    for name, operation in trunk.layers.items():
        block += name in starts
        factors[operation.name] = decay ** (len(starts) - 1 - block)
    return factors
