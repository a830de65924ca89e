"""Fine-tuning: the API of scikit-learn, training, checkpoints, errors, bundles and pickles."""

from __future__ import annotations

import errno
import functools
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
import weakref
import zipfile

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, FineTuneClassifier, FineTuneRegressor
from tlfeatures._archive import read_arrays
from tlfeatures._files import TEMPORARY_PREFIX
from tlfeatures.errors import (
    ImageReadError,
    InvalidParameterError,
    OutOfMemoryError,
    RecipeMismatchError,
    StoreWarning,
    TrainingStoppedWarning,
    UnknownNameError,
    UnreadableImagesWarning,
)
from tlfeatures.evaluation import split_validation
from tlfeatures.finetune import Augmenter, _checkpoint, draw_augmentations, draw_curves, is_bundle
from tlfeatures.finetune._sample_weights import training_weights
from tlfeatures.finetune._stage import epoch_order
from tlfeatures.heads import BlockScaler
from tlfeatures.images import Images

pytestmark = [
    pytest.mark.filterwarnings("ignore::tlfeatures.errors.RandomWeightsWarning"),
    pytest.mark.filterwarnings("ignore:.*neither starts with a Rescaling"),
]
TINY = {"model": "tiny", "image_size": 32}
QUICK = {**TINY, "start": "linear", "epochs": 0, "validation_fraction": 0, "random_state": 0}
TOP = {**TINY, "train_from": "block10_dw", "start": "linear", "epochs": 2, "random_state": 0}


