"""Models of the user's own: which pixels they get, which are refused, and when two are the same network."""

from __future__ import annotations

import functools
import inspect
import pickle
import shutil
import warnings

import numpy as np
import pytest
from sklearn.base import clone

from tests.networks import KERAS_3_8, build, numbers, off, pictures, preprocess
from tlfeatures import CNNFeatures, list_layers
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.networks import NETWORKS, Backbone, layer_table
from tlfeatures.networks._custom import find_preprocessing

keras = pytest.importorskip("keras")
L = keras.layers
SIDE = 32
X = pictures(3, SIDE)


def embedding(model, **options):
    return CNNFeatures(model, cache=None, **options).fit_transform(X)


def by_hand(model, layer=None, x=None):
    """The average of a layer's map, of pixels as they are unless ``x`` is given."""
    tapped = model if layer is None else keras.Model(model.inputs[0], model.get_layer(layer).output)
    y = numbers(tapped(X.astype("float32") if x is None else x, training=False))
    return y.mean((1, 2)) if y.ndim == 4 else y


def conv(filters=6, seed=0, **options):
    return L.Conv2D(filters, 3, kernel_initializer=keras.initializers.HeNormal(seed), **options)


def functional(*head, size=(SIDE, SIDE)):
    """A model with a map and a vector behind it."""
    x = inputs = keras.Input((*size, 3))
    for layer in head:
        x = layer(x)
    x = conv(name="map", activation="relu")(x)
    x = L.Dropout(0.9)(x)
    x = L.BatchNormalization(name="last")(x)
    return keras.Model(inputs, L.Dense(4, name="scores")(L.GlobalAveragePooling2D()(x)))


def mobilenet(top=None, size=SIDE):
    bottom = build(NETWORKS["mobilenet_0.25"], size)
    if top is None:
        return bottom
    return keras.Model(bottom.input, top(L.GlobalAveragePooling2D()(bottom.output)))


# --- the same embedding as by hand ---------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
def test_a_functional_model(saved, tmp_path):
    model = functional(L.Rescaling(1 / 255))
    if saved:
        model.save(tmp_path / "mine.keras")
    given = tmp_path / "mine.keras" if saved else model
    assert off(embedding(given), by_hand(model, "last")) < 1e-4
    assert off(embedding(given, layer="map"), by_hand(model, "map")) < 1e-4
    assert off(embedding(given, layer="scores", pooling="max"), by_hand(model, "scores")) < 1e-4
    assert (
        off(embedding(str(given) if saved else given, layer=["map", "scores"])[:, :6], by_hand(model, "map"))
        < 1e-4
    )


def test_one_note_on_a_file_serves_all_its_layers(tmp_path, store):
    """The last map may be asked for after another layer."""
    functional(L.Rescaling(1 / 255)).save(tmp_path / "mine.keras")
    first = CNNFeatures(tmp_path / "mine.keras", layer="map", cache=store).fit(X)
    second = CNNFeatures(tmp_path / "mine.keras", cache=store).fit(X)
    assert (first.layers_, second.layers_) == (["map"], ["last"])


@pytest.mark.parametrize("saved", [False, True])
def test_a_sequential_model(saved, tmp_path):
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), L.Rescaling(1 / 255), conv(name="map"), L.Flatten()]
    )
    if saved:
        model.save(tmp_path / "mine.keras")
    assert off(embedding(tmp_path / "mine.keras" if saved else model), by_hand(model, "map")) < 1e-4


@pytest.mark.parametrize("saved", [False, True])
def test_a_model_around_a_network_of_keras_has_its_normalization(saved, tmp_path):
    """A fine-tuned model as most are made: augmentation, network, pooling, classes."""
    augmentation = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.2)], name="augmentation")
    network = mobilenet()
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = L.GlobalAveragePooling2D()(network(augmentation(x), training=False))
    model = keras.Model(inputs, L.Dense(3, name="scores")(x))
    if saved:
        model.save(tmp_path / "mine.keras")
    given = tmp_path / "mine.keras" if saved else model
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = embedding(given)
    x = preprocess(NETWORKS["mobilenet_0.25"], X)
    assert off(ours, by_hand(network, x=x)) < 1e-4
    assert off(embedding(given, layer="scores"), by_hand(model, x=x)) < 1e-4


def test_precision_reaches_into_nested_models():
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = mobilenet()(keras.ops.divide(x, 255.0))
    model = keras.Model(inputs, x)
    exact, rough = embedding(model), embedding(model, precision="bfloat16")
    assert 1e-4 < off(rough, exact) < 0.1
    assert off(exact, by_hand(model)) < 1e-4  # and the user's own model is as it was


