"""Digests that identify what a network computes at a tap.

- A named network: its canonical name, the architecture version of its row in the table, the tap, and the
  content of the weights up to the tap.
- A ``.keras`` file: its content, and the tap.
- A model in memory: its graph, the settings of its layers that differ from their defaults, and the content of
  its weights up to the tap. Names of layers and training settings do not count.

Nothing else enters: no wording, module path or bytecode, and no default that a newer Keras adds.
Custom code cannot be identified in this way; see `code_identity`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import operator
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tlfeatures._keras import keras
from tlfeatures.fingerprints import KEY_BYTES, canonical_json, recipe_digest
from tlfeatures.networks._graph import find_autocasts, walk
from tlfeatures.networks._registry import NetworkSpec

__all__ = ["code_identity", "file_digest", "model_digest", "network_digest"]


def network_digest(spec: NetworkSpec, layer: str, model: Any, rescaled: bool = False) -> str:
    """Compute the digest of a tap of a named network.

    Parameters
    ----------
    spec : NetworkSpec
    layer : str
        Canonical name of the tap.
    model : keras.Model
        From pixels to the tap, so that a network with and without its top has the same digest.
    rescaled : bool, default=False
        Whether the input is rescaled a second time, as Keras does for EfficientNet's ImageNet weights.
    """
    identity = {"network": spec.name, "version": spec.version, "layer": layer, "rescaled": rescaled}
    return _hash(canonical_json(identity), model.weights)


def file_digest(key: bytes, layer: str) -> str:
    """Compute the digest of a tap of a ``.keras`` file whose content has the digest ``key``."""
    return recipe_digest({"file": key.hex(), "layer": layer})


def model_digest(model: Any) -> str:
    """Compute the digest of a model in memory: graph, settings and weights, but not custom code.

    Layers after the outputs, names and training settings do not change it.
    """
    try:
        graph = _describe_graph(model)
    except (TypeError, ValueError, NotImplementedError):  # custom code without a configuration
        if code_identity(model) is None:
            raise
        graph = {}  # `code_identity` identifies the graph too
    return _hash(canonical_json(graph), model.weights)


def _hash(identity: bytes, variables: Iterable[Any]) -> str:
    h = hashlib.blake2b(identity, digest_size=KEY_BYTES)
    for variable in variables:
        value = np.ascontiguousarray(keras().ops.convert_to_numpy(variable))
        if value.dtype.kind in "iu":  # counters: 64 bits on some backends, 32 on others
            value = value.astype(np.int64)
        h.update(f"|{value.dtype.str}{value.shape}|".encode())
        h.update(value.reshape(-1).view(np.uint8).data)
    return h.hexdigest()


# --- the graph of a model in memory ----------------------------------------------------------------

_IGNORED = {"name", "trainable", "build_config", "batch_shape", "batch_input_shape", "shared_object_id"}
_TRAINING = ("_initializer", "_regularizer", "_constraint")


def _describe_graph(model: Any) -> dict[str, Any]:
    """Describe the operations of a model, their settings and inputs as a JSON value without names."""
    config = model.get_config()
    operations = {operation.name: operation for operation in getattr(model, "operations", model.layers)}
    # records of a Sequential model have no name, configurations of custom layers may have none
    names = [
        record.get("name") or record["config"].get("name", str(i))
        for i, record in enumerate(config["layers"])
    ]
    records = dict(zip(names, config["layers"], strict=True))
    autocasts = find_autocasts(model) if hasattr(model, "operations") else {}
    positions: dict[str, Any] = {name: i for i, name in enumerate(n for n in names if n not in autocasts)}
    for name in autocasts:  # its output has the position of its input
        (source,) = records.pop(name)["inbound_nodes"][0]["args"]
        positions[name] = _graph_positions(source["config"]["keras_history"], positions)
    described = []
    for name, record in records.items():
        operation = operations.get(name)
        entry = {"class": record["class_name"]}
        if hasattr(operation, "layers"):
            entry["graph"] = _describe_graph(operation)
        else:
            cls = _keras_class(record) if operation is None else type(operation)
            entry["settings"] = _settings(record["config"], cls, isinstance(operation, keras().Layer))
        if record.get("inbound_nodes"):
            entry["inputs"] = [
                [
                    _to_json(node["args"], positions),
                    {k: _to_json(v, positions) for k, v in node["kwargs"].items() if v is not None},
                ]
                for node in record["inbound_nodes"]
            ]
        described.append(entry)
    ends = {
        key: _graph_positions(config[key], positions)
        for key in ("input_layers", "output_layers")
        if key in config
    }
    return {"operations": described, **ends}


def _settings(config: dict[str, Any], cls: type | None, is_layer: bool) -> dict[str, Any]:
    """Return the settings of a layer that differ from the defaults of its class and change what it computes."""
    defaults = _defaults(cls) if cls is not None else {}
    settings = {}
    for key, value in config.items():
        if key in _IGNORED or key.endswith(_TRAINING):
            continue
        if key == "dtype" and is_layer and cls.__name__ != "InputLayer":
            continue  # the policy, which `precision` replaces; the dtype of a cast is not a policy
        value = _to_json(value)
        if key not in defaults or value != defaults[key]:
            settings[key] = value
    return settings


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of the arguments of a class and its bases, as JSON values."""
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                if parameter.default is not parameter.empty:
                    defaults.setdefault(name, _to_json(parameter.default))
    return defaults


