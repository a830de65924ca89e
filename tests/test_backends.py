"""Embeddings of JAX and PyTorch equal those of TensorFlow, with equal recipes, so that backends share a store."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.networks import build, make_images, preprocess, relative_difference, run, set_random_weights
from tlfeatures import CNNFeatures
from tlfeatures.networks import NETWORKS

BACKENDS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(
                not importlib.util.find_spec(name), reason=f"needs {name}: pip install {name}"
            ),
            pytest.mark.slow,
        ],
    )
    for name in ("jax", "torch")
]


# code that each backend runs; the arguments are a folder and the golden file, which may be empty
WORK = """
    import json, sys, warnings
    from pathlib import Path
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from tlfeatures import CNNFeatures, explain

    warnings.simplefilter("ignore")
    folder, golden = sys.argv[1:]
    X = np.load(f"{folder}/images.npy")
    embeddings, recipes = {}, {}

    def embed(name, X, model="mobilenet_0.25", **options):
        cnn = CNNFeatures(model, **{"cache": f"{folder}/store", "pooling": "avgmax", **options})
        embeddings[name] = cnn.fit_transform(X)
        recipes[name] = cnn.recipes_

    network = {"weights": f"{folder}/network.weights.h5", "image_size": 64}
    embed("all", X, layer=["conv_pw_5_relu", "conv_pw_13_relu"], batch_size=8, **network)
    embed("again", X, layer=["conv_pw_5_relu", "conv_pw_13_relu"], batch_size=8, **network)
    embed("reversed", X[::-1][:5], batch_size=8, cache=None, **network)
    embed("one by one", X[:2], batch_size=1, cache=None, **network)
    embed("bfloat16", X, precision="bfloat16", batch_size=8, **network)
    embed("custom", X, model=f"{folder}/custom.keras")
    embed("literal", X, model=f"{folder}/custom.keras", normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    embed("random", X[:2], model="mobilenet_0.25", weights=None, image_size=32)
    pipeline = make_pipeline(CNNFeatures("mobilenet_0.25", cache=None, **network), LogisticRegression())
    result = explain(pipeline.fit(X, np.arange(len(X)) % 2), X, label=1)
    np.testing.assert_allclose(
        result.maps.mean(axis=(1, 2)) + result.constants, pipeline.decision_function(X), atol=1e-4
    )
    embeddings["maps"] = result.maps.reshape(len(X), -1)
    if golden:
        with np.load(golden) as file:
            paths = [Path(golden).parents[1] / str(path) for path in file["paths"][::7]]
        embed("golden", paths, model="mobilenet_0.75", pooling="avg", batch_size=8)
        embed("golden alone", paths[:2], model="mobilenet_0.75", pooling="avg", batch_size=1, cache=None)
    import keras

    np.savez(f"{folder}/{keras.backend.backend()}.npz", **embeddings)
    print(json.dumps([keras.backend.backend(), recipes]))
"""


def compute(backend, folder, golden):
    env = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(folder), str(golden)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=420, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    actual, recipes = json.loads(done.stdout.splitlines()[-1])
    assert actual == backend
    with np.load(folder / f"{backend}.npz") as file:
        return dict(file), recipes


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Make a folder with images, weights and a model file."""
    import keras

    folder = tmp_path_factory.mktemp("backends")
    spec, X = NETWORKS["mobilenet_0.25"], make_images(10, 64)
    np.save(folder / "images.npy", X)
    model = build(spec, 64)
    set_random_weights(model, preprocess(spec, X))
    model.save_weights(folder / "network.weights.h5")
    inputs = keras.Input((32, 32, 3))
    inner = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.SeparableConv2D(8, 3, activation="gelu")]
    )
    normalization = keras.layers.Normalization(mean=None)
    normalization.adapt(X.astype("float32"))
    x = inner(normalization(inputs))
    x = keras.layers.GroupNormalization(4)(keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x))
    keras.Model(inputs, keras.ops.sigmoid(x) * 2).save(folder / "custom.keras")
    return folder


@pytest.fixture(scope="module")
def golden(request):
    """Path of the golden file; empty if the file or its weights are absent."""
    shared = request.config.rootpath.parent / "shared" / "golden" / "mobilenet_0.75_imagenet.npz"
    weights = os.path.join(os.environ["KERAS_HOME"], "models", "mobilenet_7_5_224_tf_no_top.h5")
    return shared if shared.is_file() and os.path.isfile(weights) else ""


