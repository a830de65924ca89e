"""Networks: the same numbers as Keras by hand, the same names in every process, and what fails says how."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict

import numpy as np
import pytest

from tests.networks import FAMILIES, build, give_weights, numbers, off, pictures, pooled, preprocess
from tlfeatures import CNNFeatures
from tlfeatures._keras import PRECISIONS
from tlfeatures.errors import RandomWeightsWarning, UnknownNameError, WeightsError
from tlfeatures.networks.backbone import Backbone
from tlfeatures.networks.graph import canonical_operations
from tlfeatures.networks.weights import fetch_weights
from tlfeatures.registry import NETWORKS

# families in which Keras numbers layers, so that their names depend on what was built before
NUMBERED = (
    "inception_v3", "inception_resnet_v2", "xception", "nasnet_mobile", "mobilenet_v3_small",
    "efficientnet_b0", "convnext_tiny",
)  # fmt: skip
# those that serve several tests
SEVERAL = (
    "vgg16", "mobilenet_0.25", "mobilenet_v2_0.35", "mobilenet_v3_small", "efficientnet_b0",
    "efficientnet_v2_b0", "convnext_tiny",
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own


def run(code, *args, env=None, timeout=240):
    """Standard output of Python code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def fresh():
    """Names of layers as Keras gives them, and digests of taps, where nothing was built before.

    One process imports keras; it forks one child for each network, none of which has built another.
    """
    code = """
        import json, os, sys
        import keras
        from tests.networks import FAMILIES, build
        from tlfeatures.networks.backbone import Backbone
        from tlfeatures.registry import NETWORKS

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
    lines = run(code, *NUMBERED, "mobilenet_0.25").splitlines()
    return {name: rest for name, *rest in map(json.loads, lines)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of a family: its network with healthy weights, and the file of these."""
    folder, held = tmp_path_factory.mktemp("made"), {}

    def make(name):
        if name in held:
            return held[name]
        spec, size = NETWORKS[name], FAMILIES[name]
        model, path = build(spec, size), folder / f"{name}.weights.h5"
        give_weights(model, preprocess(spec, pictures(16, size)))
        model.save_weights(path)
        if name in SEVERAL:
            held[name] = model, path
        return model, path

    yield make
    shutil.rmtree(folder)  # a gigabyte


# --- fidelity --------------------------------------------------------------------------------------