def _keras_class(record: dict[str, Any]) -> type | None:
    """Return the Keras class that a configuration names; None for other classes."""
    path = f"{record.get('module') or ''}.{record['class_name']}"
    try:
        cls = operator.attrgetter(path.removeprefix("keras."))(keras())
    except AttributeError:
        return None
    return cls if isinstance(cls, type) else None


def _to_json(value: Any, positions: dict[str, Any] | None = None) -> Any:
    """Convert a configuration to a JSON value; tensors become positions in the graph."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value) if isinstance(value, float) and not np.isfinite(value) else value
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_to_json(item, positions) for item in value]
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__keras_tensor__":
            return _graph_positions(config["keras_history"], positions or {})
        if kind == "__lambda__":
            return "code"
        if isinstance(kind, str) and isinstance(config, dict):
            cls = _keras_class(value)
            settings = _settings(config, cls, cls is not None and issubclass(cls, keras().Layer))
            return {"class": kind, "settings": settings}
        return {
            str(k): _to_json(v, positions) for k, v in value.items() if k not in ("module", "registered_name")
        }
    if hasattr(value, "tolist"):
        return _to_json(value.tolist())
    return type(value).__name__


def _graph_positions(value: Any, positions: dict[str, Any]) -> Any:
    """Replace the name of the operation by its number in a position [name, node, tensor], or in lists of positions.

    ``positions`` maps names to numbers. It maps the name of a cast that is left out to the position of its input.
    """
    if isinstance(value, (list, tuple)):
        items = [_graph_positions(item, positions) for item in value]
        return items[0] if value and isinstance(value[0], str) and isinstance(items[0], list) else items
    return positions.get(value, value) if isinstance(value, str) else value


# --- custom code -----------------------------------------------------------------------------------

_LIBRARIES = {"keras", "keras_hub", "tensorflow", "torch", "jax", "jaxlib", "builtins", "abc", "typing"}
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def code_identity(model: Any) -> str | None:
    """Return a random token that identifies a one-tap model with custom code; None if all code is Keras's.

    Two layers with the same name, class and configuration may still compute different things: a function may
    read a global variable, a class may be edited. So the token belongs to the output tensor in the graph, an
    object that lives as long as the user's model and exists in this process only.
    """
    if not any(map(_has_custom_code, walk(model))):
        return None
    return _tokens.setdefault(model.outputs[0], secrets.token_hex(KEY_BYTES))


def _has_custom_code(operation: Any) -> bool:
    return any(_root(value) not in _LIBRARIES for value in _callables(operation, set()))


def _callables(value: Any, seen: set[int]) -> Iterator[Any]:
    """Iterate over ``value`` and what it calls: functions, activations and layers among its attributes."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if hasattr(value, "layers") or not hasattr(value, "get_config") or _root(value) not in _LIBRARIES:
        return  # `walk` visits the layers of a model
    for name, attribute in vars(value).items():
        if name.endswith(_TRAINING):
            continue
        for item in attribute if isinstance(attribute, (list, tuple)) else [attribute]:
            if callable(item):
                yield from _callables(item, seen)


def _root(value: Callable[..., Any]) -> str:
    """Return the top-level package that a function, or the class of an object, comes from."""
    module = getattr(value, "__module__", None) or type(value).__module__
    return str(module).split(".")[0]
