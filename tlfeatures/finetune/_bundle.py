"""Bundles: fitted estimators in one file of JSON and arrays, which is loaded without running code."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from tlfeatures._archive import (
    MODEL_START,
    describe_training,
    is_archive,
    library_versions,
    read_arrays,
    write_arrays,
)
from tlfeatures._files import absolute_folder
from tlfeatures._keras import keras, untouched_random_state
from tlfeatures.errors import RecipeMismatchError, UnknownNameError
from tlfeatures.extract import FeatureSpec
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._head_model import as_layers, takes_map
from tlfeatures.finetune._linear_start import LinearStart
from tlfeatures.finetune._trunk import Trunk
from tlfeatures.networks import find_licence, open_backbone
from tlfeatures.store import EmbeddingStore

__all__ = ["is_bundle", "load_bundle", "save_bundle"]

_FORMAT = "tlfeatures.finetune/1"
_MODULES = ("keras.layers.", "keras.initializers.", "keras.regularizers.", "keras.constraints.",
          "keras.dtype_policies.", "keras.activations.", "keras.src.layers.", "keras.src.ops.",
          "keras.src.models.functional.", "keras.src.models.sequential.", "keras.ops.",
          *(f"keras_hub.src.models.{name}.{name}_layers." for name in ("clip", "dinov2", "siglip", "vit")),
          )  # fmt: skip
_MODELS = ("Functional", "Sequential", "Model", "DTypePolicy", "KerasTensor")
# layers that run code from the file, and layers that read other files
_REFUSED = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "__lambda__",
            "StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"}  # fmt: skip


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a bundle, from its first bytes.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    bool
        True also for some damaged bundles, for which :func:`load_bundle` raises an error.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    return is_archive(path) and not is_archive(path, MODEL_START)


def save_bundle(estimator: Any, path: str | os.PathLike[str], whole: bool) -> None:
    """Save a fitted estimator; see its method ``save``."""
    about, arrays = estimator._live().to_parts()
    named = isinstance(estimator.model, (str, os.PathLike))
    if not (whole or named):
        raise ValueError(
            "`model` is a keras.Model, so a bundle without its weights could not be loaded. Pass whole=True, or "
            "save the model as .keras and pass its path as `model`."
        )
    trunk, n = estimator._live().trunk, about["trunk_weights"]
    if not whole:
        del about["trunk"]
        changed = _list_trained(trunk)
        arrays = [*(arrays[i] for i in changed), *arrays[n:]]
        about["changed"] = changed
    digests = getattr(estimator, "training_digests_", None)
    if digests is not None:
        arrays = [*arrays, digests]
    about |= {
        "format": _FORMAT,
        "versions": library_versions(),
        "card": {
            "weights_licence": find_licence(estimator.model, estimator.weights) if named else None,
            "scores": getattr(estimator, "cv_scores_", None),
            **describe_training(digests),
        },
        "training_digests": digests is not None,
        "estimator": type(estimator).__name__,
        "whole": whole,
        "params": {name: _to_json(value) for name, value in estimator.get_params(deep=False).items()}
        | {"callbacks": None}  # only `fit` uses callbacks
        | ({} if named else {"model": None}),
        "fitted": {
            "classes": _to_json(getattr(estimator, "classes_", None)),
            "target": getattr(estimator, "_target", None),
            "taps": estimator._taps,
            "normalization": estimator.normalization_,
            "layers": estimator.layers_,
            "seed": estimator.seed_,
            "best_epoch": estimator.best_epoch_,
            "history": json.loads(estimator.history_.to_json(orient="split", double_precision=15)),
        },
    }
    write_arrays(path, about, arrays)


def load_bundle(
    path: str | os.PathLike[str], *, expected: dict[str, Any], trust: bool = False, **params: Any
) -> Any:
    """Load a fitted estimator of one of the ``expected`` classes, a dict by name; see its method ``load``.

    Parameters
    ----------
    path : str or path
        File of a fine-tuned estimator.
    expected : dict of str to class
        Classes that are accepted, by their names.
    trust : bool, default=False
        Whether custom layers may be loaded, which runs code.
    **params
        Parameters that the estimator gets instead of the saved ones, such as ``cache``.

    Returns
    -------
    FineTuneClassifier or FineTuneRegressor
        The fitted estimator.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(2, "No such bundle", os.fspath(path))
    about, arrays = read_arrays(path)
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{os.fspath(path)!r} is not a bundle of the format {_FORMAT!r}; save the estimator again."
        )
    if str(about.get("estimator")) not in expected:
        raise ValueError(
            f"{os.fspath(path)!r} contains a {about.get('estimator')}; expected {' or '.join(expected)}. Load it with "
            f"{about.get('estimator')}.load."
        )
    expected[about["estimator"]](**params)  # raises a TypeError for unknown parameters of the caller
    if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        raise ValueError(
            f"{os.fspath(path)!r} contains weights that are NaN or infinite; expected finite weights. "
            "Save the estimator again, or train it with a lower learning_rate."
        )
    if not trust:
        try:
            _check_config([about.get("trunk"), about.get("head"), about.get("params")], path)
        except (AttributeError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged: its layers have invalid names ({error})."
            ) from error
    try:
        return _restore(about, arrays, path, expected, trust, params)
    except (RecipeMismatchError, UnknownNameError, OSError, ImportError):
        raise
    except Exception as error:  # damaged values raise many kinds of errors
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or has another format: {' '.join(str(error).split())[:300]}"
        ) from error


