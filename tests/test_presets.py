"""Names, poolings and errors of KerasHub's presets, which need neither KerasHub nor Keras."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.networks import make_images, to_array
from tlfeatures import CNNFeatures, ImageNetClassifier, list_models
from tlfeatures.errors import InvalidParameterError, MissingDependencyError, UnknownNameError, WeightsError
from tlfeatures.networks import NETWORKS, PRESETS, Tap, find_licence, network_table, open_backbone, pool
from tlfeatures.weights import list_weights

X = make_images(1, 32)


def test_the_table_has_a_row_for_each_preset():
    assert not set(NETWORKS) & set(PRESETS)
    assert set(PRESETS) < set(list_models())
    for name, spec in PRESETS.items():
        assert spec.name == name and spec.handle.startswith("kaggle://keras/") and name in spec.handle
        assert spec.taps[-1] == "norm" and len(spec.taps) == 4
        assert 0 < spec.depth < 100 and spec.width % 64 == 0 and spec.parameters > 2e7 and spec.licence
    assert PRESETS["dinov2_small"].taps == ("block_3", "block_6", "block_9", "norm")
    large = PRESETS["clip_vit_large_patch14_336"]
    assert (large.depth, large.width, large.image_size, large.licence) == (24, 1024, 336, "MIT")
    siglip = PRESETS["siglip_so400m_patch14_384"]
    assert (siglip.depth, siglip.width, siglip.image_size) == (27, 1152, 384)
    row = next(row for row in network_table() if row["model"] == "vit_base_patch16_384_imagenet")
    assert (row["width"], row["image_size"], row["licence"]) == (768, 384, "Apache-2.0")


@pytest.mark.slow
def test_the_table_agrees_with_keras_hub():
    hub = pytest.importorskip("keras_hub", reason='needs keras-hub: pip install "tlfeatures[hub]"')
    published = hub.models.Backbone.presets
    for name, spec in PRESETS.items():
        assert spec.handle == published[name]["kaggle_handle"], name
        assert spec.parameters == published[name]["metadata"]["params"], name


def test_spellings_and_unknown_names():
    assert open_backbone("DINOv2-with-registers-base").name == "dinov2_with_registers_base"
    assert open_backbone("hf://user/network").name == "hf://user/network"
    with pytest.raises(
        UnknownNameError, match=r"Unknown network 'dinov2_smal'\. Did you mean 'dinov2_small'"
    ):
        CNNFeatures("dinov2_smal", cache=None).fit(X)


@pytest.mark.parametrize("model", ["dinov2_small", "hf://user/network", "kaggle://keras/vit/keras/vit_base"])
def test_without_keras_hub_the_error_has_the_install_command(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r'Install it with: pip install "tlfeatures\[hub\]"'):
        CNNFeatures(model, cache=None).fit(X)


def test_downloaded_presets_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    kaggle = tmp_path / "kaggle/models/keras/vit/keras/vit_base_patch16_224_imagenet/4"
    hugging_face = tmp_path / "hf/models--user--network/snapshots/abc"
    (tmp_path / "hf/models--user--network/refs").mkdir(parents=True)
    (tmp_path / "hf/models--user--network/refs/main").write_text("abc")
    settings = {"num_layers": 5, "hidden_dim": 64, "image_shape": [96, 96, 3]}
    for folder in (kaggle, hugging_face):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"class_name": "ViTBackbone", "config": settings}))
    assert open_backbone("vit_base_patch16_224_imagenet").spec.depth == 12  # without weights, not complete
    for folder in (kaggle, hugging_face):
        (folder / "model.weights.h5").touch()
    for name in ("vit_base_patch16_224_imagenet", "hf://user/network"):
        spec = open_backbone(name).spec
        assert (spec.depth, spec.image_size) == (5, 96)
        assert spec.taps == ("block_2", "block_3", "block_4", "norm")
    row = next(row for row in network_table() if row["model"] == "vit_base_patch16_224_imagenet")
    assert row["weights"] == kaggle


@pytest.mark.parametrize("model", ["No/Such/Preset", "~/No/Such"])
def test_folders_that_do_not_exist(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = os.path.abspath(os.path.expanduser(model))
    for value in (model, Path(model)):
        with pytest.raises(
            WeightsError, match=f"`model` names a folder that does not exist: '{model}', which is '{path}'"
        ):
            CNNFeatures(value, cache=None).fit(X)


def test_names_of_presets_where_a_network_of_keras_is_needed(monkeypatch, tmp_path):
    (tmp_path / "mobilenet").mkdir()
    for name in ("DINOv2-small", "hf://user/network", str(tmp_path)):
        with pytest.raises(
            UnknownNameError, match=r"is a preset of KerasHub, or a path; .* the first use, such as"
        ):
            list_weights(name)
        with pytest.raises(InvalidParameterError, match=r"ends in the 1,000 classes of ImageNet"):
            ImageNetClassifier(name, cache=None).predict(X)
    monkeypatch.chdir(tmp_path)
    assert find_licence(Path("mobilenet"), "imagenet") is None


def test_poolings_of_tokens_leave_out_class_token_and_registers():
    x = np.random.default_rng(0).normal(size=(2, 3 + 4, 5)).astype("float32")
    for part, expected in {"avg": x[:, 3:].mean(1), "max": x[:, 3:].max(1), "cls": x[:, 0]}.items():
        np.testing.assert_allclose(to_array(pool(x, part, 3)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_array(pool(x, "flatten", 3)), x.reshape(2, -1))
    np.testing.assert_allclose(to_array(pool(x, "avg")), x.mean(1), rtol=1e-5, atol=1e-6)
    assert Tap("norm", (7, 5), "", None, 3).parts("clsavg") == ("cls", "avg")
    assert Tap("projection", (5,), "").parts("clsavg") == ("none",)


@pytest.mark.parametrize("pooling", ["cls", "clsavg"])
def test_a_feature_map_has_no_class_token(pooling):
    with pytest.raises(
        InvalidParameterError, match=f"`pooling='{pooling}'` needs the class token .* a feature map"
    ):
        CNNFeatures("tiny", pooling=pooling, image_size=32, cache=None).fit(X)
