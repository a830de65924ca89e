"""Fitted estimators in one file: JSON and arrays, of which nothing is executed."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from tlfeatures.errors import RecipeMismatchError, UnknownNameError
from tlfeatures.extract import FeatureSpec
from tlfeatures.finetune._checkpoint import ABOUT, read_arrays, write_arrays
from tlfeatures.finetune._dense_head import LinearStart
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._trunk import Trunk
from tlfeatures.networks import Backbone

__all__ = ["is_bundle", "load_bundle", "save_bundle"]

_FORMAT = "tlfeatures.finetune/1"
_MAGIC = b"PK\3\4"  # a zip file, whose first member has its name 30 bytes from the start
_ROOMS = ("keras.layers.", "keras.initializers.", "keras.regularizers.", "keras.constraints.",
          "keras.dtype_policies.", "keras.activations.", "keras.src.layers.", "keras.src.ops.",
          "keras.src.models.functional.", "keras.src.models.sequential.", "keras.ops.")  # fmt: skip
_MODELS = ("Functional", "Sequential", "Model", "DTypePolicy", "KerasTensor")
# layers that run what a file says
_REFUSED = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "function", "__lambda__",
            "StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"}  # fmt: skip  # these read files


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Check by its first bytes, whatever its name, whether a file is a bundle that ``save`` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    bool
        True also for a bundle that is damaged further on; :func:`load_bundle` raises for it.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(30 + len(ABOUT))
    return start.startswith(_MAGIC) and start.endswith(ABOUT.encode())


def save_bundle(estimator: Any, path: str | os.PathLike[str], whole: bool) -> None:
    """Write a fitted estimator; see its ``save``."""
    about, arrays = estimator._live().to_parts()
    named = isinstance(estimator.model, (str, os.PathLike))
    if not (whole or named):
        raise ValueError(
            "The network was given as a keras.Model, so a bundle without it could not be loaded: pass whole=True, or "
            "save the model as .keras and pass its path as `model`."
        )
    trunk, n = estimator._live().trunk, about["trunk_weights"]
    if not whole:
        del about["trunk"]
        changed = _changed(trunk)
        arrays = [*(arrays[i] for i in changed), *arrays[n:]]
        about["changed"] = changed
    digests = getattr(estimator, "training_digests_", None)
    if digests is not None:
        arrays = [*arrays, digests]
    about |= {
        "format": _FORMAT,
        "training_digests": digests is not None,
        "estimator": type(estimator).__name__,
        "whole": whole,
        "params": {name: _plain(value) for name, value in estimator.get_params(deep=False).items()}
        | {"callbacks": None},  # objects of the user, for fitting only
        "fitted": {
            "classes": _plain(getattr(estimator, "classes_", None)),
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
    """Read a fitted estimator; see its ``load``. ``expected`` are the classes that it may be of, by name."""
    if not os.path.isfile(path):
        raise FileNotFoundError(2, "No such bundle", os.fspath(path))
    about, arrays = read_arrays(path)
    if about.get("format") != _FORMAT:
        raise ValueError(f"{os.fspath(path)!r} is no bundle of this format: expected {_FORMAT!r}.")
    if str(about.get("estimator")) not in expected:
        raise ValueError(
            f"{os.fspath(path)!r} holds a {about.get('estimator')}; load it by {about.get('estimator')}.load, not as "
            f"{' or '.join(expected)}."
        )
    expected[about["estimator"]](**params)  # a wrong name is the caller's, not the file's
    if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        raise ValueError(
            f"{os.fspath(path)!r} holds weights that are NaN or infinite, so it can only predict NaN; expected finite "
            "weights. Save the estimator again, or train it with a lower learning_rate."
        )
    if not trust:
        _check_config([about.get("trunk"), about.get("head")], path)
    try:
        return _restore(about, arrays, path, expected, trust, params)
    except (RecipeMismatchError, UnknownNameError, OSError, ImportError):
        raise
    except Exception as error:  # of many kinds, where a value is not what it should be
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or of another make: {' '.join(str(error).split())[:300]}"
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
    given = {name: _restored(value) for name, value in about["params"].items()} | params
    estimator = expected[about["estimator"]](**given)
    fitted = about["fitted"]
    if about["whole"]:
        net = FittedNetwork.from_parts(about, arrays, trust)
        if given["model"] is None:
            estimator.model = net.trunk
    else:
        net = _completed(estimator, about, arrays, path, trust)
    estimator._net, estimator._taps = net, fitted["taps"]
    if digests is not None:
        estimator.training_digests_ = digests
    estimator.history_ = pandas.DataFrame(**fitted["history"])
    estimator.history_ = estimator.history_.astype(
        {c: float for c in estimator.history_ if c not in ("stage", "epoch")}
    )
    estimator.layers_, estimator.seed_, estimator.best_epoch_ = (
        fitted[k] for k in ("layers", "seed", "best_epoch")
    )
    estimator.normalization_ = fitted["normalization"]
    if fitted["classes"] is not None:
        estimator.classes_ = _restored(fitted["classes"])
    if fitted["target"] is not None:
        estimator._target = tuple(fitted["target"])
    return estimator


def _changed(trunk: Any) -> list[int]:
    """Places of the weights that training could change."""
    trained = {id(v) for layer in trunk.layers if layer.trainable for v in layer.weights}
    return [i for i, v in enumerate(trunk.weights) if id(v) in trained]


def _completed(
    estimator: Any, about: dict[str, Any], arrays: list[np.ndarray], path: Any, trust: bool
) -> FittedNetwork:
    """The network that the bundle was trained on, with what training changed."""
    fitted, given = about["fitted"], estimator
    by_data = isinstance(given.normalization, str) and given.normalization == "data"
    normalization = fitted["normalization"] if by_data else given.normalization
    image_size = tuple(about["decoding"]["image_size"])
    backbone = Backbone(given.model, given.weights, image_size, normalization, about["precision"])
    pooling = "flatten" if callable(given.head) else given.pooling
    decoding = {k: v for k, v in about["decoding"].items() if k != "image_size"}
    plan = FeatureSpec.make(backbone, fitted["layers"], pooling, **decoding)
    taps = [[tap.layer, tap.digest] for tap in plan.description.taps]
    if taps != fitted["taps"]:
        raise RecipeMismatchError(
            f"The bundle {os.fspath(path)!r} belongs to another network: its {backbone.name} has the digest "
            f"{fitted['taps'][0][1]}, and the one here has {taps[0][1]}. Use the weights (and the Keras) that it was "
            "trained on, or save it with whole=True there."
        )
    trunk, changed = Trunk.of(plan).model, about["changed"]
    weights = trunk.weights
    for place, value in zip(changed, arrays[: len(changed)], strict=True):
        weights[place].assign(value)
    places = {id(weights[place]) for place in changed}
    for layer in trunk.layers:  # so that it is saved again as it was
        layer.trainable = any(id(v) in places for v in layer.weights)
    head = FittedNetwork.model_from(about["head"], arrays[len(changed) :], trust)
    columns = [(i, part) for i, part in about["columns"]]
    return FittedNetwork(trunk, head, columns, about["decoding"], about["precision"])


def _check_config(config: Any, path: Any) -> None:
    """Refuse what is not made of Keras's own layers.

    Raises
    ------
    ValueError
    """
    if isinstance(config, list):
        for each in config:
            _check_config(each, path)
    if not isinstance(config, dict):
        return
    name, room = config.get("class_name"), config.get("module")
    if name is not None:
        own = room is None or room in ("keras", "keras.models") or f"{room}.".startswith(_ROOMS)
        plain = room not in ("keras", "keras.models") or name in _MODELS
        registered = ">" in (config.get("registered_name") or "")
        unnamed = room is None and not name.startswith("__") and config.get("registered_name") is not None
        if name in _REFUSED or not own or not plain or registered or unnamed:
            raise ValueError(
                f"{os.fspath(path)!r} holds {name!r} of {room!r}, which may run code of its own. Load it with "
                "trust=True only if you trust where the file comes from."
            )
    for each in config.values():
        _check_config(each, path)


def _plain(value: Any) -> Any:
    """A parameter as JSON; what cannot be written becomes None or a default."""
    if isinstance(value, LinearStart):
        return {"linear": [value.coef.tolist(), value.intercept.tolist(), _plain(value.classes)]}
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str if value.dtype != object else "object", value.tolist()]}
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if callable(value) and not hasattr(value, "layers"):
        return {"callable": getattr(value, "__name__", "")}
    return None


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "linear":
        coef, intercept, classes = held
        return LinearStart(np.array(coef), np.array(intercept), _restored(classes))
    if kind == "array":
        return np.array(held[1], dtype=np.dtype(held[0]))
    if kind == "tuple":
        return tuple(_restored(v) for v in held)
    if kind == "callable":
        return _Lost(held)
    return {_restored(k): _restored(v) for k, v in held}


class _Lost:
    """Stands for a callable head that a bundle does not hold; the fitted head needs it no more."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, feature_map: Any) -> Any:
        raise ValueError(
            f"The callable {self.name!r} that built the head is not in the bundle; set `head` before fitting again."
        )