@pytest.fixture(scope="module")
def tensorflow(material, golden):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    return compute("tensorflow", material, golden)


@pytest.fixture(scope="module")
def other(request, material, golden, tensorflow, tmp_path_factory):
    """Embeddings and recipes of another backend, with a new store."""
    folder = tmp_path_factory.mktemp(request.param)
    for file in ("images.npy", "network.weights.h5", "custom.keras"):
        os.link(material / file, folder / file)
    return compute(request.param, folder, golden)


@pytest.mark.parametrize("other", BACKENDS, indirect=True)
def test_embeddings_equal_those_of_tensorflow(other, tensorflow):
    for name in ("all", "custom", "literal", "random"):
        assert relative_difference(other[0][name], tensorflow[0][name]) < 1e-4, name
    # maps are differences of large sums
    assert relative_difference(other[0]["maps"], tensorflow[0]["maps"]) < 1e-2
    assert np.abs(other[0]["all"][0] - other[0]["all"][1]).max() > 1e-2
    assert relative_difference(other[0]["custom"], other[0]["literal"]) > 1e-2


@pytest.mark.parametrize("other", BACKENDS, indirect=True)
def test_recipes_equal_those_of_tensorflow(other, tensorflow):
    """Check the digests of weights, graphs, files and random weights."""
    assert other[1] == tensorflow[1]


@pytest.mark.parametrize("other", BACKENDS, indirect=True)
def test_rows_do_not_depend_on_the_batch(other):
    embeddings = other[0]
    np.testing.assert_array_equal(embeddings["again"], embeddings["all"])  # from the store
    width = embeddings["reversed"].shape[1]
    assert relative_difference(embeddings["reversed"], embeddings["all"][::-1][:5, -width:]) < 1e-5
    assert relative_difference(embeddings["one by one"], embeddings["all"][:2, -width:]) < 1e-5
    if "golden" in embeddings:
        assert relative_difference(embeddings["golden alone"], embeddings["golden"][:2]) < 1e-5


@pytest.mark.parametrize("other", BACKENDS, indirect=True)
def test_bfloat16_is_close_to_float32(other):
    a, b = other[0]["bfloat16"], other[0]["all"][:, -other[0]["bfloat16"].shape[1] :]
    assert relative_difference(a, b) > 1e-4
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.99


@pytest.mark.parametrize("other", BACKENDS, indirect=True)
def test_golden_embeddings(other, golden):
    if not golden:
        pytest.skip("needs ../shared, which is absent")
    with np.load(golden) as file:
        assert relative_difference(other[0]["golden"], file["conv_pw_13_relu/avg"][::7]) < 1e-3


@pytest.mark.slow
def test_a_small_network_on_jax(tmp_path):
    """The tests above need minutes, most of them to build networks."""
    import keras

    pytest.importorskip("jax")
    X, inputs = make_images(3, 32), keras.Input((32, 32, 3))
    np.save(tmp_path / "images.npy", X)
    x = keras.layers.Conv2D(4, 3, strides=2)(keras.layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, keras.layers.BatchNormalization()(x)).save(tmp_path / "small.keras")
    code = """
        import sys, numpy as np
        from tlfeatures import CNNFeatures
        folder = sys.argv[1]
        cnn = CNNFeatures(f"{folder}/small.keras", cache=None)
        np.save(f"{folder}/embeddings.npy", cnn.fit_transform(np.load(f"{folder}/images.npy")))
        assert "tensorflow" not in sys.modules
        print(cnn.recipes_[0]["digest"])
    """
    digest = run(
        code, str(tmp_path), env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    ).strip()
    cnn = CNNFeatures(tmp_path / "small.keras", cache=None)
    assert relative_difference(np.load(tmp_path / "embeddings.npy"), cnn.fit_transform(X)) < 1e-4
    assert digest == cnn.recipes_[0]["digest"]


def test_unsupported_backend(monkeypatch):
    cnn = CNNFeatures("tiny", layer="block3_pw_relu", image_size=40, cache=None).fit(make_images(1, 40))
    monkeypatch.setattr("keras.backend.backend", lambda: "numpy")
    with pytest.raises(ValueError, match="Unsupported Keras backend 'numpy'; set KERAS_BACKEND to one of"):
        cnn.transform(make_images(1, 40))
