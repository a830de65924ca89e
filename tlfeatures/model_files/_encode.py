"""Conversion of fitted estimators to JSON and arrays."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from tlfeatures._files import absolute_folder
from tlfeatures.errors import SavedModelError
from tlfeatures.model_files._classes import name_class, name_function

__all__ = ["NEIGHBORS", "ModelEncoder", "reset_param", "unwrap_search"]

# parameters that belong to the machine, not to the model: they are saved and loaded with these values
_RESET: dict[str, Any] = {
    "memory": None,
    "n_jobs": None,
    "verbose": 0,
    "cache": "auto",
    "calibration_images": None,
}
# fitted again when they are loaded, which only copies the training rows into a search tree
NEIGHBORS = ("sklearn.neighbors.KNeighborsClassifier", "sklearn.neighbors.KNeighborsRegressor")

_RIDGE = ("sklearn.linear_model.RidgeClassifier", "sklearn.linear_model.RidgeClassifierCV")

# attributes that only `fit` needs, or that hold objects of compiled code
_LEFT_OUT = {
    "sklearn.linear_model.SGDClassifier": ("_loss_function_", "loss_function_"),
    "sklearn.linear_model.SGDRegressor": ("_loss_function_", "loss_function_"),
    "sklearn.linear_model.Perceptron": ("_loss_function_", "loss_function_"),
    "sklearn.neural_network.MLPClassifier": ("_optimizer", "_random_state"),
    "sklearn.neural_network.MLPRegressor": ("_optimizer", "_random_state"),
    "sklearn.kernel_approximation.RBFSampler": ("_random_state",),
}
_ROUTING = "_metadata_request"  # which metadata `fit` requests
_HINT = (
    "Any fitted estimator can be saved as a pickle, with joblib.dump(model, 'model.joblib') or -o FILE.joblib; loading "
    "such a file runs code."
)


def _get_params(value: Any) -> dict[str, Any]:
    """Return the parameters of the constructor of an estimator or a dataclass; other objects have none."""
    if hasattr(value, "get_params"):
        return value.get_params(deep=False)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def unwrap_search(estimator: Any) -> Any:
    """Return the best estimator of a fitted search such as ``GridSearchCV``, and other estimators unchanged."""
    return getattr(estimator, "best_estimator_", estimator)


class ModelEncoder:
    """Encoder of one model; ``arrays`` are the arrays to which the JSON refers by number."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def encode(self, value: Any, where: str = "model") -> Any:
        """Convert a value to types of JSON.

        Parameters
        ----------
        value : object
        where : str
            Description of the place of the value in the model, for messages.

        Returns
        -------
        object

        Raises
        ------
        SavedModelError
            If the value has a type that is not in the table of classes; names the type.
        """
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.generic) and value.dtype.kind in "biufU":
            return {"scalar": [value.dtype.str, self.encode(value.item(), where)]}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, where)
        if type(value) is list:
            return [self.encode(item, where) for item in value]
        if type(value) is tuple:
            return {"tuple": [self.encode(item, where) for item in value]}
        if type(value) is dict:
            return {"dict": [[self.encode(k, where), self.encode(v, where)] for k, v in value.items()]}
        if isinstance(value, np.dtype) and value.kind in "biufU":
            return {"dtype": value.str}
        if callable(value) and (name := name_function(value)) is not None:
            return {"function": name}
        return self._encode_object(unwrap_search(value), where)

    def _encode_array(self, array: np.ndarray, where: str) -> Any:
        if array.dtype.kind in "biufcUS" and type(array) is np.ndarray:
            self.arrays.append(array)
            return {"array": len(self.arrays) - 1}
        if array.dtype == object and type(array) is np.ndarray:
            return {
                "objects": [list(array.shape), [self.encode(item, where) for item in array.ravel().tolist()]]
            }
        raise self._refuse(
            array, where, f"an array of the type {type(array).__name__} and the dtype {array.dtype}"
        )

    def _encode_object(self, value: Any, where: str) -> Any:
        name = name_class(type(value))
        if name is None:
            if hasattr(value, "__fspath__"):
                return absolute_folder(value)
            raise self._refuse(value, where)
        params = _get_params(value)
        if name == "tlfeatures.features.CNNFeatures":
            _check_network(value)
        params = {key: reset_param(key, item) for key, item in params.items()}
        encoded = {key: self.encode(item, f"parameter {key} of {name}") for key, item in params.items()}
        fitted = {key: item for key, item in vars(value).items() if key not in params and key != _ROUTING}
        if name in NEIGHBORS and "_fit_X" in fitted:
            y = _training_targets(value)
            fitted = {"_fit_X": fitted["_fit_X"], "_y": y} | {
                key: fitted[key] for key in ("feature_names_in_",) if key in fitted
            }
        if name in _RIDGE and "_label_binarizer" in fitted:
            fitted["classes_"] = value.classes_  # a property in old versions of scikit-learn
        for key in _LEFT_OUT.get(name, ()):
            fitted.pop(key, None)
        state = {key: self.encode(item, f"{key} of {name}") for key, item in fitted.items()}
        return {"object": name, "params": encoded, "state": state}

    @staticmethod
    def _refuse(value: Any, where: str, what: str | None = None) -> SavedModelError:
        kind = type(value)
        name = getattr(value, "__name__", None) if callable(value) else None
        what = what or (
            f"the function {name!r}" if name else f"an object of the class {kind.__module__}.{kind.__name__}"
        )
        return SavedModelError(f"A .tlf file cannot contain {what}, the {where}. {_HINT}")


def reset_param(name: str, value: Any) -> Any:
    """Return a value that does not depend on the machine for parameters such as ``cache``, and others unchanged."""
    if name == "cache" and value is None:
        return None
    if name == "verbose" and isinstance(
        value, bool
    ):  # some estimators accept only a bool, or only an integer
        return False
    return _RESET.get(name, value)


def _check_network(cnn: Any) -> None:
    if not isinstance(cnn.model, (str, os.PathLike)):
        raise SavedModelError(
            f"A .tlf file cannot contain the {type(cnn.model).__name__} object that is the parameter `model` of "
            f"CNNFeatures. Save a keras.Model as .keras and pass its path as `model`. {_HINT}"
        )


def _training_targets(neighbors: Any) -> np.ndarray:
    """Return the targets that a nearest-neighbors estimator was fitted on."""
    if not hasattr(neighbors, "classes_"):
        return neighbors._y
    if isinstance(neighbors.classes_, list):
        return np.stack(
            [names[codes] for names, codes in zip(neighbors.classes_, neighbors._y.T, strict=True)], 1
        )
    return neighbors.classes_[neighbors._y]
