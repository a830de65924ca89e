"""Embeddings and recipes are those of the reference files, without any file outside the repository."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.networks import off


@pytest.fixture(scope="module", params=reference.CASES)
def case(request):
    """Name, embeddings and digests of a case."""
    return request.param, *reference.embed(request.param)


def test_embeddings_are_the_golden_ones(case):
    name, features, _ = case
    with np.load(reference.GOLDEN) as golden:
        expected = golden[name]
    assert off(features, expected) < 1e-3
    assert off(features[0], expected[1]) > 1e-2, "images must differ by more than the tolerance"
