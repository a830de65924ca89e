"""The Keras adapter: lazy imports, unchanged global state, and compile_model models."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.networks import relative_difference, to_array
from tlfeatures._keras import PRECISIONS, is_model, keras, keras_version, weights_folders
from tlfeatures._keras.frozen import compile_frozen, precise
from tlfeatures._keras.grouped import replace_grouped_convolutions
from tlfeatures.errors import MissingDependencyError
from tlfeatures.networks import Backbone

tensorflow = pytest.mark.skipif(
    "keras().backend.backend() != 'tensorflow'", reason="tests the TF32 setting of TensorFlow"
)
X = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype="uint8")


@pytest.fixture(scope="module")
def model():
    """A model of two convolutions and a batch normalization, with two outputs."""
    layers = keras().layers
    inputs = keras().Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
    return keras().Model(inputs, [x, layers.Conv2D(2, 3, activation="relu")(x)])


def compile_model(model, precision="float32"):
    ops = keras().ops
    return compile_frozen(
        model, lambda x: ops.cast(x, "float32") / 255, lambda ys: [ops.mean(y, (1, 2)) for y in ys], precision
    )


def test_models_are_recognized_without_importing_keras():
    code = (
        "import sys; from tlfeatures._keras import is_model, keras_version, weights_folders\n"
        "print(is_model('vgg19'), is_model(None), bool(keras_version()), len(weights_folders()), "
        "'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "3", "False"]


def test_models_of_every_kind_are_recognized(model):
    class Custom(keras().Model):
        pass

    assert is_model(model) and is_model(keras().Sequential()) and is_model(Custom())
    assert not is_model(keras().layers.Dense(2)) and not is_model(keras().Model)


@tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_grouped_convolutions_are_computed_as_depthwise_ones(policy):
    layers = keras().layers
    inputs = keras().Input((12, 12, 4))
    x = layers.Conv2D(4, 3, strides=2, padding="same", groups=4, dtype=policy, activation="relu")(inputs)
    x = layers.Conv2D(4, 3, strides=(2, 1), padding="same", groups=4, use_bias=False, dtype=policy)(x)
    x = layers.Conv2D(6, 3, dilation_rate=2, padding="same", groups=2, dtype=policy)(x)
    x = layers.Conv2D(3, 3, groups=3, dtype=policy)(x)
    outputs = layers.Conv2D(3, 3, dilation_rate=2, padding="same", groups=3, dtype=policy)(x)
    model = keras().Model(inputs, [x, outputs])
    model.set_weights([np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(model.weights)])
    new = replace_grouped_convolutions(model)
    kinds = [type(layer).__name__ for layer in new.layers[1:]]
    assert kinds == ["DepthwiseConv2D", "Conv2D", "Conv2D", "Conv2D", "DepthwiseConv2D"]
    assert [layer.name for layer in new.layers[1:]] == [layer.name for layer in model.layers[1:]]
    X = np.random.default_rng(9).normal(size=(2, 12, 12, 4)).astype("float32")
    for actual, expected in zip(new(X), model(X), strict=True):
        assert relative_difference(to_array(actual), to_array(expected)) < (
            1e-5 if policy == "float32" else 0.02
        )


def test_models_without_grouped_convolutions_are_not_copied(model):
    assert replace_grouped_convolutions(model) is model


def test_keras_version():
    assert keras_version() == keras().__version__


def test_weights_folders_begin_with_keras_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert weights_folders()[:2] == [tmp_path / "keras/models", tmp_path / "user/.keras/models"]
    monkeypatch.setenv("KERAS_HOME", "~/keras")  # Keras expands it
    assert weights_folders()[0] == tmp_path / "user/keras/models"
    monkeypatch.delenv("KERAS_HOME")
    assert weights_folders()[0] == tmp_path / "user/.keras/models"


def test_missing_keras_raises_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(
        MissingDependencyError, match=r"pip install tensorflow.*KERAS_BACKEND to jax or torch"
    ) as caught:
        keras()
    assert isinstance(caught.value, ImportError)


def test_channels_first_raises_an_error():
    config = keras().config
    before = config.image_data_format()
    config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="image_data_format='channels_first'; tlfeatures needs"):
            keras()
    finally:
        config.set_image_data_format(before)


def test_a_global_dtype_policy_does_not_change_embeddings():
    plain = Backbone("mobilenet_0.25", None, 32)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype="uint8")

    def embed():
        from tlfeatures.networks import _backbone, _loading, _metadata

        _metadata.clear()
        _loading._models.clear()
        _backbone._compiled.clear()
        description = plain.describe()
        return description, plain.compile([(description.taps[0], "avg")], description)(pixels)[0]

    description, features = embed()
    before = keras().config.dtype_policy()
    keras().config.set_dtype_policy("mixed_bfloat16")
    try:
        description_again, features_again = embed()
        assert description_again == description
        np.testing.assert_allclose(features_again, features, rtol=1e-5, atol=1e-6)
        assert keras().config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras().config.set_dtype_policy(before)


# --- compile_model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_compiled_model_equals_the_model(model, precision):
    run = compile_model(model, precision)
    by_hand = [to_array(y).mean((1, 2)) for y in model(X / np.float32(255), training=False)]
    for n in (4, 1, 3, 4):
        got = run(X[:n])
        assert all(y.dtype == np.float32 for y in got)
        assert max(relative_difference(y, want[:n]) for y, want in zip(got, by_hand, strict=True)) < 1e-5


def test_later_changes_of_the_model_do_not_change_a_compiled_one(model):
    copy = keras().models.clone_model(model)
    run = compile_model(copy)
    before = run(X)[0]
    copy.layers[1].bias.assign_add([1.0, 1, 1, 1])
    np.testing.assert_array_equal(run(X)[0], before)
    copy(X.astype("float32"), training=True)
    np.testing.assert_array_equal(run(X)[0], before)


def test_threads_share_a_compiled_model(model):
    run = compile_model(model)
    want = compile_model(model)(X)
    batches = [X[:n] for n in (1, 2, 3, 4)] * 8
    with ThreadPoolExecutor(8) as pool:
        for batch, got in zip(batches, pool.map(run, batches), strict=True):
            assert relative_difference(got[1], want[1][: len(batch)]) < 1e-5


@tensorflow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tf32_is_set_during_a_call_only(model, precision, monkeypatch):
    """Simulates a GPU, without which the setting is not changed."""
    import tensorflow as tf

    settings, switch = [], tf.config.experimental.enable_tensor_float_32_execution
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [kind])
    monkeypatch.setattr(
        tf.config.experimental,
        "enable_tensor_float_32_execution",
        lambda on: (settings.append(on), switch(on)),
    )
    run = compile_model(model, precision)
    for user_setting in (True, False):
        switch(user_setting)
        settings.clear()
        run(X)
        assert settings == [precision != "float32", user_setting]
        with pytest.raises(Exception, match=r"shape|Input|dim|expected"):
            run(X[:, :, :, :2])
        assert settings[-1] is user_setting
    switch(True)


@tensorflow
def test_threads_restore_the_tf32_setting(model, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [kind])
    runs = [compile_model(model, precision) for precision in ("float32", "tf32")]
    start = threading.Barrier(4)

    def work(i):
        start.wait()
        for _ in range(30):
            runs[i % 2](X)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert tf.config.experimental.tensor_float_32_execution_enabled()


@tensorflow
def test_network_runs_in_a_block_that_sets_tf32(model, monkeypatch):
    """As in a callback of a training on a GPU, which this test simulates."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [kind])
    run, done = compile_model(model, "float32"), threading.Event()

    def work():
        with precise("tf32"):
            run(X)
            assert tf.config.experimental.tensor_float_32_execution_enabled()
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(60)


@tensorflow
def test_many_shapes_and_networks_do_not_warn_of_retracing(model, caplog):
    runs = [compile_model(model) for _ in range(4)]
    for n in (1, 2, 3, 4):
        for run in runs:
            run(X[:n])
    assert "retracing" not in caplog.text
