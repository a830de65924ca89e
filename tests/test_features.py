"""CNNFeatures as a scikit-learn transformer."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures import CNNFeatures, EmbeddingStore, embed_images
from tlfeatures.errors import (
    ImageReadError,
    InvalidParameterError,
    LowContrastImagesWarning,
    OutOfMemoryError,
    RandomWeightsWarning,
    RecipeMismatchError,
    UnknownNameError,
    UnreadableImagesWarning,
)
from tlfeatures.extract import extract
from tlfeatures.images import Images, probe_pixels
from tlfeatures.networks import Backbone, _metadata

pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.RandomWeightsWarning")
NETWORK = {"model": "mobilenet_0.25", "weights": None, "image_size": 32}


@parametrize_with_checks([CNNFeatures(**NETWORK, cache=None)])
def test_scikit_learn_checks_for_arrays_of_images_only(estimator, check):
    check(estimator)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 40, 36, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path, images):
    paths = []
    for i, image in enumerate(images):
        paths.append(str(tmp_path / f"image {i}.png"))
        Image.fromarray(image).save(paths[-1])
    return paths


def test_fit_then_transform_equals_fit_transform(images, store):
    cnn = CNNFeatures(**NETWORK, cache=None)
    expected = cnn.fit_transform(images)
    assert expected.dtype == np.float32 and expected.shape == (12, 256)
    np.testing.assert_array_equal(clone(cnn).fit(images).transform(images), expected)
    stored = clone(cnn).set_params(cache=store)
    np.testing.assert_array_equal(stored.fit_transform(images), expected)  # written
    np.testing.assert_array_equal(stored.transform(images), expected)  # read


@pytest.mark.parametrize("limit", [3, 1])
def test_running_out_of_memory_halves_the_batch(images, monkeypatch, limit):
    expected = CNNFeatures("tiny", cache=None).fit_transform(images)
    sizes = limit_memory(monkeypatch, limit)
    cnn = CNNFeatures("tiny", cache=None, batch_size=8)
    with pytest.warns(UserWarning, match="out of memory with batches of 8 images; batches of 4 are used now"):
        features = cnn.fit_transform(images)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    # the size stays small for the rest of the images
    halved = [8, 4, 2, 1][: 3 if limit == 3 else 4]
    assert sizes[: len(halved)] == halved
    assert set(sizes[len(halved) :]) == {halved[-1]}


def test_too_little_memory_for_one_image_raises_an_error(images, monkeypatch):
    limit_memory(monkeypatch, 0)
    cnn = CNNFeatures("tiny", cache=None, batch_size=2)
    with (
        pytest.warns(UserWarning, match="batches of 1 are used now"),
        pytest.raises(OutOfMemoryError, match=r"on a single image of \d+x\d+ pixels\. Use a smaller") as e,
    ):
        cnn.fit_transform(images)
    assert isinstance(e.value, MemoryError)


def limit_memory(monkeypatch, limit: int) -> list[int]:
    """Let networks fail on batches of more than ``limit`` images; return the list of the sizes of all batches."""
    sizes, compile_network = [], Backbone.compile

    def compile_limited(self, *args):
        network = compile_network(self, *args)

        def run(batch):
            sizes.append(len(batch))
            if len(batch) > limit:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes.")
            return network(batch)

        return run

    monkeypatch.setattr(Backbone, "compile", compile_limited)
    return sizes


def test_row_i_is_image_i_and_duplicates_are_computed_once(images, store, network_calls):
    cnn = CNNFeatures(**NETWORK, batch_size=4, cache=store)
    alone = np.concatenate([CNNFeatures(**NETWORK, cache=None).fit_transform(p[None]) for p in images])
    network_calls.clear()
    order = np.random.default_rng(1).integers(0, 12, 50)
    np.testing.assert_allclose(cnn.fit_transform(images[order]), alone[order], rtol=1e-5, atol=1e-6)
    assert sum(map(len, network_calls)) == 12  # all twelve occur in the fifty; three full batches
    assert len(np.unique(order)) == 12


def test_the_input_array_is_not_modified(images):
    original = images.copy()
    images.setflags(write=False)
    CNNFeatures(**NETWORK, cache=None).fit_transform(images)
    np.testing.assert_array_equal(images, original)


def test_layers_are_concatenated_in_their_order(images, store, network_calls):
    late, early = "conv_pw_13_relu", "conv_pw_5_relu"
    both = CNNFeatures(**NETWORK, layer=[late, early], cache=store)
    features = both.fit_transform(images)
    passes = len(network_calls)
    assert both.layers_ == [late, early] and both.n_features_out_ == 256 + 64
    single = [
        CNNFeatures(**NETWORK, layer=layer, cache=store).fit_transform(images) for layer in (late, early)
    ]
    np.testing.assert_array_equal(features, np.concatenate(single, axis=1))
    maxima = CNNFeatures(**NETWORK, layer=[early, late], pooling="max", cache=store).fit_transform(images)
    both_poolings = CNNFeatures(**NETWORK, layer=early, pooling="avgmax", cache=store).fit_transform(images)
    np.testing.assert_array_equal(both_poolings, np.concatenate([single[1], maxima[:, :64]], axis=1))
    assert len(network_calls) == passes  # the first pass stored each layer, its average and its maximum


@pytest.mark.parametrize(
    "compute", [lambda cnn, X: cnn.transform(X), lambda cnn, X: embed_images(X, cnn).features]
)
def test_a_layer_may_be_concatenated_more_than_once(compute, tmp_path):
    images, first, second = (
        np.arange(2 * 32 * 32, dtype="u1").reshape(2, 32, 32),
        "block3_pw_relu",
        "block5_pw_relu",
    )
    options = {"model": "tiny", "image_size": 32, "cache": tmp_path}
    repeated = compute(CNNFeatures(**options, layer=[first, second, first]).fit(images), images)
    single = [CNNFeatures(**options, layer=layer).fit_transform(images) for layer in (first, second)]
    np.testing.assert_array_equal(repeated, np.concatenate([*single, single[0]], axis=1))


def test_feature_names_and_pandas_output(images, store):
    cnn = CNNFeatures(**NETWORK, layer=["conv_pw_1_relu", "conv_pw_13_relu"], pooling="avgmax", cache=store)
    frame = cnn.set_output(transform="pandas").fit_transform(images)
    assert isinstance(frame, pd.DataFrame) and frame.shape == (12, 2 * (16 + 256))
    assert frame.columns[0] == "conv_pw_1_relu_avg_000" and frame.columns[16] == "conv_pw_1_relu_max_000"
    assert frame.columns[-1] == "conv_pw_13_relu_max_255" and len(set(frame.columns)) == frame.shape[1]
    top = CNNFeatures(**NETWORK | {"layer": "predictions"}, cache=store).fit(images)
    assert top.get_feature_names_out()[[0, -1]].tolist() == ["predictions_000", "predictions_999"]


def test_a_series_of_paths_keeps_its_index(files, store):
    cnn = CNNFeatures(**NETWORK, cache=store).set_output(transform="pandas")
    X = pd.DataFrame({"path": files}, index=[f"patient {i}" for i in range(12)])
    assert cnn.fit_transform(X).index.tolist() == X.index.tolist()


def test_pickle_is_small_and_works_in_another_process(files, images, store, tmp_path):
    y = np.arange(12) % 2
    pipe = Pipeline([("cnn", CNNFeatures(**NETWORK, cache=store)), ("svm", SVC())]).fit(files, y)
    cnn = pipe["cnn"]
    assert len(pickle.dumps(cnn)) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cnn)).transform(files), cnn.transform(files))
    joblib.dump((pipe, files), tmp_path / "pipe.joblib")
    code = (
        "import joblib, sys, warnings; warnings.simplefilter('ignore')\n"
        f"pipe, files = joblib.load({str(tmp_path / 'pipe.joblib')!r})\n"
        "print(pipe.predict(files).tolist(), 'keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"{pipe.predict(files).tolist()} False False"


SEARCH = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from tlfeatures import CNNFeatures

def scorer(estimator, X, y):  # runs in the workers
    network = "keras" in sys.modules or "tensorflow" in sys.modules
    return {"score": estimator.score(X, y), "network": float(network)}

files, cache = json.loads(sys.argv[1])
cnn = CNNFeatures("mobilenet_0.25", weights=None, image_size=32, cache=cache)
grid = {"cnn__layer": ["conv_pw_3_relu", "conv_pw_13_relu"], "cnn__pooling": ["avg", "max"], "svm__C": [1, 10]}
search = GridSearchCV(Pipeline([("cnn", cnn), ("svm", SVC())]), grid, cv=3, n_jobs=2, scoring=scorer, refit="score")
search.fit(files, np.arange(len(files)) % 2)
network = search.cv_results_["mean_test_network"].max() or "keras" in sys.modules or "tensorflow" in sys.modules
print(json.dumps([search.cv_results_["mean_test_score"].tolist(), bool(network)]))
"""


