"""STL-10: train the last layer, or the whole network, on small images with augmentation.

    python pipelines/stl10.py                                  # 400 drawn images in the format of STL-10
    python pipelines/stl10.py --data stl10_binary              # the folder of train_X.bin, train_y.bin, test_X.bin, ...
    python pipelines/stl10.py --data stl10_binary --image-size 224 --skip-tutorial

The tutorial fine-tunes VGG16 on STL-10 (10 classes, 96x96 pixels): random crops with a padding of 4 pixels, horizontal
flips, mean and standard deviation of the data set, the last layer replaced; (a) with the other layers frozen, (b) with
all layers trained; SGD with momentum, 20 epochs, curves of loss and accuracy. The same augmentation and normalization
are used here in both ways, by FineTuneClassifier (AdamW) and by Keras alone (SGD with momentum 0.9).

The tutorial keeps VGG's dense layers at 96 pixels through adaptive pooling. Here one new dense layer is put on the
global average of the last feature map (pool5 in VGG16) of 96x96 pixels; --image-size 224 resizes the images instead. In
all trainings the learning rate is divided by 10 after 50% and 75% of the steps.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from tlfeatures import FineTuneClassifier
from tlfeatures.finetune import Augmenter
from tlfeatures.heads import make_head
from tlfeatures.sources import read_stl10
from tlfeatures.studies import (
    Study,
    draw_confusion,
    draw_histories,
    load_keras_network,
    load_pixels,
    write_stl10_stand_in,
)

AUGMENT = {"crop": 4, "flip": "horizontal"}
EPOCHS, QUICK_EPOCHS = 20, 2
WAYS = {"last layer": "head", "all layers": "all"}
STAND_IN = "Images: drawn stand-in in the format of STL-10, not its photographs"


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("stl10", __doc__, tutorial_network="vgg16", data=None, image_size=96)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes."""
    args = study.args
    if args.data is None:
        study.note(STAND_IN)
        with tempfile.TemporaryDirectory() as folder:
            write_stl10_stand_in(folder, *study.choose((200, 200), quick=(100, 20)), args.seed)
            (X, y), (X_test, y_test) = read_stl10(folder)
    else:
        (X, y), (X_test, y_test) = read_stl10(args.data)
    study.say(f"{len(y)} training images, {len(y_test)} test images, {len(np.unique(y))} classes")
    study.say(f"one dense layer on the global average of the last map of {args.image_size} pixels")
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)

    with study.measure("CNNFeatures + SVM, no augmentation") as row:
        pipeline = make_pipeline(study.features(), make_head("svm"))
        row["accuracy"] = pipeline.fit(X, y).score(X_test, y_test)
    histories = {}
    for way, train_from in WAYS.items():
        recipe = f"FineTuneClassifier, {way}, {epochs} epochs"
        with study.measure(recipe) as row:
            clf = FineTuneClassifier(
                **study.options(),
                train_from=train_from,
                head_epochs=study.choose(10, quick=1),
                epochs=epochs,
                learning_rate=0.01 if train_from == "head" else None,
                augment=AUGMENT,
                normalization="data",
                schedule="step",
                random_state=args.seed,
            ).fit(X, y)
            predicted = clf.predict(X_test)
            row["accuracy"] = float(np.mean(predicted == y_test))
        history = clf.history_
        histories[recipe] = history[(history["stage"] == history["stage"].iloc[-1]) & (history["epoch"] > 0)]
    if not args.skip_tutorial:
        for way in WAYS:
            recipe = f"Keras: tutorial's recipe, {way}, {epochs} epochs"
            with study.measure(recipe) as row:
                histories[recipe], row["accuracy"] = train_with_keras(
                    study, way, X, y, X_test, y_test, epochs
                )

    study.save(draw_histories(histories, f"{study.network}."), "curves.png")
    title = f"FineTuneClassifier, all layers. {study.network}"
    study.save(draw_confusion(y_test, predicted, title), "confusion.png")


def train_with_keras(
    study: Study, way: str, X: Any, y: Any, X_test: Any, y_test: Any, epochs: int
) -> tuple[pd.DataFrame, float]:
    """Replace the last layer and train it, or all layers, with Keras alone, by SGD with momentum."""
    import keras

    class Views(keras.utils.PyDataset):
        """Batches of augmented images in a new order for each epoch."""

        def __init__(self, X, codes):
            super().__init__()
            self.X, self.codes, self.epoch, self.augmenter = X, codes, 0, Augmenter(AUGMENT)
            self.order = np.random.default_rng(study.args.seed).permutation(len(X))

        def __len__(self):
            return -(-len(self.X) // 32)

        def __getitem__(self, index):
            rows = self.order[32 * index : 32 * index + 32]
            return self.augmenter(self.X[rows], seed=[self.epoch, index]), self.codes[rows]

        def on_epoch_end(self):
            self.epoch += 1
            self.order = np.random.default_rng([study.args.seed, self.epoch]).permutation(len(self.X))

    args = study.args
    keras.utils.set_random_seed(args.seed)
    classes, codes = np.unique(y, return_inverse=True)
    codes_test = np.searchsorted(classes, y_test)
    network, _ = load_keras_network(args.model, args.weights, args.image_size, pooling="avg")
    network.trainable = way == "all layers"
    size = network.input_shape[1:3]
    X, X_test = load_pixels(X, size), load_pixels(X_test, size)
    X, X_val, codes, codes_val = train_test_split(
        X, codes, test_size=0.1, stratify=codes, random_state=args.seed
    )
    mean, std = X.mean((0, 1, 2)) / 255, X.std((0, 1, 2)) / 255
    inputs = keras.Input((*size, 3))
    normalized = keras.layers.Normalization(mean=mean, variance=std**2)(inputs / 255.0)
    outputs = keras.layers.Dense(len(classes), activation="softmax")(network(normalized))
    model = keras.Model(inputs, outputs)
    rate, steps = (0.01 if way == "last layer" else 0.001), epochs * -(-len(X) // 32)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps // 2, 3 * steps // 4], [rate, rate / 10, rate / 100]
    )
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    model.compile(sgd, "sparse_categorical_crossentropy", metrics=["accuracy"])
    fitted = model.fit(Views(X, codes), epochs=epochs, validation_data=(X_val, codes_val), verbose=0)
    score = model.evaluate(X_test, codes_test, verbose=0, return_dict=True)["accuracy"]
    return pd.DataFrame(fitted.history), float(score)


if __name__ == "__main__":
    sys.exit(main())
