"""Estimators fit with scikit-learn's callbacks where it has them, and without them where it has none."""

from __future__ import annotations

import pytest

from tests.networks import run

FIT = """
    import sys, warnings
    {hide}
    import numpy as np
    from tlfeatures import CNNFeatures

    warnings.simplefilter("ignore")
    X = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    assert hasattr(cnn, "set_callbacks") == {callbacks}
    one = cnn.fit_transform(X)
    two = cnn.fit(X).transform(X)
    assert (one == two).all()
    print(one.sum())
"""


def test_fit_without_callbacks_of_scikit_learn_gives_the_same_features():
    sklearn = pytest.importorskip("sklearn")
    has_callbacks = tuple(int(n) for n in sklearn.__version__.split(".")[:2]) >= (1, 9)
    hide = 'sys.modules["sklearn.callback"] = None  # as scikit-learn < 1.9'
    without = run(FIT.format(hide=hide, callbacks=False))
    assert run(FIT.format(hide="", callbacks=has_callbacks)) == without
