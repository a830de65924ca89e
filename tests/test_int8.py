"""Networks in 8-bit integers: values, recipes, saved models, and messages."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, EmbeddingStore, load, save
from tlfeatures.cli import main
from tlfeatures.errors import ImageReadError, MissingDependencyError, RecipeMismatchError

rng = np.random.default_rng(0)
# smooth images, because a network maps all images of noise to nearly the same embedding
X = np.stack(
    [
        np.asarray(Image.fromarray(image).resize((32, 32)))
        for image in rng.integers(0, 256, (24, 4, 4, 3), "u1")
    ]
)
CALIBRATION = X[:16]
TINY = {"model": "tiny", "image_size": 32, "batch_size": 8}
INT8 = {**TINY, "runtime": "openvino", "precision": "int8", "calibration_images": CALIBRATION}


def lowest_cosine(a, b):
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


@pytest.fixture(scope="module")
def nncf():
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def quantized(nncf):
    cnn = CNNFeatures(**INT8, cache=None)
    return cnn, cnn.fit_transform(X)


@pytest.mark.slow
def test_embeddings_are_near_those_of_float32(quantized):
    cnn, features = quantized
    exact = CNNFeatures(**TINY, cache=None).fit_transform(X)
    assert 0.98 < lowest_cosine(features, exact) < 1 - 1e-5
    assert np.array_equal(cnn.calibration_pixels_, CALIBRATION)
    assert CNNFeatures(**TINY, cache=None).fit(X).calibration_pixels_ is None


@pytest.mark.slow
def test_rows_do_not_depend_on_batches_or_poolings(quantized):
    cnn, features = quantized
    np.testing.assert_allclose(cnn.set_params(batch_size=3).transform(X), features, rtol=1e-4, atol=1e-5)
    both = CNNFeatures(**INT8, pooling="avgmax", cache=None).fit_transform(X)
    np.testing.assert_allclose(both[:, : features.shape[1]], features, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rows_have_the_recipe_of_their_calibration_images(quantized, tmp_path):
    store = EmbeddingStore(tmp_path)
    first = CNNFeatures(**INT8, cache=store)
    assert np.array_equal(first.fit_transform(X), quantized[1])
    other = CNNFeatures(**{**INT8, "calibration_images": X[8:]}, cache=store).fit(X)
    assert first.recipes_[0]["calibration"] != other.recipes_[0]["calibration"]
    assert not np.array_equal(other.transform(X), quantized[1])
    bfloat16 = CNNFeatures(**{**INT8, "precision": "bfloat16"}, cache=store).fit(X)
    assert not {"calibration", "nncf"} & bfloat16.recipes_[0].keys()


@pytest.mark.slow
def test_a_saved_model_contains_the_calibration_images(quantized, tmp_path):
    y = np.arange(len(X)) % 2
    pipe = make_pipeline(CNNFeatures(**INT8, cache=None), LogisticRegression()).fit(X, y)
    save(pipe, tmp_path / "model.tlf")
    loaded = load(tmp_path / "model.tlf")
    assert loaded[0].calibration_images is None
    assert np.array_equal(loaded[0].set_params(cache=None).transform(X), quantized[1])
    np.testing.assert_allclose(loaded.predict_proba(X), pipe.predict_proba(X), atol=1e-6)
    loaded[0].calibration_pixels_ = loaded[0].calibration_pixels_[1:]
    with pytest.raises(RecipeMismatchError, match="calibration"):
        loaded.predict(X)
    with pytest.raises(ValueError, match=r"`calibration_images` must be images .* got None"):
        loaded.fit(X, y)


@pytest.mark.slow
def test_vision_transformers(nncf, tmp_path):
    pytest.importorskip("keras_hub")
    from tests.hub_helpers import MEAN, STD, make_preset

    options = {**INT8, "model": make_preset("dinov2", tmp_path / "dinov2"), "normalization": (MEAN, STD)}
    del options["image_size"]
    exact = {**options, "precision": "float32", "layer": "block_2", "cache": None}
    features = CNNFeatures(**{**exact, "precision": "int8"}).fit_transform(X)
    assert lowest_cosine(features, CNNFeatures(**exact).fit_transform(X)) > 0.98


@pytest.mark.slow
def test_embed_quantizes_with_a_folder(nncf, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(X):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    arguments = ["embed", str(folder), "-m", "tiny", "--image-size", "32", "--cache", "none"]
    arguments += ["--runtime", "openvino", "--precision", "int8", "-o", str(tmp_path / "rows.npy")]
    assert main(arguments) == 2
    assert "calibration" in capsys.readouterr().err
    assert main([*arguments, "--calibration-images", str(folder)]) == 0
    expected = CNNFeatures(**{**INT8, "calibration_images": X}, cache=None).fit_transform(X)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": None}, "'float16' without runtime='openvino'; got 'int8'"),
        ({"calibration_images": None}, "`calibration_images` must be images with precision='int8'; got None"),
        ({"calibration_images": []}, r"Found array with 0 sample\(s\)"),
        (
            {"layer": ["block2_pw_relu", "block6_pw_relu"]},
            "`layer` must be a single layer with precision='int8'",
        ),
    ],
)
def test_invalid_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        CNNFeatures(**{**INT8, **options}, cache=None).fit(X)


def test_unreadable_calibration_images_are_named(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"bad\.jpg.*Leave it out of `calibration_images`"):
        CNNFeatures(**{**INT8, "calibration_images": [str(tmp_path / "bad.jpg")]}, cache=None).fit(X)


def test_a_missing_package_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr("tlfeatures.networks._backbone.nncf_version", lambda: "3.4")
    # images of its own, because the process keeps compiled networks
    cnn = CNNFeatures(**{**INT8, "calibration_images": X[3:7]}, cache=None).fit(X)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tlfeatures\[openvino\]'"):
        cnn.transform(X)
