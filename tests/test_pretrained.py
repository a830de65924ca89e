"""ImageNetClassifier: classes, probabilities, the store, unreadable images and networks without the classes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone, is_classifier

from tests.networks import build, make_images, preprocess, relative_difference, to_array
from tlfeatures import ImageNetClassifier
from tlfeatures.errors import ImageReadError, UnreadableImagesWarning, WeightsError
from tlfeatures.networks import NETWORKS, imagenet_classes, list_layers
from tlfeatures.pretrained import classify

NAME = "mobilenet_0.25"
SIZE = 32


@pytest.fixture(scope="module")
def network():
    """A network with its top and random weights, whose probabilities differ between classes."""
    import keras

    keras.utils.set_random_seed(0)
    network = build(NETWORKS[NAME], SIZE, top=True)
    scores = network.get_layer("conv_preds")
    scores.bias.assign(np.random.default_rng(0).normal(size=scores.bias.shape))
    return network


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "with_top.weights.h5"
    network.save_weights(path)
    return path


@pytest.fixture
def clf(weights, store):
    return ImageNetClassifier(NAME, weights=weights, image_size=SIZE, cache=store)


def make_model(activation="softmax", n_classes=1000):
    import keras

    layers = keras.layers
    head = layers.Dense(n_classes, activation=activation, name="scores")
    inputs = [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), head]
    return keras.Sequential(inputs)


def test_clones_share_a_network_in_memory(network):
    assert clone(ImageNetClassifier(network)).model is network


def test_classes_are_in_the_order_of_keras():
    clf = ImageNetClassifier()
    positions = {
        0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 285: "Egyptian cat", 340: "zebra",
        404: "airliner", 817: "sports car", 999: "toilet tissue",
    }  # fmt: skip
    assert {i: clf.classes_[i] for i in positions} == positions
    assert clf.wordnet_ids_[[0, 281, 999]].tolist() == ["n01440764", "n02123045", "n15075141"]
    assert clf.wordnet_ids_.tolist() == sorted(set(clf.wordnet_ids_))
    assert len(set(clf.classes_)) == len(clf.classes_) == 1000


def test_probabilities_are_those_of_keras(clf, network):
    X = make_images(5, SIZE)
    expected = to_array(network(preprocess(NETWORKS[NAME], X), training=False))
    probabilities = clf.predict_proba(X)
    assert relative_difference(probabilities, expected) < 1e-4
    order = np.argsort(-probabilities, axis=1, kind="stable")
    assert clf.predict(X).tolist() == clf.classes_[order[:, 0]].tolist()
    top = clf.top(X, k=3)
    assert [[name for _, name, _ in row] for row in top] == clf.classes_[order[:, :3]].tolist()
    assert [[key for key, _, _ in row] for row in top] == clf.wordnet_ids_[order[:, :3]].tolist()
    np.testing.assert_allclose(
        [[p for *_, p in row] for row in top], np.take_along_axis(probabilities, order[:, :3], 1)
    )
    assert len(clf.top(X)[0]) == 5


def test_probabilities_are_computed_once(clf):
    X = make_images(4, SIZE)
    assert classify(clf, X, 5).extracted.computed == 4
    result = classify(clf, X, 5)
    assert result.extracted.computed == 0
    assert result.classes == clf.top(X)


def test_fit_is_optional_and_learns_nothing(clf):
    X, y = make_images(3, SIZE), ["tench", "zebra", "tabby"]
    assert is_classifier(clf)
    fitted = clone(clf).fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), clf.predict_proba(X))
    assert clf.score(X, clf.predict(X)) == 1


def test_unreadable_images(clf, photos, tmp_path):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"not an image")
    X = [photos.paths[0], damaged, photos.paths[1]]
    with pytest.raises(ImageReadError, match=r"cannot read 1 of 3 images: .*damaged\.jpg"):
        clf.predict(X)
    clf.set_params(on_error="nan")
    with pytest.warns(UnreadableImagesWarning, match="1 of 3 images could not be read"):
        probabilities = clf.predict_proba(X)
    assert np.isnan(probabilities).all(axis=1).tolist() == [False, True, False]
    with pytest.warns(UnreadableImagesWarning):
        assert clf.predict(X)[1] == "unreadable"
    with pytest.warns(UnreadableImagesWarning):
        assert [len(row) for row in clf.top(X, k=2)] == [2, 0, 2]


@pytest.mark.parametrize("k", [0, 1001, 2.5])
def test_an_invalid_k_raises_an_error(clf, k):
    with pytest.raises(ValueError, match="`k` must be an integer of at least 1 and of at most 1000; got"):
        clf.top(make_images(1, SIZE), k=k)


def test_a_model_with_a_thousand_probabilities_is_accepted(tmp_path):
    X, model = make_images(3, 8), make_model()
    model.save(tmp_path / "model.keras")
    expected = to_array(model(X.astype("float32")))
    for each in (model, tmp_path / "model.keras", str(tmp_path / "model.keras")):
        probabilities = ImageNetClassifier(each, cache=None).predict_proba(X)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_outputs_that_are_not_probabilities_raise_an_error():
    clf = ImageNetClassifier(make_model(activation=None), cache=None)
    with pytest.raises(ValueError, match=r"are not probabilities, which .* Add a softmax layer"):
        clf.predict(make_images(2, 8))


def test_networks_without_the_classes_raise_an_error():
    message = (
        "`model` must be a network that ends in the 1,000 classes of ImageNet, such as 'mobilenet_0.75'; got "
    )
    with pytest.raises(ValueError, match=rf"{message}'Tiny', which does not\. Train a classifier"):
        ImageNetClassifier("Tiny").fit()
    with pytest.raises(ValueError, match=f"{message}the model 'sequential"):
        ImageNetClassifier(make_model(n_classes=10)).predict(make_images(1, 8))
    with pytest.raises(ValueError, match=r"Unknown network 'mobilnet'. Did you mean 'mobilenet'"):
        ImageNetClassifier("mobilnet").fit()
    with pytest.raises(ValueError, match=r"`weights` must be 'imagenet' or the path of a file .*; got None"):
        ImageNetClassifier(weights=None).fit()


def test_weights_without_the_top_raise_an_error(tmp_path, store):
    path = tmp_path / "no_top.weights.h5"
    build(NETWORKS[NAME], SIZE).save_weights(path)
    clf = ImageNetClassifier(NAME, weights=path, image_size=SIZE, cache=store)
    with pytest.raises(WeightsError, match="Cannot load the weights file"):
        clf.predict(make_images(1, SIZE))


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({spec.module for spec in NETWORKS.values() if spec.top}))
def test_the_last_layer_of_each_family_has_the_classes(module):
    spec = next(spec for spec in NETWORKS.values() if spec.module == module)
    assert list_layers(spec.name)[-1] == spec.top


def test_cats_are_classified_as_cats(shared, keras_home):
    if not any(keras_home.glob("models/mobilenet_7_5*_tf.h5")):
        pytest.skip("needs the weights of ../shared/keras")
    paths = sorted((shared / "data" / "pets" / "cats").iterdir())[:40:4]
    cats = {name for _, name in imagenet_classes()[281:286]}
    clf = ImageNetClassifier("mobilenet_0.75")
    assert np.isin(clf.predict(paths), list(cats)).mean() > 0.5
    assert np.mean([bool(cats & {name for _, name, _ in row}) for row in clf.top(paths)]) > 0.6
