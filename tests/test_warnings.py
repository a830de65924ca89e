"""Warnings are attributed to the code of the user."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, FeatureSearchCV, FineTuneClassifier
from tlfeatures.errors import RandomWeightsWarning, UnreadableImagesWarning

RANDOM = {"model": "mobilenet_0.25", "weights": None, "image_size": 32, "cache": None}
TINY = {"model": "tiny", "image_size": 32, "cache": None, "on_error": "nan"}
SEARCH = {
    "layers": None,
    "image_sizes": [32],
    "resize": "stretch",
    "heads": ["ridge"],
    "cv": 2,
    "cache": None,
}
Y = np.arange(12) % 2


@pytest.fixture
def arrays():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def files(photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    return [*photos.paths[:11], str(broken)]


def files_of(category, call):
    """Return the files that the warnings of a call are attributed to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return {w.filename for w in caught if issubclass(w.category, category)}


def test_warnings_of_transformers_are_attributed_to_the_caller(arrays, files):
    cnn = CNNFeatures(**RANDOM)
    assert files_of(RandomWeightsWarning, lambda: cnn.fit(arrays)) == {__file__}
    assert files_of(RandomWeightsWarning, lambda: cnn.transform(arrays)) == {__file__}
    assert files_of(RandomWeightsWarning, lambda: cnn.fit_transform(arrays)) == {__file__}
    cnn = CNNFeatures(**TINY)
    assert files_of(UnreadableImagesWarning, lambda: cnn.fit_transform(files)) == {__file__}
    cnn.set_output(transform="pandas")
    assert files_of(UnreadableImagesWarning, lambda: cnn.transform(files)) == {__file__}


def test_warnings_through_scikit_learn_are_attributed_to_the_caller(arrays):
    pipeline = make_pipeline(CNNFeatures(**RANDOM), SVC())
    assert files_of(RandomWeightsWarning, lambda: pipeline.fit(arrays, Y)) == {__file__}
    assert files_of(RandomWeightsWarning, lambda: pipeline.predict(arrays)) == {__file__}
    search = GridSearchCV(pipeline, {"svc__C": [1, 10]}, cv=2)
    assert files_of(RandomWeightsWarning, lambda: search.fit(arrays, Y)) == {__file__}


def test_warnings_of_searches_are_attributed_to_the_caller(arrays, files):
    search = FeatureSearchCV("tiny", **SEARCH, on_error="nan")
    assert files_of(UnreadableImagesWarning, lambda: search.fit(files, Y)) == {__file__}
    search = FeatureSearchCV("mobilenet_0.25", **SEARCH, weights=None)
    assert files_of(RandomWeightsWarning, lambda: search.fit(arrays, Y)) == {__file__}


def test_warnings_of_fine_tuning_are_attributed_to_the_caller(arrays, files):
    tuner = FineTuneClassifier(
        **{**TINY, "on_error": "drop"}, start="linear", epochs=0, validation_fraction=0
    )
    assert files_of(UnreadableImagesWarning, lambda: tuner.fit(files, Y)) == {__file__}
    tuner = FineTuneClassifier(**RANDOM, epochs=0, start="linear")
    assert files_of(RandomWeightsWarning, lambda: tuner.fit(arrays, Y)) == {__file__}


def test_warnings_in_a_thread_are_issued(arrays):
    thread = threading.Thread(target=CNNFeatures(**RANDOM).fit, args=(arrays,))
    with pytest.warns(RandomWeightsWarning):
        thread.start()
        thread.join()