def _restore(
    about: dict[str, Any],
    arrays: list[np.ndarray],
    path: Any,
    expected: dict[str, Any],
    trust: bool,
    params: dict[str, Any],
) -> Any:
    import pandas

    *arrays, digests = arrays if about.get("training_digests") else [*arrays, None]  # older bundles have none
    all_params = {name: _from_json(value, trust) for name, value in about["params"].items()} | params
    estimator = expected[about["estimator"]](**all_params)
    fitted = about["fitted"]
    if about["whole"]:
        net = FittedNetwork.from_parts(about, arrays, trust)
        if all_params["model"] is None:
            estimator.model = net.trunk
    else:
        net = _rebuild_network(estimator, about, arrays, path, trust)
    estimator._net, estimator._taps = net, fitted["taps"]
    if digests is not None:
        estimator.training_digests_ = digests
    scores = about.get("card", {}).get("scores")  # older bundles have none
    if scores is not None:
        estimator.cv_scores_ = scores
    estimator.history_ = pandas.DataFrame(**fitted["history"])
    estimator.history_ = estimator.history_.astype(
        {c: float for c in estimator.history_ if c not in ("stage", "epoch")}
    )
    estimator.layers_, estimator.seed_, estimator.best_epoch_ = (
        fitted[k] for k in ("layers", "seed", "best_epoch")
    )
    estimator.normalization_ = fitted["normalization"]
    if fitted["classes"] is not None:
        estimator.classes_ = _from_json(fitted["classes"])
    if fitted["target"] is not None:
        estimator._target = tuple(fitted["target"])
    return estimator


def _list_trained(trunk: Any) -> list[int]:
    """List the indices of the weights of trainable layers."""
    trained = {id(v) for layer in trunk.layers if layer.trainable for v in layer.weights}
    return [i for i, v in enumerate(trunk.weights) if id(v) in trained]


