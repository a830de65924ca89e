"""Networks in OpenVINO and ONNX Runtime: the same embeddings as in Keras's backend, recipes, and messages."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, EmbeddingStore, FeatureSearchCV, load, save
from tlfeatures.cli import main
from tlfeatures.errors import MissingDependencyError

X = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype="u1")
TINY = {"model": "tiny", "image_size": 32, "batch_size": 4}
LAYERS = ["block2_pw_relu", "block6_pw_relu", "block10_pw_relu"]


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def supports_bfloat16():
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text("utf-8")


PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "tf2onnx")}


@pytest.fixture(scope="module", params=PACKAGES)
def runtime(request):
    for package in PACKAGES[request.param]:
        pytest.importorskip(package)
    return request.param


@pytest.fixture(scope="module")
def expected():
    return {
        pooling: CNNFeatures(**TINY, layer=LAYERS, pooling=pooling, cache=None).fit_transform(X)
        for pooling in ("avgmax", "gem", "flatten")
    }


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avgmax", "gem", "flatten"])
def test_layers_and_poolings_equal_those_of_tensorflow(expected, runtime, pooling):
    cnn = CNNFeatures(**TINY, layer=LAYERS, pooling=pooling, cache=None, runtime=runtime)
    assert difference(cnn.fit_transform(X), expected[pooling]) < 1e-4
    assert difference(cnn.transform(X[:2]), expected[pooling][:2]) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize("model", ["efficientnet_b0", "convnext_tiny", "vgg16", "mobilenet_v3_small"])
def test_networks_with_other_operations_equal_those_of_tensorflow(runtime, model):
    network = {"model": model, "weights": None, "image_size": 64, "batch_size": 5, "cache": None}
    expected = CNNFeatures(**network).fit_transform(X)
    assert difference(CNNFeatures(**network, runtime=runtime).fit_transform(X), expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "siglip"])
def test_vision_transformers_equal_tensorflow(runtime, name, tmp_path):
    pytest.importorskip("keras_hub")
    from tests.hub_helpers import MEAN, STD, make_preset

    options = {"layer": ["block_2", "norm"], "normalization": (MEAN, STD), "cache": None}
    path = make_preset(name, tmp_path / name)
    expected = CNNFeatures(path, **options).fit_transform(X)
    assert difference(CNNFeatures(path, **options, runtime=runtime).fit_transform(X), expected) < 1e-4


@pytest.mark.slow
def test_a_saved_model_keeps_the_runtime(runtime, tmp_path):
    y = np.array(["a", "b", "a", "b", "b"])
    cnn = CNNFeatures(**TINY, cache=None, runtime=runtime)
    pipe = make_pipeline(cnn, LogisticRegression()).fit(X, y)
    save(pipe, tmp_path / "model.tlf")
    loaded = load(tmp_path / "model.tlf")
    assert loaded[0].runtime == runtime
    np.testing.assert_allclose(loaded.predict_proba(X), pipe.predict_proba(X), atol=1e-6)


@pytest.mark.slow
def test_a_model_with_a_lambda_equals_tensorflow(runtime):
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="gelu", name="conv"),
            layers.Lambda(lambda x: x * 2 + 1, name="last"),
        ]
    )
    options = {"layer": ["conv", "last"], "cache": None}
    expected = CNNFeatures(model, **options).fit_transform(X)
    assert difference(CNNFeatures(model, **options, runtime=runtime).fit_transform(X), expected) < 1e-4


@pytest.mark.slow
def test_float32_rows_are_shared_with_tensorflow(runtime, tmp_path):
    store = EmbeddingStore(tmp_path)
    computed = CNNFeatures(**TINY, cache=store, runtime=runtime).fit(X)
    features = computed.transform(X)
    plain = CNNFeatures(**TINY, cache=store)
    assert np.array_equal(plain.fit_transform(X), features)  # read from the store, bit by bit
    assert plain.recipes_ == computed.recipes_
    computed.set_params(runtime=None).transform(X)  # no RecipeMismatchError


@pytest.mark.slow
def test_a_search_and_the_command_line_use_the_runtime(runtime, tmp_path, monkeypatch, capsys):
    calls = []
    name = {"openvino": "openvino_graph", "onnxruntime": "onnx_graph"}[runtime]
    module = importlib.import_module(f"tlfeatures._keras.{name}")
    compile_graph = module.compile_graph
    monkeypatch.setattr(module, "compile_graph", lambda *args: calls.append(runtime) or compile_graph(*args))
    images = np.random.default_rng(1).integers(0, 256, (24, 32, 32, 3), dtype="u1")
    images[::2] //= 4
    y = np.array(["dark", "bright"] * 12)
    space = {"models": "tiny", "layers": ["block2_pw_relu", "block6_pw_relu"], "image_sizes": [32]}
    options = {**space, "resize": "stretch", "heads": "logreg", "cv": 3}
    search = FeatureSearchCV(**options, cache=tmp_path / "store", runtime=runtime).fit(images, y)
    assert calls and search.best_estimator_[0].runtime == runtime
    expected = FeatureSearchCV(**options, cache=None).fit(images, y)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=0.01
    )
    for label in "ab":
        (tmp_path / label).mkdir()
        for i, image in enumerate(images[:6]):
            Image.fromarray(image + i).save(tmp_path / label / f"{i}.png")
    calls.clear()
    argv = [
        "fit",
        str(tmp_path),
        "-m",
        "tiny",
        "--image-size",
        "40",
        "--cache",
        "none",
        "--cv",
        "2",
        "--runtime",
        runtime,
    ]
    assert main([*argv, "-o", str(tmp_path / "model.tlf")]) == 0, capsys.readouterr().err
    assert calls and load(tmp_path / "model.tlf")[0].runtime == runtime


def test_a_search_in_int8_is_refused():
    search = FeatureSearchCV("tiny", precision="int8", runtime="openvino", cache=None)
    with pytest.raises(ValueError, match=r"`precision` must be 'float32', .*; got 'int8'"):
        search.fit(X, ["a", "b", "a", "b", "b"])


@pytest.mark.slow
@pytest.mark.skipif(not supports_bfloat16(), reason="the processor has no instructions for bfloat16")
def test_bfloat16_rows_have_their_own_recipe(tmp_path):
    pytest.importorskip("openvino")
    store = EmbeddingStore(tmp_path)
    fast = CNNFeatures(**TINY, cache=store, precision="bfloat16", runtime="openvino")
    features = fast.fit_transform(X)
    exact = CNNFeatures(**TINY, cache=None).fit_transform(X)
    assert 1e-6 < difference(features, exact) < 0.05
    plain = CNNFeatures(**TINY, cache=store, precision="bfloat16").fit(X)
    assert {**plain.recipes_[0], "runtime": "openvino"} == fast.recipes_[0]
    assert not np.array_equal(plain.transform(X), features)


@pytest.mark.slow
def test_another_process_gives_the_same_rows_and_no_telemetry_starts(runtime, tmp_path):
    cnn = CNNFeatures(**TINY, cache=None, runtime=runtime)
    np.save(tmp_path / "X.npy", X)
    code = f"""