def test_an_adapted_normalization_goes_along_into_another_precision():
    """What Normalization computes with is no variable: it must be made anew from the weights."""
    layer = L.Normalization(mean=None)
    layer.adapt(X.astype("float32"))
    model = functional(layer)
    assert off(embedding(model, precision="bfloat16"), by_hand(model, "last")) < 0.05


def test_a_model_of_any_size_takes_the_size_asked_for():
    model = functional(L.Rescaling(1 / 255), size=(None, None))
    assert embedding(model, image_size=SIDE).shape == (3, 6)
    assert off(embedding(model, image_size=SIDE), by_hand(model, "last")) < 1e-4
    assert Backbone(model).describe().image_size == (224, 224)
    assert Backbone(model, image_size=(30, 20)).describe().taps[0].shape == (28, 18, 6)


def test_a_model_of_one_size_keeps_it():
    model = functional(L.Rescaling(1 / 255), size=(24, 20))
    assert Backbone(model).describe().image_size == (24, 20)
    assert Backbone(model, image_size=(24, 20)).describe().image_size == (24, 20)
    with pytest.raises(
        ValueError, match=r"must be \(24, 20\), the input size of .*; got \(30, 30\). Leave it out"
    ):
        Backbone(model, image_size=30).describe()
    with pytest.raises(ValueError, match=r"must be \(None, 20\), .*; got \(30, 30\)"):
        Backbone(functional(size=(None, 20)), image_size=30).describe()


# --- pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "module"),
    [
        ("vgg16", 32, "vgg16"),
        ("resnet50", 32, "resnet"),
        ("resnet50_v2", 32, "resnet_v2"),  # has all the names of resnet50, and other pixels
        ("densenet121", 32, "densenet"),
        ("xception", 71, "xception"),
        ("mobilenet_0.25", 32, "mobilenet"),
        ("mobilenet_v2_0.35", 32, "mobilenet_v2"),
        ("mobilenet_v3_small", 32, "raw"),
        ("efficientnet_b0", 32, "raw"),
        ("efficientnet_v2_b0", 32, "raw"),
        ("convnext_tiny", 32, "raw"),
    ],
)
def test_a_network_of_keras_is_recognized(name, size, module):
    model = build(NETWORKS[name], size)
    assert find_preprocessing(model) == module
    other_top = keras.Model(model.input, L.Dense(3)(L.GlobalMaxPooling2D()(model.output)))
    assert find_preprocessing(other_top) == module
    nested = keras.Sequential([keras.Input((size, size, 3)), model, L.GlobalAveragePooling2D()])
    assert find_preprocessing(nested) == module


def test_a_saved_network_has_its_own_normalization(tmp_path):
    model = mobilenet()
    model.save(tmp_path / "mine.keras")
    cnn = CNNFeatures(tmp_path / "mine.keras", cache=None)
    assert off(cnn.fit_transform(X), by_hand(model, x=preprocess(NETWORKS["mobilenet_0.25"], X))) < 1e-4
    assert cnn.recipes_[0]["normalization"] == "mobilenet"


@pytest.mark.parametrize(
    "head",
    [
        lambda x: L.Rescaling(1 / 127.5, offset=-1)(x),
        lambda x: L.Normalization(mean=[100.0] * 3, variance=[70.0] * 3)(x),
        lambda x: x / 127.5 - 1,
        lambda x: keras.applications.mobilenet.preprocess_input(x),
        lambda x: L.Rescaling(1 / 255)(L.RandomFlip()(L.Resizing(SIDE, SIDE)(x))),
    ],
)
def test_a_model_that_normalizes_gets_0_to_255(head):
    """Also where the network behind it is one of Keras's, whose preprocessing is then done already."""
    inputs = keras.Input((SIDE, SIDE, 3))
    for network in (mobilenet(), keras.Sequential([conv()])):
        model = keras.Model(inputs, network(head(inputs)))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert off(embedding(model), by_hand(model)) < 1e-4


def bare():
    return build(NETWORKS["mobilenet_v3_small"], SIDE, include_preprocessing=False)