def shapes(n=24, seed=0):
    """Return images of three classes, and their labels."""
    rng = np.random.default_rng(seed)
    y = np.array(["bars", "disc", "flat"])[np.arange(n) % 3]
    yy, xx = np.mgrid[:32, :32]
    masks = {"bars": xx // 4 % 2, "disc": (yy - 16) ** 2 + (xx - 16) ** 2 < 100, "flat": np.zeros((32, 32))}
    X = np.stack([masks[kind][..., None] * rng.uniform(60, 200, 3) for kind in y])
    return np.clip(X + rng.normal(30, 12, X.shape), 0, 255).astype("uint8"), y


X, Y = shapes()


@pytest.fixture(autouse=True)
def no_store(monkeypatch, tmp_path):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tuned():
    """A classifier whose last block was trained."""
    return FineTuneClassifier(**TOP, cache=None).fit(X, Y)


def custom(size=16, normalized=True, batchnorm=True):
    """A custom network of two blocks."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = pixels = keras.Input((size, size, 3))
    if normalized:
        x = layers.Rescaling(1 / 255)(x)
    for i in (1, 2):
        x = layers.Conv2D(8, 3, strides=2, padding="same", name=f"conv{i}")(x)
        if batchnorm:
            x = layers.BatchNormalization(name=f"bn{i}", momentum=0.5)(x)
        x = layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(pixels, x, name="small")


def weights_of(network):
    import keras

    return {v.path: keras.ops.convert_to_numpy(v) for v in network.weights}


def changed(before, after):
    """Names of layers with different weights."""
    pairs = zip(before.items(), after.items(), strict=True)
    return {path.split("/")[0] for (path, a), (_, b) in pairs if not np.array_equal(a, b)}


# -- API of scikit-learn -----------------------------------------------------------------


@functools.cache
def small_file():
    """Path of a network that is quick to copy and compile."""
    path = os.path.join(tempfile.mkdtemp(dir=os.environ["HOME"]), "small.keras")
    custom().save(path)
    return path


def small_top(**changes):
    """Parameters that train the last layers of a network that is quick to copy and compile."""
    params = {"model": small_file(), "train_from": "conv2", "start": "linear", "epochs": 2, "random_state": 0}
    return {**params, **changes}


def test_clone_classes_probabilities_and_score(tuned):
    assert clone(tuned).get_params() == tuned.get_params()
    assert not hasattr(clone(tuned), "history_")
    np.testing.assert_array_equal(tuned.classes_, ["bars", "disc", "flat"])
    proba = tuned.predict_proba(X)
    assert proba.shape == (24, 3) and proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(1), 1)
    assert tuned.score(X, Y) > 0.9
    assert list(tuned.history_.columns[:4]) == ["stage", "epoch", "loss", "accuracy"]


def test_cross_validation_grid_search_and_pipeline():
    pipe = Pipeline([("tune", FineTuneClassifier(**QUICK))])
    search = GridSearchCV(pipe, {"tune__pooling": ["avg", "max"]}, cv=2).fit(X, Y)
    assert search.best_score_ > 0.8
    assert search.best_estimator_["tune"].classes_.tolist() == ["bars", "disc", "flat"]


def test_pickle_of_an_unpickled_estimator(tuned):
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(tuned))))
    np.testing.assert_allclose(again.predict_proba(X), tuned.predict_proba(X), atol=1e-6)


def python(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=os.path.dirname(os.path.dirname(__file__)),
        capture_output=True, text=True, env={**os.environ, **env}, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_sample_weight_and_class_weight():
    mask = np.arange(24) >= 6
    left_out = FineTuneClassifier(**QUICK).fit(X[mask], Y[mask]).predict_proba(X)
    weighted = FineTuneClassifier(**QUICK).fit(X, Y, sample_weight=mask.astype(float)).predict_proba(X)
    np.testing.assert_allclose(weighted, left_out, atol=2e-3)
    rare = np.r_[0:24:3, 1, 2, 4, 5]  # eight bars, two discs, two flat
    plain, balanced, explicit = (
        FineTuneClassifier(**QUICK, class_weight=w).fit(X[rare], Y[rare]).predict_proba(X[rare])
        for w in (None, "balanced", {"bars": 12 / 3 / 8, "disc": 2.0, "flat": 2.0})
    )
    np.testing.assert_allclose(balanced, explicit, atol=1e-6)
    assert abs(balanced - plain).max() > 1e-3


# -- from_pipeline -------------------------------------------------------------------------

FUSED = {"layer": ["block3_pw_relu", "block10_pw_relu"]}
NUMBERS = np.linspace(3, 40, 24) + X.mean((1, 2, 3)) / 5


@pytest.mark.parametrize(
    ("head", "y", "cnn"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), Y, {}),
        (LogisticRegression(C=100, max_iter=5000), Y, {"pooling": "avgmax"}),
        (make_pipeline(StandardScaler(), LogisticRegression()), Y == "disc", {"pooling": "gem"}),
        (make_pipeline(StandardScaler(), Ridge()), NUMBERS, FUSED),
        (make_pipeline(BlockScaler([96, 320]), LogisticRegression()), Y, FUSED),
        (make_pipeline(BlockScaler([96, 320]), StandardScaler(with_std=False), Ridge()), NUMBERS, FUSED),
        (make_pipeline(StandardScaler(), LinearRegression()), NUMBERS, {"pooling": "max"}),
        (make_pipeline(StandardScaler(with_mean=False), Ridge(100)), NUMBERS, {"pooling": "flatten"}),
    ],
    ids=[
        "logistic",
        "bare, avgmax",
        "two classes, gem",
        "ridge, two layers",
        "logistic, fused layers",
        "ridge, fused layers",
        "least squares, max",
        "flatten",
    ],
)
def test_predictions_with_zero_epochs_equal_those_of_the_pipeline(head, y, cnn):
    pipe = Pipeline([("cnn", CNNFeatures(**TINY, **cnn)), ("head", clone(head))]).fit(X, y)
    cls = FineTuneRegressor if y is NUMBERS else FineTuneClassifier
    tuned = cls.from_pipeline(pipe, train_from="block9_dw", epochs=0, random_state=0).fit(X, y)
    new = shapes(9, seed=5)[0]
    if y is NUMBERS:
        np.testing.assert_allclose(tuned.predict(new), pipe.predict(new), atol=1e-4 * NUMBERS.std())
    else:
        np.testing.assert_allclose(tuned.predict_proba(new), pipe.predict_proba(new), atol=1e-4)
        np.testing.assert_array_equal(tuned.predict(new), pipe.predict(new))
    assert len(tuned.history_) == 0


@pytest.mark.parametrize("head", [LogisticRegression(), Ridge()], ids=["classes", "numbers"])
def test_a_clone_starts_from_the_same_pipeline(head):
    cls, y, method = FineTuneClassifier, Y, "predict_proba"
    if isinstance(head, Ridge):
        cls, y, method = FineTuneRegressor, NUMBERS, "predict"
    pipe = make_pipeline(CNNFeatures(small_file()), StandardScaler(), head).fit(X, y)
    tuned = cls.from_pipeline(pipe, train_from="conv2", epochs=1, random_state=0)
    trained = clone(tuned).fit(X, y)
    assert trained.history_["stage"].tolist() == ["network", "network"]
    assert trained.best_epoch_ == 1  # the last epoch, because there are no validation images
    start = clone(tuned).set_params(epochs=0).fit(X, y)
    np.testing.assert_allclose(getattr(start, method)(X), getattr(pipe, method)(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "params", "rate"),
    [
        (24, {"validation_fraction": 0}, 3e-4 * 24 / 150),
        (24, {"validation_fraction": 0.25}, 3e-4 * 18 / 150),
        (180, {"validation_fraction": 0}, 3e-4),
        (24, {"learning_rate": 2e-3}, 2e-3),
        (24, {"start": None, "head_epochs": 1}, 3e-4),
    ],
    ids=["few images", "validation images do not count", "many images", "explicit", "no fitted head"],
)
def test_default_learning_rate_is_lower_for_a_fitted_head_and_few_images(n, params, rate):
    images, labels = shapes(n)
    clf = FineTuneClassifier(**small_top(epochs=1, schedule="constant", **params)).fit(images, labels)
    assert clf.history_["learning_rate"].iloc[-1] == pytest.approx(rate)


@pytest.mark.parametrize("head", [SVC(), RandomForestClassifier(5, random_state=0)], ids=["svm", "forest"])
def test_heads_that_cannot_be_converted_are_replaced_with_a_warning(head):
    pipe = Pipeline([("cnn", CNNFeatures(**TINY)), ("scale", StandardScaler()), ("head", head)]).fit(X, Y)
    with pytest.warns(UserWarning, match=f"{type(head).__name__} is not a logistic or linear regression"):
        tuned = FineTuneClassifier.from_pipeline(pipe, epochs=0, validation_fraction=0, random_state=0)
    tuned.fit(X, Y)
    expected = tuned.start_pipeline_.predict_proba(pipe["cnn"].transform(X).astype(float))
    np.testing.assert_allclose(tuned.predict_proba(X), expected, atol=1e-4)


def test_pipeline_with_a_subclass_of_cnn_features():
    class Features(CNNFeatures):
        """A subclass of a user."""

    pipe = Pipeline([("cnn", Features(**TINY)), ("head", LogisticRegression())]).fit(X, Y)
    tuned = FineTuneClassifier.from_pipeline(pipe, epochs=0, random_state=0).fit(X, Y)
    np.testing.assert_allclose(tuned.predict_proba(X), pipe.predict_proba(X), atol=1e-4)


def test_from_pipeline_rejects_pipelines():
    pipe = Pipeline([("cnn", CNNFeatures(**TINY)), ("head", LogisticRegression())])
    with pytest.raises(ValueError, match="begins with CNNFeatures"):
        FineTuneClassifier.from_pipeline(SVC())
    with pytest.raises(ValueError, match="not fitted"):
        FineTuneClassifier.from_pipeline(pipe)
    flipped = clone(pipe).set_params(cnn__views="flip").fit(X, Y)
    with pytest.raises(ValueError, match="views='flip', and its head was fitted on the mean of the views"):
        FineTuneClassifier.from_pipeline(flipped)
    search = GridSearchCV(pipe, {"head__C": [1, 10]}, cv=2).fit(X, Y)
    tuned = FineTuneClassifier.from_pipeline(search, epochs=0, random_state=0)
    with pytest.raises(ValueError, match=r"fitted on \['bars', 'disc', 'flat'\], and y contains"):
        tuned.fit(X, np.where(Y == "disc", "disc", "other"))
    with pytest.raises(ValueError, match="predicts classes, which FineTuneRegressor does not"):
        FineTuneRegressor.from_pipeline(search)
    numbers = make_pipeline(pipe[0], Ridge()).fit(X, np.stack([NUMBERS, -NUMBERS], axis=1))
    with pytest.raises(ValueError, match="The pipeline predicts 2 numbers for each image"):
        FineTuneRegressor.from_pipeline(numbers, epochs=0, random_state=0).fit(X, NUMBERS)
    with pytest.raises(ValueError, match="expects 320 features; got 640 from this network"):
        clone(tuned).set_params(pooling="avgmax").fit(X, Y)
    with pytest.raises(ValueError, match="no hidden layers"):
        clone(tuned).set_params(head=[8]).check_params()


# -- training -------------------------------------------------------------------------


def test_head_trained_on_embeddings_equals_head_trained_by_keras():
    """Train the same head in a loop of Keras, with equal initial weights and batches."""
    import keras

    params = {
        **TINY,
        "head": [16],
        "pooling": "max",
        "schedule": "constant",
        "weight_decay": 0,
        "batch_size": 8,
    }
    params |= {"validation_fraction": 0, "random_state": 3}
    start = FineTuneClassifier(**params, epochs=0).fit(X, Y)
    ours = FineTuneClassifier(**params, epochs=6).fit(X, Y)
    untrained = start.predict_proba(X)
    network, head = start.network_, start._live().head
    network.trainable = False
    x = keras.Input((32, 32, 3))
    loop = keras.Model(x, head(keras.layers.GlobalMaxPooling2D()(network(x))))
    loop.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    codes = np.unique(Y, return_inverse=True)[1]
    for epoch in range(1, 7):
        order = epoch_order(3, 0, epoch, np.arange(24))
        for rows in np.split(order, 3):
            loop.train_on_batch(X[rows].astype("float32"), codes[rows])
    theirs = keras.ops.convert_to_numpy(keras.ops.softmax(loop(X.astype("float32"))))
    np.testing.assert_allclose(ours.predict_proba(X), theirs, atol=1e-3)
    assert abs(ours.predict_proba(X) - untrained).max() > 0.1


def test_many_steps_per_call_equal_single_steps(monkeypatch):
    """Use a schedule, dropout and a shorter last batch, which change from step to step."""
    from tlfeatures.finetune import _compile

    params = {**TINY, "head": [16, 0.5], "epochs": 3, "batch_size": 5, "validation_fraction": 0}
    single = FineTuneClassifier(**params, random_state=0, callbacks=[batch_recorder()]).fit(X, Y)
    assert BATCHES.pop("fit") == [0, 1, 2, 3, 4] * 3
    monkeypatch.setattr(_compile, "_MANY_STEPS", 0)
    many = FineTuneClassifier(**params, random_state=0, callbacks=[batch_recorder()]).fit(X, Y)
    assert len(BATCHES.pop("fit")) == 3  # one call per epoch
    columns = ["loss", "accuracy", "learning_rate"]
    np.testing.assert_allclose(many.history_[columns], single.history_[columns], rtol=1e-5)
    for one, other in zip(single._live().head.get_weights(), many._live().head.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


BATCHES: dict = {}  # filled by callbacks, which `fit` copies


def batch_recorder():
    import keras

    def record(batch, logs):
        BATCHES.setdefault("fit", []).append(batch)

    return keras.callbacks.LambdaCallback(on_train_batch_end=record)


def test_batch_normalization_does_not_see_padding():
    """Check that the statistics of the shorter last batch are those of its rows, as in Keras."""
    import keras

    def head(x):
        return keras.layers.BatchNormalization(momentum=0.0, name="bn")(
            keras.layers.GlobalAveragePooling2D()(x)
        )

    params = {"head": head, "epochs": 1, "batch_size": 14, "validation_fraction": 0, "random_state": 0}
    model, pixels = custom(), X[:, :16, :16]
    clf = FineTuneClassifier(model, **params).fit(pixels, Y)
    last = epoch_order(0, 0, 1, np.arange(24))[14:]
    expected = CNNFeatures(model, pooling="avg").fit_transform(pixels)[last].mean(0)
    (mean,) = [w for path, w in weights_of(clf._live().head).items() if path.endswith("moving_mean")]
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


def test_head_with_another_precision_and_scalar_state():
    import keras

    def head(x):
        x = keras.layers.Dense(16, "relu", dtype="bfloat16")(keras.layers.GlobalAveragePooling2D()(x))
        normalization = keras.layers.Normalization(axis=-1)
        normalization.build(x.shape)
        return normalization(x)

    params = {**TINY, "head": head, "epochs": 2, "random_state": 0}
    assert np.isfinite(FineTuneClassifier(**params).fit(X, Y).predict_proba(X)).all()
    assert np.isfinite(FineTuneRegressor(**params).fit(X, NUMBERS).predict(X)).all()


@pytest.mark.slow
def test_layers_before_train_from_do_not_change():
    model = custom()
    before = weights_of(model)
    params = {
        "model": model,
        "train_from": "conv2",
        "start": "linear",
        "epochs": 1,
        "random_state": 0,
        "validation_fraction": 0,
    }
    clf = FineTuneClassifier(**params).fit(X[:, :16, :16], Y)
    assert changed(before, weights_of(clf.network_)) == {"conv2"}
    assert changed(before, weights_of(model)) == set()  # the model of the user
    clf = FineTuneClassifier(**{**params, "train_batchnorm": True}).fit(X[:, :16, :16], Y)
    assert changed(before, weights_of(clf.network_)) == {"conv2", "bn2"}
    clf = FineTuneClassifier(**{**params, "train_from": "all"}).fit(X[:, :16, :16], Y)
    assert changed(before, weights_of(clf.network_)) == {"conv1", "conv2"}
    clf = FineTuneClassifier(**{**params, "train_from": 1}).fit(X[:, :16, :16], Y)
    assert changed(before, weights_of(clf.network_)) == {"conv2"}
    clf = FineTuneClassifier(**{**params, "train_from": "head"}).fit(X[:, :16, :16], Y)
    assert changed(before, weights_of(clf.network_)) == set()


@pytest.mark.parametrize(("cut", "off"), [("conv2", True), ("conv1", False)])
def test_dropout_and_stochastic_depth_of_frozen_layers_are_off(cut, off):
    """Use a residual block with stochastic depth, as in EfficientNet, below the first trained layer."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = pixels = keras.Input((16, 16, 3))
    x = before = layers.Conv2D(8, 3, strides=2, name="conv1")(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(8, 1, name="expand")(layers.BatchNormalization()(x))
    x = layers.Add(name="add")([before, layers.Dropout(0.9, (None, 1, 1, 1), name="drop")(x)])
    x = layers.Conv2D(8, 3, name="conv2")(x)
    x = layers.Add(name="late")([x, layers.Cropping2D(1)(layers.Dropout(0.9)(before))])
    clf = FineTuneClassifier(
        keras.Model(pixels, x), train_from=cut, start="linear", epochs=1, learning_rate=1e-12, weight_decay=0,
        validation_fraction=0, random_state=0, cache=None,
    ).fit(X[:, :16, :16], Y)  # fmt: skip
    proba = clf.predict_proba(X[:, :16, :16])[np.arange(24), np.searchsorted(clf.classes_, Y)]
    loss = clf.history_["loss"].iloc[-1]
    assert np.isclose(loss, -np.log(proba).mean(), rtol=1e-4) == off


def test_batch_normalization_in_nested_layers_and_in_the_head():
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Block(keras.layers.Layer):
        def __init__(self, **params):
            super().__init__(**params)
            self.conv = keras.layers.Conv2D(8, 3, name="conv")
            self.bn = keras.layers.BatchNormalization(name="bn", momentum=0.5)

        def build(self, shape):
            self.conv.build(shape)
            self.bn.build((*shape[:-1], 8))

        def call(self, x, training=None):
            return self.bn(self.conv(x), training=training)

    def head(x):
        x = keras.layers.BatchNormalization(momentum=0.5, name="new")(x)
        return keras.layers.GlobalMaxPooling2D()(x)

    pixels = keras.Input((16, 16, 3))
    model = keras.Model(pixels, Block(name="block")(keras.layers.Rescaling(1 / 255)(pixels)))
    before = weights_of(model)
    params = {"head": head, "train_from": "block", "head_epochs": 0, "epochs": 1, "validation_fraction": 0}
    params |= {"random_state": 0, "cache": None}

    def after(train_batchnorm):
        clf = FineTuneClassifier(model, **params, train_batchnorm=train_batchnorm).fit(X[:, :16, :16], Y)
        now = weights_of(clf.network_)
        moved = [w.std() > 1e-6 for path, w in weights_of(clf._live().head).items() if "moving" in path]
        return {path for path in before if not np.array_equal(before[path], now[path])}, moved

    convolution = {"block/conv/kernel", "block/conv/bias"}
    assert after(False) == (convolution, [True, True])  # batch normalization of the head is trained
    batchnorm = {"block/bn/beta", "block/bn/moving_mean", "block/bn/moving_variance"}
    assert after(True)[0] >= convolution | batchnorm


def test_layer_decay():
    """Use that the first step of Adam equals the learning rate unless the gradient is almost 0."""
    model = custom(batchnorm=False)
    before = weights_of(model)
    clf = FineTuneClassifier(
        model, train_from="all", start="linear", epochs=1, batch_size=24, schedule="constant", weight_decay=0,
        learning_rate=0.01, layer_decay=0.1, validation_fraction=0, random_state=0,
    ).fit(X[:, :16, :16], Y)  # fmt: skip
    after = weights_of(clf.network_)
    steps = {path: abs(after[path] - before[path]).max() for path in before}
    assert steps["conv2/kernel"] == pytest.approx(0.01, rel=1e-3)
    assert steps["conv1/kernel"] == pytest.approx(0.001, rel=1e-3)


def test_weight_decay_shrinks_kernels_only():
    params = {
        **TINY,
        "head": (),
        "epochs": 1,
        "learning_rate": 1e-12,
        "schedule": "constant",
        "random_state": 0,
    }
    plain, decayed = (
        FineTuneClassifier(**params, weight_decay=wd, batch_size=24, validation_fraction=0).fit(X, Y)
        for wd in (0, 1e11)
    )
    kernel, bias = plain._live().head.get_weights()
    kernel_2, bias_2 = decayed._live().head.get_weights()
    np.testing.assert_allclose(kernel_2, 0.9 * kernel, rtol=1e-4)
    np.testing.assert_array_equal(bias, bias_2)


@pytest.mark.slow
def test_hidden_layers_and_callable_heads():
    import keras

    def build(x):
        return keras.layers.Dense(8, "relu")(keras.layers.Flatten()(keras.layers.Conv2D(4, 1)(x)))

    params = small_top(train_from="head", start=None)
    for head, pooling in (([16, 16, 8], "max"), ([16, 0.5], "flatten"), (build, "avg")):
        clf = FineTuneClassifier(**params, head=head, pooling=pooling).fit(X, Y)
        assert clf.predict_proba(X).shape == (24, 3)
        if head is build:
            again = clone(clf).fit(X, Y)
            np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    reg = FineTuneRegressor(**params, head=[16], pooling="flatten").fit(X, NUMBERS)
    assert reg.predict(X).shape == (24,) and "val_mae" in reg.history_


def convolutional():
    """Return the layers of a small head on a feature map."""
    from keras import layers, regularizers

    return [
        layers.Conv2D(4, 1, activation="relu", kernel_regularizer=regularizers.L2(1e-3)),
        layers.MaxPooling2D(1),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(8, "relu"),
    ]


def convolution(x):
    import keras

    return keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 1, activation="relu")(x))


