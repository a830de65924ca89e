"""Custom models: their embeddings and pixels, errors for unsupported models, and digests."""

from __future__ import annotations

import functools
import inspect
import pickle
import shutil
import warnings

import numpy as np
import pytest
from sklearn.base import clone

from tests.networks import build, make_images, preprocess, relative_difference, to_array
from tlfeatures import CNNFeatures, FineTuneClassifier, list_layers
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.networks import NETWORKS, Backbone, layer_table
from tlfeatures.networks._custom import find_preprocessing

keras = pytest.importorskip("keras")
L = keras.layers
SIDE = 32
X = make_images(3, SIDE)


def embedding(model, **options):
    return CNNFeatures(model, cache=None, **options).fit_transform(X)


def by_hand(model, layer=None, x=None):
    """Compute the average of the map of a layer, for unchanged pixels or ``x``."""
    tapped = model if layer is None else keras.Model(model.inputs[0], model.get_layer(layer).output)
    y = to_array(tapped(X.astype("float32") if x is None else x, training=False))
    return y.mean((1, 2)) if y.ndim == 4 else y


def conv(filters=6, seed=0, **options):
    return L.Conv2D(filters, 3, kernel_initializer=keras.initializers.HeNormal(seed), **options)


def functional(*head, size=(SIDE, SIDE)):
    """Build a model with a feature map followed by a vector."""
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


# --- equality with plain Keras ------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
def test_a_functional_model(saved, tmp_path):
    model = functional(L.Rescaling(1 / 255))
    if saved:
        model.save(tmp_path / "mine.keras")
    model_or_path = tmp_path / "mine.keras" if saved else model
    assert relative_difference(embedding(model_or_path), by_hand(model, "last")) < 1e-4
    assert relative_difference(embedding(model_or_path, layer="map"), by_hand(model, "map")) < 1e-4
    assert (
        relative_difference(embedding(model_or_path, layer="scores", pooling="max"), by_hand(model, "scores"))
        < 1e-4
    )
    as_string = str(model_or_path) if saved else model_or_path
    both = embedding(as_string, layer=["map", "scores"])
    assert relative_difference(both[:, :6], by_hand(model, "map")) < 1e-4


def test_metadata_of_a_file_are_extended_by_other_layers(tmp_path, store):
    """The last feature map may be requested after another layer."""
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
    assert (
        relative_difference(embedding(tmp_path / "mine.keras" if saved else model), by_hand(model, "map"))
        < 1e-4
    )


@pytest.mark.parametrize("saved", [False, True])
def test_a_model_that_contains_a_network_of_keras_has_its_normalization(saved, tmp_path):
    """A typical fine-tuned model: augmentation, network, pooling and classes."""
    augmentation = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.2)], name="augmentation")
    network = mobilenet()
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = L.GlobalAveragePooling2D()(network(augmentation(x), training=False))
    model = keras.Model(inputs, L.Dense(3, name="scores")(x))
    if saved:
        model.save(tmp_path / "mine.keras")
    model_or_path = tmp_path / "mine.keras" if saved else model
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = embedding(model_or_path)
    x = preprocess(NETWORKS["mobilenet_0.25"], X)
    assert relative_difference(ours, by_hand(network, x=x)) < 1e-4
    assert relative_difference(embedding(model_or_path, layer="scores"), by_hand(model, x=x)) < 1e-4


def test_precision_applies_to_nested_models():
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = mobilenet()(keras.ops.divide(x, 255.0))
    model = keras.Model(inputs, x)
    exact, rough = embedding(model), embedding(model, precision="bfloat16")
    assert 1e-4 < relative_difference(rough, exact) < 0.1
    assert relative_difference(exact, by_hand(model)) < 1e-4  # the model itself is unchanged


def test_an_adapted_normalization_is_kept_in_another_precision():
    """Normalization computes with values that are not variables and must be recomputed from the weights."""
    layer = L.Normalization(mean=None)
    layer.adapt(X.astype("float32"))
    model = functional(layer)
    assert relative_difference(embedding(model, precision="bfloat16"), by_hand(model, "last")) < 0.05


