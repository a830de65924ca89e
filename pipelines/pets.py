"""Cats, dogs and horses: classify photographs in classes of different sizes.

    python pipelines/pets.py --data FOLDER                      # every recipe, scored by 5-fold cross-validation
    python pipelines/pets.py --data FOLDER --skip-tutorial      # without the tutorial's recipe through Keras
    python pipelines/pets.py --data FOLDER --predict a.jpg b.jpg

The tutorial trains Dense(1024), Dense(1024), Dense(512) and softmax on MobileNet without its top, with images that
generators read from class folders, and predicts new images. Here each image goes through the network once. All recipes
are scored on the same folds. Because the classes differ in size, the table has the balanced accuracy, the mean of the
recalls of the classes, next to the accuracy; the recall of each class is printed and drawn.

--data is a folder with a folder of images for each class (file names do not matter), or a CSV manifest with the columns
path and label.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tlfeatures import FineTuneClassifier
from tlfeatures.calibration import CalibratedHead
from tlfeatures.heads import make_head
from tlfeatures.sources import read_source
from tlfeatures.studies import Study, draw_bars, draw_confusion, load_keras_network, load_pixels

HEAD = (1024, 1024, 512)
EPOCHS, QUICK_EPOCHS = 5, 2


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("pets", __doc__, tutorial_network="mobilenet", data="data/pets", predict=True)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes."""
    X, y, names = study.load(read_source(study.args.data))
    classes, counts = np.unique(y, return_counts=True)
    sizes = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    study.say(f"{len(y)} images: " + ", ".join(f"{n} {name}" for name, n in sizes.items()))
    folds = StratifiedKFold(study.choose(5, quick=2), shuffle=True, random_state=study.args.seed)
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)

    predicted, svm = {}, make_pipeline(study.features(), make_head("svm"))
    estimators = {
        "CNNFeatures + SVM": svm,
        "CNNFeatures + SVM, balanced class weights": make_pipeline(
            study.features(), StandardScaler(), SVC(C=10, class_weight="balanced")
        ),
        f"FineTuneClassifier, tutorial's head, {epochs} epochs": FineTuneClassifier(
            **study.options(), head=HEAD, epochs=epochs, random_state=study.args.seed
        ),
    }
    for recipe, estimator in estimators.items():
        with study.measure(recipe) as row:
            predicted[recipe] = cross_val_predict(estimator, X, y, cv=folds)
            row |= score(y, predicted[recipe])
    if not study.args.skip_tutorial:
        recipe = f"Keras: the tutorial's recipe, {epochs} epochs"
        with study.measure(recipe) as row:
            predicted[recipe] = cross_val_predict_with_keras(study, X, y, folds, epochs)
            row |= score(y, predicted[recipe])

    report(study, y, predicted, sizes, names)
    if study.args.predict:
        svm = make_pipeline(study.features(), CalibratedHead(make_head("svm")))
        study.predict(svm.fit(X, y), study.args.predict)


def score(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return accuracy and balanced accuracy."""
    accuracies = {"accuracy": accuracy_score, "balanced accuracy": balanced_accuracy_score}
    return {name: float(function(y, predicted)) for name, function in accuracies.items()}


def cross_val_predict_with_keras(
    study: Study, X: np.ndarray, y: np.ndarray, folds: Any, epochs: int
) -> np.ndarray:
    """Train the tutorial's layers in each fold with Keras alone, on images that a generator reads."""
    import keras

    class Generator(keras.utils.PyDataset):
        """Batches of images, read again in every epoch, in a new order if ``seed`` is not None."""

        def __init__(self, paths, codes, size, seed=None):
            super().__init__()
            self.paths, self.codes, self.size = paths, codes, size
            self.rng = None if seed is None else np.random.default_rng(seed)
            self.order = np.arange(len(paths))
            self.on_epoch_end()

        def __len__(self):
            return -(-len(self.paths) // 32)

        def __getitem__(self, index):
            rows = self.order[32 * index : 32 * index + 32]
            return load_pixels(self.paths[rows], self.size), self.codes[rows]

        def on_epoch_end(self):
            if self.rng is not None:
                self.rng.shuffle(self.order)

    args = study.args
    classes, codes = np.unique(y, return_inverse=True)
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size, pooling="avg")
    network.trainable = False
    size, predicted = network.input_shape[1:3], np.empty_like(y)
    for train, test in folds.split(X, y):
        keras.utils.set_random_seed(args.seed)
        inputs = keras.Input((*size, 3))
        x = network(preprocess(inputs), training=False)
        for width in HEAD:
            x = keras.layers.Dense(width, activation="relu")(x)
        model = keras.Model(inputs, keras.layers.Dense(len(classes), activation="softmax")(x))
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(Generator(X[train], codes[train], size, args.seed), epochs=epochs, verbose=0)
        probabilities = model.predict(Generator(X[test], codes[test], size), verbose=0)
        predicted[test] = classes[probabilities.argmax(axis=1)]
    return predicted


def report(study: Study, y: np.ndarray, predicted: dict, sizes: dict, names: list[str]) -> None:
    """Print and draw the recall of each class, and the mistakes of the first recipe."""
    recalls = {recipe: recall_score(y, p, average=None) for recipe, p in predicted.items()}
    study.say("\nrecall of each class:")
    for recipe, values in recalls.items():
        study.say(f"  {recipe}: " + ", ".join(f"{c} {v:.1%}" for c, v in zip(sizes, values, strict=True)))
    best = next(iter(predicted))
    wrong = np.flatnonzero(predicted[best] != y)
    study.say(f"{len(wrong)} images misclassified by {best}:")
    for i in wrong[:10]:
        study.say(f"  {names[i]}: predicted {predicted[best][i]}")
    labels = [f"{name}\n({n} images)" for name, n in sizes.items()]
    title = f"Recall of each class, {len(y)} images. {study.network}"
    study.save(draw_bars(recalls, labels, "recall", title), "recall.png")
    title = f"{best}. {study.network}"
    study.save(draw_confusion(y, predicted[best], title), "confusion.png")


if __name__ == "__main__":
    sys.exit(main())