HEADS = """
import json, os
import numpy as np
import keras
from sklearn.base import clone
from tests.test_finetune import X, Y, NUMBERS, convolution, convolutional
from tlfeatures import FineTuneClassifier, FineTuneRegressor

X, folder = X[:, :16, :16], os.environ["FOLDER"]
params = {"model": os.environ["SMALL_FILE"], "batch_size": 8, "random_state": 0, "head_epochs": 1, "epochs": 1}
params |= {"cache": os.path.join(folder, "store"), "train_from": "conv2"}
for name, head in {"layers": convolutional(), "callable": convolution}.items():
    clf = FineTuneClassifier(**params, head=head, checkpoint_dir=os.path.join(folder, name)).fit(X, Y)
    assert clf.history_["stage"].tolist() == ["head", "network", "network"]
    expected = clf.predict_proba(X)
    again = clone(clf)  # resumed from the checkpoints, or trained again, from new weights
    again.set_params(checkpoint_dir=clf.checkpoint_dir if name == "layers" else None).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    clf.save(os.path.join(folder, name + ".keras-bundle"))
reg = FineTuneRegressor(**params, head=keras.Sequential(convolutional())).fit(X, NUMBERS)
reg.save(os.path.join(folder, "reg.keras-bundle"), whole=True)
for name, model in (("layers", clf), ("reg", reg)):
    again = type(model).load(os.path.join(folder, name + ".keras-bundle"))
np.savez(os.path.join(folder, "expected.npz"), callable=expected, reg=reg.predict(X))
loaded = FineTuneClassifier.load(os.path.join(folder, "layers.keras-bundle"))
kinds = [type(layer).__name__ for layer in loaded.head]
assert kinds == ["Conv2D", "MaxPooling2D", "Flatten", "Dropout", "Dense"], kinds
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_convolutional_heads_with_checkpoints_and_bundles(backend, tmp_path):
    pytest.importorskip(backend)
    python(HEADS, KERAS_BACKEND=backend, SMALL_FILE=small_file(), FOLDER=str(tmp_path))
    expected, pixels = np.load(tmp_path / "expected.npz"), X[:, :16, :16]
    clf = FineTuneClassifier.load(tmp_path / "callable.keras-bundle")  # in another process
    np.testing.assert_allclose(clf.predict_proba(pixels), expected["callable"], atol=1e-4)
    reg = FineTuneRegressor.load(tmp_path / "reg.keras-bundle", model="absent")
    np.testing.assert_allclose(reg.predict(pixels), expected["reg"], rtol=1e-4)
    with pytest.raises(ValueError, match="'convolution' that built the head is not in the bundle"):
        clf.fit(pixels, Y)
    layers = FineTuneClassifier.load(tmp_path / "layers.keras-bundle", checkpoint_dir=None)
    before = layers.predict_proba(pixels)
    if backend == "tensorflow":  # the head in the bundle can be trained again
        np.testing.assert_allclose(layers.fit(pixels, Y).predict_proba(pixels), before, atol=1e-4)


def test_feature_maps_of_convolutional_heads_are_stored_once(tmp_path, monkeypatch):
    params = {"model": small_file(), "epochs": 1, "random_state": 0, "cache": tmp_path}
    FineTuneClassifier(**params, head=convolutional()).fit(X[:, :16, :16], Y)
    stored = CNNFeatures(small_file(), pooling="flatten", cache=tmp_path)
    monkeypatch.setattr("tlfeatures.networks._backbone.Backbone.compile", None)  # no network is run
    assert stored.fit_transform(X[:, :16, :16]).shape == (24, 4 * 4 * 8)
    FineTuneClassifier(**params, head=convolution).fit(X[:, :16, :16], Y)


def test_heads_of_keras_layers_that_are_rejected(tmp_path):
    import keras

    layers, pixels = keras.layers, X[:, :16, :16]
    params = {"model": small_file(), "epochs": 1, "random_state": 0, "cache": None}

    def fit(head, **more):
        return FineTuneClassifier(**params, head=head, **more).fit(pixels, Y)

    with pytest.raises(
        ValueError, match=r"`head` must lead .*shape \(None, 4, 4, 8\).*End with keras.layers.Flatten"
    ):
        fit([layers.Conv2D(8, 1)])
    with pytest.raises(ValueError, match=r"`head` must be a list of the widths .* a list of Keras layers"):
        fit([layers.Flatten(), 8])
    shared = layers.Dense(4)
    with pytest.raises(ValueError, match=r"`head` must make new layers in each call; got layer 'dense"):
        fit(lambda x: shared(layers.Flatten()(x)))
    with pytest.raises(ValueError, match="no hidden layers"):
        fit([layers.Flatten()], start="linear")
    code = fit([layers.Lambda(lambda x: 2 * x), layers.GlobalMaxPooling2D()])
    code.save(tmp_path / "code.keras-bundle")
    with pytest.raises(ValueError, match=r"contains 'Lambda' .*can run code"):
        FineTuneClassifier.load(tmp_path / "code.keras-bundle")
    again = FineTuneClassifier.load(tmp_path / "code.keras-bundle", trust=True)
    np.testing.assert_allclose(again.predict_proba(pixels), code.predict_proba(pixels), atol=1e-6)


def test_regularizers_of_a_head_change_training_and_its_checkpoints(tmp_path):
    from keras import layers, regularizers

    def loss(penalty):
        head = [layers.GlobalAveragePooling2D(), layers.Dense(8, kernel_regularizer=regularizers.L2(penalty))]
        params = {"model": small_file(), "epochs": 1, "random_state": 0, "checkpoint_dir": tmp_path}
        return FineTuneClassifier(**params, head=head, cache=None).fit(X[:, :16, :16], Y).history_["loss"][0]

    assert loss(1.0) > loss(0.0) + 1


def test_random_state_determines_the_network():
    params = {
        "model": small_file(),
        "train_from": "conv2",
        "augment": {"crop": 3, "flip": "horizontal", "rotation": 0.1},
        "head": [8, 0.5],
        "head_epochs": 1,
        "epochs": 1,
    }
    x = X[:, :16, :16]
    first, second, other = (FineTuneClassifier(**params, random_state=seed).fit(x, Y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predict_proba(x), second.predict_proba(x))
    np.testing.assert_array_equal(first.history_["loss"], second.history_["loss"])
    assert abs(first.predict_proba(x) - other.predict_proba(x)).max() > 1e-3


def test_normalization_data():
    clf = FineTuneClassifier(**{**TOP, "epochs": 0}, normalization="data", validation_fraction=0).fit(X, Y)
    mean, std = clf.normalization_
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(std, X.std((0, 1, 2)) / 255, rtol=1e-6)
    features = CNNFeatures(**TINY, normalization=(mean, std)).fit_transform(X)
    expected = clf.start_pipeline_.predict_proba(features.astype(float))
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-4)


def test_best_epoch_and_early_stopping():
    params = {**TINY, "head": [8], "epochs": 40, "learning_rate": 0.3, "schedule": "constant", "patience": 2}
    clf = FineTuneClassifier(**params, validation_fraction=0.3, random_state=0).fit(X, Y)
    rows = clf.history_
    score = list(zip(rows["val_accuracy"], -rows["val_loss"], strict=True))
    assert clf.best_epoch_ == rows["epoch"][score.index(max(score))]
    assert len(rows) == clf.best_epoch_ + 2 < 40
    _, validation = split_validation(np.unique(Y, return_inverse=True)[1], clf.classes_, None, 0.3, [0, 3])
    p = clf.predict_proba(X[validation])[
        np.arange(len(validation)), np.searchsorted(clf.classes_, Y[validation])
    ]
    assert -np.log(p).mean() == pytest.approx(rows["val_loss"][clf.best_epoch_ - 1], rel=1e-3)


def test_schedules():
    def rates(schedule):
        params = {**TINY, "epochs": 20, "batch_size": 24, "learning_rate": 0.01, "validation_fraction": 0}
        clf = FineTuneClassifier(**params, schedule=schedule, random_state=0).fit(X, Y)  # one step per epoch
        return clf.history_["learning_rate"].to_numpy()

    np.testing.assert_allclose(rates("constant"), 0.01)
    np.testing.assert_allclose(rates("step"), np.repeat([1e-2, 1e-3, 1e-4], [10, 5, 5]), rtol=1e-5)
    cosine = rates("cosine")
    assert cosine[0] < cosine[1] == pytest.approx(0.01) and (np.diff(cosine[1:]) < 0).all()
    assert cosine[-1] < 1e-3


# -- augmentation ----------------------------------------------------------------------------


def test_augmented_views_are_seeded_and_used_in_prediction_only_with_tta():
    views = Augmenter({"crop": 4, "flip": "horizontal", "rotation": 0.05, "color": 0.3, "zoom": 0.1})
    first = views(X[:4], [1, 2])
    assert first.shape == (4, 32, 32, 3) and first.dtype == np.uint8
    views(X[:4], [9])
    np.testing.assert_array_equal(first, views(X[:4], [1, 2]))
    assert (first != views(X[:4], [1, 3])).any() and (first[0] != X[0]).any()
    assert abs(first.mean() - X[:4].mean()) < 60  # similar to the images
    clf = FineTuneClassifier(**QUICK, augment={"crop": 4}).fit(X, Y)
    np.testing.assert_array_equal(
        clf.predict_proba(X), FineTuneClassifier(**QUICK).fit(X, Y).predict_proba(X)
    )
    averaged = clf.set_params(tta=3).predict_proba(X)
    assert (averaged != clf.set_params(tta=0).predict_proba(X)).any()
    np.testing.assert_array_equal(averaged, clf.set_params(tta=3).predict_proba(X))
    with pytest.raises(ValueError, match="Set augment"):
        clf.set_params(augment=None).predict_proba(X)


def test_flip_and_crop():
    views = Augmenter({"flip": "horizontal"})(X[:8], [0])
    flipped = [bool((v == x[:, ::-1]).all()) for v, x in zip(views, X, strict=False)]
    assert all(f or (v == x).all() for f, v, x in zip(flipped, views, X, strict=False))
    assert 0 < sum(flipped) < 8
    view = Augmenter({"crop": 2})(X[:1], [0])[0]
    padded = np.pad(X[0], ((2, 2), (2, 2), (0, 0)), mode="reflect")
    assert any((view == padded[i : i + 32, j : j + 32]).all() for i in range(5) for j in range(5))


def test_any_random_layer_of_keras():
    views = Augmenter({"RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2}})
    assert (views(X[:2], [0]) != X[:2]).any()
    with pytest.raises(UnknownNameError, match="'flip'"):
        Augmenter({"flips": "horizontal"})
    with pytest.raises(UnknownNameError, match="0"):
        Augmenter({0: 1})
    with pytest.raises(
        ValueError, match=r"RandomCrop changes the size of images from \(32, 32\) to \(16, 16\)"
    ):
        Augmenter({"RandomCrop": {"height": 16, "width": 16}})(X[:2], [0])
    for wrong in (
        {"flip": "sideways"},
        {"color": "much"},
        {"crop": "4.5"},
        {"crop": float("inf")},
        {"crop": float("nan")},
        {"crop": 2.5},
        {"rotation": "x"},
        {"zoom": None},
    ):
        with pytest.raises(ValueError, match=rf"augment\['{next(iter(wrong))}'\]="):
            Augmenter(wrong)
    with pytest.raises(ValueError, match="expected None or a dict"):
        FineTuneClassifier(**QUICK, augment="flip").fit(X, Y)


def test_augmentation_with_frozen_network():
    params = {**TINY, "epochs": 2, "random_state": 0, "validation_fraction": 0}
    plain, varied = (FineTuneClassifier(**params, augment=a).fit(X, Y).history_ for a in (None, {"crop": 8}))
    assert (plain["loss"] != varied["loss"]).all()


# -- checkpoints -----------------------------------------------------------------------------

TRAIN = """
import sys
from tests.test_finetune import *

