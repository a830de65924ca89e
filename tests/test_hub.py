"""Vision transformers of KerasHub, from small presets with random weights."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from tests.hub_helpers import N_PREFIX, SIZE, compute_layers, make_preset
from tests.networks import make_images, relative_difference, run
from tlfeatures import CNNFeatures, list_layers
from tlfeatures.errors import InvalidParameterError, UnknownNameError, WeightsError
from tlfeatures.networks import preset_resizing

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
