"""The graph of a Keras model: taps, and names that do not depend on previously built models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlfeatures._keras import count_bytes, keras, untouched_random_state
from tlfeatures._keras.hub import with_correct_shape

__all__ = [
    "Graph",
    "canonical_operations",
    "copy_operation",
    "find_autocasts",
    "full_config",
    "walk",
    "with_policy",
]


def _auto_prefix(operation: Any) -> str:
    """Return the name that Keras derives from the class of an operation: ReLU -> re_lu."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", type(operation).__name__))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def canonical_operations(model: Any) -> dict[str, Any]:
    """Return the operations of ``model`` by the names that they have in the first model that a process builds.

    Keras numbers unnamed layers over the lifetime of the process. The numbers are in the order in
    which the layers were created, so counting from zero restores the names.
    """
    numbered: dict[str, list[tuple[int, Any]]] = {}
    names: dict[int, str] = {}
    for operation in model.operations:
        prefix = _auto_prefix(operation)
        match = re.fullmatch(rf"{re.escape(prefix)}(?:_(\d+))?", operation.name)
        if match:
            numbered.setdefault(prefix, []).append((int(match[1] or 0), operation))
        else:
            names[id(operation)] = operation.name
    for prefix, group in numbered.items():
        for i, (_, operation) in enumerate(sorted(group, key=lambda pair: pair[0])):
            names[id(operation)] = f"{prefix}_{i}" if i else prefix
    return {names[id(operation)]: operation for operation in model.operations}


def walk(model: Any) -> Iterator[Any]:
    """Iterate over the operations of ``model`` and of nested models, from input to output."""
    for operation in getattr(model, "operations", None) or model.layers:
        yield operation
        if hasattr(operation, "layers"):
            yield from walk(operation)


def find_autocasts(model: Any) -> dict[str, Any]:
    """Return the casts that only convert the inputs of layers to the dtype in which these compute, by name.

    Up to Keras 3.8, a graph built under a mixed policy has such an operation before each layer whose input has another
    dtype, and keeps it when it is saved and loaded. Later versions leave the conversion to the layer.
    """
    consumers: dict[int, list[Any]] = {}
    for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node.operation)

    def is_autocast(operation: Any) -> bool:
        if type(operation).__name__ != "Cast" or isinstance(operation, keras().Layer):
            return False
        layers = consumers.get(id(operation.output), [])
        converts_floats = "float" in operation.input.dtype and "float" in operation.dtype
        return (
            converts_floats
            and bool(layers)
            and all(
                getattr(layer, "autocast", False) and layer.input_dtype == operation.dtype for layer in layers
            )
        )

    return {operation.name: operation for operation in model.operations if is_autocast(operation)}


@dataclass(frozen=True)
class Graph:
    """A model with its operations and tappable outputs by name, from input to output.

    The outputs with three axes of vision transformers have ``n_prefix`` tokens before those of the patches.
    """

    model: Any
    operations: dict[str, Any]
    taps: dict[str, Any]
    n_prefix: int | None = None

    @property
    def nbytes(self) -> int:
        """Size of the weights."""
        return count_bytes(self.model)

    @classmethod
    def of(cls, model: Any, canonical: bool) -> Graph:
        """Make the graph of a Functional model, with canonical names or its own names."""
        operations = canonical_operations(model) if canonical else {o.name: o for o in model.operations}
        autocasts = {id(operation) for operation in find_autocasts(model).values()}
        operations = {name: o for name, o in operations.items() if id(o) not in autocasts}
        # Operation.output belongs to the graph in which a layer was first used, which may be another one
        calls: dict[int, list[Any]] = {}
        for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
            calls.setdefault(id(node.operation), []).append(node)
        taps = {name: _tap(calls.get(id(operation), [])) for name, operation in operations.items()}
        return cls(model, operations, {name: tap for name, tap in taps.items() if tap is not None})


def _tap(calls: list[Any]) -> Any:
    """Return the only feature map or vector that an operation outputs; None if it has none or several."""
    if len(calls) != 1 or calls[0].is_input or len(calls[0].outputs) != 1:
        return None
    shape = calls[0].outputs[0].shape
    return calls[0].outputs[0] if len(shape) in (2, 3, 4) and shape[-1] is not None else None


def full_config(operation: Any) -> dict[str, Any]:
    """Return the configuration from which an operation can be made again.

    Configurations of some layers of KerasHub lack arguments of the constructor, and contain derived values that it does
    not accept.
    """
    config = operation.get_config()
    if not type(operation).__module__.startswith("keras_hub."):
        return config
    arguments = [name for name in inspect.signature(type(operation)).parameters if name != "kwargs"]
    absent = {
        name: vars(operation)[name] for name in arguments if name not in config and name in vars(operation)
    }
    simple = {k: v for k, v in absent.items() if v is None or isinstance(v, (bool, int, float, str, tuple))}
    return {k: v for k, v in config.items() if k in (*arguments, "name", "trainable", "dtype")} | simple


def copy_operation(operation: Any, **settings: Any) -> Any:
    """Return an operation with the configuration of another, except for ``settings``; its weights are new."""
    config = {**full_config(operation), **settings}
    if not isinstance(operation, keras().layers.Lambda):
        return with_correct_shape(type(operation).from_config(config))
    copy = type(operation).from_config(config, safe_mode=False)  # its code is in memory, so it is trusted
    copy.function = operation.function  # with its closure and its module
    return copy


def with_policy(model: Any, policy: str) -> Any:
    """Return ``model`` under a dtype policy: the model itself if all layers have that policy, else a copy.

    Raises
    ------
    ValueError
        When a layer cannot be created under that policy.
    """
    if all(_policy(layer) in (None, policy) for layer in walk(model)):
        return model
    graphs = (graph for graph in (model, *walk(model)) if hasattr(graph, "operations"))
    autocasts = {id(operation) for graph in graphs for operation in find_autocasts(graph).values()}
    dtype = keras().DTypePolicy(policy).compute_dtype

    def cast(operation: Any) -> Any:
        try:
            if id(operation) in autocasts:
                return copy_operation(operation, dtype=dtype)
            return copy_operation(operation, **({} if _policy(operation) is None else {"dtype": policy}))
        except Exception as error:
            raise ValueError(
                f"Layer {operation.name!r} ({type(operation).__name__}) cannot be copied to compute in {policy}: "
                f"{' '.join(str(error).split())[:200]}. Use the precision that the model already has ('float32' for "
                "most), or give its class get_config and a dtype argument."
            ) from error

    with untouched_random_state():
        copy = keras().models.clone_model(model, clone_function=cast, recursive=True)
    copy.set_weights(model.get_weights())
    for operation in walk(copy):  # Normalization caches values computed from its weights
        getattr(operation, "finalize_state", lambda: None)()
    return copy


def _policy(operation: Any) -> str | None:
    if type(operation).__name__ == "InputLayer" or hasattr(operation, "layers"):
        return None
    policy = getattr(operation, "dtype_policy", None)  # operations that are not layers have none
    return policy and policy.name
