"""Embeddings and recipes are those of the reference files, without any file outside the repository."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import reference
from tests.networks import relative_difference


@pytest.fixture(scope="module", params=reference.CASES)
def case(request):
    """Name, embeddings and digests of a case."""
    return request.param, *reference.embed(request.param)


def test_embeddings_are_the_golden_ones(case):
    name, features, _ = case
    with np.load(reference.GOLDEN) as golden:
        expected = golden[name]
    assert relative_difference(features, expected) < 1e-3
    assert relative_difference(features[0], expected[1]) > 1e-2, (
        "images must differ by more than the tolerance"
    )


def test_recipes_are_those_of_every_supported_keras(case):
    """The same JSON file is compared under the oldest and the newest supported versions."""
    name, _, digests = case
    assert digests == json.loads(reference.DIGESTS.read_text("utf-8"))[name], (
        "The recipes changed: embeddings stored before are not found any more."
    )
