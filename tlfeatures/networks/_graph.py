"""The graph of a Keras model: names that do not depend on history, taps, and their digests."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from tlfeatures._keras import keras, untouched_random_state
from tlfeatures.fingerprints import KEY_BYTES

__all__ = ["Graph", "canonical_operations", "tap_digest", "walk", "with_policy"]


def _auto_prefix(operation: Any) -> str:
    """The stem of the name that Keras gives an operation of this class: ReLU -> re_lu."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", type(operation).__name__))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def canonical_operations(model: Any) -> dict[str, Any]:
    """Operations of ``model`` by the name that they have when it is the first that a process builds.

    Keras numbers unnamed layers through the life of the process; the order of those numbers is
    the order in which the layers were made, so counting from zero restores them.
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
    """Operations of ``model`` from the input on; after a model in it, those of that model."""
    for operation in getattr(model, "operations", None) or model.layers:
        yield operation
        if hasattr(operation, "layers"):
            yield from walk(operation)


@dataclass(frozen=True)
class Graph:
    """A model with its operations and the outputs that can be tapped, by name from the input on."""

    model: Any
    operations: dict[str, Any]
    taps: dict[str, Any]

    @classmethod
    def of(cls, model: Any, canonical: bool) -> Graph:
        """Of a Functional model, under canonical names or those that it has."""
        operations = canonical_operations(model) if canonical else {o.name: o for o in model.operations}
        # Operation.output is that of the graph where a layer was used first, perhaps not this one
        calls: dict[int, list[Any]] = {}
        for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
            calls.setdefault(id(node.operation), []).append(node)
        taps = {name: _tap(calls.get(id(operation), [])) for name, operation in operations.items()}
        return cls(model, operations, {name: tap for name, tap in taps.items() if tap is not None})


def _tap(calls: list[Any]) -> Any:
    """The one feature map or vector that an operation gives; None where it gives none, or several."""
    if len(calls) != 1 or calls[0].is_input or len(calls[0].outputs) != 1:
        return None
    shape = calls[0].outputs[0].shape
    return calls[0].outputs[0] if len(shape) in (2, 3, 4) and shape[-1] is not None else None


def tap_digest(model: Any) -> str:
    """Digest of all that decides what a one-tap model computes: graph, settings, weights, own code.

    Neither names nor training settings count, and nothing behind the tap does: a network with
    and without its top, or fine-tuned only behind the tap, has the same digest. Of a custom layer
    its class's own functions count, not what they call.
    """
    h = hashlib.blake2b(digest_size=KEY_BYTES)
    config = json.loads(json.dumps(model.get_config(), default=_plain))
    h.update(json.dumps(_nameless(config, {}), sort_keys=True).encode())
    for layer in walk(model):
        for function in _foreign_functions(layer):
            h.update(repr((function.__qualname__, *_code(function.__code__))).encode())
    for variable in model.weights:
        value = np.ascontiguousarray(keras().ops.convert_to_numpy(variable))
        if value.dtype.kind in "iu":  # counters: 64 bits on some backends, 32 on others
            value = value.astype(np.int64)
        h.update(f"|{value.dtype.str}{value.shape}|".encode())
        h.update(value.reshape(-1).view(np.uint8).data)
    return h.hexdigest()


_IGNORED = {
    "name",
    "trainable",
    "build_config",
    "registered_name",
    "module",
    "batch_shape",
    "batch_input_shape",
}
_IGNORED_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _nameless(value: Any, names: dict[str, str]) -> Any:
    """``value`` with layer names replaced by their order of appearance, training settings left out."""
    if isinstance(value, list):
        return [_nameless(v, names) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "__keras_tensor__":
        layer, *place = value["config"]["keras_history"]
        return [names.setdefault(layer, f"#{len(names)}"), *place]
    kept = {}
    if isinstance(value.get("name"), str) and "class_name" in value:
        kept["#"] = names.setdefault(value["name"], f"#{len(names)}")
    for key, item in value.items():
        if key in ("input_layers", "output_layers"):
            text = json.dumps(item)
            for name in sorted(names, key=len, reverse=True):
                text = text.replace(json.dumps(name), json.dumps(names[name]))
            kept[key] = json.loads(text)
        elif key == "dtype" and isinstance(item, dict):
            continue  # the layer's policy, which `precision` replaces; that of a cast is a string
        elif key not in _IGNORED and not key.endswith(_IGNORED_ENDINGS):
            kept[key] = _nameless(item, names)
    return kept


_KNOWN_CODE = {"keras", "tensorflow", "torch", "jax", "builtins", "abc", "typing"}


def _foreign_functions(layer: Any) -> Iterator[Any]:
    """Functions that a layer runs and that are not Keras's: of its class, or given to it."""
    for held in (*reversed(type(layer).__mro__), layer):
        of_class = isinstance(held, type)
        if of_class and held.__module__.split(".")[0] in _KNOWN_CODE:
            continue
        for _, value in sorted(vars(held).items()):
            value = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(value, FunctionType) and value.__module__.split(".")[0] not in _KNOWN_CODE:
                yield inspect.unwrap(value)


def _code(code: CodeType) -> tuple[Any, ...]:
    """What a function does, without where it was written."""
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code(constant))
        else:  # sets have no order that lasts
            constants.append(
                sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
            )
    return code.co_code, code.co_names, constants


def with_policy(model: Any, policy: str) -> Any:
    """``model`` under a dtype policy: itself where it has that policy throughout, else a copy.

    Raises
    ------
    ValueError
        When a layer cannot be made anew under that policy.
    """
    if all(_policy(layer) in (None, policy) for layer in walk(model)):
        return model

    def cast(operation: Any) -> Any:
        changed = {} if _policy(operation) is None else {"dtype": policy}
        try:
            return type(operation).from_config({**operation.get_config(), **changed})
        except Exception as error:
            raise ValueError(
                f"Layer {operation.name!r} ({type(operation).__name__}) cannot be made anew to compute in {policy}: "
                f"{' '.join(str(error).split())[:200]}. Use a precision that the model has already ('float32' for "
                "most), or give its class get_config and a dtype argument."
            ) from error

    with untouched_random_state():
        copy = keras().models.clone_model(model, clone_function=cast, recursive=True)
    copy.set_weights(model.get_weights())
    for operation in walk(copy):  # Normalization keeps what it computes from its weights
        getattr(operation, "finalize_state", lambda: None)()
    return copy


def _policy(operation: Any) -> str | None:
    if type(operation).__name__ == "InputLayer" or hasattr(operation, "layers"):
        return None
    policy = getattr(operation, "dtype_policy", None)  # plain operations have none
    return policy and policy.name