def test_a_model_of_variable_size_accepts_any_image_size():
    model = functional(L.Rescaling(1 / 255), size=(None, None))
    assert embedding(model, image_size=SIDE).shape == (3, 6)
    assert relative_difference(embedding(model, image_size=SIDE), by_hand(model, "last")) < 1e-4
    assert Backbone(model).describe().image_size == (224, 224)
    assert Backbone(model, image_size=(30, 20)).describe().taps[0].shape == (28, 18, 6)


def test_a_model_of_fixed_size_accepts_this_size_only():
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
        ("resnet50_v2", 32, "resnet_v2"),  # has all layer names of resnet50, but another normalization
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
    assert (
        relative_difference(cnn.fit_transform(X), by_hand(model, x=preprocess(NETWORKS["mobilenet_0.25"], X)))
        < 1e-4
    )
    assert cnn.recipes_[0]["normalization"] == "mobilenet"


@pytest.mark.parametrize(
    "head",
    [
        lambda x: L.Rescaling(1 / 127.5, offset=-1)(x),
        lambda x: L.Normalization(mean=[100.0] * 3, variance=[70.0] * 3)(x),
        lambda x: x / 127.5 - 1,
        lambda x: keras.applications.mobilenet.preprocess_input(x),
        lambda x: keras.applications.vgg16.preprocess_input(x),  # starts with x[..., ::-1]
        lambda x: L.Rescaling(1 / 255)(L.RandomFlip()(L.Resizing(SIDE, SIDE)(x))),
    ],
)
def test_a_model_that_normalizes_gets_0_to_255(head):
    """This holds too if it contains a network of Keras, whose preprocessing it then includes."""
    inputs = keras.Input((SIDE, SIDE, 3))
    for network in (mobilenet(), keras.Sequential([conv()])):
        model = keras.Model(inputs, network(head(inputs)))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert relative_difference(embedding(model), by_hand(model)) < 1e-4


