"""Estimators fit with scikit-learn's callbacks where it has them, and without them where it has none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.networks import make_images, run
from tlfeatures import CNNFeatures

WITHOUT_CALLBACKS = """
    import json, sys, warnings
    sys.modules["sklearn.callback"] = None  # as scikit-learn < 1.9
    import numpy as np
    from tlfeatures import CNNFeatures

    warnings.simplefilter("ignore")
    X = np.load(sys.argv[2])
    cnn = CNNFeatures("tiny", image_size=32, cache=sys.argv[1])
    assert not hasattr(cnn, "set_callbacks")
    print(json.dumps([cnn.fit_transform(X).tolist(), cnn.fit(X).transform(X).tolist()]))
"""


def test_fit_without_callbacks_of_scikit_learn_gives_the_same_features(store, tmp_path):
    """The process without callbacks reads the embeddings from the store, so that it need not import Keras."""
    sklearn = pytest.importorskip("sklearn")
    has_callbacks = tuple(int(n) for n in sklearn.__version__.split(".")[:2]) >= (1, 9)
    X = make_images(5, 32)
    np.save(tmp_path / "X.npy", X)
    cnn = CNNFeatures("tiny", image_size=32, cache=store)
    assert hasattr(cnn, "set_callbacks") == has_callbacks
    expected = cnn.fit_transform(X)
    for features in json.loads(run(WITHOUT_CALLBACKS, str(store.root), str(tmp_path / "X.npy"))):
        np.testing.assert_array_equal(np.float32(features), expected)
