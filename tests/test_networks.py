"""Networks: equality with plain Keras, reproducible names and random weights, batches, precision."""

from __future__ import annotations

import functools
import gc
import json
import random
import shutil
import weakref
from collections import OrderedDict

import numpy as np
import pytest

from tests.networks import (
    FAMILIES,
    avg_and_max,
    build,
    cosines,
    make_images,
    preprocess,
    relative_difference,
    run,
    set_random_weights,
    to_array,
)
from tlfeatures import CNNFeatures
from tlfeatures._keras import PRECISIONS
from tlfeatures.errors import RandomWeightsWarning
from tlfeatures.networks import NETWORKS, Backbone
from tlfeatures.networks._graph import canonical_operations

# families in which Keras numbers layers, so that their names depend on previously built models
NUMBERED = (
    "inception_v3", "xception", "nasnet_mobile", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny",
)  # fmt: skip
# networks that several tests use; tests of the others, which have more layers or weights, are slow
SHARED_NETWORKS = ("vgg16", "mobilenet_0.25", "mobilenet_v2_0.35", "mobilenet_v3_small")
QUICK = ("vgg16", "mobilenet_0.25")  # compared with Keras in `make test`


def slow(*networks):
    """Mark parameters of a test as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in networks]


@functools.cache
def in_fresh_processes(*networks):
    """Return names of layers and digests of taps in processes that have built no other network.

    A process that imports keras forks one child for each network.
    """
    code = """
        import json, os, sys
        import keras
        from tests.networks import FAMILIES, build
        from tlfeatures.networks import NETWORKS, Backbone

        for name in sys.argv[1:]:
            sys.stdout.flush()
            if os.fork() == 0:
                spec, size, digests = NETWORKS[name], FAMILIES[name], []
                names = [operation.name for operation in build(spec, size).operations]
                if name.startswith("mobilenet"):
                    digests = [tap.digest for tap in Backbone(name, None, size).describe(spec.taps).taps]
                print(json.dumps([name, names, digests]), flush=True)
                os._exit(0)
            if os.wait()[1]:
                sys.exit(f"{name} failed")
    """
    return {name: rest for name, *rest in map(json.loads, run(code, *networks).splitlines())}


def in_fresh_process(name):
    """Return the names of layers and digests of taps of a network, computed together with those of similar tests."""
    is_shared = name in SHARED_NETWORKS
    networks = [each for each in (*NUMBERED, "mobilenet_0.25") if (each in SHARED_NETWORKS) is is_shared]
    return in_fresh_processes(*networks)[name]


@pytest.fixture(scope="module")
def make_network(tmp_path_factory):
    """Function from the name of a network to the network with random weights, and the file of these."""
    folder, networks = tmp_path_factory.mktemp("networks"), {}

    def make(name):
        if name in networks:
            return networks[name]
        spec, size = NETWORKS[name], FAMILIES[name]
        model, path = build(spec, size), folder / f"{name}.weights.h5"
        set_random_weights(model, preprocess(spec, make_images(16, size)))
        model.save_weights(path)
        if name in SHARED_NETWORKS:
            networks[name] = model, path
        return model, path

    yield make
    shutil.rmtree(folder)  # about 1 GB


# --- equality with Keras ------------------------------------------------------------------------------------


def test_every_family_is_tested():
    assert {NETWORKS[name].module for name in FAMILIES} == {
        spec.module for spec in NETWORKS.values() if spec.name not in ("alexnet", "tiny")
    }


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_embeddings_equal_those_of_plain_keras(name, make_network):
    import keras

    spec, size = NETWORKS[name], FAMILIES[name]
    X = make_images(4, size)
    model, weights = make_network(name)
    taps = [spec.taps[0], spec.taps[3], spec.taps[-1]]
    options = {"weights": weights, "image_size": size, "cache": None, "batch_size": 3}
    ours = CNNFeatures(name, layer=taps, pooling="avgmax", **options).fit_transform(X)

    operations = canonical_operations(model)  # not the first network that this process builds
    assert name not in NUMBERED or list(operations) == in_fresh_process(name)[0]
    by_hand = keras.Model(model.input, [operations[tap].output for tap in taps])
    x = preprocess(spec, X)
    start = 0
    for tap, y in zip(taps, by_hand(x, training=False), strict=True):
        theirs = avg_and_max(y)
        assert relative_difference(ours[:, start : start + theirs.shape[1]], theirs) < 1e-4, tap
        start += theirs.shape[1]
    assert start == ours.shape[1]
    # the comparison is sensitive: other images, other pixels and training mode give different embeddings
    assert np.abs(theirs - theirs[::-1]).max() > 1e-2 * np.abs(theirs).max()
    if not (spec.options or spec.entry):  # other networks contain their normalization
        assert relative_difference(avg_and_max(model(X.astype("float32"), training=False)), theirs) > 1e-2
    if any("moving_mean" in v.path for v in model.weights):
        assert relative_difference(avg_and_max(model(x, training=True)), theirs) > 1e-2
        model.load_weights(weights)  # training mode has changed its statistics


# --- random weights ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_0.25"])
def test_random_weights_are_the_same_in_every_process(name):
    spec, size = NETWORKS[name], FAMILIES[name]
    taps = Backbone(name, None, size).describe(spec.taps).taps
    assert [tap.digest for tap in taps] == in_fresh_process(name)[1]
    assert len({tap.digest for tap in taps}) == len(spec.taps)


def test_random_weights_are_the_same_with_and_without_the_top():
    without_top, with_top = (
        Backbone("mobilenet_0.25", None, 64).describe([tap]) for tap in ("conv_pw_5_relu", "reshape")
    )
    both = Backbone("mobilenet_0.25", None, 64).describe(["conv_pw_5_relu", "reshape"])
    assert both.taps == (*without_top.taps, *with_top.taps)


def test_random_weights_issue_a_warning():
    with pytest.warns(RandomWeightsWarning, match="mobilenet_0.25 has random weights"):
        CNNFeatures("mobilenet_0.25", weights=None, image_size=32, cache=None).fit(make_images(1, 32))


@pytest.mark.slow
def test_building_does_not_change_the_random_state_of_python_and_numpy(tmp_path):
    model = build(NETWORKS["mobilenet_0.25"], 32)
    model.save(tmp_path / "model.keras")
    random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for options in ({"model": "mobilenet_0.25", "weights": None}, {"model": tmp_path / "model.keras"}):
        backbone = Backbone(**options, image_size=32, precision="bfloat16")
        description = backbone.describe()
        backbone.skeleton()
        backbone.compile([(description.taps[0], "avg")], description)(make_images(1, 32))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


# --- batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_0.25", *slow("mobilenet_v2_0.35", "mobilenet_v3_small")])
def test_a_row_does_not_depend_on_its_batch(name, make_network):
    size = FAMILIES[name]
    X = make_images(40, size)
    options = {"weights": make_network(name)[1], "image_size": size, "cache": None, "pooling": "avgmax"}
    expected = CNNFeatures(name, batch_size=32, **options).fit_transform(X)  # a full batch, and 8 rows padded
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()
    order = np.random.default_rng(0).permutation(40)
    assert (
        relative_difference(
            CNNFeatures(name, batch_size=32, **options).fit_transform(X[order]), expected[order]
        )
        < 1e-5
    )
    assert (
        relative_difference(CNNFeatures(name, batch_size=7, **options).fit_transform(X[:15]), expected[:15])
        < 1e-5
    )
    assert (
        relative_difference(CNNFeatures(name, batch_size=1, **options).fit_transform(X[36:]), expected[36:])
        < 1e-5
    )
    one = CNNFeatures(name, batch_size=32, **options).fit_transform(X[21:22])
    assert relative_difference(one, expected[21:22]) < 1e-5


# --- precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mobilenet_0.25", *slow("mobilenet_v2_0.35", "efficientnet_b0", "convnext_tiny")]
)
def test_precisions_are_close_and_have_different_recipes(name, make_network):
    size = FAMILIES[name]
    X = make_images(2, size)
    cosine = {"float32": 1 - 1e-6, "tf32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
    if name == "convnext_tiny":
        del cosine["float16"], cosine["tf32"]  # slow
    weights = make_network(name)[1]
    digests, recipes = set(), set()
    for precision, min_cosine in cosine.items():
        cnn = CNNFeatures(name, weights=weights, image_size=size, precision=precision, cache=None)
        got = cnn.fit_transform(X)
        assert got.dtype == np.float32
        if precision == "float32":
            exact = got
        assert cosines(got, exact).min() > min_cosine
        assert (
            relative_difference(got, exact) > 1e-6 or "float32" in PRECISIONS[precision]
        )  # another precision gives other values
        recipes.add(json.dumps(cnn.recipes_))
        digests.add(cnn.recipes_[0]["digest"])
    assert len(recipes) == len(cosine)
    assert len(digests) == 1


def test_float32_does_not_depend_on_the_policy_of_the_model():
    """A model saved under a mixed policy has the same digest, so it must give the same embeddings."""
    import keras

    def model(policy):
        x = inputs = keras.Input((16, 16, 3), dtype="float32")
        x = keras.layers.Rescaling(1 / 255, dtype=policy)(x)
        for i in range(3):
            initializer = keras.initializers.RandomNormal(0.0, 0.3, seed=i)
            x = keras.layers.Conv2D(8, 3, kernel_initializer=initializer, dtype=policy, name=f"conv{i}")(x)
        return keras.Model(inputs, x)

    X = make_images(3, 16)
    plain, mixed = (CNNFeatures(model(p), cache=None) for p in ("float32", "mixed_bfloat16"))
    np.testing.assert_array_equal(mixed.fit_transform(X), plain.fit_transform(X))
    assert mixed.recipes_ == plain.recipes_


def test_overflow_in_float16_raises_an_error_with_a_hint():
    import keras

    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Rescaling(1000.0)(keras.layers.Rescaling(1.0)(inputs))
    cnn = CNNFeatures(keras.Model(inputs, outputs), precision="float16", cache=None)
    with pytest.raises(
        FloatingPointError, match=r"non-finite embeddings with precision='float16'.*Use precision='float32'"
    ):
        cnn.fit_transform(np.full((1, 8, 8, 3), 255, "uint8"))


def test_networks_too_large_to_freeze_give_the_same_embeddings(make_network, monkeypatch):
    X, name = make_images(3, 64), "mobilenet_0.25"
    cnn = CNNFeatures(name, weights=make_network(name)[1], image_size=64, cache=None)
    frozen = cnn.fit_transform(X)
    monkeypatch.setattr("tlfeatures._keras.frozen._FROZEN_LIMIT", 0)
    monkeypatch.setattr("tlfeatures.networks._backbone._compiled", OrderedDict())
    assert relative_difference(cnn.fit_transform(X), frozen) < 1e-5


# --- networks in memory --------------------------------------------------------------------------------


def embed_at(size):
    """Embed images of a size with a network of its own, and return the embeddings."""
    options = {"weights": None, "image_size": size, "cache": None}
    return CNNFeatures("mobilenet_0.25", layer="conv_pw_1_relu", **options).fit_transform(
        make_images(2, size)
    )


@pytest.fixture
def caches(monkeypatch):
    """Empty caches of networks and of compiled functions."""
    networks, functions = OrderedDict(), OrderedDict()
    monkeypatch.setattr("tlfeatures.networks._loading._models", networks)
    monkeypatch.setattr("tlfeatures.networks._backbone._compiled", functions)
    return networks, functions


def test_few_networks_are_kept_and_fewer_large_ones(caches, monkeypatch):
    networks, functions = caches
    expected = [embed_at(size) for size in (32, 40, 48)]
    assert (len(networks), len(functions)) == (2, 3)
    monkeypatch.setattr("tlfeatures.networks._loading._MAX_BYTES", 0)  # all are larger
    embed_at(56)
    assert (len(networks), len(functions)) == (1, 1)
    np.testing.assert_array_equal(embed_at(32), expected[0])


@pytest.mark.slow
def test_memory_of_a_network_that_is_not_kept_is_freed_at_once(caches, monkeypatch):
    networks, _ = caches
    monkeypatch.setattr("tlfeatures.networks._loading._MAX_BYTES", 0)
    monkeypatch.setattr("tlfeatures.networks._loading._COLLECTED", 0)
    gc.disable()  # Keras models are reference cycles
    try:
        embed_at(32)
        (graph,) = networks.values()
        layer = weakref.ref(graph.model.layers[2])
        del graph
        embed_at(40)
        assert layer() is None
    finally:
        gc.enable()


# --- normalization -------------------------------------------------------------------------------------

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.35)


@pytest.mark.parametrize(
    "name",
    ["vgg16", *slow("mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_b0", "convnext_tiny")],
)
def test_a_literal_normalization_replaces_that_inside_the_network(name, make_network):
    """The reference applies the convolutions to (x / 255 - mean) / std, without the network's own preprocessing."""
    import keras

    X = make_images(3, FAMILIES[name])
    model, weights = make_network(name)
    options = {"weights": weights, "image_size": FAMILIES[name], "cache": None}
    cnn = CNNFeatures(name, normalization=(MEAN, STD), **options)
    ours = cnn.fit_transform(X)
    assert cnn.recipes_[0]["normalization"] == [list(MEAN), list(STD)]
    x = ((X / 255 - np.array(MEAN)) / np.array(STD)).astype("float32")
    first_layers = ("ZeroPadding2D", "Conv2D", "Sequential")
    first = next(layer for layer in model.layers if type(layer).__name__ in first_layers)
    by_hand = keras.Model(first.input, model.output)
    assert relative_difference(ours, to_array(by_hand(x, training=False)).mean((1, 2))) < 1e-4
    assert relative_difference(CNNFeatures(name, **options).fit_transform(X), ours) > 1e-2


@pytest.mark.parametrize("value", ["imagenet", (MEAN,), (MEAN, (1, 0, 1)), (MEAN, STD[:2]), 3, (MEAN, "abc")])
def test_an_invalid_normalization_raises_an_error(value):
    with pytest.raises(ValueError, match="`normalization` must be 'auto' or a pair"):
        Backbone("vgg16", normalization=value)