def _rebuild_network(
    estimator: Any, about: dict[str, Any], arrays: list[np.ndarray], path: Any, trust: bool
) -> FittedNetwork:
    """Load the pretrained network, and set the weights that training changed."""
    fitted = about["fitted"]
    from_data = isinstance(estimator.normalization, str) and estimator.normalization == "data"
    normalization = fitted["normalization"] if from_data else estimator.normalization
    image_size = tuple(about["decoding"]["image_size"])
    backbone = open_backbone(
        estimator.model, estimator.weights, image_size, normalization, about["precision"]
    )
    pooling = "flatten" if takes_map(estimator.head) else estimator.pooling
    decoding = {k: v for k, v in about["decoding"].items() if k != "image_size"}
    plan = FeatureSpec.make(backbone, fitted["layers"], pooling, **decoding)
    taps = [[tap.layer, tap.digest] for tap in plan.description.taps]
    if taps != fitted["taps"]:
        raise RecipeMismatchError(
            f"The bundle {os.fspath(path)!r} belongs to another network: its {backbone.name} has the digest "
            f"{fitted['taps'][0][1]}; got {taps[0][1]}. Use the weights and the version of Keras that it was trained "
            "with, or save it with whole=True where it was trained."
        )
    trunk, changed = Trunk.of(plan).model, about["changed"]
    weights = trunk.weights
    for index, value in zip(changed, arrays[: len(changed)], strict=True):
        weights[index].assign(value)
    trained = {id(weights[index]) for index in changed}
    for layer in trunk.layers:  # so that saving it again writes the same weights
        layer.trainable = any(id(v) in trained for v in layer.weights)
    head = FittedNetwork.model_from(about["head"], arrays[len(changed) :], trust)
    columns = [tuple(column) for column in about["columns"]]
    return FittedNetwork(trunk, head, columns, about["decoding"], about["precision"])


def _check_config(config: Any, path: Any) -> None:
    """Raise an error if a configuration contains anything but layers of Keras.

    Raises
    ------
    ValueError
        If it contains an object that can run code.
    """
    if isinstance(config, list):
        for item in config:
            _check_config(item, path)
    if not isinstance(config, dict):
        return
    name, module = config.get("class_name"), config.get("module")
    if name is not None:
        of_keras = module is None or module in ("keras", "keras.models") or f"{module}.".startswith(_MODULES)
        is_allowed = module not in ("keras", "keras.models") or name in _MODELS
        registered = ">" in (config.get("registered_name") or "")
        unnamed = module is None and not name.startswith("__") and config.get("registered_name") is not None
        if name in _REFUSED or not of_keras or not is_allowed or registered or unnamed:
            raise ValueError(
                f"{os.fspath(path)!r} contains {name!r} of {module!r}, which can run code. Pass trust=True only if you "
                "trust the source of the file."
            )
    for value in config.values():
        _check_config(value, path)


def _to_json(value: Any) -> Any:
    """Convert a parameter to JSON; objects that JSON cannot express become None."""
    if isinstance(value, LinearStart):
        return {"linear": [value.coef.tolist(), value.intercept.tolist(), _to_json(value.classes)]}
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str if value.dtype != object else "object", value.tolist()]}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, EmbeddingStore):
        return os.fspath(value.root)
    if isinstance(value, os.PathLike):
        return absolute_folder(value)
    if isinstance(value, (list, tuple)) and not as_layers(value):
        return {"tuple": [_to_json(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_to_json(k), _to_json(v)] for k, v in value.items()]}
    if as_layers(value):
        return {"layers": [keras().saving.serialize_keras_object(layer) for layer in as_layers(value)]}
    if callable(value):
        return {"callable": getattr(value, "__name__", "")}
    return None


def _from_json(value: Any, trust: bool = False) -> Any:
    """Convert the result of `_to_json` back to a parameter; with ``trust``, layers may run any code."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "linear":
        coef, intercept, classes = content
        return LinearStart(np.array(coef), np.array(intercept), _from_json(classes))
    if kind == "array":
        return np.array(content[1], dtype=np.dtype(content[0]))
    if kind == "tuple":
        return tuple(_from_json(v) for v in content)
    if kind == "layers":
        with untouched_random_state():
            return [keras().saving.deserialize_keras_object(v, safe_mode=not trust) for v in content]
    if kind == "callable":
        return _MissingCallable(content)
    return {_from_json(k): _from_json(v) for k, v in content}


class _MissingCallable:
    """Placeholder for a callable head, which a bundle does not contain and a fitted estimator does not need."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, feature_map: Any) -> Any:
        raise ValueError(
            f"The callable {self.__name__!r} that built the head is not in the bundle; set `head` before fitting again."
        )