def test_every_family_is_here():
    assert {NETWORKS[name].module for name in FAMILIES} == {
        spec.module for spec in NETWORKS.values() if not spec.bundled
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_those_of_keras_by_hand(name, made, fresh):
    import keras

    spec, size = NETWORKS[name], FAMILIES[name]
    X = pictures(4, size)
    model, weights = made(name)
    taps = [spec.taps[0], spec.taps[3], spec.taps[-1]]
    options = {"weights": weights, "image_size": size, "cache": None, "batch_size": 3}
    ours = CNNFeatures(name, layer=taps, pooling="avgmax", **options).fit_transform(X)

    operations = canonical_operations(model)  # Keras has built this network twice by now, and others before
    assert name not in NUMBERED or list(operations) == fresh[name][0]
    by_hand = keras.Model(model.input, [operations[tap].output for tap in taps])
    x = preprocess(spec, X)
    at = 0
    for tap, y in zip(taps, by_hand(x, training=False), strict=True):
        theirs = pooled(y)
        assert off(ours[:, at : at + theirs.shape[1]], theirs) < 1e-4, tap
        at += theirs.shape[1]
    assert at == ours.shape[1]
    # the comparison would notice: other pictures, other pixels and training mode all give other numbers
    assert np.abs(theirs - theirs[::-1]).max() > 1e-2 * np.abs(theirs).max()
    if not (spec.options or spec.entry):  # others normalize inside
        assert off(pooled(model(X.astype("float32"), training=False)), theirs) > 1e-2
    if any("moving_mean" in v.path for v in model.weights):
        assert off(pooled(model(x, training=True)), theirs) > 1e-2
        model.load_weights(weights)  # training has moved its statistics


# --- random weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_0.25"])
def test_random_weights_are_the_same_in_every_process(name, fresh):
    spec, size = NETWORKS[name], FAMILIES[name]
    taps = Backbone(name, None, size).describe(spec.taps).taps
    assert [tap.digest for tap in taps] == fresh[name][1]
    assert len({tap.digest for tap in taps}) == len(spec.taps)


def test_random_weights_are_the_same_with_and_without_the_top():
    bare, topped = (
        Backbone("mobilenet_0.25", None, 64).describe([tap]) for tap in ("conv_pw_5_relu", "reshape")
    )
    both = Backbone("mobilenet_0.25", None, 64).describe(["conv_pw_5_relu", "reshape"])
    assert both.taps == (*bare.taps, *topped.taps)


def test_random_weights_are_warned_about():
    with pytest.warns(RandomWeightsWarning, match="mobilenet_0.25 has random weights"):
        CNNFeatures("mobilenet_0.25", weights=None, image_size=32, cache=None).fit(pictures(1, 32))


def test_building_leaves_the_random_state_of_python_and_numpy_alone(tmp_path):
    model = build(NETWORKS["mobilenet_0.25"], 32)
    model.save(tmp_path / "model.keras")
    random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for given in ({"model": "mobilenet_v3_small", "weights": None}, {"model": tmp_path / "model.keras"}):
        backbone = Backbone(**given, image_size=32, precision="bfloat16")
        description = backbone.describe()
        backbone.skeleton()
        backbone.compile([(description.taps[0], "avg")], description)(pictures(1, 32))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


# --- one row, whatever its company ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v2_0.35", "mobilenet_v3_small"])
def test_a_row_does_not_depend_on_its_company(name, made):
    size = FAMILIES[name]
    X = pictures(40, size)
    options = {"weights": made(name)[1], "image_size": size, "cache": None, "pooling": "avgmax"}
    whole = CNNFeatures(name, batch_size=32, **options).fit_transform(X)  # a full batch, and 8 rows padded
    assert np.abs(whole[0] - whole[1]).max() > 1e-2 * np.abs(whole).max()
    order = np.random.default_rng(0).permutation(40)
    assert off(CNNFeatures(name, batch_size=32, **options).fit_transform(X[order]), whole[order]) < 1e-5
    assert off(CNNFeatures(name, batch_size=7, **options).fit_transform(X[:15]), whole[:15]) < 1e-5
    assert off(CNNFeatures(name, batch_size=1, **options).fit_transform(X[36:]), whole[36:]) < 1e-5
    one = CNNFeatures(name, batch_size=32, **options).fit_transform(X[21:22])
    assert off(one, whole[21:22]) < 1e-5


# --- precision -----------------------------------------------------------------------------------------


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("name", ["mobilenet_v2_0.35", "efficientnet_b0", "convnext_tiny"])
def test_precisions_are_close_and_have_recipes_of_their_own(name, made):
    size = FAMILIES[name]
    X = pictures(2, size)
    cosine = {"float32": 1 - 1e-6, "tf32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
    if name == "convnext_tiny":
        del cosine["float16"], cosine["tf32"]  # slow
    digests, recipes = set(), set()
    for precision, least in cosine.items():
        cnn = CNNFeatures(name, weights=made(name)[1], image_size=size, precision=precision, cache=None)
        got = cnn.fit_transform(X)
        assert got.dtype == np.float32
        if precision == "float32":
            exact = got
        assert cosines(got, exact).min() > least
        assert off(got, exact) > 1e-6 or "float32" in PRECISIONS[precision]  # it does compute otherwise
        recipes.add(json.dumps(cnn.recipes_))
        digests.add(cnn.recipes_[0]["digest"])
    assert len(recipes) == len(cosine)
    assert len(digests) == 1


def test_float32_is_float32_whatever_the_model_computes_in():
    """A model saved under a mixed policy has the same digest, so it must give the same numbers."""
    import keras

    def model(policy):
        x = inputs = keras.Input((16, 16, 3), dtype="float32")
        x = keras.layers.Rescaling(1 / 255, dtype=policy)(x)
        for i in range(3):
            drawn = keras.initializers.RandomNormal(0.0, 0.3, seed=i)
            x = keras.layers.Conv2D(8, 3, kernel_initializer=drawn, dtype=policy, name=f"conv{i}")(x)
        return keras.Model(inputs, x)

    X = pictures(3, 16)
    plain, mixed = (CNNFeatures(model(p), cache=None) for p in ("float32", "mixed_bfloat16"))
    np.testing.assert_array_equal(mixed.fit_transform(X), plain.fit_transform(X))
    assert mixed.recipes_ == plain.recipes_


def test_too_large_for_float16_is_an_error_that_says_so():
    import keras

    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Rescaling(1000.0)(keras.layers.Rescaling(1.0)(inputs))
    cnn = CNNFeatures(keras.Model(inputs, outputs), precision="float16", cache=None)
    with pytest.raises(
        FloatingPointError, match=r"not finite under precision='float16'.*Use precision='float32'"
    ):
        cnn.fit_transform(np.full((1, 8, 8, 3), 255, "uint8"))


def test_networks_too_large_to_freeze_give_the_same(made, monkeypatch):
    X, name = pictures(3, 64), "mobilenet_0.25"
    cnn = CNNFeatures(name, weights=made(name)[1], image_size=64, cache=None)
    frozen = cnn.fit_transform(X)
    monkeypatch.setattr("tlfeatures._keras._FROZEN_LIMIT", 0)
    monkeypatch.setattr("tlfeatures.networks.backbone._compiled", OrderedDict())
    assert off(cnn.fit_transform(X), frozen) < 1e-5


# --- normalization -------------------------------------------------------------------------------------

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.35)


@pytest.mark.parametrize(
    "name", ["vgg16", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_b0", "convnext_tiny"]
)
def test_a_literal_normalization_takes_the_place_of_what_is_in_the_network(name, made):
    """By hand: the convolutions on (x / 255 - mean) / std, past whatever the network does to its pixels."""
    import keras

    X = pictures(3, FAMILIES[name])
    model, weights = made(name)
    options = {"weights": weights, "image_size": FAMILIES[name], "cache": None}
    cnn = CNNFeatures(name, normalization=(MEAN, STD), **options)
    ours = cnn.fit_transform(X)
    assert cnn.recipes_[0]["normalization"] == [list(MEAN), list(STD)]
    x = ((X / 255 - np.array(MEAN)) / np.array(STD)).astype("float32")
    begins = ("ZeroPadding2D", "Conv2D", "Sequential")
    first = next(layer for layer in model.layers if type(layer).__name__ in begins)
    by_hand = keras.Model(first.input, model.output)
    assert off(ours, numbers(by_hand(x, training=False)).mean((1, 2))) < 1e-4
    assert off(CNNFeatures(name, **options).fit_transform(X), ours) > 1e-2


@pytest.mark.parametrize("value", ["imagenet", (MEAN,), (MEAN, (1, 0, 1)), (MEAN, STD[:2]), 3, (MEAN, "abc")])
def test_a_normalization_of_another_form_is_an_error(value):
    with pytest.raises(ValueError, match="expected 'auto' or a pair"):
        Backbone("vgg16", normalization=value)


# --- weights: found, fetched, absent, damaged ------------------------------------------------------------


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine without weights and without a network."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folders = [tmp_path / "keras" / "models"]
    monkeypatch.setattr("tlfeatures.networks.weights.weights_folders", lambda: folders)

    def refuse(url, timeout):
        raise OSError(f"no route to {url} within {timeout} s")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return folders[0]


def save_as_keras_does(model, path):
    """In the legacy layout, as the weights that Keras fetches."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def test_pretrained_efficientnet_is_rescaled_twice_as_keras_does(no_weights, monkeypatch):
    """Keras builds EfficientNet v1 otherwise for weights="imagenet" than for the same file by its path."""
    import keras

    spec, size = NETWORKS["efficientnet_b0"], 64
    file = no_weights / spec.weights_file(top=False, image_size=(size, size))
    X = pictures(3, size)
    model = build(spec, size)
    save_as_keras_does(model, file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: str(file))
    theirs = keras.applications.EfficientNetB0(include_top=False, input_shape=(size, size, 3))
    give_weights(theirs, X.astype("float32"))
    save_as_keras_does(theirs, file)
    model.load_weights(file)
    by_hand = theirs(X.astype("float32"), training=False).numpy().mean((1, 2))
    mixed = CNNFeatures("efficientnet_b0", image_size=size, cache=None, precision="bfloat16")
    assert cosines(mixed.fit_transform(X), by_hand).min() > 0.99
    cnn = CNNFeatures("efficientnet_b0", image_size=size, cache=None)
    assert off(cnn.fit_transform(X), by_hand) < 1e-4
    by_path = CNNFeatures("efficientnet_b0", weights=file, image_size=size, cache=None)
    assert (
        off(by_path.fit_transform(X), model(X.astype("float32"), training=False).numpy().mean((1, 2))) < 1e-4
    )
    assert off(by_path.transform(X), by_hand) > 1e-2
    assert by_path.recipes_[0]["digest"] != cnn.recipes_[0]["digest"]


def test_weights_that_cannot_be_fetched_say_what_to_put_where(no_weights):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        CNNFeatures("vgg19", image_size=32, cache=None).fit(pictures(1, 32))
    assert time.perf_counter() - start < 30
    assert isinstance(caught.value, OSError)
    for part in (
        "'vgg19'", "no route to", "within 30.0 s",
        f"Expected the file vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 in {no_weights}",
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/vgg19_weights_tf_dim",
        "KERAS_HOME", "weights='path/to/file'", "weights=None",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_a_path_is_not_offered_where_keras_would_build_another_network(no_weights):
    with pytest.raises(WeightsError, match="copy it there") as caught:
        CNNFeatures("efficientnet_b0", image_size=32, cache=None).fit(pictures(1, 32))
    assert "path/to/file" not in str(caught.value)


def test_without_dns_the_error_comes_at_once(tmp_path):
    """The true download, in a process that cannot resolve names."""
    code = """
        import socket, sys, time
        from tlfeatures.networks.weights import fetch_weights
        from tlfeatures.registry import NETWORKS
        from tlfeatures.errors import WeightsError

        def refuse(*args, **kwargs):
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        socket.getaddrinfo = refuse
        start = time.perf_counter()
        try:
            fetch_weights(NETWORKS["mobilenet_0.25"], top=False, image_size=(96, 96))
        except WeightsError as error:
            print(time.perf_counter() - start < 10, "keras" in sys.modules, error)
    """
    env = {**os.environ, "KERAS_HOME": str(tmp_path), "HOME": str(tmp_path)}
    told = run(code, env=env)
    assert told.startswith("True False The ImageNet weights of 'mobilenet_0.25'")
    assert "name resolution" in told
    assert f"mobilenet_2_5_224_tf_no_top.h5 in {tmp_path}" in told


def test_a_download_appears_whole_or_not_at_all(no_weights, tmp_path, monkeypatch):
    source = tmp_path / "source.h5"
    save_as_keras_does(build(NETWORKS["mobilenet_0.25"], 32), source)
    name = NETWORKS["mobilenet_0.25"].weights_file(top=False, image_size=(32, 32))
    content = source.read_bytes()

    def serve(lost):
        def answer(url, timeout):
            body = io.BytesIO(content[: len(content) - lost])
            body.headers = {"Content-Length": str(len(content))}
            assert url.endswith("mobilenet/mobilenet_2_5_224_tf_no_top.h5")
            return body

        monkeypatch.setattr("urllib.request.urlopen", answer)

    cnn = CNNFeatures("mobilenet_0.25", image_size=32, cache=None)
    serve(lost=1000)
    with pytest.raises(WeightsError, match=r"the connection ended after \d+ of \d+ bytes"):
        cnn.fit(pictures(1, 32))
    assert os.listdir(no_weights) == []
    serve(lost=0)
    assert cnn.fit_transform(pictures(2, 32)).shape == (2, 256)
    assert os.listdir(no_weights) == [name]
    assert (no_weights / name).read_bytes() == content
    monkeypatch.undo()


def test_a_weights_folder_that_cannot_be_written_leads_to_the_next(tmp_path, monkeypatch):
    blocked, free = tmp_path / "file" / "models", tmp_path / "free" / "models"
    (tmp_path / "file").touch()
    monkeypatch.setattr("tlfeatures.networks.weights.weights_folders", lambda: [blocked, free])
    monkeypatch.setattr("tlfeatures.networks.weights._download", lambda url, target: target)
    fetched = fetch_weights(NETWORKS["vgg16"], top=False, image_size=(32, 32))
    assert fetched.parent == free


@pytest.mark.parametrize("top", [False, True])
def test_weights_depend_on_the_image_size_where_keras_has_several(no_weights, top):
    """MobileNet at 128 pixels has a file of its own: another embedding, and another side note."""
    spec = NETWORKS["mobilenet_0.25"]
    layer = "reshape" if top else "conv_pw_13_relu"
    digests = []
    for size in (128, 224):
        model = build(spec, size, top=top)
        give_weights(model, preprocess(spec, pictures(2, size)), seed=size)
        file = no_weights / spec.weights_file(top=top, image_size=(size, size))
        assert f"_{size}_tf" in file.name
        save_as_keras_does(model, file)
    for size in (128, 224, 130, (128, 224)):
        (tap,) = Backbone(spec.name, image_size=size).describe([layer]).taps
        digests.append(tap.digest)
    assert digests[0] != digests[1]
    assert digests[1] == digests[2] == digests[3]


def test_the_file_that_is_here_is_used_before_one_is_fetched(no_weights):
    spec = NETWORKS["mobilenet_0.25"]
    model = build(spec, 32, top=True)
    give_weights(model, preprocess(spec, pictures(4, 32)))
    save_as_keras_does(model, no_weights / spec.weights_file(top=True, image_size=(32, 32)))
    ours = CNNFeatures(spec.name, layer=["conv_pw_13_relu", "predictions"], image_size=32, cache=None)
    got = ours.fit_transform(pictures(2, 32))
    assert off(got[:, 256:], model(preprocess(spec, pictures(2, 32)), training=False)) < 1e-4
    with pytest.raises(UnknownNameError, match="Did you mean 'conv_pw_11_relu'"):
        CNNFeatures(spec.name, layer="conv_pw_11_rel", image_size=32).fit(pictures(1, 32))


def test_damaged_weights_are_named(tmp_path, made):
    content = made("mobilenet_0.25")[1].read_bytes()
    damages = {
        "cut.weights.h5": content[: len(content) // 2],
        "empty.weights.h5": b"",
        "text.weights.h5": b"not found\n",
        "zeros.h5": bytes(4096),
    }
    for name, damaged in damages.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(WeightsError, match=rf"(?s)Cannot load the weights file .*{name}.*damaged"):
            Backbone("mobilenet_0.25", tmp_path / name, 64).describe()


def test_weights_of_another_network_are_refused(tmp_path, made):
    for theirs in ("mobilenet_v2_0.35", "mobilenet_v3_small"):
        with pytest.raises(WeightsError, match=r"(?s)Cannot load the weights file .*of another network"):
            Backbone("mobilenet_0.25", made(theirs)[1], 64).describe()
    with pytest.raises(WeightsError, match="of another network"):
        Backbone("mobilenet_0.5", made("mobilenet_0.25")[1], 64).describe()
    save_as_keras_does(build(NETWORKS["mobilenet_v2_0.35"], 32), tmp_path / "legacy.h5")
    with pytest.raises(WeightsError, match="of another network"):
        Backbone("mobilenet_0.25", tmp_path / "legacy.h5", 64).describe()


@pytest.mark.parametrize(
    ("weights", "error", "told"),
    [
        ("nowhere.h5", WeightsError, "No weights file at 'nowhere.h5'; expected 'imagenet', the path"),
        ("ImageNet", WeightsError, "No weights file at 'ImageNet'"),
        (3, TypeError, "weights is of type int; expected 'imagenet', a path, or None"),
    ],
)
def test_weights_of_another_kind_are_refused(weights, error, told):
    with pytest.raises(error, match=told):
        Backbone("vgg16", weights)


def test_weights_in_a_file_of_another_kind_are_refused(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(WeightsError, match=r"must end in .weights.h5 or .h5"):
        Backbone("mobilenet_0.25", tmp_path / "model.pt", 32).describe()


# --- the top ------------------------------------------------------------------------------------------


def test_fully_connected_taps_load_the_top(tmp_path):
    spec = NETWORKS["vgg16"]
    model = build(spec, 32, top=True)
    model.save_weights(tmp_path / "made.weights.h5")
    X = pictures(2, 32)
    layers = ["block5_pool", "fc1", "fc2", "predictions"]
    cnn = CNNFeatures("vgg16", layer=layers, weights=tmp_path / "made.weights.h5", image_size=32, cache=None)
    ours = cnn.fit_transform(X)
    import keras

    by_hand = keras.Model(model.input, [model.get_layer(layer).output for layer in layers])
    theirs = by_hand(preprocess(spec, X), training=False)
    theirs = np.concatenate([theirs[0].numpy().mean((1, 2)), *(y.numpy() for y in theirs[1:])], axis=1)
    assert ours.shape == (2, 512 + 4096 + 4096 + 1000)
    assert off(ours, theirs) < 1e-4
    names = cnn.get_feature_names_out()
    assert names[[0, 512, -1]].tolist() == ["block5_pool_avg_000", "fc1_0000", "predictions_999"]
    # the bottom alone has the same digest, so what one has stored serves the other
    assert (
        Backbone("vgg16", tmp_path / "made.weights.h5", 32).describe().taps[0].digest
        == cnn.recipes_[0]["digest"]
    )


def test_an_unknown_layer_is_told_with_its_neighbours():
    with pytest.raises(UnknownNameError) as caught:
        Backbone("vgg16", None, 32).describe(["block5_poool"])
    assert str(caught.value) == (
        "Unknown layer of vgg16 'block5_poool'. Did you mean 'block5_pool' or 'block4_pool' or 'block3_pool'? "
        "See `tlfeatures layers vgg16` for all of them."
    )


def test_images_smaller_than_a_network_can_take_are_an_error():
    with pytest.raises(ValueError, match=r"inception_v3 cannot take images of 40x40 pixels: .*75"):
        Backbone("inception_v3", None, 40).describe()