@pytest.mark.parametrize("model", [functional, bare])
def test_unknown_pixels_are_warned_about_once(model):
    model = model()
    with pytest.warns(UserWarning, match="so it gets RGB pixels from 0 to 255.*pass normalization") as caught:
        CNNFeatures(model, cache=None).fit_transform(X)
    assert len([w for w in caught if "RGB pixels" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        embedding(model, normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def test_a_literal_normalization_goes_in_front_of_the_users_model():
    model = functional()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.35)
    x = ((X / 255 - np.array(mean)) / np.array(std)).astype("float32")
    assert off(embedding(model, normalization=(mean, std)), by_hand(model, "last", x)) < 1e-4


# --- refused -------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.conv = L.Conv2D(2, 3)

    def call(self, x):
        return self.conv(x)


def one_channel():
    inputs = keras.Input((SIDE, SIDE, 1))
    return keras.Model(inputs, conv()(inputs), name="grey")


def two_inputs():
    a, b = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    return keras.Model([a, b], conv()(a + b), name="two")


def vector():
    inputs = keras.Input((12,))
    return keras.Model(inputs, L.Dense(2)(inputs), name="flat")


def nothing():
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, L.Reshape((SIDE, SIDE, 3, 1))(inputs), name="none")


def called():
    model = Subclassed()
    model(X.astype("float32"))
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (one_channel, r"'grey' takes inputs of shape \[\(None, 32, 32, 1\)\]; expected one input"),
        (two_inputs, r"'two' takes inputs of shape \[\(None, 32, 32, 3\), .*; expected one input"),
        (vector, r"'flat' takes inputs of shape \[\(None, 12\)\]; expected one input"),
        (Subclassed, r"'mine' is not a graph of layers; expected a Functional model, or a Sequential"),
        (called, r"'mine' is not a graph of layers"),
        (lambda: keras.Sequential([conv()], name="unbuilt"), r"'unbuilt' is not a graph .*give it an Input"),
        (nothing, r"'none' has no layer with a feature map"),
    ],
)
def test_models_that_cannot_serve_are_refused(make, told):
    model = make()
    with pytest.raises(ValueError, match=told):
        Backbone(model).describe()
    if told.endswith("one input"):
        with pytest.raises(ValueError, match=told):
            list_layers(model)


def test_a_file_with_code_in_it_is_refused(tmp_path):
    inputs = keras.Input((SIDE, SIDE, 3))
    keras.Model(inputs, L.Lambda(lambda x: x * 2)(inputs)).save(tmp_path / "code.keras")
    with pytest.raises(WeightsError, match=r"(?s)Cannot load .*code.keras.*Lambda layers or custom"):
        Backbone(tmp_path / "code.keras").describe()


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "bad.keras").write_bytes(content)
    with pytest.raises(WeightsError, match=r"(?s)Cannot load .*bad.keras.*Expected a model saved by"):
        Backbone(tmp_path / "bad.keras").describe()


