"""Files of fitted models: what is recognized, and what was written by this package."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, EmbeddingStore, FineTuneClassifier
from tlfeatures.errors import SavedModelError
from tlfeatures.saved_models import is_saved_pipeline, load_model, recognize_model, save_model, save_pipeline

CNN = {"model": "tiny", "image_size": 32, "cache": None}


@pytest.fixture(scope="module")
def pipeline(photos):
    return Pipeline([("cnn", CNNFeatures(**CNN)), ("svm", SVC())]).fit(photos.paths, photos.labels)


def test_saved_pipeline_is_read_by_joblib_and_by_load_model(pipeline, photos, tmp_path):
    path = tmp_path / "model.joblib"
    save_pipeline(pipeline, path)
    assert recognize_model(path) == "pickle"
    np.testing.assert_array_equal(joblib.load(path).predict(photos.paths), pipeline.predict(photos.paths))
    model = load_model(path, batch_size=3, cache=str(tmp_path / "store"))
    assert (model.cnn.batch_size, model.cnn.cache) == (3, str(tmp_path / "store"))
    np.testing.assert_array_equal(model.predict(photos.paths).values, pipeline.predict(photos.paths))


def test_only_files_of_save_pipeline_are_recognized_as_such(pipeline, tmp_path):
    path = tmp_path / "model.joblib"
    save_pipeline(pipeline, path)
    assert is_saved_pipeline(path)
    joblib.dump(pipeline, path)  # a pipeline that the user saved
    assert b"tlfeatures" in path.read_bytes()[:4096]
    assert not is_saved_pipeline(path)
    path.write_bytes(b"")
    assert not is_saved_pipeline(path)


def test_bundle_is_loaded_with_other_parameters(photos, tmp_path):
    tuned = FineTuneClassifier(**CNN, start="linear", epochs=0, validation_fraction=0, random_state=0)
    path = tmp_path / "m.bundle"
    tuned.fit(photos.paths, photos.labels).save(path)
    assert recognize_model(path) == "tlf"
    model = load_model(path, batch_size=5)
    assert model.cnn.batch_size == 5
    np.testing.assert_array_equal(model.predict(photos.paths).values, tuned.predict(photos.paths))
    assert model.evaluate(photos.paths, np.array(photos.labels)).n_used_for_training == 12


def test_store_of_a_fine_tuned_network_is_saved_as_a_path(photos, tmp_path):
    params = {**CNN, "cache": EmbeddingStore(tmp_path / "store"), "start": "linear", "epochs": 0}
    tuned = FineTuneClassifier(**params, validation_fraction=0, random_state=0)
    tuned.fit(photos.paths, photos.labels).save(tmp_path / "model.tlf")
    assert FineTuneClassifier.load(tmp_path / "model.tlf").cache == str(tmp_path / "store")


def test_save_model_chooses_the_format_by_the_model(pipeline, photos, tmp_path):
    tuned = FineTuneClassifier(
        **CNN, start="linear", epochs=0, validation_fraction=0, random_state=0, verbose=1
    )
    models = {
        "pickle.joblib": pipeline,
        "model.tlf": pipeline,
        "tuned.tlf": tuned.fit(photos.paths, photos.labels),
    }
    for name, model in models.items():
        save_model(model, tmp_path / name)
        assert recognize_model(tmp_path / name) == ("pickle" if name.endswith("joblib") else "tlf")
        assert is_saved_pipeline(tmp_path / name) == (model is pipeline)
        predictions = load_model(tmp_path / name).predict(photos.paths).values
        np.testing.assert_array_equal(predictions, model.predict(photos.paths))
    assert tuned.verbose == 1 and FineTuneClassifier.load(tmp_path / "tuned.tlf").verbose == 0


def test_network_with_a_layer_that_keras_cannot_load_is_saved(tmp_path):
    import keras

    class Double(keras.layers.Layer):  # not registered
        def call(self, x):
            return 2 * x

    pixels = keras.Input((16, 16, 3))
    x = Double(name="double")(keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(pixels)))
    tuned = FineTuneClassifier(
        keras.Model(pixels, x), start="linear", epochs=0, validation_fraction=0, random_state=0, cache=None
    ).fit(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), "uint8"), ["a", "b"] * 4)
    save_model(tuned, tmp_path / "model.tlf", whole=True)
    assert recognize_model(tmp_path / "model.tlf") == "tlf"


def test_other_files_raise(tmp_path):
    path = tmp_path / "model.joblib"
    with pytest.raises(SavedModelError, match="is a folder; expected a file that `tlfeatures fit`"):
        load_model(tmp_path)
    with pytest.raises(SavedModelError, match=r"No such file: .*; expected a scikit-learn Pipeline"):
        load_model(path)
    path.write_bytes(b"not a pickle")
    with pytest.raises(SavedModelError, match=r"it is neither a .tlf file, nor a joblib file, nor a bundle"):
        load_model(path)
    path.write_bytes(pickle.dumps([1, 2])[:-1])
    with pytest.raises(SavedModelError, match=r"Cannot load .* \(EOFError|Cannot load .* \(\w+Error"):
        load_model(path)
    pipeline = Pipeline([("cnn", CNNFeatures("tiny")), ("svm", SVC())])
    del pipeline[-1].break_ties  # as if a later version had added this parameter
    joblib.dump(pipeline, path)
    with pytest.raises(
        SavedModelError, match=r"no attribute 'break_ties'.* other versions .* fit the model again"
    ):
        load_model(path)
    joblib.dump(SVC(), path)
    with pytest.raises(SavedModelError, match="contains an object of type SVC; expected"):
        load_model(path)
    with pytest.raises(SavedModelError, match=r"Did you mean 'model\.joblib'"):
        load_model(tmp_path / "mode.joblib")
