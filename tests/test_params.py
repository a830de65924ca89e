"""Declarative parameter checks: what is accepted, the wording of errors, the parameter's name on the error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tlfeatures._params import (
    Constraint,
    boolean,
    check_parameter,
    check_parameters,
    instance_of,
    integer,
    number,
    path,
)
from tlfeatures.errors import InvalidParameterError, UnknownNameError

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("allowed", "accepted", "refused"),
    [
        (["avg", "max"], ["avg", "max", np.str_("avg")], ["AVG", "", None, 1, np.array(["avg"]), ["avg"]]),
        ([None, -1, integer(minimum=1)], [None, -1, 1, np.int64(5)], [0, -2, 1.0, True, "1", NAN]),
        ([integer(0, 3)], [0, 3], [4, -1, None]),
        ([number(0, 1)], [0, 1, 0.5, np.float32(1)], [-0.1, 1.1, NAN, "0.5", True, 1j, np.ones(1)]),
        ([number(above=0, below=1)], [0.5], [0, 1, INF]),
        ([number()], [0, -5.5], [INF, -INF, NAN]),
        ([boolean()], [True, False, np.True_], [1, 0, None, "yes", type("bool", (), {})()]),
        ([path()], ["x", Path("x")], ["", 3, None, b"x"]),
        ([instance_of(dict)], [{}], [[], dict]),
    ],
)
def test_alternatives_accept_what_they_say(allowed, accepted, refused):
    for value in accepted:
        check_parameter("x", value, allowed)
    for value in refused:
        with pytest.raises(InvalidParameterError, match="`x` must be "):
            check_parameter("x", value, allowed)


@pytest.mark.parametrize(
    ("value", "allowed", "message"),
    [
        (0, [integer(minimum=1)], "`x` must be an integer of at least 1; got 0."),
        (3, [integer(1, 2)], "`x` must be an integer of at least 1 and of at most 2; got 3."),
        ("a", [None, number(above=0)], "`x` must be None or a number above 0; got 'a'."),
        (
            [1] * 99,
            ["a", None, path("a path")],
            f"`x` must be 'a', None or a path; got [{'1, ' * 25}1...",
        ),
        (np.ones((2, 3)), [boolean()], "`x` must be True or False; got an object of type ndarray of shape (2, 3)."),
        (dict, [instance_of(int)], "`x` must be an int; got the class dict."),
        (
            -1,
            [None, Constraint("a name", lambda v: isinstance(v, str), hint=lambda v: f"{v} is a number.")],
            "`x` must be None or a name; got -1. -1 is a number.",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_what_was_passed(value, allowed, message):
    with pytest.raises(InvalidParameterError) as caught:
        check_parameter("x", value, allowed)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("value", "hint"),
    [("averag", "'averag'. Did you mean 'average'?"), ("MAX", "Did you mean 'max'?"), ("zzz", "got 'zzz'.")],
)
def test_unknown_names_list_the_nearest_names(value, hint):
    with pytest.raises(UnknownNameError) as caught:
        check_parameter("pooling", value, ["average", "max"])
    assert str(caught.value).endswith(hint)


class Estimator:
    _parameter_constraints: ClassVar = {"size": [integer(minimum=1)], "kind": ["a", "b"]}

    def __init__(self, size=1, kind="a"):
        self.size, self.kind = size, kind


def test_the_error_carries_the_name_of_the_parameter():
    check_parameters(Estimator())
    for estimator, name in ((Estimator(size=0, kind=3), "size"), (Estimator(kind=3), "kind")):
        with pytest.raises(InvalidParameterError) as caught:
            check_parameters(estimator)
        assert caught.value.parameter == name
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, TypeError)
        copy = pickle.loads(pickle.dumps(caught.value))  # as from a worker process
        assert (copy.parameter, str(copy)) == (name, str(caught.value))
