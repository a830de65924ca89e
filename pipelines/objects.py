"""Objects: a small convolutional head on frozen feature maps, for the class of an object and for its position.

    python pipelines/objects.py --data FOLDER                    # every recipe
    python pipelines/objects.py --data FOLDER --skip-tutorial    # without the recipes in Keras alone
    python pipelines/objects.py --data FOLDER --predict my_cat.jpg

The tutorial freezes VGG16 and trains convolution, pooling and dense layers on its last feature map, once to
classify images, once to predict a number from an image. Here the feature maps are computed once and stored;
the layers are the parameter `head` of FineTuneClassifier and FineTuneRegressor. The number is the horizontal
position of an object in percent of the width: each photograph is placed, at half the size, at random
positions on canvases of one color. Average pooling removes most of the information about the position. A
quarter of the images is used for testing.

--data is a folder with a folder for each class, or a CSV manifest with the columns path and label.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline

from tlfeatures import FineTuneClassifier, FineTuneRegressor
from tlfeatures.heads import make_head
from tlfeatures.sources import read_source
from tlfeatures.studies import (
    Study,
    draw_images,
    draw_regression,
    load_keras_network,
    load_pixels,
    split_images,
)

EPOCHS, QUICK_EPOCHS = 20, 2
CANVAS, OBJECT, PLACEMENTS = 224, 112, 3  # sides in pixels; placements of each training image


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("objects", __doc__, tutorial_network="vgg16", data="data/pets", predict=True)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes for both tasks."""
    images, classes, _ = study.load(read_source(study.args.data))
    train, test = split_images(images, classes, seed=study.args.seed)[0]
    study.say(f"{len(train)} training images, {len(test)} test images, {len(np.unique(classes))} classes")
    classify(study, (images[train], classes[train]), (images[test], classes[test]))
    placed = place(load_pixels(np.tile(images[train], PLACEMENTS), (OBJECT, OBJECT)), study.args.seed)
    locate(study, placed, place(load_pixels(images[test], (OBJECT, OBJECT)), study.args.seed + 1))


def make_layers() -> list[Any]:
    """Return the hidden layers of the head: convolution, pooling and a dense layer."""
    from keras import layers

    return [
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(2, padding="same"),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
    ]


def make_params(study: Study) -> dict[str, Any]:
    """Return the parameters of both fine-tune estimators."""
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)
    return study.options() | {"epochs": epochs, "validation_fraction": 0, "random_state": study.args.seed}


def classify(study: Study, train: tuple, test: tuple) -> None:
    """Measure the recipes that predict the class."""
    with study.measure("CNNFeatures + SVM", task="class") as row:
        row["accuracy"] = make_pipeline(study.features(), make_head("svm")).fit(*train).score(*test)
    with study.measure("FineTuneClassifier, convolutional head", task="class") as row:
        clf = FineTuneClassifier(**make_params(study), head=make_layers()).fit(*train)
        row["accuracy"] = clf.score(*test)
    if not study.args.skip_tutorial:
        with study.measure("Keras: the same head, network in the loop", task="class") as row:
            names, codes = np.unique(train[1], return_inverse=True)
            loss = "sparse_categorical_crossentropy"
            probabilities = train_with_keras(study, train[0], codes, test[0], len(names), "softmax", loss)
            row["accuracy"] = float(np.mean(names[probabilities.argmax(axis=1)] == test[1]))
    study.predict(clf, study.args.predict)


def place(pixels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Place each image on a canvas of one color; return the canvases and the positions in percent of the width."""
    rng = np.random.default_rng(seed)
    canvases = np.empty((len(pixels), CANVAS, CANVAS, 3), np.uint8)
    canvases[:] = rng.integers(0, 256, (len(pixels), 1, 1, 3))
    corners = rng.integers(0, CANVAS - OBJECT + 1, (len(pixels), 2))
    for canvas, image, (top, left) in zip(canvases, pixels, corners, strict=True):
        canvas[top : top + OBJECT, left : left + OBJECT] = image
    return canvases, 100 * (corners[:, 1] + OBJECT / 2) / CANVAS


def locate(study: Study, train: tuple, test: tuple) -> None:
    """Measure the recipes that predict the position."""
    predicted = {}
    for name, pooling in (("average-pooled map", "avg"), ("whole map", "flatten")):
        with study.measure(f"CNNFeatures + ridge, {name}", task="position") as row:
            pipeline = make_pipeline(study.features(pooling=pooling), make_head("ridge", "regression"))
            predicted[f"ridge, {name}"] = pipeline.fit(*train).predict(test[0])
            row["r2"] = r2_score(test[1], predicted[f"ridge, {name}"])
    with study.measure("FineTuneRegressor, convolutional head", task="position") as row:
        regressor = FineTuneRegressor(**make_params(study), head=make_layers()).fit(*train)
        predicted["convolutional head"] = regressor.predict(test[0])
        row["r2"] = r2_score(test[1], predicted["convolutional head"])
    if not study.args.skip_tutorial:
        with study.measure("Keras: the same head, network in the loop", task="position") as row:
            mean, std = train[1].mean(), train[1].std()
            y = (train[1] - mean) / std
            outputs = train_with_keras(study, train[0], y, test[0], 1, None, "mean_squared_error")
            row["r2"] = r2_score(test[1], outputs[:, 0] * std + mean)
    title = f"Horizontal position of the object in the test images. {study.network}"
    study.save(draw_regression(test[1], predicted, "position in %", title), "positions.png")
    shown = predicted["convolutional head"][:8]
    titles = [f"{p:.0f}% (true: {t:.0f}%)" for p, t in zip(shown, test[1][:8], strict=True)]
    figure = draw_images(test[0][:8], titles, subtitle=f"Line: predicted position. {study.network}")
    for ax, position in zip(figure.axes, shown, strict=True):
        ax.axvline(position / 100 * CANVAS, color="white", linewidth=3)
        ax.axvline(position / 100 * CANVAS, color="black", linewidth=1)
    study.save(figure, "objects.png")


def train_with_keras(study: Study, X: Any, y: np.ndarray, X_test: Any, n_outputs: int, activation: Any,
                     loss: str) -> np.ndarray:  # fmt: skip
    """Train the head on the frozen network with Keras alone, and return its outputs for the test images."""
    import keras

    args = study.args
    keras.utils.set_random_seed(args.seed)
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size)
    network.trainable = False
    size = network.input_shape[1:3]
    inputs = keras.Input((*size, 3))
    x = network(preprocess(inputs), training=False)
    for layer in make_layers():
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(n_outputs, activation=activation)(x))
    model.compile("adam", loss)
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)
    model.fit(load_pixels(X, size), y, epochs=epochs, batch_size=32, verbose=0)
    return model.predict(load_pixels(X_test, size), verbose=0)


if __name__ == "__main__":
    sys.exit(main())