def test_a_cut_file_is_named(tmp_path):
    functional().save(tmp_path / "cut.keras")
    content = (tmp_path / "cut.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(WeightsError, match=r"Cannot load .*cut.keras"):
        Backbone(tmp_path / "cut.keras").describe()


@pytest.mark.parametrize(
    ("model", "error", "told"),
    [
        (
            "nowhere.keras",
            WeightsError,
            "names a file that does not exist: 'nowhere.keras'. Expected a model saved by",
        ),
        (12, TypeError, "`model` must be the name of a network, .*; got 12."),
        (None, TypeError, "`model` must be .*; got None."),
        ("vg19", UnknownNameError, "Unknown network 'vg19'. Did you mean 'vgg19'"),
    ],
)
def test_what_is_no_model_is_refused(model, error, told):
    with pytest.raises(error, match=told):
        Backbone(model)


def test_weights_are_not_taken_for_a_model_that_has_its_own():
    with pytest.raises(ValueError, match=r"`weights` must be left out for a keras.Model, which .* got None"):
        Backbone(functional(), weights=None)


def test_an_unknown_layer_of_a_model():
    with pytest.raises(UnknownNameError, match=r"Unknown layer of keras.Model 'maps'. Did you mean 'map'"):
        Backbone(functional()).describe(["maps"])


@pytest.mark.xfail(KERAS_3_8, reason="Keras 3.8 copies a Lambda layer, later versions refuse to")
def test_a_layer_that_cannot_be_made_anew_says_so():
    inputs = keras.Input((SIDE, SIDE, 3))
    outside = keras.ops
    model = keras.Model(inputs, L.Lambda(lambda x: outside.abs(x), name="mine")(L.Rescaling(1 / 255)(inputs)))
    assert off(embedding(model), by_hand(model)) < 1e-4
    with pytest.raises(ValueError, match=r"'mine' \(Lambda\) cannot be copied to compute in mixed_bfloat16"):
        embedding(model, precision="bfloat16")


# --- layers --------------------------------------------------------------------------------------------


def test_layers_that_cannot_be_tapped_are_not_offered():
    inputs = keras.Input((SIDE, SIDE, 3))
    shared = conv(3, padding="same", name="shared")
    x = L.Concatenate(name="both")([shared(inputs), shared(L.ReLU(name="relu")(inputs))])
    model = keras.Model(inputs, L.Reshape((SIDE, SIDE, 3, 2), name="five")(x))
    assert list_layers(model) == ["relu", "both"]


def test_the_table_of_layers_has_shapes():
    rows = layer_table(functional())
    assert rows[0] == {"layer": "map", "type": "Conv2D", "shape": (30, 30, 6), "standard": False}
    assert rows[-1] == {"layer": "scores", "type": "Dense", "shape": (4,), "standard": False}


# --- digests -------------------------------------------------------------------------------------------


def digest(model, layer="map"):
    (tap,) = Backbone(model).describe([layer]).taps
    return tap.digest


def plain(stride=1, activation="relu", seed=0, top=4, name="map", scale=1 / 255, early="early", **options):
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = L.Rescaling(scale)(x)
    x = conv(5, seed, strides=stride, activation=activation, name=early, **options)(x)
    x = conv(6, 1, name=name)(x)
    if top:
        x = L.Dense(top, name="scores")(L.Flatten()(x))
    return keras.Model(inputs, x)


def test_the_digest_does_not_see_names_top_or_training_settings():
    same = digest(plain())
    assert digest(plain(top=0)) == digest(plain(top=9)) == same
    assert digest(plain(early="other")) == digest(plain(name="else"), "else") == same
    assert digest(plain(kernel_regularizer="l2", trainable=False)) == same
    model = plain()
    model.compile("sgd", "mse")
    model.get_layer("scores").kernel.assign_add(numbers(model.get_layer("scores").kernel) + 1)
    assert digest(model) == same
    model.get_layer("early").trainable = False
    assert digest(model) == same


def test_the_digest_sees_all_that_changes_the_embedding():
    model = plain()
    model.get_layer("early").bias.assign([0, 0, 0, 0, 1e-6])
    digests = {
        digest(each)
        for each in (
            plain(), model, plain(stride=2), plain(activation="elu"), plain(activation=None), plain(seed=9),
            plain(scale=1 / 256), plain(padding="same"), plain(dilation_rate=2), plain(use_bias=False),
        )
    }  # fmt: skip
    assert len(digests) == 10
    assert digest(plain(), "early") not in digests


def test_the_digest_sees_the_order_of_inputs_of_a_layer():
    def model(swap):
        inputs = keras.Input((SIDE, SIDE, 3))
        a, b = conv(2, 0)(inputs), conv(2, 1)(inputs)
        return keras.Model(inputs, L.Subtract(name="map")([b, a] if swap else [a, b]))

    assert digest(model(False)) == digest(model(False)) != digest(model(True))


def test_the_digest_of_a_file_is_that_of_its_content(tmp_path):
    """Also where Keras writes its configuration in another way than this version."""
    model = plain()
    model.save(tmp_path / "mine.keras")
    first = digest(tmp_path / "mine.keras")
    shutil.copyfile(tmp_path / "mine.keras", tmp_path / "copy.keras")
    assert digest(tmp_path / "copy.keras") == first != digest(tmp_path / "copy.keras", "early")
    plain(seed=9).save(tmp_path / "mine.keras")
    assert digest(tmp_path / "mine.keras") != first


class Twice(L.Layer):
    def call(self, x):
        return 2 * x


def with_layer(layer):
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, conv(name="map")(layer(inputs)))


def own_layers():
    """Models with code of their own that no configuration tells apart."""

    class Edited(L.Layer):
        def call(self, x):
            return 3 * x

    Edited.__name__ = Edited.__qualname__ = "Twice"

    def halve(x):
        return x / 2

    def drop(x):
        return x - 2

    drop.__name__, drop.__qualname__ = halve.__name__, halve.__qualname__
    inner = keras.Sequential([keras.Input((SIDE, SIDE, 3)), L.Activation(drop)])
    layers = [
        Twice(),
        Twice(),
        Edited(),
        L.Lambda(halve),
        L.Lambda(drop),
        L.Activation(halve),
        L.Activation(drop),
    ]
    return [with_layer(layer) for layer in [*layers, L.Activation(functools.partial(drop)), inner]]


