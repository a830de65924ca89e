"""Constraints of the parameters of ``FeatureSearchCV`` that are checked before anything is planned."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from tlfeatures._params import Constraint, boolean, integer, number
from tlfeatures.features import CNNFeatures
from tlfeatures.transferability import METHODS

__all__ = ["SEARCH_CONSTRAINTS"]

_OF_FEATURES = ("weights", "interpolation", "decode", "max_value", "precision", "batch_size", "cache")

SEARCH_CONSTRAINTS: dict[str, list[Any]] = {
    "scoring": [
        None,
        Constraint("the name of one score", lambda value: isinstance(value, str)),
        Constraint("a callable", callable),
    ],
    "rule": ["best", "1se"],
    "nested": [boolean()],
    "prescreen": [None, integer(minimum=1)],
    "prescreen_method": list(METHODS),
    "dedupe_groups": [boolean()],
    "duplicate_threshold": [number(above=0, hint="It is a cosine similarity, such as 0.95.")],
    "task": ["auto", "classification", "regression"],
    "on_error": ["raise", "nan"],
    "n_jobs": [
        None,
        Constraint(
            "an integer other than 0",
            lambda value: isinstance(value, Integral) and not isinstance(value, bool) and value != 0,
            hint="-1 uses all cores.",
        ),
    ],
    "verbose": [boolean(), integer(minimum=0)],
    **{name: CNNFeatures._parameter_constraints[name] for name in _OF_FEATURES},
}
