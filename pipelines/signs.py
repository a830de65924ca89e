"""Hand signs: classify photographs of hand signs (0 to 5).

    python pipelines/signs.py --data FOLDER                    # every recipe, 20 epochs each
    python pipelines/signs.py --data FOLDER --skip-tutorial    # without the tutorial's head
    python pipelines/signs.py --data FOLDER --skip-tutorial --predict hand.jpg

The tutorial trains a small network of dense layers on VGG19 without its top: global max pooling, Dense(128),
softmax, 20 epochs. It reports a test accuracy of 91.67% after about 25 minutes on a CPU. The recipes of
tlfeatures share a store of embeddings, so that no epoch or fold runs the network again. `select` chooses by
cross-validation on the training images only. Each recipe is scored once on the test images.

--data is a folder that holds the tutorial's train_signs.h5 and test_signs.h5 (arrays train_set_x,
train_set_y, test_set_x, test_set_y, list_classes), one HDF5 file with all of them, a CSV manifest with the
columns path, label and split, or a folder that holds such a manifest, or train/ and test/ with a folder for
each class.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.pipeline import make_pipeline

from tlfeatures import FineTuneClassifier, select
from tlfeatures.calibration import CalibratedHead
from tlfeatures.heads import make_head
from tlfeatures.sources import read_splits
from tlfeatures.studies import Study, draw_confusion, load_keras_network, load_pixels

EPOCHS, QUICK_EPOCHS = 20, 2


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("signs", __doc__, tutorial_network="vgg19", data="data/signs", predict=True)
    heads = "heads for `select` (default: %(default)s)"
    study.parser.add_argument("--heads", default="svm,logreg,ridge", help=heads)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes."""
    (X, y, _), (X_test, y_test, names) = (study.load(part) for part in read_splits(study.args.data))
    study.say(f"{len(y)} training images, {len(y_test)} test images, {len(np.unique(y))} classes")

    with study.measure("CNNFeatures, last layer + SVM") as row:
        pipeline = make_pipeline(study.features(), CalibratedHead(make_head("svm"))).fit(X, y)
        row["accuracy"] = pipeline.score(X_test, y_test)
    with study.measure("select: layer, pooling and head") as row:
        search = run_search(study, X, y)
        predicted = search.predict(X_test)
        row["accuracy"] = float(np.mean(predicted == y_test))
    best = search.table().iloc[0]
    study.say(f"select chose {best['layer']}, {best['pooling']}, {best['head']}")
    if not study.args.skip_tutorial:
        compare_with_tutorial(study, (X, y), (X_test, y_test))

    study.say(f"{np.sum(predicted != y_test)} test images misclassified by the pipeline of `select`:")
    for i in np.flatnonzero(predicted != y_test)[:10]:
        study.say(f"  {names[i]}: true label {y_test[i]}, predicted {predicted[i]}")
    title = f"Hand signs, test images. {study.network}"
    study.save(draw_confusion(y_test, predicted, title), "confusion.png")
    study.predict(pipeline, study.args.predict)


def run_search(study: Study, X: np.ndarray, y: np.ndarray) -> Any:
    """Choose layer, pooling and head by cross-validation on the training images."""
    options = study.options()
    return select(
        X,
        y,
        models=options["model"],
        image_sizes=[options["image_size"]] if options["image_size"] else "auto",
        poolings=study.choose(("avg", "max"), quick="avg"),
        resize="stretch",
        heads={name.strip(): {} for name in study.args.heads.split(",")},
        cv=study.choose(5, quick=2),
        **{key: options[key] for key in ("weights", "cache", "verbose")},
    )


def compare_with_tutorial(study: Study, train: tuple, test: tuple) -> None:
    """Train the tutorial's head with `FineTuneClassifier`, and with Keras alone."""
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)
    with study.measure(f"FineTuneClassifier, tutorial's head, {epochs} epochs") as row:
        clf = FineTuneClassifier(
            **study.options(), head=[128], pooling="max", epochs=epochs, random_state=study.args.seed
        )
        row["accuracy"] = clf.fit(*train).score(*test)
    with study.measure(f"Keras: the tutorial's recipe, {epochs} epochs") as row:
        row["accuracy"] = train_with_keras(study, train, test, epochs)


def train_with_keras(study: Study, train: tuple, test: tuple, epochs: int) -> float:
    """Train a dense head on the frozen network with Keras alone, as the tutorial does."""
    import keras

    args = study.args
    keras.utils.set_random_seed(args.seed)
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size, pooling="max")
    network.trainable = False
    size = network.input_shape[1:3]
    classes, y = np.unique(train[1], return_inverse=True)
    inputs = keras.Input((*size, 3))
    x = keras.layers.Dense(128, activation="relu")(network(preprocess(inputs), training=False))
    model = keras.Model(inputs, keras.layers.Dense(len(classes), activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(load_pixels(train[0], size), y, epochs=epochs, batch_size=32, verbose=0)
    codes = np.searchsorted(classes, test[1])
    return float(model.evaluate(load_pixels(test[0], size), codes, verbose=0, return_dict=True)["accuracy"])


if __name__ == "__main__":
    sys.exit(main())