def report(*args):
    print(*args, flush=True)
    if args == ("network", 2):
        sys.stdin.read()  # waits until this process is killed

checkpoints_of_epochs(report)
train(sys.argv[1])
"""


def checkpoints_of_epochs(callback):
    """Call ``callback`` after each checkpoint."""
    save = _checkpoint.Checkpoints.save

    def save_and_call(self, stage, state, arrays):
        save(self, stage, state, arrays)
        callback(stage, state["epoch"])

    _checkpoint.Checkpoints.save = save_and_call


def train(folder):
    clf = FineTuneClassifier(
        custom(), train_from="conv2", head=[8, 0.3], head_epochs=2, epochs=4, augment={"crop": 2},
        train_batchnorm=True, checkpoint_dir=folder, random_state=0, cache=None,
    ).fit(X[:, :16, :16], Y)  # fmt: skip
    return np.concatenate([w.ravel() for w in clf._live().model.get_weights()])


@pytest.mark.slow
def test_training_resumed_after_sigkill_has_equal_weights(tmp_path, monkeypatch):
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(tmp_path / "killed")], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.path.dirname(os.path.dirname(__file__)),
    ) as killed:  # fmt: skip
        for line in killed.stdout:
            if line.split() == ["network", "2"]:
                killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    epochs = []
    monkeypatch.setattr(
        _checkpoint.Checkpoints, "save", _checkpoint.Checkpoints.save
    )  # restored after the test
    checkpoints_of_epochs(lambda *args: epochs.append(args))
    resumed = train(tmp_path / "killed")
    assert epochs == [("network", 3), ("network", 4)]
    np.testing.assert_allclose(resumed, train(None), rtol=0, atol=1e-6)


def test_checkpoints_depend_on_parameters_and_data(tmp_path):
    params = {"model": small_file(), "head": [8], "epochs": 1, "random_state": 0}
    params["checkpoint_dir"] = tmp_path / "checkpoints"

    def fit(y=Y, **more):
        FineTuneClassifier(**{**params, **more}).fit(X, y)
        return len(list((tmp_path / "checkpoints").iterdir()))

    assert fit() == fit() == fit(verbose=1, n_jobs=1) == 1
    assert fit(learning_rate=0.01) == 2
    assert fit(random_state=1) == 3
    assert fit(y=np.roll(Y, 1)) == 4
    assert fit(pooling="max") == 5
    with pytest.raises(ValueError, match="got random_state=None"):
        fit(random_state=None)


def test_checkpoints_do_not_contain_frozen_layers(tmp_path):
    clf = FineTuneClassifier(**small_top(validation_fraction=0.25), checkpoint_dir=tmp_path)
    clf.fit(X, Y)
    (path,) = tmp_path.rglob("network.checkpoint")
    shapes = [array.shape for array in read_arrays(path)[1]]
    assert (3, 3, 8, 8) in shapes  # conv2
    assert (3, 3, 3, 8) not in shapes  # conv1


def test_temporary_file_that_another_process_removed(tmp_path):
    checkpoints = _checkpoint.Checkpoints(tmp_path, "digest")
    # a link without a target, as if the file had been removed after it was listed
    (checkpoints.folder / f"{TEMPORARY_PREFIX}1").symlink_to("removed")
    checkpoints.save("head", {"epoch": 1}, [np.ones(2)])
    assert checkpoints.load("head")[0]["epoch"] == 1


def test_damaged_checkpoint_is_ignored_with_a_warning(tmp_path):
    params = {"model": small_file(), "head": [8], "epochs": 2, "random_state": 0}
    params["checkpoint_dir"] = tmp_path / "checkpoints"
    expected = FineTuneClassifier(**params).fit(X, Y).predict_proba(X)
    (path,) = (tmp_path / "checkpoints").glob("*/head.checkpoint")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(StoreWarning, match="damaged"):
        clf = FineTuneClassifier(**params).fit(X, Y)
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    params = {
        "model": small_file(),
        "head": [8],
        "epochs": 3,
        "checkpoint_dir": tmp_path / "checkpoints",
        "random_state": 0,
    }
    expected = FineTuneClassifier(**{**params, "checkpoint_dir": None}).fit(X, Y).predict_proba(X)
    sync, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) > 2:  # file and folder of the first epoch
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(fd)

    params["cache"] = None  # the store syncs its files too
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"epoch 2: No space left on device.*previous one is unchanged"
    ) as caught:
        FineTuneClassifier(**params).fit(X, Y)
    assert caught.value.errno == errno.ENOSPC
    (path,) = (tmp_path / "checkpoints").rglob("*.*")
    assert _checkpoint.read_arrays(path)[0]["epoch"] == 1
    monkeypatch.undo()
    np.testing.assert_array_equal(FineTuneClassifier(**params).fit(X, Y).predict_proba(X), expected)


# -- errors and warnings -------------------------------------------------------------------------------


def test_invalid_labels_and_weights():
    with pytest.raises(ValueError, match="one class, 'disc'"):
        FineTuneClassifier(**QUICK).fit(X[:4], ["disc"] * 4)
    with pytest.raises(ValueError, match="Class 'odd' has one image"):
        FineTuneClassifier(**{**QUICK, "validation_fraction": 0.1}).fit(X, np.r_[["odd"], Y[1:]])
    assert FineTuneClassifier(**QUICK).fit(X, np.r_[["odd"], Y[1:]]).predict(X[:1]) == ["odd"]
    with pytest.raises(ValueError, match="24 images and 23 labels"):
        FineTuneClassifier(**QUICK).fit(X, Y[1:])
    with pytest.raises(ValueError, match="NaN or infinity"):
        FineTuneRegressor(**QUICK).fit(X, np.r_[np.nan, NUMBERS[1:]])
    with pytest.raises(ValueError, match="'dogs'"):
        FineTuneClassifier(**QUICK, class_weight={"dogs": 2}).fit(X, Y)
    with pytest.raises(ValueError, match="negative"):
        FineTuneClassifier(**QUICK).fit(X, Y, sample_weight=-np.ones(24))
    with pytest.raises(ValueError, match="No image of class 'disc' has a sample_weight above 0"):
        FineTuneClassifier(**QUICK).fit(X, Y, sample_weight=Y != "disc")
    for class_weight in ("balance", [1, 2, 3], {"disc": -1}):
        with pytest.raises(ValueError, match=r"class_weight`? ?(must be|=.*; expected)"):
            FineTuneClassifier(**QUICK, class_weight=class_weight).fit(X, Y)


@pytest.mark.parametrize("kind", ["object", "string", "category"])
def test_labels_in_pandas_series(kind):
    y = pd.Series(Y, dtype=kind)
    clf = FineTuneClassifier(**QUICK).fit(X, y)
    assert clf.classes_.tolist() == ["bars", "disc", "flat"] and clf.score(X, y) > 0.9
    with pytest.raises(ValueError, match="one class, 'disc'"):
        clf.fit(X, pd.Series(["disc"] * 24, dtype=kind))
    with pytest.raises(ValueError, match="Class 'odd' has one image"):
        clone(clf).set_params(validation_fraction=0.1).fit(X, pd.Series(["odd", *Y[1:]], dtype=kind))
    with pytest.raises(ValueError, match="NaN or None in 1 of 24 values"):
        clf.fit(X, pd.Series([None, *Y[1:]], dtype=kind))
    with pytest.raises(ValueError, match="groups contains NaN or None"):
        clf.fit(X, y, groups=[None] * 24)
    with pytest.raises(ValueError, match="y is empty"):
        clf.fit(X[:0], y[:0])


def test_images_with_zero_weight_are_left_out():
    few = np.arange(24) < 6
    params = small_top(validation_fraction=0.3, class_weight="balanced")
    weighted = FineTuneClassifier(**params).fit(X, Y, sample_weight=few).predict_proba(X)
    expected = FineTuneClassifier(**params).fit(X[few], Y[few]).predict_proba(X)
    np.testing.assert_allclose(weighted, expected, atol=1e-6)
    with pytest.raises(ValueError, match="weights of the validation images sum to 0"):
        training_weights(np.array([0, 1, 0]), np.array(["a", "b"]), {"a": 0}, None, np.array([0, 1]))


def test_failed_fit_keeps_the_fitted_state():
    reg = FineTuneRegressor(**QUICK).fit(X, NUMBERS)
    before = reg.predict(X)
    with pytest.raises(
        ValueError, match="`start` must be None, 'linear' or a value set by from_pipeline; got 'near'"
    ):
        reg.set_params(start="near").fit(X, 100 * NUMBERS)
    np.testing.assert_array_equal(reg.predict(X), before)


def test_constant_target_and_two_images():
    assert (FineTuneRegressor(**QUICK).fit(X, np.full(24, 7.0)).predict(X) == 7).all()
    reg = FineTuneRegressor(**TINY, epochs=1, batch_size=500, random_state=0).fit(X[:2], [1.0, 2.0])
    assert reg.predict(X[:1]).shape == (1,)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"train_from": "blok10_dw"}, "Did you mean 'block10_dw'"),
        ({"train_from": 99}, "has 6 blocks|blocks before the head"),
        ({"train_from": 1.5}, "a number of blocks"),
        ({"train_from": None}, "`train_from` must be the name of a layer, .* a number of blocks; got None"),
        ({"random_state": -1}, "`random_state` must be None, an integer of at least 0 or .*; got -1"),
        ({"epochs": -1}, "`epochs` must be an integer of at least 0; got -1"),
        ({"learning_rate": 0}, "`learning_rate` must be None or a number above 0; got 0"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1; got 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a number of at least 0; got -1"),
        ({"tta": 2}, "`tta` must be 0 without `augment`.*Set augment, or tta=0"),
        ({"checkpoint_dir": "/dev/null/x"}, "Cannot make the folder for checkpoints"),
        ({"schedule": "cosin"}, "'cosine'"),
        (
            {"validation_fraction": 1},
            "`validation_fraction` must be a number of at least 0 and below 1; got 1",
        ),
        ({"validation_fraction": 0, "patience": 3}, "`patience` must be None without validation"),
        (
            {"start": "nearest"},
            "`start` must be None, 'linear' or a value set by from_pipeline; got 'nearest'",
        ),
        ({"start": None, "head": ["big"]}, r"`head` must be a list of .*; got \['big'\]"),
        (
            {"start": None, "head": lambda x: x},
            "`head` must lead from the feature map to a Keras tensor of shape",
        ),
        ({"on_error": "nan"}, "'drop'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_parameters(params, text):
    with pytest.raises((ValueError, OSError), match=text):
        FineTuneClassifier(**{**TOP, **params}).fit(X, Y)


@pytest.fixture
def files(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(24)]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_unreadable_images(files):
    open(files[5], "w").close()
    with pytest.raises(ImageReadError, match=r"5\.png.*on_error='drop'"):
        FineTuneClassifier(**small_top()).fit(files, Y)
    with pytest.warns(UnreadableImagesWarning, match="1 of 24 images could not be read and are left out"):
        clf = FineTuneClassifier(**small_top(), on_error="drop").fit(files, Y)
    rest = np.arange(24) != 5
    expected = FineTuneClassifier(**small_top()).fit(X[rest], Y[rest])
    np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), atol=1e-6)
    with pytest.raises(ImageReadError, match=r"5\.png"):
        clf.predict(files)


def test_image_that_becomes_unreadable_during_training(files, monkeypatch):
    import keras

    from tlfeatures.finetune import _pixels

    monkeypatch.setattr(_pixels, "MEMORY_LIMIT", 0)  # decoded again in each epoch
    expected = FineTuneClassifier(**small_top()).fit(files, Y).predict_proba(X)
    monkeypatch.setattr(_pixels, "MEMORY_LIMIT", 1 << 30)
    np.testing.assert_array_equal(FineTuneClassifier(**small_top()).fit(files, Y).predict_proba(X), expected)
    monkeypatch.setattr(_pixels, "MEMORY_LIMIT", 0)

    def truncate(epoch, logs):
        open(files[7], "w").close()

    clf = FineTuneClassifier(**small_top(epochs=50), n_jobs=1)
    clf.set_params(callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=truncate)])
    with pytest.raises(ImageReadError, match=r"7\.png.*became unreadable during training"):
        clf.fit(files, Y)


def test_next_batch_is_decoded_while_a_batch_is_used(files, monkeypatch):
    from tlfeatures.finetune import _pixels
    from tlfeatures.images import Decoder, decode_batches

    is_decoded = {i: threading.Event() for i in range(3)}

    def decode(images, rows, *args, **kwargs):
        batches = list(decode_batches(images, rows, *args, **kwargs))
        is_decoded[rows[0] // 8].set()
        return batches

    monkeypatch.setattr(_pixels, "decode_batches", decode)
    for limit in (1 << 30, 0):  # kept in memory, or decoded again in each epoch
        monkeypatch.setattr(_pixels, "MEMORY_LIMIT", limit)
        read = _pixels.Pixels(Images.of(files), Decoder((32, 32))).read_batches(np.arange(24), 8)
        for i in range(3):
            np.testing.assert_array_equal(read(i), X[8 * i : 8 * i + 8])
            assert i == 2 or is_decoded[i + 1].wait(60)


def test_warning_if_training_does_not_improve():
    params = {**TOP, "epochs": 2, "learning_rate": 0.3, "schedule": "constant"}
    with pytest.warns(
        ConvergenceWarning, match=r"did not improve the validation loss.*learning_rate below 0\.3"
    ):
        clf = FineTuneClassifier(**params).fit(X, Y)
    assert clf.best_epoch_ == 0 and clf.history_["epoch"].tolist() == [0, 1, 2]


def test_nonfinite_weights_are_not_kept():
    """Use a head with a finite loss and a gradient that is not finite."""
    import keras

    def head(x):  # the derivative of the square root is infinite at 0
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.layers.Lambda(lambda v: keras.ops.sqrt(keras.ops.relu(v - 1e6)))(x)

    params = {
        "model": small_file(),
        "head": head,
        "epochs": 1,
        "batch_size": 24,
        "validation_fraction": 0,
        "random_state": 0,
    }
    FineTuneClassifier(**params).fit(X, Y)  # no layer before the square root is trained
    params |= {"train_from": "conv2", "head_epochs": 0}
    with pytest.warns(
        TrainingStoppedWarning, match=r"weights were not finite after epoch 1.*those of epoch 0"
    ):
        clf = FineTuneClassifier(**params).fit(X, Y)
    assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize("reason", ["weight", "file"])
def test_standardization_of_the_target_ignores_images_that_are_left_out(reason, files):
    params = {**TINY, "epochs": 3, "validation_fraction": 0, "random_state": 0, "on_error": "drop"}
    paths, numbers = list(files), NUMBERS.copy()
    without = FineTuneRegressor(**params).fit(paths[1:], numbers[1:])
    numbers[0], weight = 1e9, np.ones(len(paths))
    if reason == "weight":
        weight[0] = 0
    else:
        with open(paths[0], "wb") as file:
            file.write(b"broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableImagesWarning)
        left_out = FineTuneRegressor(**params).fit(paths, numbers, sample_weight=weight)
    assert left_out._target == without._target


def test_nonfinite_loss():
    with pytest.raises(
        FloatingPointError, match=r"learning rate of 1e\+30\. Try 1e\+29.*no weights to restore"
    ):
        FineTuneClassifier(**TINY, head=[8], learning_rate=1e30, epochs=3, random_state=0).fit(X, Y)
    with pytest.warns(TrainingStoppedWarning, match="weights are those of epoch 0"):
        clf = FineTuneClassifier(**small_top(learning_rate=1e30)).fit(X, Y)
    expected = FineTuneClassifier(**small_top(epochs=0)).fit(X, Y)
    np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))


def test_out_of_memory_error_suggests_a_batch_size():
    import keras

    def fail(logs):
        raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[32,112,112,64]")

    callbacks = [keras.callbacks.LambdaCallback(on_train_begin=fail)]
    with pytest.raises(OutOfMemoryError, match=r"batch_size=32.*Try `batch_size=16`") as caught:
        FineTuneClassifier(**TOP, callbacks=callbacks).fit(X, Y)
    assert isinstance(caught.value, MemoryError)


# -- callbacks -------------------------------------------------------------------------------


@pytest.mark.slow
def test_callbacks_of_keras(tmp_path):
    import keras

    callbacks = [keras.callbacks.CSVLogger(str(tmp_path / "log.csv"), append=True)]
    params = small_top(start=None, head_epochs=3)
    clf = FineTuneClassifier(**params, callbacks=callbacks).fit(X, Y)
    log = pd.read_csv(tmp_path / "log.csv")
    trained = clf.history_[clf.history_["epoch"] > 0]
    assert log["epoch"].tolist() == [0, 1, 2, 0, 1]  # of both stages, from 0 as in Keras
    columns = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    np.testing.assert_allclose(log[columns], trained[columns], rtol=1e-6)
    expected = FineTuneClassifier(**params).fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
    again = pickle.loads(pickle.dumps(clone(clf).fit(X, Y)))  # `fit` does not change the parameter
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))
    clf.save(tmp_path / "clf.keras-bundle")
    assert FineTuneClassifier.load(tmp_path / "clf.keras-bundle").callbacks is None


@pytest.mark.parametrize("train_from", ["conv2", "all"])
def test_model_checkpoint(train_from, tmp_path):
    import keras

    callbacks = [keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras"))]
    # without validation images, the last epoch is kept
    params = small_top(train_from=train_from, layer_decay=0.5, validation_fraction=0)
    pixels = X[:, :16, :16]
    clf = FineTuneClassifier(**params, callbacks=callbacks).fit(pixels, Y)
    model = keras.models.load_model(tmp_path / "model.keras")
    logits = model.predict(pixels.astype("float32"), verbose=0)
    np.testing.assert_allclose(softmax(logits, axis=1), clf.predict_proba(pixels), atol=1e-5)
    factors = getattr(model.optimizer, "factors", (1.0,))
    assert set(factors) == ({1.0} if train_from == "conv2" else {0.5, 1.0})


def test_tensorboard(tmp_path, recwarn):
    pytest.importorskip("tensorboard")
    import keras

    callbacks = [keras.callbacks.TensorBoard(str(tmp_path / "board"))]
    clf = FineTuneClassifier(**small_top(), callbacks=callbacks).fit(X, Y)
    assert list((tmp_path / "board").rglob("events*"))
    assert not [warning for warning in recwarn if "serialize" in str(warning.message)]
    assert pickle.loads(pickle.dumps(clf)).predict(X).tolist() == clf.predict(X).tolist()


def test_callbacks_that_stop_or_set_the_learning_rate():
    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    def fit(*callbacks, **params):
        return FineTuneRegressor(**TINY, epochs=5, random_state=0, callbacks=callbacks, **params).fit(
            X, NUMBERS
        )

    assert fit(Stop()).history_["epoch"].tolist() == [1, 2]
    halves = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    rates = fit(halves, schedule="constant", learning_rate=0.08).history_["learning_rate"]
    np.testing.assert_allclose(rates, [0.04, 0.02, 0.01, 0.005, 0.0025])
    with pytest.raises(
        ValueError, match=r"`callbacks` must be None or a list of keras\.callbacks\.Callback; got"
    ):
        fit("log.csv")


def test_gradients_of_the_network_are_clipped():
    """Without it, one of three seeds ended with the accuracy of chance on the hand signs (benchmarks/finetune.py)."""
    import keras

    norms = []

    class Record(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            norms.append(self.model.optimizer.global_clipnorm)

    params = {**TOP, "start": None, "head_epochs": 1, "epochs": 1}
    FineTuneClassifier(**params, callbacks=[Record()]).fit(X, np.arange(len(X)) % 2)
    assert norms == [None, 1.0]


# -- bundles and pickles -------------------------------------------------------------------


def test_saved_bundle_equals_the_estimator(tuned, tmp_path):
    path = tmp_path / "clf.keras-bundle"
    tuned.save(path)
    whole = tmp_path / "whole.keras-bundle"
    tuned.save(whole, whole=True)
    assert path.stat().st_size < 0.7 * whole.stat().st_size
    np.testing.assert_allclose(
        FineTuneClassifier.load(path).predict_proba(X), tuned.predict_proba(X), atol=1e-6
    )
    clf = FineTuneClassifier.load(path)
    assert clf.get_params() == {**tuned.get_params()}
    pd.testing.assert_frame_equal(clf.history_, tuned.history_)
    assert clf.predict(X).tolist() == tuned.predict(X).tolist()
    clf.save(tmp_path / "again.keras-bundle")
    ours, theirs = (_checkpoint.read_arrays(p) for p in (path, tmp_path / "again.keras-bundle"))
    assert all((a == b).all() for a, b in zip(ours[1], theirs[1], strict=True))
    assert {k: ours[0][k] for k in ("params", "fitted", "changed")} == {
        k: theirs[0][k] for k in ("params", "fitted", "changed")
    }
    with pytest.raises(
        ValueError,
        match=r"contains a FineTuneClassifier; expected FineTuneRegressor\. Load it with FineTuneClassifier\.load",
    ):
        FineTuneRegressor.load(path)


@pytest.mark.slow
def test_pickle_and_bundle_predict_in_another_process_without_the_network(tuned, tmp_path):
    whole = tmp_path / "whole.keras-bundle"
    tuned.save(whole, whole=True)
    joblib.dump((tuned, X), tmp_path / "clf.joblib")
    code = f"""
        import joblib
        from tlfeatures import FineTuneClassifier
        pickled, X = joblib.load({str(tmp_path / "clf.joblib")!r})
        pickled.model = "absent"
        loaded = FineTuneClassifier.load({str(whole)!r}, model="absent")
        print([clf.predict_proba(X).tolist() for clf in (pickled, loaded)])
    """
    for proba in json.loads(python(code)):
        np.testing.assert_allclose(proba, tuned.predict_proba(X), atol=1e-6)


def test_bundle_is_recognized_by_content(tuned, tmp_path):
    path = tmp_path / "model.of.mine"
    tuned.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.of.mine"]  # the name is not changed
    assert is_bundle(path)
    np.testing.assert_allclose(
        FineTuneClassifier.load(path).predict_proba(X), tuned.predict_proba(X), atol=1e-6
    )
    path.write_bytes(path.read_bytes()[:1000])
    assert is_bundle(path)  # loading it raises an error that names the damage
    joblib.dump(tuned, tmp_path / "model.keras-bundle")
    assert not is_bundle(tmp_path / "model.keras-bundle")
    np.savez(tmp_path / "arrays.npz", X)
    assert not is_bundle(tmp_path / "arrays.npz")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bundle_with_nonfinite_weights_is_rejected(tuned, tmp_path, whole, value):
    path = tmp_path / "clf.keras-bundle"
    tuned.save(path, whole=whole)
    about, arrays = _checkpoint.read_arrays(path)
    arrays[0] = arrays[0].copy()
    arrays[0].flat[0] = value
    _checkpoint.write_arrays(path, about, arrays)
    with pytest.raises(ValueError, match=r"contains weights that are NaN or infinite.*expected finite"):
        FineTuneClassifier.load(path)


def test_training_digests_are_saved(tuned, tmp_path):
    path = tmp_path / "clf.keras-bundle"
    digests = tuned.training_digests_
    assert digests.dtype == np.uint8 and digests.shape == (24, 16)
    np.testing.assert_array_equal(digests, Images.of(X).keys()[0])
    for whole in (False, True):
        tuned.save(path, whole=whole)
        again = FineTuneClassifier.load(path)
        np.testing.assert_array_equal(again.training_digests_, digests)
        about, arrays = _checkpoint.read_arrays(path)
        del about["training_digests"]  # a bundle of an older version
        _checkpoint.write_arrays(path, about, arrays[:-1])
        older = FineTuneClassifier.load(path)
        np.testing.assert_array_equal(older.predict_proba(X), again.predict_proba(X))
        assert not hasattr(older, "training_digests_")
        older.save(path, whole=whole)
        assert not hasattr(FineTuneClassifier.load(path), "training_digests_")


def test_training_digests_leave_out_unreadable_images(files):
    open(files[5], "w").close()
    with pytest.warns(UnreadableImagesWarning):
        clf = FineTuneClassifier(**QUICK, on_error="drop").fit(files, Y)
    expected = Images.of(files).keys()[0][np.arange(24) != 5]
    np.testing.assert_array_equal(clf.training_digests_, expected)


def test_unpickled_estimator_has_one_copy_of_its_weights():
    clf = FineTuneClassifier(**TINY, head=[8000], epochs=0, random_state=0).fit(X, Y)
    data = pickle.dumps(clf)
    again = pickle.loads(data)
    arrays = again._net[1]  # the weights, until the first prediction
    assert sum(array.nbytes for array in arrays) > 0.8 * len(data)
    references = [weakref.ref(array) for array in arrays]
    del arrays
    again.predict(X)
    gc.collect()
    assert not any(reference() is not None for reference in references)


def test_bundle_rejects_another_network(tuned, tmp_path):
    tuned.save(tmp_path / "clf.keras-bundle")
    with pytest.raises(RecipeMismatchError, match="belongs to another network"):
        FineTuneClassifier.load(tmp_path / "clf.keras-bundle", weights=None)
    reg = FineTuneRegressor(custom(), epochs=1, random_state=0, cache=None).fit(X[:, :16, :16], NUMBERS)
    with pytest.raises(ValueError, match="Pass whole=True"):
        reg.save(tmp_path / "reg.keras-bundle")
    reg.save(tmp_path / "reg.keras-bundle", whole=True)
    again = FineTuneRegressor.load(tmp_path / "reg.keras-bundle")
    np.testing.assert_allclose(again.predict(X[:, :16, :16]), reg.predict(X[:, :16, :16]), rtol=1e-5)


def test_bundle_with_code_is_rejected(tuned, tmp_path):
    path = tmp_path / "clf.keras-bundle"
    tuned.save(path, whole=True)
    about, arrays = _checkpoint.read_arrays(path)
    for layer in (
        {"class_name": "Lambda", "module": "keras.layers", "config": {}, "registered_name": None},
        {"class_name": "function", "module": "builtins", "config": "eval", "registered_name": "function"},
        {"class_name": "Popen", "module": "subprocess", "config": {"args": "ls"}, "registered_name": None},
        {"class_name": "get_file", "module": "keras.utils", "config": {}, "registered_name": None},
        {"class_name": "Mine", "module": None, "config": {}, "registered_name": "Custom>Mine"},
        {"class_name": "StringLookup", "module": "keras.layers", "config": {"vocabulary": "/etc/passwd"}},
        {"class_name": "run", "module": "keras.layers_of_mine", "config": {}, "registered_name": "run"},
    ):
        layers = json.loads(json.dumps(about["trunk"]))
        layers["config"]["layers"][3] = {**layers["config"]["layers"][3], **layer}
        _checkpoint.write_arrays(path, {**about, "trunk": layers}, arrays)
        with pytest.raises(ValueError, match="which can run code"):
            FineTuneClassifier.load(path)


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}"


def test_damaged_bundle(tuned, tmp_path):
    path = tmp_path / "clf.keras-bundle"
    tuned.save(path)
    about, arrays = _checkpoint.read_arrays(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged or has another format"):
        FineTuneClassifier.load(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("about.json", "{}")
    with pytest.raises(ValueError, match="not a bundle of the format"):
        FineTuneClassifier.load(path)
    for members, kind, text in (
        (
            {"about.json": "{}", "00000.npy": b"\x93NUMPY\1\0\x56\0" + HUGE.ljust(86)},
            zipfile.ZIP_STORED,
            "with the shape",
        ),
        (
            {"about.json": "{}", "00000.npy": bytes(10**6)},
            zipfile.ZIP_LZMA,
            "another compression",
        ),
        ({"about.json": "[" * 10**5}, zipfile.ZIP_STORED, "damaged"),
    ):
        with zipfile.ZipFile(path, "w", kind) as file:
            for name, content in members.items():
                file.writestr(name, content)
        with pytest.raises(ValueError, match=text):
            FineTuneClassifier.load(path)
    for key in about:
        if key not in (
            "trunk_weights",
            "versions",
            "card",
        ):  # used only with whole=True, and by `tlfeatures info`
            _checkpoint.write_arrays(path, {k: v for k, v in about.items() if k != key}, arrays)
            with pytest.raises(ValueError, match=r"damaged|not a bundle|contains a None"):
                FineTuneClassifier.load(path)
    _checkpoint.write_arrays(path, about, arrays[:-1])
    with pytest.raises(ValueError, match="damaged"):
        FineTuneClassifier.load(path)
    with pytest.raises(TypeError, match="batchsize"):
        FineTuneClassifier.load(path, batchsize=2)
    with pytest.raises(FileNotFoundError):
        FineTuneClassifier.load(tmp_path / "none.keras-bundle")


def test_bundle_has_the_fitted_state_after_set_params(tmp_path):
    params = {**TOP, "epochs": 1, "normalization": "data", "cache": None}
    clf = FineTuneClassifier(**params).fit(X, Y.astype(object))
    expected = clf.predict_proba(X)
    for whole in (False, True):
        clf.set_params(image_size=64).save(tmp_path / "clf.keras-bundle", whole=whole)
        again = FineTuneClassifier.load(tmp_path / "clf.keras-bundle")
        np.testing.assert_allclose(again.predict_proba(X), expected, atol=1e-6)
        assert again.normalization_ == clf.normalization_ and again.classes_.dtype == object


def test_bundle_with_a_lambda_layer(tmp_path):
    import keras

    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Lambda(lambda t: t / 255)(pixels)
    model = keras.Model(pixels, keras.layers.Conv2D(4, 3, name="conv")(x))
    clf = FineTuneClassifier(model, train_from="conv", start="linear", epochs=1, random_state=0, cache=None)
    clf.fit(X[:, :16, :16], Y)
    clf.save(tmp_path / "clf.keras-bundle", whole=True)
    with pytest.raises(ValueError, match="contains 'Lambda'"):
        FineTuneClassifier.load(tmp_path / "clf.keras-bundle")
    FineTuneClassifier.load(tmp_path / "clf.keras-bundle", trust=True)


def test_embeddings_of_the_fine_tuned_network(tuned, store):
    ours = CNNFeatures(tuned.network_, cache=store)
    plain = CNNFeatures(**TINY, cache=store)
    features = ours.fit_transform(X)
    assert features.shape == (24, 320) and (features != plain.fit_transform(X)).any()
    assert ours.recipes_[0]["digest"] != plain.recipes_[0]["digest"]
    proba = tuned.head_.predict_proba(features)
    np.testing.assert_allclose(proba, tuned.predict_proba(X), atol=1e-5)
    early = {"layer": "block3_pw_relu", "cache": store}  # layers before train_from do not change
    np.testing.assert_allclose(
        CNNFeatures(tuned.network_, **early).fit_transform(X),
        CNNFeatures(**TINY, **early).fit_transform(X),
        atol=1e-5,
    )


def test_draw_curves_and_augmentations(tuned):
    assert draw_curves(tuned.history_).startswith(b"\x89PNG")
    sheet = draw_augmentations(X[:2], {"flip": "horizontal"}, n_views=3)
    import io

    assert Image.open(io.BytesIO(sheet)).size == (4 * 36 - 4, 2 * 36 - 4)


@pytest.mark.parametrize(
    ("augment", "options", "message"),
    [
        (None, {}, "`augment` must be a dict such as .*; got None"),
        ({}, {}, "`augment` must be a dict such as .*; got {}"),
        ({"crop": 4}, {"n_images": 0}, "`n_images` must be an integer of at least 1; got 0"),
        ({"crop": 4}, {"n_views": -1}, "`n_views` must be an integer of at least 1; got -1"),
    ],
)
def test_augmentations_that_cannot_be_drawn(augment, options, message):
    with pytest.raises(InvalidParameterError, match=message):
        FineTuneClassifier(**TINY, augment=augment).draw_augmentations(X, **options)


@pytest.mark.parametrize(("network", "layer"), [("vgg16", "block2_pool"), ("efficientnet_b0", "block2b_add")])
def test_normalization_of_families(network, layer):
    """Check reversed channels, other scales and nested networks: epochs=0 equals the frozen pipeline."""
    params = {"model": network, "layer": layer, "weights": None, "image_size": 32}
    clf = FineTuneClassifier(**{**QUICK, **params}).fit(X, Y)
    features = CNNFeatures(**params).fit_transform(X)
    expected = clf.start_pipeline_.predict_proba(features.astype(float))
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-3)


BACKENDS = """
import json, os
import numpy as np
from tests.test_finetune import X, Y
from tlfeatures import FineTuneClassifier

