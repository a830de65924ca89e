"""Declarative checks of parameters: one table per estimator, and a function that checks it.

An estimator lists the valid values of each parameter in a class attribute, and calls `check_parameters`
first in ``fit``::

    class Embedder(BaseEstimator):
        _parameter_constraints: ClassVar = {
            "pooling": ["avg", "max"],
            "batch_size": [integer(minimum=1)],
            "dropout": [None, number(minimum=0, below=1)],
            "weights": ["imagenet", None, path("a weights file")],
            "cache": ["auto", None, instance_of(EmbeddingStore)],
            "nested": [boolean()],
            "layer": [None, Constraint("the name of a layer", is_name, hint="See list_layers(model).")],
        }

        def fit(self, X, y=None):
            check_parameters(self)

The entry of a parameter lists alternatives. A string, a number or None is accepted as it is; everything
else is a `Constraint`. A subclass extends the table with ``{**Base._parameter_constraints, ...}``.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from tlfeatures.errors import InvalidParameterError, UnknownNameError

__all__ = [
    "Constraint",
    "boolean",
    "check_parameter",
    "check_parameters",
    "describe_value",
    "instance_of",
    "integer",
    "join_alternatives",
    "number",
    "path",
]


@dataclass(frozen=True)
class Constraint:
    """A kind of value that a parameter may have.

    Parameters
    ----------
    description : str
        Completes "`parameter` must be ...".
    accepts : callable
        Whether a value is of this kind; must take any object.
    hint : str or callable, default=""
        How to fix a value that no alternative accepts: a sentence, or a function from that value to a sentence.
    """

    description: str
    accepts: Callable[[Any], bool]
    hint: str | Callable[[Any], str] = ""


def integer(
    minimum: int | None = None, maximum: int | None = None, hint: str | Callable[[Any], str] = ""
) -> Constraint:
    """Accept a Python or NumPy integer, but not a bool, from ``minimum`` to ``maximum`` inclusive.

    >>> integer(minimum=1).description
    'an integer of at least 1'
    """
    return _bounded("an integer", Integral, minimum, maximum, None, None, hint)


def number(
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    hint: str | Callable[[Any], str] = "",
) -> Constraint:
    """Accept a finite number within closed (``minimum``, ``maximum``) or open (``above``, ``below``) bounds.

    >>> number(above=0, maximum=1).description
    'a number above 0 and of at most 1'
    """
    return _bounded("a number", Real, minimum, maximum, above, below, hint)


def boolean() -> Constraint:
    """Accept True or False, including those of NumPy."""

    def accepts(value: Any) -> bool:
        kind = type(value)  # compared by name, so that NumPy is not imported
        return f"{kind.__module__}.{kind.__name__}" in ("builtins.bool", "numpy.bool")

    return Constraint("True or False", accepts)


def path(description: str = "a path", hint: str | Callable[[Any], str] = "") -> Constraint:
    """Accept a non-empty string or a path object; the file may be absent."""
    return Constraint(description, lambda v: isinstance(v, (str, os.PathLike)) and bool(os.fspath(v)), hint)


def instance_of(kind: type, description: str = "") -> Constraint:
    """Accept an instance of a class."""
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    return Constraint(description or f"{article} {kind.__name__}", lambda value: isinstance(value, kind))


def check_parameters(estimator: Any) -> None:
    """Check the parameters of an estimator against its ``_parameter_constraints``.

    Raises
    ------
    InvalidParameterError
        If a parameter is invalid; the first one in the order of the table is reported, and ``error.parameter`` is its
        name. The error is also a ``ValueError`` and a ``TypeError``. An unknown name raises the subclass
        `UnknownNameError`, whose message lists the nearest names.
    """
    for name, allowed in estimator._parameter_constraints.items():
        check_parameter(name, getattr(estimator, name), allowed)


def check_parameter(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check one value against the alternatives of its parameter; raises the errors of `check_parameters`.

    >>> check_parameter("pooling", "average", ["avg", "max"])
    Traceback (most recent call last):
    ...
    tlfeatures.errors.UnknownNameError: `pooling` must be 'avg' or 'max'; got 'average'. Did you mean 'avg'?
    """
    for alternative in allowed:
        if _accepts(alternative, value):
            return
    names = [alternative for alternative in allowed if isinstance(alternative, str)]
    sentences = [
        f"`{name}` must be {join_alternatives(map(_description, allowed))}; got {describe_value(value)}."
    ]
    kind: type[InvalidParameterError] = InvalidParameterError
    if isinstance(value, str) and names:
        kind = UnknownNameError
        if matches := difflib.get_close_matches(value.lower(), names, n=3, cutoff=0.6):
            sentences.append(f"Did you mean {' or '.join(map(repr, matches))}?")
    for alternative in allowed:
        hint = getattr(alternative, "hint", "")
        sentences.append(hint(value) if callable(hint) else hint)
    raise kind(" ".join(filter(None, sentences)), parameter=name)


def describe_value(value: Any) -> str:
    """Describe a value of any type in a few words, for "got ...".

    >>> describe_value(-1), describe_value("x"), describe_value(object())
    ('-1', "'x'", 'an object of type object')
    """
    if value is None or isinstance(value, (bool, Real, str, bytes, list, tuple, set, dict, os.PathLike)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = getattr(value, "shape", None)
    suffix = f" of shape {shape}" if isinstance(shape, tuple) else ""
    return f"an object of type {type(value).__name__}{suffix}"


def join_alternatives(texts: Any) -> str:
    """Join texts with commas, the last with "or".

    >>> join_alternatives(["None", "a path", "a list of paths"])
    'None, a path or a list of paths'
    """
    texts = list(texts)
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _accepts(alternative: Any, value: Any) -> bool:
    if isinstance(alternative, Constraint):
        return alternative.accepts(value)
    if alternative is None:
        return value is None
    if isinstance(alternative, str):
        return isinstance(value, str) and value == alternative
    return isinstance(value, Real) and not isinstance(value, bool) and value == alternative


def _description(alternative: Any) -> str:
    return alternative.description if isinstance(alternative, Constraint) else repr(alternative)


def _bounded(
    noun: str,
    kind: type,
    minimum: float | None,
    maximum: float | None,
    above: float | None,
    below: float | None,
    hint: str | Callable[[Any], str],
) -> Constraint:
    bounds: Mapping[str, float | None] = {
        "of at least": minimum,
        "above": above,
        "of at most": maximum,
        "below": below,
    }
    texts = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and abs(value) < float("inf")
            and (minimum is None or value >= minimum)
            and (above is None or value > above)
            and (maximum is None or value <= maximum)
            and (below is None or value < below)
        )

    return Constraint(" ".join(filter(None, [noun, " and ".join(texts)])), accepts, hint)
