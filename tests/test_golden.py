"""Embeddings of real images with pretrained weights, compared with a golden file made with plain Keras."""

from __future__ import annotations

import numpy as np
import pytest

from tests.networks import relative_difference
from tlfeatures import CNNFeatures

NAME = "mobilenet_0.75"
LAYERS = ["conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu"]


@pytest.fixture(scope="module")
def golden(shared, keras_home):
    """Arrays by "<layer>/<pooling>", and the paths of their images."""
    if not any(keras_home.glob("models/mobilenet_7_5*")):
        pytest.skip("needs the weights of ../shared/keras")
    with np.load(shared / "golden" / f"{NAME}_imagenet.npz") as file:
        arrays = dict(file)
    paths = [str(shared / str(path)) for path in arrays.pop("paths")]
    assert len(paths) == 61
    assert {name.split("/")[0] for name in arrays} == set(LAYERS)
    return arrays, paths


@pytest.mark.parametrize("decode", ["scaled", "exact"])
def test_embeddings_are_the_golden_ones(golden, decode):
    arrays, paths = golden
    cnn = CNNFeatures(NAME, layer=LAYERS, pooling="avgmax", decode=decode, cache=None)
    got = cnn.fit_transform(paths)
    start = 0
    for layer in LAYERS:
        for pooling in ("avg", "max"):
            want = arrays[f"{layer}/{pooling}"]
            columns = slice(start, start := start + want.shape[1])
            assert relative_difference(got[:, columns], want) < 1e-3, (layer, pooling)
    assert start == got.shape[1]


def test_the_last_layer_and_the_average_are_the_defaults(golden, store):
    arrays, paths = golden
    subset = slice(0, 9)
    cnn = CNNFeatures(NAME, cache=store)
    assert relative_difference(cnn.fit_transform(paths[subset]), arrays["conv_pw_13_relu/avg"][subset]) < 1e-3
    # the same pass has stored the maximum
    cnn.set_params(pooling="max")
    assert relative_difference(cnn.fit_transform(paths[subset]), arrays["conv_pw_13_relu/max"][subset]) < 1e-3


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_lower_precision_is_close(golden, precision):
    arrays, paths = golden
    want = arrays["conv_pw_13_relu/avg"][::8]
    got = CNNFeatures(NAME, precision=precision, cache=None).fit_transform(paths[::8])
    cosine = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert cosine.min() > 0.99


def test_batches_and_order_do_not_change_embeddings(golden):
    arrays, paths = golden
    order = np.random.default_rng(1).permutation(61)[:20]
    got = CNNFeatures(NAME, batch_size=7, cache=None, n_jobs=1).fit_transform([paths[i] for i in order])
    assert relative_difference(got, arrays["conv_pw_13_relu/avg"][order]) < 1e-3


def test_weights_by_name_and_by_path_have_the_same_recipe(golden, keras_home):
    file = next(keras_home.glob("models/mobilenet_7_5*no_top.h5"))
    by_name, by_path = (CNNFeatures(NAME, weights=w, cache=None).fit(["x.jpg"]) for w in ("imagenet", file))
    assert by_name.recipes_ == by_path.recipes_


def test_the_top_recognizes_cats(golden, keras_home):
    """The network was trained on 1,000 classes: it classifies most photographs of cats as cats."""
    if not any(p for p in keras_home.glob("models/mobilenet_7_5*_tf.h5")):
        pytest.skip("needs the weights with the top")
    _, paths = golden
    cats = [path for path in paths if "/cats/" in path]
    scores = CNNFeatures(NAME, layer="predictions", cache=None).fit_transform(cats)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-4)
    cat_classes = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
    assert len(cats) >= 5
    assert np.isin(scores.argmax(1), cat_classes).mean() > 0.5