X, path = X[:, :16, :16], os.environ["SMALL_FILE"]
params = {"batch_size": 8, "random_state": 0, "cache": None}
clf = FineTuneClassifier(path, train_from="conv2", start="linear", epochs=4, learning_rate=0.003, **params)
results = [clf.fit(X, Y).predict_proba(X).tolist()]
assert clf.best_epoch_ > 0  # not the weights before training
clf.set_params(train_batchnorm=True, epochs=1, validation_fraction=0).fit(X, Y)
results.append(clf.network_.get_layer("bn2").get_weights()[3].tolist())  # the variance
head = FineTuneClassifier(path, start="linear", epochs=3, learning_rate=0.03, **{**params, "batch_size": 5})
results.append(head.fit(X, Y).predict_proba(X).tolist())
drop = FineTuneClassifier(path, head=[8, 0.5], epochs=2, **params)
first, second = (drop.fit(X, Y).predict_proba(X) for _ in range(2))
assert np.array_equal(first, second)
print(json.dumps(results))
"""


@functools.cache
def train_with(backend):
    out = python(BACKENDS, KERAS_BACKEND=backend, SMALL_FILE=small_file())
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend):
    pytest.importorskip(backend)
    for actual, expected in zip(train_with(backend), train_with("tensorflow"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_mixed_precision():
    clf = FineTuneClassifier(**TOP, precision="bfloat16").fit(X, Y)
    assert clf.score(X, Y) > 0.9 and clf.history_["loss"].iloc[-1] < 0.5


@pytest.mark.slow
def test_fine_tuning_on_signs(shared):
    table = pd.read_csv(shared / "data/signs/signs.csv")
    part = table[table.split == "train"].groupby("label").head(20)
    paths = [str(shared / "data/signs" / path) for path in part.path]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf = FineTuneClassifier(
            "mobilenet_0.75", image_size=64, train_from="conv_pw_12", start="linear", epochs=2, random_state=0
        ).fit(paths, part.label)
    assert clf.score(paths, part.label) > 0.95


def test_max_value_scales_12_bit_images():
    twelve = ((X.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)[..., 0]
    expected = FineTuneClassifier(**QUICK, cache=None).fit(X[..., 0], Y)
    clf = FineTuneClassifier(**QUICK, cache=None, max_value=4095).fit(twelve, Y)
    np.testing.assert_allclose(clf.predict_proba(twelve), expected.predict_proba(X[..., 0]), atol=1e-4)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_allclose(again.predict_proba(twelve), clf.predict_proba(twelve), atol=1e-6)


def test_errors_list_all_unreadable_images(files):
    clf = FineTuneClassifier(**QUICK).fit(X, Y)
    for i in (3, 9):
        open(files[i], "w").close()
    with pytest.raises(ImageReadError, match=r"cannot read 2 of 24 images:\n.*3\.png.*\n.*9\.png"):
        clf.predict(files)
    with pytest.raises(
        ImageReadError, match=r"cannot read 2 of 24 images:\n.*3\.png.*\n.*9\.png(.|\n)*on_error='drop'"
    ):
        FineTuneClassifier(**QUICK).fit(files, Y)


def test_labels_in_pyarrow_and_sparse_arrays():
    pa = pytest.importorskip("pyarrow")
    clf = FineTuneClassifier(**QUICK, cache=None).fit(X, pa.array(Y))
    assert clf.classes_.tolist() == ["bars", "disc", "flat"]
    with pytest.raises(
        ValueError, match=r"got a sparse matrix of shape \(24, 1\). Use y.toarray\(\).ravel\(\)"
    ):
        FineTuneClassifier(**QUICK).fit(X, scipy.sparse.csr_matrix(np.arange(24)[:, None] % 3))
