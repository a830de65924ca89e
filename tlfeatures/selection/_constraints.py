"""Checks of the parameters of ``FeatureSearchCV``, before anything is computed."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from tlfeatures._network_options import NETWORK_CONSTRAINTS
from tlfeatures._params import Constraint, boolean, integer, number
from tlfeatures.errors import InvalidParameterError
from tlfeatures.features import CNNFeatures
from tlfeatures.selection._candidates import Pass
from tlfeatures.selection._head_grids import Head
from tlfeatures.transferability import METHODS

__all__ = [
    "NETWORK_PARAMETERS",
    "SEARCH_CONSTRAINTS",
    "check_cv",
    "check_single_candidate",
    "splits_any_rows",
]

# parameters of CNNFeatures that all candidates have in common
NETWORK_PARAMETERS = (
    "weights",
    "interpolation",
    "decode",
    "max_value",
    "window",
    "normalization",
    "views",
    "precision",
    "runtime",
    "batch_size",
    "cache",
)

SEARCH_CONSTRAINTS: dict[str, list[Any]] = {
    "scoring": [
        None,
        Constraint("the name of one score", lambda value: isinstance(value, str)),
        Constraint("a callable", callable),
    ],
    "rule": ["best", "1se"],
    "search": ["auto", "exhaustive", "halving"],
    "first_subset": [integer(minimum=10)],
    "nested": [boolean()],
    "learning_curve": [boolean()],
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
    **{name: CNNFeatures._parameter_constraints[name] for name in NETWORK_PARAMETERS},
    "precision": NETWORK_CONSTRAINTS["precision"],  # "int8" computes one layer at a time
}


def splits_any_rows(cv: Any) -> bool:
    """Whether ``cv`` can split any set of rows; a list of folds cannot."""
    return isinstance(cv, Integral) or hasattr(cv, "split")


def check_cv(search: Any) -> None:
    """Raise an error if ``cv`` cannot make the folds that other parameters of a search need."""
    if search.nested and isinstance(search.cv, Integral) and search.cv == 0:
        raise InvalidParameterError(
            "`cv` must be at least 2 with `nested=True`; got 0. Pass a number of folds, or nested=False.",
            "cv",
        )
    if search.nested and search.search == "halving":
        raise InvalidParameterError(
            '`search` must be "auto" or "exhaustive" with `nested=True`, which scores every candidate within each '
            'fold; got "halving". Pass another value, or nested=False.',
            "search",
        )
    if splits_any_rows(search.cv):
        return
    for name in ("nested", "dedupe_groups"):
        if getattr(search, name):
            raise ValueError(
                f"`cv` must be a number of folds or a splitter if {name}=True, which makes further folds; got "
                f"{type(search.cv).__name__}."
            )


def check_single_candidate(passes: list[Pass], heads: list[Head]) -> None:
    """Raise an error if there are several candidates, which cannot be compared without folds."""
    count = sum(len(planned.embeddings) for planned in passes) * sum(len(head.points) for head in heads)
    if count != 1:
        raise InvalidParameterError(
            f"`cv` must be at least 2 to choose one of {count} candidates; got 0. Pass a number of folds, or one "
            "network, image size, resize mode, layer, pooling and head, such as heads={'svm': {}}.",
            "cv",
        )
