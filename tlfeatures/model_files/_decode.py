"""Conversion of JSON and arrays to fitted estimators. Only classes of a fixed table are made."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from tlfeatures.errors import SavedModelError
from tlfeatures.model_files._checks import check_state
from tlfeatures.model_files._classes import find_class, find_function
from tlfeatures.model_files._encode import NEIGHBORS, reset_param

__all__ = ["ModelDecoder"]

_MAX_DEPTH = 40
_MAX_OBJECTS = 5_000
_DTYPE = re.compile(r"[<>|=]?[biufU]\d{1,4}")
_NAME = re.compile(r"(?!__)[A-Za-z_]\w{0,99}")


class ModelDecoder:
    """Decoder of the JSON of one model.

    Parameters
    ----------
    arrays : list of ndarray
        Each is used once, so that a small file cannot make a large model.

    Attributes
    ----------
    left_out : list of str
        Parameters that the installed versions of the classes do not have.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays: dict[int, np.ndarray] = dict(enumerate(arrays))
        self._n_objects = 0
        self.left_out: list[str] = []
        self._readers = {
            "float": self._read_float,
            "scalar": self._read_scalar,
            "array": self._read_array,
            "objects": self._read_objects,
            "tuple": lambda content, depth: tuple(self.decode(list(content), depth)),
            "dict": lambda content, depth: {self.decode(k, depth): self.decode(v, depth) for k, v in content},
            "dtype": lambda content, depth: _to_dtype(content),
            "function": self._read_function,
        }

    def finish(self) -> None:
        """Raise an error if arrays were not used."""
        if self._arrays:
            raise SavedModelError(f"its array {min(self._arrays)} belongs to no part of the model")

    def decode(self, value: Any, depth: int = 0) -> Any:
        """Convert the output of `ModelEncoder.encode` back to the value.

        Raises
        ------
        SavedModelError
            If it names a class or a function that is not in the table.
        Exception
            Many other kinds if the value is damaged.
        """
        if depth > _MAX_DEPTH:
            raise SavedModelError("its parts are nested too deeply")
        if isinstance(value, list):
            return [self.decode(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if "object" in value:
            return self._read_object(value["object"], value["params"], value["state"], depth + 1)
        ((kind, content),) = value.items()
        return self._readers[kind](content, depth + 1)

    def _read_float(self, content: Any, depth: int) -> float:
        if content not in ("nan", "inf", "-inf"):
            raise SavedModelError(f"{content!r} is not a number")
        return float(content)

    def _read_scalar(self, content: Any, depth: int) -> Any:
        dtype, item = content
        return np.array(self.decode(item, depth), _to_dtype(dtype))[()]

    def _read_array(self, content: Any, depth: int) -> np.ndarray:
        if content not in self._arrays:
            raise SavedModelError(f"the array {content!r} is missing or used twice")
        return self._arrays.pop(content).copy(order="K")  # writable, as after `fit`

    def _read_objects(self, content: Any, depth: int) -> np.ndarray:
        shape, items = content
        values = np.empty(len(items), object)
        for i, item in enumerate(items):
            values[i] = self.decode(item, depth)
        return values.reshape(shape)

    def _read_function(self, content: Any, depth: int) -> Any:
        function = find_function(content)
        if function is None:
            raise SavedModelError(f"it names the function {content!r}, which a model file must not contain")
        return function

    def _read_object(self, name: Any, params: dict[str, Any], state: dict[str, Any], depth: int) -> Any:
        self._n_objects += 1
        if self._n_objects > _MAX_OBJECTS:
            raise SavedModelError("it has too many objects")
        kind: Any = find_class(name)
        if kind is None:
            raise SavedModelError(
                f"it names the class {str(name)[:200]!r}, which a model file must not contain"
            )
        value = self._make(kind, {key: self.decode(item, depth) for key, item in params.items()})
        fitted = {key: self.decode(item, depth) for key, item in state.items()}
        for key in list(fitted):
            if isinstance(getattr(kind, key, None), property):  # a fitted attribute in other versions
                del fitted[key]
            elif not _NAME.fullmatch(key) or hasattr(kind, key) or key in params:
                raise SavedModelError(f"{name} cannot have the fitted attribute {key!r}")
        if name in NEIGHBORS and "_fit_X" in fitted:
            value.fit(fitted.pop("_fit_X"), fitted.pop("_y"))
        vars(value).update(fitted)
        check_state(name, value)
        return value

    def _make(self, kind: type, params: dict[str, Any]) -> Any:
        """Construct an object without the parameters that the installed version does not have."""
        if not hasattr(kind, "get_params") and not dataclasses.is_dataclass(kind):
            return kind.__new__(kind)
        if hasattr(kind, "_get_param_names"):
            for name in sorted(set(params) - set(kind._get_param_names())):
                self.left_out.append(f"{kind.__name__}({name}={params.pop(name)!r})"[:200])
        return kind(**{name: reset_param(name, value) for name, value in params.items()})


def _to_dtype(text: Any) -> np.dtype:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise SavedModelError(f"{text!r} is not a dtype of numbers or text")
    return np.dtype(text)
