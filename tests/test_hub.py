"""Vision transformers of KerasHub, from small presets with random weights."""

from __future__ import annotations

import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.hub_helpers import N_PREFIX, SIZE, compute_layers, make_preset
from tests.networks import make_images, relative_difference, run
from tests.test_zero_shot import make_clip
from tlfeatures import CNNFeatures, FeatureSearchCV, list_layers, load, save
from tlfeatures.errors import InvalidParameterError, UnknownNameError, WeightsError
from tlfeatures.networks import PRESETS, embed_texts, preset_resizing
from tlfeatures.networks._hub_backbone import HubBackbone

pytestmark = pytest.mark.slow
pytest.importorskip("keras_hub", reason='needs keras-hub: pip install "tlfeatures[hub]"')

NAMES = ["dinov2", "vit", "clip", "siglip"]
X = make_images(4, SIZE)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    return {name: make_preset(name, folder / name) for name in [*NAMES, "resnet"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_equals_plain_calls_of_the_layers(presets, name):
    expected, n_prefix = compute_layers(name, presets[name], X), N_PREFIX[name]
    layers = [layer for layer in list_layers(presets[name]) if layer != "class_token"]
    assert layers == list(expected)
    tokens = [layer for layer in layers if expected[layer].ndim == 3]
    options = {"model": presets[name], "cache": None, "batch_size": 3}
    flat = CNNFeatures(layer=tokens, pooling="flatten", **options).fit_transform(X)
    assert relative_difference(flat, np.hstack([expected[t].reshape(len(X), -1) for t in tokens])) < 1e-4
    patches = np.stack([expected[layer][:, n_prefix:] for layer in tokens])
    for pooling, pooled in {"avg": patches.mean(2), "max": patches.max(2)}.items():
        got = CNNFeatures(layer=tokens, pooling=pooling, **options).fit_transform(X)
        assert relative_difference(got, np.hstack(pooled)) < 1e-4, pooling
    for vector in set(layers) - set(tokens):
        got = CNNFeatures(layer=vector, **options).fit_transform(X)
        assert relative_difference(got, expected[vector]) < 1e-4
    if n_prefix:
        got = CNNFeatures(layer=tokens, pooling="clsavg", **options).fit_transform(X)
        pairs = [
            part
            for layer, p in zip(tokens, patches, strict=True)
            for part in (expected[layer][:, 0], p.mean(1))
        ]
        assert relative_difference(got, np.hstack(pairs)) < 1e-4


def test_position_embeddings_of_dinov2_are_interpolated(presets):
    X = make_images(2, 48)
    expected = compute_layers("dinov2", presets["dinov2"], X, image_shape=(48, 48, 3))["norm"]
    assert expected.shape[1] == 4 + 36
    cnn = CNNFeatures(presets["dinov2"], image_size=48, pooling="flatten", cache=None)
    assert relative_difference(cnn.fit_transform(X), expected.reshape(2, -1)) < 1e-4


def test_convolutional_presets_take_other_image_sizes(tmp_path):
    import keras_hub

    network = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(SIZE, SIZE, 3),
    )  # fmt: skip
    network.save_to_preset(str(tmp_path))
    halves = (0.5,) * 3, (0.5,) * 3
    cnn = CNNFeatures(tmp_path, image_size=48, normalization=halves, pooling="flatten", cache=None)
    assert cnn.fit_transform(X).shape == (4, 6 * 6 * 64)


def test_image_sizes_that_a_network_cannot_take(presets):
    with pytest.raises(
        InvalidParameterError, match=r"`image_size` must be \(32, 32\), the size of the position .*\(48, 48\)"
    ):
        CNNFeatures(presets["vit"], image_size=48, cache=None).fit(X)
    with pytest.raises(InvalidParameterError, match=r"`image_size` must be a square .*; got \(32, 48\)"):
        CNNFeatures(presets["dinov2"], image_size=(32, 48), cache=None).fit(X)


def test_poolings_without_a_class_token(presets):
    for name, what in {"siglip": "tokens of patches alone", "resnet": "a feature map"}.items():
        with pytest.raises(
            InvalidParameterError, match=f"`pooling='cls'` needs the class token .* is {what}"
        ):
            CNNFeatures(presets[name], pooling="cls", cache=None).fit(X)


def test_a_convolutional_preset(presets):
    import keras
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(presets["resnet"])
    from tests.hub_helpers import MEAN, STD

    x = keras.ops.convert_to_tensor(((X / 255 - MEAN) / STD).astype("float32"))
    expected = keras.ops.convert_to_numpy(backbone(x, training=False)).mean((1, 2))
    cnn = CNNFeatures(presets["resnet"], image_size=SIZE, cache=None)
    assert relative_difference(cnn.fit_transform(X), expected) < 1e-4
    assert cnn.layers_ == ["stack1_block0_out"]


def test_rows_are_shared_by_copies_and_change_with_the_weights(presets, tmp_path):
    cache = tmp_path / "store"
    first = CNNFeatures(presets["vit"], cache=cache).fit(X)
    copy = shutil.copytree(presets["vit"], tmp_path / "copy")
    assert CNNFeatures(copy, cache=cache).fit(X).recipes_ == first.recipes_
    embeddings = first.transform(X)
    make_preset("vit", copy, seed=1)
    changed = CNNFeatures(copy, cache=cache).fit(X)
    assert changed.recipes_[0]["digest"] != first.recipes_[0]["digest"]
    assert relative_difference(changed.transform(X), embeddings) > 1e-2


def test_a_second_process_reads_the_store_without_keras(presets, tmp_path):
    cnn = CNNFeatures(presets["dinov2"], layer=["block_2", "norm"], cache=tmp_path)
    np.save(tmp_path / "images.npy", X)
    code = """
        import sys, numpy as np
        from tlfeatures import CNNFeatures
        model, folder = sys.argv[1:]
        cnn = CNNFeatures(model, layer=["block_2", "norm"], cache=folder)
        np.save(f"{folder}/rows.npy", cnn.fit_transform(np.load(f"{folder}/images.npy")))
        assert not {"keras", "tensorflow", "keras_hub"} & set(sys.modules)
    """
    expected = cnn.fit_transform(X)
    run(code, presets["dinov2"], str(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


def test_a_convolutional_preset_reads_the_store_without_keras(presets, tmp_path):
    expected = CNNFeatures(presets["resnet"], image_size=SIZE, cache=tmp_path).fit_transform(X)
    np.save(tmp_path / "images.npy", X)
    code = """
        import sys, numpy as np
        from tlfeatures import CNNFeatures
        model, size, folder = sys.argv[1:]
        cnn = CNNFeatures(model, image_size=int(size), cache=folder)
        np.save(f"{folder}/rows.npy", cnn.fit_transform(np.load(f"{folder}/images.npy")))
        assert not {"keras", "tensorflow", "keras_hub"} & set(sys.modules)
    """
    run(code, presets["resnet"], str(SIZE), str(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), expected)


NAME = "vit_base_patch16_224_imagenet"
TEXT_NAME = "clip_vit_base_patch32"


@pytest.fixture
def download(monkeypatch, tmp_path):
    """Download files of a folder one by one, as KerasHub does; ``folder=None`` is a machine without a connection."""
    import kagglehub
    import requests

    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    state = types.SimpleNamespace(folder=None, files=[], cache=tmp_path / "kaggle" / "models")

    def download_file(handle, file):
        if state.folder is None:
            raise requests.exceptions.ConnectionError("Failed to resolve 'api.kaggle.com'")
        if not (source := Path(state.folder, file)).exists():
            raise ValueError(f"{file} is not present in the model files.")
        state.files.append(file)
        target = state.cache / handle / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        return str(target)

    monkeypatch.setattr(kagglehub, "model_download", download_file)
    return state


def test_the_first_use_downloads_each_file(presets, download, tmp_path, monkeypatch):
    download.folder = presets["vit"]
    expected = CNNFeatures(presets["vit"], cache=None).fit_transform(X)
    np.testing.assert_array_equal(CNNFeatures(NAME, cache=tmp_path / "store").fit_transform(X), expected)
    assert {"config.json", "model.weights.h5", "image_converter.json"} <= set(download.files)
    with monkeypatch.context() as patch:
        patch.setattr(HubBackbone, "_load", None)  # the metadata of the downloaded files are in the store
        np.testing.assert_array_equal(CNNFeatures(NAME, cache=tmp_path / "store").fit_transform(X), expected)
    download.folder = None
    shutil.rmtree(download.cache)
    with pytest.raises(WeightsError, match="Cannot load the preset"):  # it is not in memory either
        CNNFeatures(NAME, cache=None).fit(X)


def test_texts_after_images_download_the_tokenizer(download, tmp_path):
    for part in make_clip():
        part.save_to_preset(str(tmp_path / "clip"))
    download.folder = tmp_path / "clip"
    assert CNNFeatures(TEXT_NAME, cache=None).fit_transform(X).shape == (4, 16)
    embeddings = embed_texts(TEXT_NAME, ["a cat"])[0]
    assert any(file.startswith("assets/tokenizer/") for file in download.files)
    np.testing.assert_array_equal(embed_texts(tmp_path / "clip", ["a cat"])[0], embeddings)
    # other files of the tokenizer are noticed
    merges = tmp_path / "clip" / "assets" / "tokenizer" / "merges.txt"
    merges.write_text("c a\n")
    assert relative_difference(embed_texts(tmp_path / "clip", ["a cat"])[0], embeddings) > 1e-3


def test_a_copied_folder_is_used_without_a_connection(presets, download):
    with pytest.raises(
        WeightsError, match=r"Cannot load the preset 'vit_.*the hub could not be reached: Failed to"
    ):
        CNNFeatures(NAME, cache=None).fit(X)
    folder = download.cache / PRESETS[NAME].handle.removeprefix("kaggle://")
    shutil.copytree(presets["vit"], folder)
    expected = CNNFeatures(presets["vit"], cache=None).fit_transform(X)
    np.testing.assert_array_equal(CNNFeatures(NAME, cache=None).fit_transform(X), expected)
    os.remove(folder / "image_converter.json")
    with pytest.raises(WeightsError, match=r"Cannot read the image converter .* could not be reached"):
        CNNFeatures(NAME, cache=None).fit(X)


def test_hugging_face_cannot_be_reached(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(repo_id, filename):
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"Hugging Face has no such preset, or could not be reached"):
        CNNFeatures("hf://user/network", cache=None).fit(X)


def test_folders_named_like_presets_and_networks(presets, tmp_path, monkeypatch, download):
    for name in (TEXT_NAME, "tiny"):
        shutil.copytree(presets["vit"], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    expected = CNNFeatures(presets["vit"], cache=None).fit_transform(X)
    for model in (Path(TEXT_NAME), f"./{TEXT_NAME}", Path("tiny")):
        np.testing.assert_array_equal(CNNFeatures(model, cache=None).fit_transform(X), expected)
    with pytest.raises(WeightsError, match="Cannot load the preset 'clip_vit_base_patch32'"):
        CNNFeatures(TEXT_NAME, cache=None).fit(X)
    search = FeatureSearchCV([Path("tiny")], layers=["block_1", "norm"], cache=None, cv=2)
    search.fit(X, [0, 1, 0, 1])
    assert search.best_params_["model"] == str(tmp_path / "tiny")
    model = make_pipeline(CNNFeatures(Path("tiny"), cache=None), LogisticRegression()).fit(X, [0, 1, 0, 1])
    save(model, tmp_path / "model.tlf")
    assert load(tmp_path / "model.tlf")[0].model == str(tmp_path / "tiny")


def test_an_image_converter_that_cannot_be_read(presets, tmp_path):
    folder = shutil.copytree(presets["vit"], tmp_path / "vit")
    (folder / "image_converter.json").write_text("{")
    with pytest.raises(WeightsError, match=r"Cannot read the image converter of the preset .*Expecting"):
        CNNFeatures(folder, cache=None).fit(X)


def test_jax(presets, tmp_path):
    pytest.importorskip("jax")
    np.save(tmp_path / "images.npy", X)
    code = """
        import sys, numpy as np
        from tests.hub_helpers import compute_layers
        from tlfeatures import CNNFeatures
        images, *presets = sys.argv[1:]
        X = np.load(images)
        for preset in presets:
            name = preset.rsplit("/", 1)[1]
            expected = {k: y for k, y in compute_layers(name, preset, X).items() if y.ndim == 3}
            cnn = CNNFeatures(preset, layer=list(expected), pooling="flatten", cache=None)
            want = np.hstack([y.reshape(len(X), -1) for y in expected.values()])
            assert np.abs(cnn.fit_transform(X) - want).max() < 1e-4 * np.abs(want).max(), name
            print(cnn.recipes_[-1]["digest"])
    """
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    digests = run(code, str(tmp_path / "images.npy"), *(presets[name] for name in NAMES), env=env).split()
    assert digests == [CNNFeatures(presets[name], cache=None).fit(X).recipes_[0]["digest"] for name in NAMES]


def test_bfloat16_is_close_to_float32(presets):
    for name in NAMES:
        a, b = (
            CNNFeatures(presets[name], precision=precision, cache=None).fit_transform(X)
            for precision in ("float32", "bfloat16")
        )
        assert 1e-5 < relative_difference(b, a) < 0.1, name


def test_errors(presets, tmp_path):
    with pytest.raises(UnknownNameError, match=r"Unknown layer of .* 'block_9'"):
        CNNFeatures(presets["vit"], layer="block_9", cache=None).fit(X)
    with pytest.raises(
        InvalidParameterError, match=r"`weights` must be left out for the preset .*; got None"
    ):
        CNNFeatures(presets["vit"], weights=None, cache=None).fit(X)
    with pytest.raises(WeightsError, match=r"Cannot load the preset .* has no config\.json"):
        CNNFeatures(str(tmp_path), cache=None).fit(X)
    bare = shutil.copytree(presets["vit"], tmp_path / "bare")
    os.remove(bare / "image_converter.json")
    with pytest.raises(InvalidParameterError, match=r"`normalization` must be a pair .* no image converter"):
        CNNFeatures(bare, cache=None).fit(X)
    assert CNNFeatures(bare, normalization=((0.5,) * 3, (0.5,) * 3), cache=None).fit_transform(X).shape == (
        4,
        12,
    )


def test_resizing_is_that_of_the_image_converter(presets, tmp_path):
    import keras_hub

    expected = {
        "vit": ({}, "crop", "bilinear"),
        "pad": ({"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True}, "pad", "bilinear"),
        "area": ({"crop_to_aspect_ratio": False, "interpolation": "area"}, "stretch", "box"),
    }
    for name, (settings, resize, interpolation) in expected.items():
        folder = shutil.copytree(presets["vit"], tmp_path / name)
        converter = keras_hub.layers.ViTImageConverter(image_size=(SIZE, SIZE), **settings)
        converter.save_to_preset(str(folder))
        assert preset_resizing(folder) == {"resize": resize, "interpolation": interpolation}
    os.remove(tmp_path / "vit" / "image_converter.json")
    for model in (tmp_path / "vit", "mobilenet"):
        assert preset_resizing(model) == {"resize": "stretch", "interpolation": "bilinear"}