def test_models_with_code_of_their_own_never_share_rows():
    """Their code cannot be identified: a model in memory is then only the same as itself."""
    recipes = [CNNFeatures(model, layer="map", cache=None).fit(X).recipes_[0] for model in own_layers()]
    assert len({recipe["process"] for recipe in recipes}) == len(recipes)
    model = with_layer(Twice())
    cnn = CNNFeatures(model, layer="map", cache=None).fit(X)
    assert clone(cnn).fit(X).recipes_ == cnn.recipes_
    assert "process" not in CNNFeatures(plain(), layer="map", cache=None).fit(X).recipes_[0]


def test_a_pickled_transformer_with_code_of_its_own_works_in_another_process(store):
    cnn = CNNFeatures(with_layer(Twice()), layer="map", cache=store)
    expected = cnn.fit_transform(X)
    with keras.saving.custom_object_scope({"Twice": Twice}):
        copies = [
            pickle.loads(pickle.dumps(cnn)) for _ in range(2)
        ]  # as another process has it: other objects
    np.testing.assert_allclose(copies[0].transform(X), expected, rtol=1e-5)
    assert copies[1].recipes_[0]["process"] != copies[1].fit(X).recipes_[0]["process"]


def test_files_with_code_of_their_own_never_share_rows_across_processes(tmp_path, store):
    """Where the user has registered the class, such a file can be loaded."""
    registered = keras.saving.register_keras_serializable("test_custom")(type("Mine", (Twice,), {}))
    with_layer(registered()).save(tmp_path / "own.keras")
    cnn = CNNFeatures(tmp_path / "own.keras", layer="map", cache=store).fit(X)
    assert cnn.recipes_[0]["process"]
    assert not list(store.root.glob("v1/networks/*"))


def test_the_digest_does_not_see_settings_that_a_newer_keras_adds(monkeypatch, tmp_path):
    """Keras adds arguments with defaults, and keys for them, in minor releases."""

    def nested():
        inner = keras.Sequential([keras.Input((SIDE, SIDE, 3)), conv(4, seed=3), L.Activation("relu")])
        x = inputs = keras.Input((SIDE, SIDE, 3))
        x = L.TimeDistributed(L.Dense(4, kernel_initializer="ones"))(inner(x))
        return keras.Model(inputs, conv(5, seed=1, name="map")(keras.ops.multiply(x, 2.0)))

    plain().save(tmp_path / "mine.keras")
    named = Backbone("mobilenet_0.25", None, SIDE)
    before = [digest(plain()), digest(nested()), digest(tmp_path / "mine.keras"), named.describe().taps]
    for cls in (L.Conv2D, L.Dense, L.Rescaling, L.Activation, L.TimeDistributed, L.DepthwiseConv2D, L.ReLU):
        add_setting(monkeypatch, cls)
    forget()
    assert plain().get_layer("early").get_config()["newer"] == ["a"]
    after = [digest(plain()), digest(nested()), digest(tmp_path / "mine.keras"), named.describe().taps]
    assert after == before
    assert digest(plain(newer=("b",))) != digest(plain())  # and sees it where it is used


def add_setting(monkeypatch, cls):
    """As a newer Keras would: an argument with a default, of which the configuration tells."""
    init, get_config = cls.__init__, cls.get_config

    def __init__(self, *args, newer=("a",), **kwargs):
        init(self, *args, **kwargs)
        self.newer = newer

    signature = inspect.signature(init)
    newer = inspect.Parameter("newer", inspect.Parameter.KEYWORD_ONLY, default=("a",))
    kinds = sorted([*signature.parameters.values(), newer], key=lambda parameter: parameter.kind)
    __init__.__signature__ = signature.replace(parameters=kinds)
    monkeypatch.setattr(cls, "__init__", __init__)
    monkeypatch.setattr(cls, "get_config", lambda self: {**get_config(self), "newer": list(self.newer)})


def forget():
    """As a new process would."""
    from tlfeatures.networks import _digests, _loading, _metadata

    _metadata.clear()
    _digests._defaults.cache_clear()
    _loading._models.clear()


def test_the_digest_sees_what_a_cast_casts_to():
    def model(dtype):
        inputs = keras.Input((SIDE, SIDE, 3))
        return keras.Model(
            inputs, conv(name="map")(keras.ops.cast(keras.ops.cast(inputs / 9, dtype), "float32"))
        )

    assert digest(model("int32")) != digest(model("float16"))
