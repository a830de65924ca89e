"""The bundled network: size, offline use, model card, and comparison with random weights."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.networks import make_images, relative_difference, to_array
from tlfeatures import CNNFeatures, list_layers, list_models
from tlfeatures.errors import RandomWeightsWarning, WeightsError
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.networks import NETWORKS, Backbone, tiny

SPEC = NETWORKS["tiny"]
FILE = Path(tiny.__file__).with_name(SPEC.bundled)


@pytest.fixture
def offline(monkeypatch):
    """Raise an error on any attempt to connect."""

    def refuse(*args, **kwargs):
        raise AssertionError("tried to connect")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_file_is_small_and_half_precision():
    assert FILE.stat().st_size < 1_000_000
    with np.load(FILE, allow_pickle=False) as arrays:
        assert {a.dtype for a in arrays.values()} == {np.dtype("float16")}
        assert all(np.isfinite(a).all() for a in arrays.values())
        assert sum(a.size for a in arrays.values()) <= 500_000


def test_the_model_card_has_the_digest_of_the_file():
    card = FILE.with_suffix(".md").read_text("utf-8")
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in card


def test_the_file_has_all_weights_of_the_network():
    model = tiny.Tiny()
    assert model.count_params() <= 500_000
    with np.load(FILE) as arrays:
        names = {f"{layer.name}/{v.name}": tuple(v.shape) for layer in model.layers for v in layer.weights}
        assert names == {name: array.shape for name, array in arrays.items()}


def test_it_is_in_the_table_with_ordered_taps():
    assert "tiny" in list_models()
    layers = list_layers("tiny")
    positions = [layers.index(tap) for tap in SPEC.taps]
    assert positions == sorted(positions)
    assert len(positions) >= 5


@pytest.mark.parametrize("size", [32, 96, (50, 75), 224])
def test_any_image_size_from_32_is_accepted(offline, size):
    cnn = CNNFeatures("tiny", layer=list(SPEC.taps), image_size=size, cache=None)
    features = cnn.fit_transform(make_images(3, 40))
    assert features.shape == (3, cnn.n_features_out_)
    assert np.isfinite(features).all()
    assert (features.std(0) > 0).any()


def test_smaller_image_sizes_raise_an_error():
    with pytest.raises(ValueError, match="tiny cannot take images of 31x64 pixels"):
        CNNFeatures("tiny", image_size=(31, 64), cache=None).fit(make_images(1, 40))


def test_bundled_is_the_default_at_96_pixels(store):
    X = make_images(2, 96)
    default = CNNFeatures("tiny", cache=store)
    named = CNNFeatures("Tiny", weights="bundled", image_size=96, cache=store)
    assert default.fit(X).recipes_ == named.fit(X).recipes_
    assert default.layers_ == [SPEC.taps[-1]]
    by_path = CNNFeatures("tiny", weights=FILE, cache=None)
    np.testing.assert_array_equal(default.transform(X), by_path.fit_transform(X))


def test_embeddings_equal_those_of_plain_keras():
    X = make_images(3, 96)
    model = tiny.Tiny()
    tiny.read_arrays(model, FILE)
    by_hand = to_array(model(X.astype("float32") / 127.5 - 1, training=False)).mean((1, 2))
    assert relative_difference(CNNFeatures("tiny", cache=None).fit_transform(X), by_hand) < 1e-5


def test_other_networks_have_no_bundled_weights():
    with pytest.raises(ValueError, match=r"`weights` must be .* for 'vgg19'; got 'bundled'. .*'tiny'"):
        Backbone("vgg19", "bundled")
    with pytest.raises(ValueError, match=r"`weights` must be left out for a keras.Model"):
        Backbone(tiny.Tiny(), "bundled")


def test_a_damaged_file_raises_an_error_with_its_name(tmp_path):
    path = tmp_path / "cut.npz"
    path.write_bytes(FILE.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=re.escape(repr(str(path)))):
        CNNFeatures("tiny", weights=path, cache=None).fit(make_images(1, 40))


def test_batch_normalization_is_optional():
    names = {layer.name for layer in tiny.Tiny().layers}
    training = {layer.name for layer in tiny.Tiny(batch_norm=True).layers}
    assert names < training
    assert {name.removesuffix("_bn") for name in training} == names


@pytest.mark.slow
def test_bundled_weights_score_higher_than_random_weights():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    digits = load_digits()
    X, y = np.round(digits.images[:400] * 255 / 16).astype("uint8"), digits.target[:400]
    layers, svm = list(SPEC.taps), make_pipeline(StandardScaler(), SVC(C=10))

    def best(weights):
        cnn = CNNFeatures("tiny", layer=layers, weights=weights, cache=None)
        parts = np.split(cnn.fit_transform(X), np.cumsum([r["width"] for r in cnn.recipes_])[:-1], axis=1)
        return max(cross_val_score(svm, part, y, cv=4).mean() for part in parts)

    with pytest.warns(RandomWeightsWarning):
        random_score = best(None)
    assert best("bundled") > random_score + 0.01


@pytest.fixture(scope="module")
def drawn_images():
    """The module pipelines/drawn_images.py."""
    path = Path(__file__).parents[1] / "pipelines" / "drawn_images.py"
    spec = importlib.util.spec_from_file_location("drawn_images", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_kind_of_drawn_image_varies_and_is_reproducible(drawn_images):
    for kind in drawn_images.KINDS:
        images = [drawn_images.draw(np.random.default_rng(seed), 48, kind) for seed in (0, 0, 1, 2, 3)]
        assert {(image.shape, image.dtype.str) for image in images} == {((48, 48, 3), "|u1")}, kind
        assert (images[0] == images[1]).all(), kind
        assert len({image.tobytes() for image in images}) == 4, kind
        assert max(image.std() for image in images) > 5, kind


def test_no_digits_are_drawn(drawn_images):
    assert not any(letter.isdigit() for letter in drawn_images.LETTERS)


def test_the_recipe_does_not_depend_on_library_versions():
    """The digest identifies rows on disk: it may change only together with the version of the recipe format."""
    cnn = CNNFeatures("tiny", cache=None).fit(np.zeros((1, 8, 8, 3), "uint8"))
    assert cnn.recipes_[0]["digest"] == "079493b7443bced67c70d5edf9663d25"
    assert recipe_digest(cnn.recipes_[0]) == "f60dcc85b5a43e1e5f343b3757994b94"


def test_export_needs_a_checkpoint(tmp_path, monkeypatch, capsys):
    """Without one, the weights of the package would be replaced by random ones."""
    pipelines = Path(__file__).parents[1] / "pipelines"
    monkeypatch.syspath_prepend(pipelines)
    spec = importlib.util.spec_from_file_location("pretrain_tiny", pipelines / "pretrain_tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "make_shards", None)
    monkeypatch.setattr("sys.argv", ["pretrain_tiny.py", "--export", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    assert f"there is none in {tmp_path}" in capsys.readouterr().err