def search_in_parallel(files, store):
    """Return the scores of a search, and whether a process of it imported Keras."""
    argv = [sys.executable, "-c", SEARCH, json.dumps([files, str(store.root)])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def rows_by_recipe(store):
    recipes = store.info()["recipes"]
    return sorted(
        (c["recipe"]["layer"], c["recipe"]["pooling"], c["rows"], c["unique_rows"]) for c in recipes
    )


TWO_LAYERS = ["conv_pw_13_relu", "conv_pw_3_relu"]
EACH_IMAGE_ONCE = [(layer, pooling, 12, 12) for layer in TWO_LAYERS for pooling in ("avg", "max")]


@pytest.mark.slow
def test_a_parallel_search_computes_each_image_once_and_a_second_one_imports_no_keras(files, store):
    scores, network = search_in_parallel(files, store)
    assert network
    assert rows_by_recipe(store) == EACH_IMAGE_ONCE
    assert search_in_parallel(files, store) == [scores, False]


def test_a_parallel_search_of_stored_embeddings_imports_no_keras(files, store):
    CNNFeatures(**NETWORK, layer=TWO_LAYERS, cache=store).fit(files).transform(files)
    assert search_in_parallel(files, store)[1] is False
    assert rows_by_recipe(store) == EACH_IMAGE_ONCE


FORKED = """
import sys, warnings
warnings.simplefilter("ignore")
import joblib, numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from tlfeatures import CNNFeatures
from tlfeatures.errors import ForkedProcessError

X, y = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8"), np.arange(8) % 2
cnn = CNNFeatures("tiny", image_size=32, cache=sys.argv[1])
cnn.fit_transform(X)  # a network runs in the parent process
with joblib.parallel_config("multiprocessing", n_jobs=2):
    print(len(cross_val_score(make_pipeline(cnn, LogisticRegression()), X, y, cv=2, error_score="raise")))
    for other in (cnn.set_params(cache=None), cnn.set_params(model="mobilenet_0.25", weights=None)):
        try:
            cross_val_score(make_pipeline(other, LogisticRegression()), X, y, cv=2, error_score="raise")
        except ForkedProcessError as error:
            print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", ["TensorFlow", "JAX"])
def test_workers_forked_after_a_network_ran_raise_an_error_unless_all_rows_are_stored(backend, tmp_path):
    """They would wait forever for threads that exist in the parent only."""
    pytest.importorskip(backend.lower())
    env = {**os.environ, "KERAS_BACKEND": backend.lower()}
    argv = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600, env=env)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr[-2000:]
    assert lines[0] == "2"  # all rows came from the store
    for line in lines[1:]:
        assert line.startswith(
            f"A network cannot run in this process: it was forked after {backend} had started"
        )
        assert 'joblib.parallel_config(backend="loky")' in line


def test_a_search_after_one_call_with_all_layers_runs_no_network(files, store, network_calls):
    y = np.arange(12) % 2
    layers = ["conv_pw_3_relu", "conv_pw_13_relu"]
    CNNFeatures(**NETWORK, layer=layers, cache=store).fit_transform(files)
    passes = len(network_calls)
    assert passes == 1  # twelve images, one batch, all layers
    pipe = Pipeline([("cnn", CNNFeatures(**NETWORK, cache=store)), ("svm", SVC())])
    GridSearchCV(pipe, {"cnn__layer": layers, "cnn__pooling": ["avg", "max", "avgmax"]}, cv=2).fit(files, y)
    assert len(network_calls) == passes


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_workers_give_the_same_scores(files, store, backend):
    y = np.arange(12) % 2
    pipe = make_pipeline(CNNFeatures(**NETWORK, cache=store), StandardScaler(), LogisticRegression())
    expected = cross_val_score(pipe, files, y, cv=3)
    fresh = clone(pipe).set_params(cnnfeatures__cache=EmbeddingStore(store.root / "other"))
    with joblib.parallel_backend(backend, n_jobs=2):
        np.testing.assert_array_equal(cross_val_score(fresh, files, y, cv=3), expected)
    rows = EmbeddingStore(store.root / "other").info()["recipes"]
    assert [(c["rows"], c["unique_rows"]) for c in rows] == [(12, 12)] * 2  # avg and max of each image, once


def test_threads_share_one_estimator(images):
    cnn = CNNFeatures(**NETWORK, cache=None).fit(images)
    expected = cnn.transform(images)
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return cnn.transform(images)

    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(work, range(4)):
            np.testing.assert_array_equal(features, expected)


def test_clones_share_a_network_in_memory(images):
    import keras

    network = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, name="conv")]
    )
    cnn = CNNFeatures(network, layer="conv", pooling="max", cache=None)
    copy = clone(cnn)
    assert copy.model is network and copy.get_params() == cnn.get_params()
    assert clone(make_pipeline(cnn, SVC()))[0].model is network
    features = copy.fit_transform(images)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(copy)).transform(images), features, rtol=1e-6)


def test_transform_with_another_recipe_raises_an_error(images, store):
    cnn = CNNFeatures(**NETWORK, cache=store).fit(images)
    with pytest.raises(RecipeMismatchError, match=r"resize: 'stretch' became 'crop'.*Fit again"):
        cnn.set_params(resize="crop").transform(images)
    cnn.set_params(resize="stretch", batch_size=3, n_jobs=1, on_error="nan", verbose=0, cache=None)
    assert cnn.transform(images).shape == (12, 256)  # none of these is part of the recipe


# --- the decoder of encoded images -------------------------------------------------------------------


@pytest.fixture
def change_decoder(monkeypatch):
    """Function that changes decoded images by a number of grey levels, as another version of Pillow may."""
    resize = Image.Image.resize
    monkeypatch.setattr("tlfeatures.extract._compatibility._decoders_warned", set())

    def change(levels):
        def changed(self, *args, **kwargs):
            return resize(self, *args, **kwargs).point(lambda value: value ^ levels)

        monkeypatch.setattr(Image.Image, "resize", changed)
        probe_pixels.cache_clear()

    yield change
    monkeypatch.undo()
    probe_pixels.cache_clear()


def test_only_encoded_images_have_the_decoder_in_their_stored_recipe(images, files, store):
    CNNFeatures(**NETWORK, cache=store).fit_transform(images)
    stored = [one["recipe"] for one in store.info()["recipes"]]
    assert len(stored) == 2 and not any("pixel_probe" in recipe for recipe in stored)
    CNNFeatures(**NETWORK, cache=store).fit_transform(files)
    stored = [one["recipe"] for one in store.info()["recipes"]]
    assert len(stored) == 4 and sum("pixel_probe" in recipe for recipe in stored) == 2


def test_images_of_all_kinds_in_one_list(images, files, store):
    X = [
        images[0],
        files[1],
        Path(files[2]).read_bytes(),
        Image.fromarray(images[3]),
        Path(files[4]),
        files[1],
    ]
    expected = CNNFeatures(**NETWORK, cache=None).fit_transform(images)[[0, 1, 2, 3, 4, 1]]
    batches = []
    for _ in range(2):  # computed, then read
        result = extract(
            X, CNNFeatures(**NETWORK)._make_spec(), store=store, on_batch=lambda *b: batches.append(b)
        )
        np.testing.assert_allclose(result.features, expected, rtol=1e-5, atol=1e-6)
        assert (result.keys != 0).any(axis=1).all()
    assert batches == [(3, 3), (2, 5)]
    X[0], X[1] = np.zeros((0, 0)), "absent.png"
    with pytest.warns(UnreadableImagesWarning, match=r"2 of 6 images .* The first is 'X\[0\]'"):
        features = CNNFeatures(**NETWORK, cache=store, on_error="nan").fit_transform(X)
    assert np.isnan(features).all(axis=1).tolist() == [True, True, False, False, False, False]


def test_a_decoder_difference_of_one_grey_level_warns_once(files, store, change_decoder):
    cnn = CNNFeatures(**NETWORK, cache=store)
    before = cnn.fit_transform(files)
    copy = pickle.loads(pickle.dumps(cnn))
    change_decoder(1)
    with pytest.warns(UserWarning, match=r"decoder \(Pillow .*\) differs .* by up to 1 of 255 grey levels"):
        after = copy.transform(files)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()  # computed, not read
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The installed image decoder")
        np.testing.assert_array_equal(copy.transform(files), after)


def test_a_larger_decoder_difference_raises_an_error(files, images, store, change_decoder):
    by_files = CNNFeatures(**NETWORK, cache=store).fit(files)
    by_arrays = CNNFeatures(**NETWORK, cache=store).fit(images)
    assert by_files.decoder_probe_.nbytes < 8000 and by_arrays.decoder_probe_ is None
    change_decoder(4)
    with pytest.raises(
        RecipeMismatchError, match=r"by up to 4 of 255 grey levels .*install the Pillow version of fit"
    ):
        by_files.transform(files)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The installed image decoder")
        assert by_files.transform(images).shape == (12, 256)  # arrays are not decoded
        assert by_arrays.transform(files).shape == (
            12,
            256,
        )  # fitted on arrays, so no decoder to compare with


# --- recipes of other versions -----------------------------------------------------------------------


def test_rows_and_transformers_of_an_older_format_are_not_used(images, store, network_calls):
    cnn = CNNFeatures(**NETWORK, cache=store)
    expected = cnn.fit_transform(images)
    for recipe in cnn.recipes_:
        older = {**recipe, "format": 1, "pixel_probe": "0"}
        store.publish(older, np.zeros((1, 16), "uint8"), np.zeros((1, 256), "float32"))
    network_calls.clear()
    np.testing.assert_array_equal(cnn.transform(images), expected)
    cnn.recipes_ = [older]
    with pytest.raises(
        RecipeMismatchError, match=r"recipe format 1; this version has format 2. Fit it again"
    ):
        cnn.transform(images)
    assert not network_calls


# --- unknown names of layers ------------------------------------------------------------------------


def test_a_grid_of_unknown_layers_builds_the_network_once(images, store, monkeypatch):
    builds = []
    application = Backbone._build_application
    monkeypatch.setattr(
        Backbone, "_build_application", lambda self, top: builds.append(top) or application(self, top)
    )
    _metadata.clear()
    for cache in (None, store, store.root / "other"):
        for i in range(20):
            for size in (32, 48):
                cnn = CNNFeatures(
                    **NETWORK | {"image_size": size}, layer=f"conv_pw_{i + 90}_relu", cache=cache
                )
                with pytest.raises(UnknownNameError, match=r"Unknown layer of mobilenet_0.25 .*Did you mean"):
                    cnn.fit(images)
    assert len(builds) <= 2  # without and with the top, unless a test before has built it
    builds.clear()
    mixed = CNNFeatures(**NETWORK, layer=["conv_pw_1_relu", "conv_pw_99_relu"], cache=store)
    with pytest.raises(UnknownNameError, match="conv_pw_99_relu"):
        mixed.fit(images)
    assert not builds
    assert CNNFeatures(**NETWORK, layer="conv_pw_1_relu", cache=store).fit(images).layers_ == [
        "conv_pw_1_relu"
    ]


def test_an_unknown_layer_raises_an_error_in_a_new_process_without_keras(images, store):
    with pytest.raises(UnknownNameError):
        CNNFeatures(**NETWORK, layer="conv", cache=store).fit(images)
    code = """
import sys
import numpy as np
from tlfeatures import CNNFeatures
try:
    CNNFeatures("mobilenet_0.25", weights=None, layer="conv", cache=sys.argv[1]).fit(np.zeros((1, 32, 32, 3), "uint8"))
except ValueError as error:
    print(error, "keras" in sys.modules)
"""
    argv = [sys.executable, "-W", "ignore", "-c", code, str(store.root)]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert out.startswith("Unknown layer of mobilenet_0.25 'conv'") and out.strip().endswith("False")


HITS = {
    "batch_size": 5,
    "n_jobs": 1,
    "on_error": "nan",
    "verbose": 1,
    "image_size": (32, 32),
    "model": "MobileNet_0.25",
    "calibration_images": [],  # without precision="int8"
    "runtime": "openvino",  # in float32
}
MISSES = {
    "layer": "conv_pw_7_relu",
    "pooling": "gem",
    "weights": "file",
    "image_size": (32, 48),
    "resize": "pad",
    "interpolation": "bicubic",
    "decode": "exact",
    "max_value": 4095,
    "window": (40, 400),
    "views": "flip",
    "normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "precision": "bfloat16",
    "model": "mobilenet_0.5",
}


@pytest.mark.parametrize("name", HITS)
def test_parameters_that_do_not_change_the_result_use_stored_rows(name, images, store, network_calls):
    CNNFeatures(**NETWORK, cache=store).fit_transform(images)
    network_calls.clear()
    CNNFeatures(**NETWORK | {name: HITS[name]}, cache=store).fit_transform(images)
    assert not network_calls


@pytest.mark.parametrize("name", MISSES)
def test_parameters_that_change_the_result_do_not_use_stored_rows(
    name, images, store, network_calls, tmp_path
):
    CNNFeatures(**NETWORK, cache=store).fit_transform(images)
    network_calls.clear()
    value = MISSES[name]
    if name == "weights":
        import keras

        value = str(tmp_path / "other.weights.h5")
        keras.applications.MobileNet(
            alpha=0.25, weights=None, include_top=False, input_shape=(32, 32, 3)
        ).save_weights(value)
    CNNFeatures(**NETWORK | {name: value}, cache=store).fit_transform(images)
    assert sum(map(len, network_calls)) >= 12


def test_every_parameter_is_a_hit_or_a_miss():
    assert HITS.keys() | MISSES.keys() | {"cache"} == CNNFeatures().get_params().keys()


def test_an_unreadable_image_is_named_and_computed_rows_are_stored(files, store, network_calls):
    Path(files[9]).write_bytes(Path(files[9]).read_bytes()[:300])
    cnn = CNNFeatures(**NETWORK, batch_size=4, cache=store)
    with pytest.raises(
        ImageReadError, match=r"1 of 12 images: .*image 9\.png.*truncated.*on_error='nan'.*check_images"
    ):
        cnn.fit_transform(files)
    assert {r["rows"] for r in store.info()["recipes"]} == {8}  # the two batches before it
    network_calls.clear()
    with pytest.warns(UnreadableImagesWarning, match=r"1 of 12 images could not be read.*image 9"):
        features = cnn.set_params(on_error="nan").fit_transform(files)
    assert np.isnan(features[9]).all() and not np.isnan(np.delete(features, 9, axis=0)).any()
    assert len(network_calls) == 1  # the third batch only
    Path(files[3]).unlink()
    with pytest.raises(ImageReadError, match="image 3"):
        cnn.set_params(on_error="raise").transform(files)


def test_all_unreadable_images_are_counted_and_ten_are_named(files, store, network_calls):
    more = [f"{files[0]}.gone.{i}" for i in range(9)]
    for i in (2, 7, 11):
        Path(files[i]).write_bytes(b"no image")
    cnn = CNNFeatures(**NETWORK, batch_size=4, cache=store)
    with pytest.raises(ImageReadError) as caught:
        cnn.fit_transform([*files, *more])
    error = pickle.loads(pickle.dumps(caught.value))
    lines = str(error).splitlines()
    assert lines[0] == "cannot read 12 of 21 images:" and lines[-2] == "  and 2 more" and len(lines) == 13
    assert lines[1] == f"  {files[2]!r}: not an image in a known format"
    assert lines[4] == f"  {more[0]!r}: no such file"
    assert "on_error='nan'" in lines[-1] and "check_images(X) lists them all" in lines[-1]
    assert len(error.failures) == 12 and error.failures[-1] == (more[-1], "no such file")
    assert (error.name, error.reason) == error.failures[0]
    assert not network_calls  # the error is raised before the network runs
    good = [path for i, path in enumerate(files) if i not in (2, 7, 11)]
    cnn.fit_transform(good)  # stores all rows
    network_calls.clear()
    with pytest.raises(ImageReadError, match="cannot read 3 of 12 images"):
        cnn.transform(files)
    assert not network_calls


def test_max_value_of_12_bit_images(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    twelve = ((eight.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, twelve, strict=True):
        Image.fromarray(image).save(path)
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    expected = cnn.fit_transform(eight)
    with pytest.warns(UserWarning, match=r"4 16-bit images .*12-bit data.*max_value=4095") as caught:
        assert np.abs(cnn.fit_transform(twelve) - expected).max() > 0.1
    assert [w.filename for w in caught if "12-bit" in str(w.message)] == [__file__]
    scaled = clone(cnn).set_params(max_value=4095)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for X in (twelve, list(twelve), paths, [Image.fromarray(image) for image in twelve]):
            np.testing.assert_allclose(scaled.fit_transform(X), expected, atol=1e-5)
    assert scaled.recipes_ == [{**recipe, "max_value": 4095} for recipe in cnn.recipes_]
    with pytest.raises(
        ImageReadError, match=r"4 of 4 images(.|\n)*above `max_value=1000`: pass a larger `max_value`"
    ):
        scaled.set_params(max_value=1000).fit_transform(twelve)


def test_images_without_contrast_warn_once_when_they_are_decoded(files, store):
    for i in (3, 8):
        Image.new("L", (20, 20), 1).save(files[i])
    cnn = CNNFeatures(**NETWORK, batch_size=4, cache=store)
    with pytest.warns(
        LowContrastImagesWarning, match=r"2 of 12 images .*image 3\.png', .*8\.png'\."
    ) as caught:
        cnn.fit_transform(files)
    assert sum(w.category is LowContrastImagesWarning for w in caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LowContrastImagesWarning)
        cnn.transform(files)  # from the store: nothing is decoded
        CNNFeatures(**NETWORK, cache=None).fit_transform(
            np.random.default_rng(0).integers(0, 256, (2, 9, 9), "uint8")
        )


def test_an_image_replaced_between_hashing_and_decoding_is_stored_correctly(files, store, monkeypatch):
    """The digest is taken, then the file changes, then it is decoded."""
    expected = CNNFeatures(**NETWORK, cache=None).fit_transform([files[5]])
    keys = Images.keys

    def keys_then_replaced(self, n_threads=None):
        digests = keys(self, n_threads)
        Path(files[0]).write_bytes(Path(files[5]).read_bytes())
        return digests

    monkeypatch.setattr(Images, "keys", keys_then_replaced)
    original_bytes = Path(files[0]).read_bytes()
    features = CNNFeatures(**NETWORK, cache=store).fit_transform([files[0], files[1]])
    np.testing.assert_allclose(features[0], expected[0], rtol=1e-5, atol=1e-6)
    monkeypatch.undo()
    Path(files[0]).write_bytes(original_bytes)
    original = CNNFeatures(**NETWORK, cache=None).fit_transform([files[0]])
    np.testing.assert_array_equal(CNNFeatures(**NETWORK, cache=store).fit_transform([files[0]]), original)
    assert np.abs(original - expected).max() > 0


def test_an_image_replaced_by_another_of_the_same_size_and_time(tmp_path, store):
    path = tmp_path / "a.bmp"  # uncompressed: equal sizes
    cnn = CNNFeatures(**NETWORK, cache=store)
    features = []
    for value in (10, 200):
        Image.new("RGB", (40, 40), (value, 0, 255 - value)).save(path)
        os.utime(path, ns=(10**18, 10**18))
        features.append(cnn.fit_transform([str(path)]))
    assert np.abs(features[0] - features[1]).max() > 0


def test_files_that_change_between_two_calls_are_noticed(tmp_path, images, store, monkeypatch):
    monkeypatch.setattr("tlfeatures.fingerprints._FRESH_NS", -(10**18))  # memoizes digests at once
    paths = [str(tmp_path / f"{i}.bmp") for i in range(3)]  # uncompressed: equal sizes
    for i, path in enumerate(paths):
        Image.fromarray(images[i]).save(path)
        os.utime(path, ns=(10**18, 10**18))
    cnn = CNNFeatures(**NETWORK, cache=store)
    first = cnn.fit_transform(paths)
    np.testing.assert_array_equal(cnn.transform(paths), first)
    with open(paths[0], "r+b") as file:  # in place
        file.write(Path(paths[1]).read_bytes())
    os.utime(paths[0], ns=(10**18, 10**18))
    shutil.copy2(paths[2], tmp_path / "new.bmp")
    os.replace(tmp_path / "new.bmp", paths[1])
    np.testing.assert_array_equal(cnn.transform(paths), first[[1, 2, 2]])
    np.testing.assert_array_equal(clone(cnn).fit_transform(paths), first[[1, 2, 2]])
    os.unlink(paths[2])
    with pytest.raises(ImageReadError, match="no such file"):
        cnn.transform(paths)


def test_deleted_and_damaged_files_of_the_store_are_noticed_between_two_calls(files, store, tmp_path):
    _metadata.clear()  # of other tests, which would be saved too
    cnn = CNNFeatures(**NETWORK, cache=store)
    expected = cnn.fit_transform(files)
    (sidecar,) = store.root.glob("v1/networks/*.json")
    content = sidecar.read_bytes()
    sidecar.write_bytes(content.replace(b"32", b"33"))  # a valid JSON file of the same size
    np.testing.assert_array_equal(cnn.transform(files), expected)
    sidecar.unlink()
    np.testing.assert_array_equal(cnn.transform(files), expected)
    assert sidecar.read_bytes() == content  # written again, for other processes
    for path in store.root.glob("v1/*/*.h5"):
        path.unlink()
    np.testing.assert_array_equal(cnn.transform(files), expected)
    other = EmbeddingStore(tmp_path / "other")
    np.testing.assert_array_equal(cnn.set_params(cache=other).transform(files), expected)
    assert (other.root / "v1" / "networks" / sidecar.name).read_bytes() == content
    np.testing.assert_array_equal(cnn.set_params(cache=store).transform(files), expected)


def test_a_store_without_write_access_only_warns(tmp_path, images):
    from tlfeatures.errors import StoreWarning

    (tmp_path / "file").write_text("in the way")
    expected = CNNFeatures(**NETWORK, cache=None).fit_transform(images)
    with pytest.warns(StoreWarning) as caught:
        features = CNNFeatures(**NETWORK, batch_size=4, cache=tmp_path / "file").fit_transform(images)
    assert sum(issubclass(w.category, StoreWarning) for w in caught) == 1
    np.testing.assert_array_equal(features, expected)


def test_callbacks_are_called_for_each_batch(images, capsys):
    class Recorder:
        def __init__(self):
            self.events = []

        def setup(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            self.events.append(context.task_name)

        def teardown(self, estimator, context): ...

    callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9")
    recorder = Recorder()
    CNNFeatures(**NETWORK, batch_size=5, cache=None).set_callbacks(recorder).fit_transform(images)
    assert recorder.events == ["batch", "batch", "batch", "fit"]
    pipe = make_pipeline(CNNFeatures(**NETWORK, cache=None), SVC()).set_callbacks(
        callback.ProgressBar(max_propagation_depth=None)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The estimator SVC does not support callbacks")
        pipe.fit(images, np.arange(12) % 2)
    assert "CNNFeatures" in capsys.readouterr().out


def test_progress_on_a_terminal(images, capsys):
    CNNFeatures(**NETWORK, cache=None, verbose=1).fit_transform(images)
    err = capsys.readouterr().err
    assert "mobilenet_0.25" in err and "12/12" in err and "images/s" in err


def test_html_display_and_tags(images):
    cnn = CNNFeatures(**NETWORK, cache=None)
    assert "CNNFeatures" in make_pipeline(cnn, SVC())._repr_html_()
    tags = cnn.__sklearn_tags__()
    assert not tags.input_tags.two_d_array and tags.input_tags.string and tags.target_tags.required is False


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"model": "vgg91"}, r"Unknown network 'vgg91'. Did you mean .*'vgg19'.*tlfeatures models"),
        (
            {"layer": "conv_pw_31_relu"},
            r"Unknown layer of mobilenet_0.25.*'conv_pw_13_relu'.*tlfeatures layers",
        ),
        ({"layer": []}, "`layer` must be None, the name of a layer or a list of names; got \\[\\]."),
        (
            {"layer": -1},
            r"`layer` must be None, .*; got -1. Layers are addressed by name: `tlfeatures layers NAME`",
        ),
        ({"layer": [0, 1]}, r"; got \[0, 1\]. Layers are addressed by name"),
        ({"layer": 5.0}, r"`layer` must be .*; got 5.0"),
        (
            {"pooling": "average"},
            r"`pooling` must be 'avg', .* or 'clsavg'; got 'average'. Did you mean 'avg'",
        ),
        (
            {"image_size": 0},
            r"`image_size` must be None, an integer .* or a pair \(height, width\) .*; got 0",
        ),
        ({"image_size": 8}, "mobilenet_0.25 cannot take images of 8x8 pixels"),
        ({"resize": "strech"}, "Did you mean 'stretch'"),
        ({"interpolation": "linear"}, "Did you mean 'bilinear'"),
        ({"decode": "fast"}, "`decode` must be 'scaled' or 'exact'; got 'fast'"),
        (
            {"normalization": (0.5, 0.5)},
            r"must be 'auto' or a pair \(mean, std\) .*; got \(0.5, 0.5\). For example",
        ),
        ({"precision": "float64"}, "`precision` must be 'float32', .*; got 'float64'. Did you mean 'float"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1; got 0."),
        ({"n_jobs": 0}, "`n_jobs` must be None, -1 or an integer of at least 1; got 0."),
        ({"on_error": "skip"}, "`on_error` must be 'raise' or 'nan'; got 'skip'"),
        ({"weights": "absent.h5"}, "`weights` names a file that does not exist: 'absent.h5'"),
        (
            {"model": "absent.keras", "weights": "imagenet"},
            "`model` names a file that does not exist: 'absent.keras'",
        ),
        ({"model": 3}, "`model` must be the name of a network, .*; got 3. See `tlfeatures models`"),
    ],
)
def test_invalid_parameters_raise_an_error_with_a_hint(params, error, images):
    with pytest.raises((ValueError, TypeError, OSError), match=error) as caught:
        CNNFeatures(**NETWORK | {"cache": None} | params).fit(images)
    if isinstance(
        caught.value, InvalidParameterError
    ):  # the command line replaces it by the name of its option
        assert caught.value.parameter in params


def test_random_weights_issue_a_warning(images):
    with pytest.warns(RandomWeightsWarning, match="not pretrained"):
        CNNFeatures(**NETWORK, cache=None).fit(images)
