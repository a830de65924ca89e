"""The graph of a Keras model: names that do not depend on history, taps, and their digests."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np

from tlfeatures._keras import keras, to_numpy
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.registry import NETWORKS, NetworkSpec

__all__ = ["application_of", "canonical_operations", "preprocesses", "tap_digest", "tappable", "with_policy"]


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


def tappable(operation: Any) -> bool:
    """Whether an operation gives one feature map or vector that can be pooled."""
    if type(operation).__name__ == "InputLayer":
        return False
    try:
        shape = operation.output.shape  # raises where a layer is used twice or gives several outputs
    except (AttributeError, ValueError):
        return False
    return len(shape) in (2, 3, 4) and shape[-1] is not None


def tap_digest(model: Any) -> str:
    """Digest of all that decides what a one-tap model computes: graph, settings and weights.

    Neither names nor training settings count, and nothing behind the tap does: a network with
    and without its top, or fine-tuned only behind the tap, has the same digest.
    """
    h = hashlib.blake2b(digest_size=KEY_BYTES)
    config = json.loads(json.dumps(model.get_config(), default=_plain))
    h.update(json.dumps(_nameless(config, {}), sort_keys=True).encode())
    for variable in model.weights:
        value = np.ascontiguousarray(to_numpy(variable))
        h.update(f"|{value.dtype.str}{value.shape}|".encode())
        h.update(value.reshape(-1).view(np.uint8).data)
    return h.hexdigest()


_IGNORED = {
    "name",
    "trainable",
    "dtype",
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
        elif key not in _IGNORED and not key.endswith(_IGNORED_ENDINGS):
            kept[key] = _nameless(item, names)
    return kept


def with_policy(model: Any, policy: str) -> Any:
    """A copy of ``model`` that computes under another dtype policy, with the same weights."""
    if policy == "float32":
        return model

    def cast(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": policy})

    copy = keras().models.clone_model(model, clone_function=cast, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


_PREPROCESSING = {"Rescaling", "Normalization", "Lambda", "PreStem"}


def preprocesses(model: Any) -> bool:
    """Whether a model starts with a layer that normalizes its pixels."""
    for layer in model.layers[:4]:
        if type(layer).__name__ in _PREPROCESSING or (hasattr(layer, "layers") and preprocesses(layer)):
            return True
    return False


def application_of(model: Any) -> NetworkSpec | None:
    """The row of the network of ``keras.applications`` that a model is, perhaps with another top."""
    names = set(canonical_operations(model))
    return next((spec for spec in NETWORKS.values() if set(spec.taps) <= names), None)