import sys
import numpy as np
from tlfeatures import CNNFeatures
X = np.load({str(tmp_path / "X.npy")!r})
Y = CNNFeatures(**{TINY!r}, cache=None, runtime={runtime!r}).fit_transform(X)
np.save({str(tmp_path / "Y.npy")!r}, Y)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, env=environment)
    assert not (home / "intel").exists()
    assert difference(np.load(tmp_path / "Y.npy"), cnn.fit_transform(X)) < 1e-5


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [("openvino", "openvino", "openvino"), ("onnxruntime", "onnx", "onnx")],
)
def test_a_missing_package_names_the_install_command(runtime, package, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    options = {**TINY, "image_size": 36, "cache": tmp_path}  # no other test has compiled this network
    cnn = CNNFeatures(**options, runtime=runtime).fit(X)
    with pytest.raises(
        MissingDependencyError,
        match=rf"{runtime=} needs {package}, .*pip install 'tlfeatures\[{extra}\]'.*Leave out `runtime`",
    ):
        cnn.transform(X)
    CNNFeatures(**options).fit_transform(X)
    cnn.transform(X)  # read from the store


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "`runtime` must be None, 'openvino' or 'onnxruntime'; got 'onnx'"),
        (
            {"runtime": "openvino", "precision": "float16"},
            "'bfloat16' or 'int8' with runtime='openvino'; got 'float16'",
        ),
        ({"runtime": "openvino", "precision": "tf32"}, "got 'tf32'"),
        (
            {"runtime": "onnxruntime", "precision": "bfloat16"},
            "`precision` must be 'float32' with runtime='onnxruntime'; got 'bfloat16'",
        ),
    ],
)
def test_invalid_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        CNNFeatures(**TINY, cache=None, **options).fit(X)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (KeyError("op"), ValueError, "^A layer of the network cannot be converted to ONNX by tf2onnx: 'op'. Leave out"),
        (MemoryError("too large"), MemoryError, "^tiny ran out of memory"),
    ],
)  # fmt: skip
def test_errors_of_the_conversion_to_onnx(error, expected, message, monkeypatch):
    pytest.importorskip("onnxruntime")
    convert = pytest.importorskip("tf2onnx.convert")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(convert, "from_graph_def", fail)
    with pytest.raises(expected, match=message):
        # a size of its own, because the process keeps compiled networks
        CNNFeatures(**{**TINY, "image_size": 44}, cache=None, runtime="onnxruntime").fit_transform(X)


@pytest.mark.slow
def test_pytorch_modules_are_refused():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    cnn = CNNFeatures(module, normalization=((0, 0, 0), (1, 1, 1)), cache=None, runtime="openvino")
    with pytest.raises(ValueError, match=r"`runtime` must be None for a torch.nn.Module"):
        cnn.fit(X)


@pytest.mark.slow
def test_other_backends_are_refused(runtime):
    pytest.importorskip("jax")
    code = f"""
import numpy as np
from tlfeatures import CNNFeatures
try:
    CNNFeatures(**{TINY!r}, cache=None, runtime={runtime!r}).fit_transform(np.zeros((2, 32, 32, 3), "u1"))
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env=environment
    )
    assert f"{runtime=} needs the TensorFlow backend of Keras; got 'jax'" in run.stdout


@pytest.mark.slow
def test_layers_that_cannot_be_run_are_named(runtime):
    import keras

    class PythonCode(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.ensure_shape(tf.numpy_function(np.asarray, [x], tf.float32), x.shape)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), PythonCode(name="last")])
    cnn = CNNFeatures(model, layer="last", normalization=((0, 0, 0), (1, 1, 1)), cache=None, runtime=runtime)
    with pytest.raises(ValueError, match=rf"cannot be run by O.* Leave out {runtime=}"):
        cnn.fit_transform(X)
