"""Weights: search, download, errors for damaged or mismatched files, and networks with their top."""

from __future__ import annotations

import io
import json
import os
import shutil

import numpy as np
import pytest

from tests.networks import (
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
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.networks import NETWORKS, Backbone, _backbone, _loading, _metadata
from tlfeatures.networks._weights import fetch_weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Function that saves a weights file of a network, by its name."""
    folder = tmp_path_factory.mktemp("saved")

    def save(name):
        path = folder / f"{name}.weights.h5"
        if not path.exists():
            build(NETWORKS[name], 64).save_weights(path)
        return path

    return save


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """The weights folder of a machine without weights and without internet access."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    folders = [tmp_path / "keras" / "models"]
    monkeypatch.setattr("tlfeatures.networks._weights.weights_folders", lambda: folders)

    def refuse(request, timeout):
        raise OSError(f"no route to {request.full_url} within {timeout} s")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return folders[0]


def save_in_legacy_layout(model, path):
    """Save in the legacy layout of the weights that Keras downloads."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


@pytest.mark.slow
def test_pretrained_efficientnet_is_rescaled_twice_as_keras_does(no_weights, monkeypatch):
    """Keras builds different EfficientNet v1 networks for weights="imagenet" and for the path of the same file."""
    import keras

    spec, size = NETWORKS["efficientnet_b0"], 64
    file = no_weights / spec.weights_file(top=False, image_size=(size, size))
    X = make_images(3, size)
    model = build(spec, size)
    save_in_legacy_layout(model, file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: str(file))
    theirs = keras.applications.EfficientNetB0(include_top=False, input_shape=(size, size, 3))
    set_random_weights(theirs, X.astype("float32"))
    save_in_legacy_layout(theirs, file)
    model.load_weights(file)
    by_hand = to_array(theirs(X.astype("float32"), training=False)).mean((1, 2))
    mixed = CNNFeatures("efficientnet_b0", image_size=size, cache=None, precision="bfloat16")
    assert cosines(mixed.fit_transform(X), by_hand).min() > 0.99
    cnn = CNNFeatures("efficientnet_b0", image_size=size, cache=None)
    assert relative_difference(cnn.fit_transform(X), by_hand) < 1e-4
    by_path = CNNFeatures("efficientnet_b0", weights=file, image_size=size, cache=None)
    assert (
        relative_difference(
            by_path.fit_transform(X), to_array(model(X.astype("float32"), training=False)).mean((1, 2))
        )
        < 1e-4
    )
    assert relative_difference(by_path.transform(X), by_hand) > 1e-2
    assert by_path.recipes_[0]["digest"] != cnn.recipes_[0]["digest"]


def test_a_failed_download_raises_an_error_with_file_folder_and_address(no_weights):
    with pytest.raises(WeightsError) as caught:
        CNNFeatures("vgg19", image_size=32, cache=None).fit(make_images(1, 32))
    assert isinstance(caught.value, OSError)
    for part in (
        "'vgg19'", "no route to", "within 30.0 s",
        f"Expected the file vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 in {no_weights}",
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/vgg19_weights_tf_dim",
        "KERAS_HOME", "`tlfeatures weights fetch vgg19`", "weights='path/to/file'", "weights=None",
        "Other networks whose weights are on this machine: 'tiny'.",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_the_error_lists_the_networks_with_weights_on_this_machine(no_weights):
    no_weights.mkdir(parents=True)
    for name in ("mobilenet_0.5", "resnet50"):
        spec = NETWORKS[name]
        (no_weights / spec.weights_file(top=name == "resnet50", image_size=(spec.image_size,) * 2)).touch()
    with pytest.raises(WeightsError, match=r"this machine: 'resnet50', 'mobilenet_0.5', 'tiny'\.$"):
        fetch_weights(NETWORKS["vgg19"], top=False, image_size=(32, 32))


def test_the_error_says_whether_the_file_is_absent_or_damaged(no_weights):
    spec = NETWORKS["vgg16"]
    file = no_weights / spec.weights_file(top=False, image_size=(224, 224))
    no_weights.mkdir(parents=True)
    file.touch()
    with pytest.raises(
        WeightsError, match=r"^The ImageNet weights of 'vgg16' with the fully connected top "
    ) as caught:
        fetch_weights(spec, top=True, image_size=(224, 224))
    assert "are not on this machine" in str(caught.value)
    assert str(caught.value).endswith("Other networks whose weights are on this machine: 'tiny'.")
    with pytest.raises(
        WeightsError, match=r"'vgg16' is damaged and could not be downloaded again \("
    ) as caught:
        fetch_weights(spec, top=False, image_size=(224, 224), damaged=file)
    assert str(caught.value).startswith(f"The weights file {str(file)!r}")
    assert "are not on this machine" not in str(caught.value)


def test_no_path_is_suggested_if_keras_would_build_another_network_for_it(no_weights):
    with pytest.raises(WeightsError, match="tlfeatures weights import FILE") as caught:
        CNNFeatures("efficientnet_b0", image_size=32, cache=None).fit(make_images(1, 32))
    assert "path/to/file" not in str(caught.value)


def test_without_dns_the_error_is_raised_at_once(tmp_path):
    """Tests the real download in a process that cannot resolve names."""
    code = """
        import socket, sys
        from tlfeatures.networks._weights import fetch_weights
        from tlfeatures.networks import NETWORKS
        from tlfeatures.errors import WeightsError

        def refuse(*args, **kwargs):
            raise socket.gaierror(-3, "Temporary failure in name resolution")

        socket.getaddrinfo = refuse
        try:
            fetch_weights(NETWORKS["mobilenet_0.25"], top=False, image_size=(96, 96))
        except WeightsError as error:
            print("keras" in sys.modules, error)
    """
    env = {**os.environ, "KERAS_HOME": str(tmp_path), "HOME": str(tmp_path)}
    output = run(code, env=env)
    assert output.startswith("False The ImageNet weights of 'mobilenet_0.25'")
    assert "name resolution" in output
    assert f"mobilenet_2_5_224_tf_no_top.h5 in {tmp_path}" in output


def test_a_downloaded_file_is_complete_or_absent_and_read_once(no_weights, tmp_path, store, monkeypatch):
    source = tmp_path / "source.h5"
    save_in_legacy_layout(build(NETWORKS["mobilenet_0.25"], 32), source)
    name = NETWORKS["mobilenet_0.25"].weights_file(top=False, image_size=(32, 32))
    content = source.read_bytes()

    def serve(n_missing):
        def answer(request, timeout):
            body = io.BytesIO(content[: len(content) - n_missing])
            body.headers = {"Content-Length": str(len(content))}
            assert request.full_url.endswith("mobilenet/mobilenet_2_5_224_tf_no_top.h5")
            return body

        monkeypatch.setattr("urllib.request.urlopen", answer)

    clear_caches()
    cnn = CNNFeatures("mobilenet_0.25", image_size=32, cache=store)
    serve(n_missing=1000)
    with pytest.raises(WeightsError, match=r"the connection ended after [\d,]+ of [\d,]+ bytes"):
        cnn.fit(make_images(1, 32))
    assert os.listdir(no_weights) == []
    serve(n_missing=0)
    reads, read = [], _loading.read_weights
    monkeypatch.setattr(_loading, "read_weights", lambda model, path: reads.append(path) or read(model, path))
    assert cnn.fit_transform(make_images(2, 32)).shape == (2, 256)
    assert os.listdir(no_weights) == [name]
    assert (no_weights / name).read_bytes() == content
    assert reads.count(no_weights / name) == 1
    assert len(list(store.root.glob("v1/networks/*.json"))) == 1  # so that other processes need not load it
    os.remove(no_weights / name)
    serve(n_missing=1000)
    with pytest.raises(WeightsError, match="the connection ended after"):  # it is not in memory either
        CNNFeatures("mobilenet_0.25", image_size=32, cache=None).fit(make_images(1, 32))


def test_a_weights_folder_without_write_access_is_skipped(tmp_path, monkeypatch):
    blocked, writable = tmp_path / "file" / "models", tmp_path / "writable" / "models"
    (tmp_path / "file").touch()
    monkeypatch.setattr("tlfeatures.networks._weights.weights_folders", lambda: [blocked, writable])
    monkeypatch.setattr("tlfeatures.networks._weights.download", lambda url, target, *_: None)
    path = fetch_weights(NETWORKS["vgg16"], top=False, image_size=(32, 32))
    assert path.parent == writable


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
def test_weights_depend_on_the_image_size_if_keras_has_several_files(no_weights, top):
    """MobileNet at 128 pixels has its own file, so that its embeddings and metadata differ."""
    spec = NETWORKS["mobilenet_0.25"]
    layer = "reshape" if top else "conv_pw_13_relu"
    digests = []
    for size in (128, 224):
        model = build(spec, size, top=top)
        set_random_weights(model, preprocess(spec, make_images(2, size)), seed=size)
        file = no_weights / spec.weights_file(top=top, image_size=(size, size))
        assert f"_{size}_tf" in file.name
        save_in_legacy_layout(model, file)
    for size in (128, 224, 130, (128, 224)):
        (tap,) = Backbone(spec.name, image_size=size).describe([layer]).taps
        digests.append(tap.digest)
    assert digests[0] != digests[1]
    assert digests[1] == digests[2] == digests[3]


def test_an_existing_file_is_used_before_a_download(no_weights):
    spec = NETWORKS["mobilenet_0.25"]
    model = build(spec, 32, top=True)
    set_random_weights(model, preprocess(spec, make_images(4, 32)))
    save_in_legacy_layout(model, no_weights / spec.weights_file(top=True, image_size=(32, 32)))
    ours = CNNFeatures(spec.name, layer=["conv_pw_13_relu", "predictions"], image_size=32, cache=None)
    got = ours.fit_transform(make_images(2, 32))
    assert (
        relative_difference(got[:, 256:], model(preprocess(spec, make_images(2, 32)), training=False)) < 1e-4
    )
    with pytest.raises(UnknownNameError, match="Did you mean 'conv_pw_11_relu'"):
        CNNFeatures(spec.name, layer="conv_pw_11_rel", image_size=32).fit(make_images(1, 32))


def test_damaged_weights_raise_an_error_with_the_file_name(tmp_path, saved):
    content = saved("mobilenet_0.25").read_bytes()
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


@pytest.mark.slow
def test_weights_of_another_network_raise_an_error(tmp_path, saved):
    import keras

    theirs = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3, name="conv1")])
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    save_in_legacy_layout(theirs, tmp_path / "legacy.h5")
    with pytest.raises(WeightsError, match=r"(?s)Cannot load the weights file .*of another network"):
        Backbone("mobilenet_0.25", tmp_path / "theirs.weights.h5", 64).describe()
    with pytest.raises(WeightsError, match="of another network"):
        Backbone("mobilenet_0.25", tmp_path / "legacy.h5", 64).describe()
    with pytest.raises(WeightsError, match="of another network"):
        Backbone("mobilenet_0.5", saved("mobilenet_0.25"), 64).describe()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("nowhere.h5", WeightsError, "does not exist: 'nowhere.h5'. Expected 'imagenet', the path"),
        ("ImageNet", WeightsError, "`weights` names a file that does not exist: 'ImageNet'"),
        (3, TypeError, "`weights` must be 'imagenet', 'bundled', the path of .* or None; got 3."),
    ],
)
def test_invalid_weights_raise_an_error(weights, error, message):
    with pytest.raises(error, match=message):
        Backbone("vgg16", weights)


def test_a_weights_file_with_another_extension_raises_an_error(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(WeightsError, match=r"must end in .weights.h5 or .h5"):
        Backbone("mobilenet_0.25", tmp_path / "model.pt", 32).describe()


# --- the top ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fully_connected_taps_load_the_top(tmp_path):
    spec = NETWORKS["vgg16"]
    model = build(spec, 32, top=True)
    model.save_weights(tmp_path / "vgg16.weights.h5")
    X = make_images(2, 32)
    layers = ["block5_pool", "fc1", "fc2", "predictions"]
    cnn = CNNFeatures("vgg16", layer=layers, weights=tmp_path / "vgg16.weights.h5", image_size=32, cache=None)
    ours = cnn.fit_transform(X)
    import keras

    by_hand = keras.Model(model.input, [model.get_layer(layer).output for layer in layers])
    theirs = [to_array(y) for y in by_hand(preprocess(spec, X), training=False)]
    theirs = np.concatenate([theirs[0].mean((1, 2)), *theirs[1:]], axis=1)
    assert ours.shape == (2, 512 + 4096 + 4096 + 1000)
    assert relative_difference(ours, theirs) < 1e-4
    names = cnn.get_feature_names_out()
    assert names[[0, 512, -1]].tolist() == ["block5_pool_avg_000", "fc1_0000", "predictions_999"]
    # the network without its top has the same digest, so that both share stored rows
    assert (
        Backbone("vgg16", tmp_path / "vgg16.weights.h5", 32).describe().taps[0].digest
        == cnn.recipes_[0]["digest"]
    )


def test_an_unknown_layer_raises_an_error_with_near_matches():
    with pytest.raises(UnknownNameError) as caught:
        Backbone("vgg16", None, 32).describe(["block5_poool"])
    assert str(caught.value) == (
        "Unknown layer of vgg16 'block5_poool'. Did you mean 'block5_pool' or 'block4_pool' or 'block3_pool'? "
        "See `tlfeatures layers vgg16` for all names."
    )


def test_images_too_small_for_a_network_raise_an_error():
    with pytest.raises(ValueError, match=r"inception_v3 cannot take images of 40x40 pixels: .*75"):
        Backbone("inception_v3", None, 40).describe()


# --- files with and without the top --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models_and_files(tmp_path_factory):
    """Models without and with the top, which have different weights, and the folder of their files."""
    folder, spec, models = tmp_path_factory.mktemp("two files"), NETWORKS["mobilenet_0.25"], []
    for top in (False, True):
        model = build(spec, 32, top=top)
        set_random_weights(model, preprocess(spec, make_images(8, 32)), seed=int(top))
        save_in_legacy_layout(model, folder / spec.weights_file(top=top, image_size=(32, 32)))
        models.append(model)
    return models, folder


@pytest.fixture
def two_files(models_and_files, no_weights):
    """The models of the ImageNet files without and with the top, in the weights folder of this machine."""
    models, folder = models_and_files
    shutil.copytree(folder, no_weights)
    clear_caches()
    return models


def clear_caches():
    """Clear the caches, as in a new process."""
    _metadata.clear()
    for values in (_loading._models, _backbone._compiled):
        values.clear()


def expected_embedding(model, layer):
    import keras

    y = keras.Model(model.input, model.get_layer(layer).output)(preprocess(NETWORKS["mobilenet_0.25"], X32))
    return to_array(y).mean((1, 2))


X32 = make_images(2, 32)
EARLY, TOP = "conv_pw_5_relu", "reshape"


@pytest.mark.slow
def test_the_file_without_the_top_is_preferred_after_any_earlier_request(two_files, store):
    options = {"image_size": 32, "cache": store}
    both = CNNFeatures("mobilenet_0.25", layer=[EARLY, TOP], **options).fit(X32)
    early = CNNFeatures("mobilenet_0.25", layer=EARLY, **options).fit(X32)
    clear_caches()
    fresh = CNNFeatures("mobilenet_0.25", layer=EARLY, image_size=32, cache=None).fit(X32)
    assert early.recipes_ == fresh.recipes_ != both.recipes_[:1]
    assert relative_difference(early.transform(X32), expected_embedding(two_files[0], EARLY)) < 1e-4


def test_rows_are_computed_from_the_file_of_their_recipe(two_files, store):
    """Only the early layer is missing, which both files contain."""
    options = {"image_size": 32, "cache": store}
    CNNFeatures("mobilenet_0.25", layer=TOP, **options).fit_transform(X32)
    both = CNNFeatures("mobilenet_0.25", layer=[EARLY, TOP], **options).fit_transform(X32)
    assert relative_difference(both[:, :-1000], expected_embedding(two_files[1], EARLY)) < 1e-4


def test_a_second_process_does_not_import_keras(two_files, tmp_path, no_weights):
    stores = {str(tmp_path / str(i)): layer for i, layer in enumerate((EARLY, TOP, [EARLY, TOP]))}
    for store, layer in stores.items():
        _metadata.clear()  # of the stores before
        CNNFeatures("mobilenet_0.25", layer=layer, image_size=32, cache=store).fit_transform(X32)
    np.save(tmp_path / "X.npy", X32)
    code = """
        import json, sys
        import numpy as np
        from tlfeatures import CNNFeatures
        from tlfeatures.networks import _metadata
        for store, layer in json.loads(sys.argv[1]).items():
            _metadata.clear()  # so that all comes from this store
            cnn = CNNFeatures("mobilenet_0.25", layer=layer, image_size=32, cache=store)
            print(cnn.fit_transform(np.load(sys.argv[2])).shape[1], "keras" in sys.modules)
    """
    env = {**os.environ, "KERAS_HOME": str(no_weights.parent)}
    output = run(code, json.dumps(stores), str(tmp_path / "X.npy"), env=env)
    assert output.splitlines() == ["64 False", "1000 False", "1064 False"]


def test_a_path_to_a_file_with_the_top_loads_the_network_once(two_files, store, no_weights, monkeypatch):
    path = next(no_weights.glob("*_tf.h5"))
    options = {"weights": path, "image_size": 32, "cache": store}
    first = CNNFeatures("mobilenet_0.25", layer=EARLY, **options).fit_transform(X32)
    assert relative_difference(first, expected_embedding(two_files[1], EARLY)) < 1e-4
    clear_caches()
    monkeypatch.setattr(Backbone, "_load", lambda *args: pytest.fail("loads the network"))
    np.testing.assert_array_equal(
        CNNFeatures("mobilenet_0.25", layer=EARLY, **options).fit_transform(X32), first
    )