@pytest.mark.parametrize(
    "first",
    [
        lambda x: L.MaxPooling2D(2)(x),
        lambda x: L.AveragePooling2D(2)(x),
        lambda x: L.UpSampling2D(2)(x),
        lambda x: L.Permute((2, 1, 3))(x),
        lambda x: L.Reshape((x.shape[1] // 2, x.shape[2] * 2, 3))(x),
        lambda x: x[..., ::-1],
    ],
)
def test_pooling_and_reshaping_are_not_normalization(first):
    with pytest.warns(UserWarning, match="so it gets RGB pixels from 0 to 255"):
        embedding(functional(first))
    inputs = keras.Input((96, 96, 3))
    assert find_preprocessing(keras.Model(inputs, mobilenet(size=None)(first(inputs)))) == "mobilenet"
    assert find_preprocessing(keras.Model(inputs, conv()(first(inputs) / 255.0))) == "raw"


def without_preprocessing():
    return build(NETWORKS["mobilenet_v3_small"], SIDE, include_preprocessing=False)


@pytest.mark.parametrize("model", [functional, without_preprocessing])
def test_an_unknown_normalization_warns_once(model):
    model = model()
    with pytest.warns(UserWarning, match="so it gets RGB pixels from 0 to 255.*pass normalization") as caught:
        CNNFeatures(model, cache=None).fit_transform(X)
    assert len([w for w in caught if "RGB pixels" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        embedding(model, normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def test_a_literal_normalization_is_applied_before_a_model():
    model = functional()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.35)
    x = ((X / 255 - np.array(mean)) / np.array(std)).astype("float32")
    assert relative_difference(embedding(model, normalization=(mean, std)), by_hand(model, "last", x)) < 1e-4


# --- errors --------------------------------------------------------------------------------------------


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


def no_taps():
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, L.Reshape((SIDE, SIDE, 3, 1))(inputs), name="none")


def called_subclass():
    model = Subclassed()
    model(X.astype("float32"))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (one_channel, r"'grey' takes inputs of shape \[\(None, 32, 32, 1\)\]; expected one input"),
        (two_inputs, r"'two' takes inputs of shape \[\(None, 32, 32, 3\), .*; expected one input"),
        (vector, r"'flat' takes inputs of shape \[\(None, 12\)\]; expected one input"),
        (Subclassed, r"'mine' is not a graph of layers; expected a Functional model, or a Sequential"),
        (called_subclass, r"'mine' is not a graph of layers"),
        (lambda: keras.Sequential([conv()], name="unbuilt"), r"'unbuilt' is not a graph .*give it an Input"),
        (no_taps, r"'none' has no layer with a feature map"),
    ],
)
def test_unsupported_models_raise_an_error(make, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        Backbone(model).describe()
    if message.endswith("one input"):
        with pytest.raises(ValueError, match=message):
            list_layers(model)


def test_a_file_with_custom_code_raises_an_error(tmp_path):
    inputs = keras.Input((SIDE, SIDE, 3))
    keras.Model(inputs, L.Lambda(lambda x: x * 2)(inputs)).save(tmp_path / "code.keras")
    with pytest.raises(WeightsError, match=r"(?s)Cannot load .*code.keras.*Lambda layers or custom"):
        Backbone(tmp_path / "code.keras").describe()


@pytest.mark.parametrize("name", ["mine.h5", "mine.zip"])
def test_a_path_of_another_format_raises_an_error(name, tmp_path):
    functional().save(tmp_path / "mine.keras" if name == "mine.zip" else tmp_path / name)
    if name == "mine.zip":
        shutil.copy(tmp_path / "mine.keras", tmp_path / name)
    with pytest.raises(
        WeightsError, match=r"path of a .keras file .* got the path .*Load a model in another"
    ):
        CNNFeatures(tmp_path / name, cache=None).fit(X)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_raises_an_error_with_its_name(content, tmp_path):
    (tmp_path / "bad.keras").write_bytes(content)
    with pytest.raises(WeightsError, match=r"(?s)Cannot load .*bad.keras.*Expected a model saved by"):
        Backbone(tmp_path / "bad.keras").describe()


def test_a_truncated_file_raises_an_error_with_its_name(tmp_path):
    functional().save(tmp_path / "cut.keras")
    content = (tmp_path / "cut.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(WeightsError, match=r"Cannot load .*cut.keras"):
        Backbone(tmp_path / "cut.keras").describe()


@pytest.mark.parametrize(
    ("model", "error", "message"),
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
def test_an_invalid_model_raises_an_error(model, error, message):
    with pytest.raises(error, match=message):
        Backbone(model)


def test_weights_cannot_be_passed_with_a_model():
    with pytest.raises(ValueError, match=r"`weights` must be left out for a keras.Model, which .* got None"):
        Backbone(functional(), weights=None)


def test_an_unknown_layer_of_a_model_raises_an_error():
    with pytest.raises(UnknownNameError, match=r"Unknown layer of keras.Model 'maps'. Did you mean 'map'"):
        Backbone(functional()).describe(["maps"])


class WithoutConfig(L.Layer):
    def __init__(self, factor, name):
        super().__init__(name=name)
        self.factor = factor

    def call(self, x):
        return self.factor * x


def test_a_layer_that_cannot_be_copied_raises_an_error():
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, WithoutConfig(3, name="mine")(L.Rescaling(1 / 255)(inputs)))
    assert relative_difference(embedding(model), by_hand(model)) < 1e-4
    with pytest.raises(
        ValueError, match=r"'mine' \(WithoutConfig\) cannot be copied to compute in mixed_bfloat16"
    ):
        embedding(model, precision="bfloat16")


def test_a_lambda_layer_is_copied_with_its_function():
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, L.Lambda(lambda x: keras.ops.abs(x))(L.Rescaling(1 / 255)(inputs)))
    difference = relative_difference(embedding(model, precision="bfloat16"), by_hand(model))
    assert 1e-6 < difference < 0.01


# --- casts in the graph --------------------------------------------------------------------------------


def mixed_model(policy="mixed_bfloat16", cast=keras.ops.cast, second=1):
    """Build a model with the casts that Keras 3.8 adds under a mixed policy, and keeps in files."""
    shared = conv(3, padding="same", name="shared", dtype=policy)
    inputs = keras.Input((SIDE, SIDE, 3), dtype="float32")
    maps = [shared(cast(L.Rescaling(1 / 255, name="scaled", dtype="float32")(inputs), "bfloat16"))]
    maps.append(shared(maps[0]))
    pair = [cast(maps[0], "float32"), cast(maps[second], "float32")]
    outputs = L.GlobalAveragePooling2D(name="avg", dtype="float32")(L.Add(name="both", dtype="float32")(pair))
    return keras.Model(inputs, outputs)


def test_casts_of_a_mixed_policy_are_not_layers(tmp_path):
    mixed_model().save(tmp_path / "mixed.keras")
    assert list_layers(tmp_path / "mixed.keras") == ["scaled", "both", "avg"]
    transformer = CNNFeatures(tmp_path / "mixed.keras", cache=None).fit(X)
    assert transformer.layers_ == ["both"]
    plain = mixed_model("float32", cast=lambda x, dtype: x)
    np.testing.assert_array_equal(transformer.transform(X), embedding(plain))
    assert 1e-4 < relative_difference(embedding(mixed_model(), precision="bfloat16"), embedding(plain)) < 0.01
    assert digest(mixed_model(), "both") == digest(plain, "both") != digest(mixed_model(second=0), "both")


def test_casts_of_a_mixed_policy_do_not_round_in_fine_tuning():
    def probabilities(model):
        params = {"epochs": 1, "head_epochs": 1, "learning_rate": 1e-3, "validation_fraction": 0}
        clf = FineTuneClassifier(model, train_from="shared", cache=None, random_state=0, **params)
        return clf.fit(X, ["cat", "dog", "dog"]).predict_proba(X)

    plain = mixed_model("float32", cast=lambda x, dtype: x)
    np.testing.assert_allclose(probabilities(mixed_model()), probabilities(plain), rtol=1e-6)


def test_a_cast_does_not_count_as_normalization():
    inputs = keras.Input((SIDE, SIDE, 3))
    network = build(NETWORKS["vgg16"], SIDE)
    assert find_preprocessing(keras.Model(inputs, network(keras.ops.cast(inputs, "float16")))) == "vgg16"


# --- layers --------------------------------------------------------------------------------------------


def test_layers_that_cannot_be_tapped_are_not_listed():
    inputs = keras.Input((SIDE, SIDE, 3))
    shared = conv(3, padding="same", name="shared")
    x = L.Concatenate(name="both")([shared(inputs), shared(L.ReLU(name="relu")(inputs))])
    model = keras.Model(inputs, L.Reshape((SIDE, SIDE, 3, 2), name="five")(x))
    assert list_layers(model) == ["relu", "both"]


def test_the_table_of_layers_has_shapes():
    rows = layer_table(functional())
    shared = {"standard": False, "fully_connected": False}
    assert rows[0] == {"layer": "map", "type": "Conv2D", "shape": (30, 30, 6), "width": 6, **shared}
    assert rows[-1] == {
        "layer": "scores",
        "type": "Dense",
        "shape": (4,),
        "width": 4,
        **shared | {"fully_connected": True},
    }


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


def test_training_a_model_does_not_change_the_embeddings_of_an_equal_one():
    def build_model():
        model = keras.Sequential(
            [keras.Input((SIDE, SIDE, 3)), L.Rescaling(1 / 255, name="scale"), conv(name="map")]
        )
        model.set_weights([np.full(w.shape, 0.1, "f4") for w in model.get_weights()])
        return model

    first, second = build_model(), build_model()
    before = embedding(first, layer="map")
    first.set_weights([2 * w + 1 for w in first.get_weights()])
    assert not np.allclose(embedding(first, layer="map"), before)
    np.testing.assert_allclose(embedding(second, layer="map"), before, rtol=1e-5)


def test_the_digest_does_not_depend_on_names_top_or_training_settings():
    expected = digest(plain())
    assert digest(plain(top=0)) == digest(plain(top=9)) == expected
    assert digest(plain(early="other")) == digest(plain(name="else"), "else") == expected
    assert digest(plain(kernel_regularizer="l2", trainable=False)) == expected
    model = plain()
    model.compile("sgd", "mse")
    model.get_layer("scores").kernel.assign_add(to_array(model.get_layer("scores").kernel) + 1)
    assert digest(model) == expected
    model.get_layer("early").trainable = False
    assert digest(model) == expected


def test_the_digest_depends_on_everything_that_changes_the_embedding():
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


def test_the_digest_depends_on_the_order_of_inputs_of_a_layer():
    def model(swap):
        inputs = keras.Input((SIDE, SIDE, 3))
        a, b = conv(2, 0)(inputs), conv(2, 1)(inputs)
        return keras.Model(inputs, L.Subtract(name="map")([b, a] if swap else [a, b]))

    assert digest(model(False)) == digest(model(False)) != digest(model(True))


def test_the_digest_of_a_file_is_that_of_its_content(tmp_path):
    """This holds too if another version of Keras has written its configuration."""
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


def models_with_custom_code():
    """Build models with different custom code but the same configurations."""

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


def test_models_with_custom_code_never_share_rows():
    """Custom code cannot be identified, so that a model in memory shares rows with itself only."""
    recipes = [
        CNNFeatures(model, layer="map", cache=None).fit(X).recipes_[0] for model in models_with_custom_code()
    ]
    assert len({recipe["process"] for recipe in recipes}) == len(recipes)
    model = with_layer(Twice())
    cnn = CNNFeatures(model, layer="map", cache=None).fit(X)
    assert clone(cnn).fit(X).recipes_ == cnn.recipes_
    assert "process" not in CNNFeatures(plain(), layer="map", cache=None).fit(X).recipes_[0]


def test_a_pickled_transformer_with_custom_code_works_in_another_process(store):
    cnn = CNNFeatures(with_layer(Twice()), layer="map", cache=store)
    expected = cnn.fit_transform(X)
    with keras.saving.custom_object_scope({"Twice": Twice}):
        copies = [pickle.loads(pickle.dumps(cnn)) for _ in range(2)]  # new objects, as in another process
    np.testing.assert_allclose(copies[0].transform(X), expected, rtol=1e-5)
    assert copies[1].recipes_[0]["process"] != copies[1].fit(X).recipes_[0]["process"]


def test_files_with_custom_code_never_share_rows_across_processes(tmp_path, store):
    """Such a file can be loaded if its class is registered."""
    registered = keras.saving.register_keras_serializable("test_custom")(type("Mine", (Twice,), {}))
    with_layer(registered()).save(tmp_path / "own.keras")
    cnn = CNNFeatures(tmp_path / "own.keras", layer="map", cache=store).fit(X)
    assert cnn.recipes_[0]["process"]
    assert not list(store.root.glob("v1/networks/*"))


def test_the_digest_does_not_depend_on_settings_that_a_newer_keras_adds(monkeypatch, tmp_path):
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
    clear_caches()
    assert plain().get_layer("early").get_config()["newer"] == ["a"]
    after = [digest(plain()), digest(nested()), digest(tmp_path / "mine.keras"), named.describe().taps]
    assert after == before
    assert digest(plain(newer=("b",))) != digest(plain())  # but depends on a value other than the default


def add_setting(monkeypatch, cls):
    """Add an argument with a default to a class and its configuration, as a newer Keras may do."""
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


def clear_caches():
    """Clear the caches, as in a new process."""
    from tlfeatures.networks import _digests, _loading, _metadata

    _metadata.clear()
    _digests._defaults.cache_clear()
    _loading._models.clear()


def test_the_digest_depends_on_the_dtype_of_a_cast():
    def model(dtype):
        inputs = keras.Input((SIDE, SIDE, 3))
        return keras.Model(
            inputs, conv(name="map")(keras.ops.cast(keras.ops.cast(inputs / 9, dtype), "float32"))
        )

    assert digest(model("int32")) != digest(model("float16"))
