"""Radiology: small sets of grey images of patients, in DICOM, 16-bit PNG and 16-bit TIFF files.

    python pipelines/radiology.py                                     # drawn radiographs of 24 patients
    python pipelines/radiology.py --data images.csv --window 2048,4096
    python pipelines/radiology.py --data FOLDER --groups dicom:PatientID --skip-tutorial

Tutorials on medical images retrain the last layer of a pretrained network on small data sets, and all its
layers on larger ones. Both are measured here, in Keras alone and with FineTuneClassifier, and compared with
frozen features of all layers. Images are resized to 96 pixels, unless --image-size says otherwise. All images
of a patient are in one fold. tlfeatures.compare compares each recipe with the frozen features on the same
folds: "low" and "high" are the ends of the 95% confidence interval of the difference in accuracy, from a
paired bootstrap of patients. The drawn radiographs and the default settings were adjusted after scores had been seen:
they show that the study works, not how well it works on real images.

--data is a manifest with the columns path, label and patient, or a folder with a folder of images for each
class (DICOM files, grouped by PatientID unless --groups says otherwise). --window is the range of values from
black to white, the same for all images and formats.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import make_pipeline

from tlfeatures import FineTuneClassifier, compare, select
from tlfeatures.heads import make_head
from tlfeatures.images import Decoder, decode_batches
from tlfeatures.networks import find_network
from tlfeatures.sources import Source, read_source
from tlfeatures.studies import (
    Study,
    draw_layer_intervals,
    draw_predictions,
    load_keras_network,
    write_radiology_stand_in,
)

EPOCHS, QUICK_EPOCHS = 3, 1
STAND_IN = "Images: drawn radiographs, not patients"


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("radiology", __doc__, tutorial_network="vgg16", data=None, image_size=96)
    add = study.parser.add_argument
    epochs, window = "epochs of each training", "center and width of the values"
    add("--epochs", type=int, default=EPOCHS, metavar="N", help=f"{epochs} (default: %(default)s)")
    add("--groups", metavar="NAME", help="column with the patients, or dicom:PatientID (default: patient)")
    add(
        "--window",
        type=parse_window,
        default="2048,4096",
        metavar="C,W",
        help=f"{window} (default: %(default)s)",
    )
    return study.run(repeat, argv)


def parse_window(text: str) -> tuple[float, float]:
    """Convert "C,W" to the center and width of the window."""
    center, width = map(float, text.split(","))
    return center, width


def repeat(study: Study) -> None:
    """Measure all recipes."""
    window = study.args.window
    with tempfile.TemporaryDirectory() as folder:
        source = read_images(study, Path(folder))
        if study.args.data is None:
            compare_formats(study, Path(folder) / "formats", window)
        X, y, names = study.load(source)
        patients = dict(zip(source.names, source.groups.tolist(), strict=True))
        groups = np.unique([str(patients[name]) for name in names], return_inverse=True)[1]
        measure(study, X, y, groups, window)


def measure(study: Study, X: np.ndarray, y: np.ndarray, groups: np.ndarray, window: Any) -> None:
    """Measure all recipes on the same folds of patients."""
    study.say(f"{len(y)} images of {len(set(groups))} patients, classes {', '.join(map(str, np.unique(y)))}")
    options = study.options()
    with study.measure("select: layer, pooling and head") as row:
        search = select(
            X, y, groups=groups, window=window, models=options["model"], image_sizes=[options["image_size"]],
            resize="stretch", poolings=study.choose(("avg", "max"), quick="avg"), heads=["svm", "logreg"],
            cv=study.choose(5, quick=2), nested=True, **{key: options[key] for key in ("weights", "cache", "verbose")},
        )  # fmt: skip
        row["accuracy"] = float(np.mean(search.nested_scores_))
    table = search.table()
    study.say(
        f"select chose {table.iloc[0]['layer']}; its accuracy above is nested: layers were chosen in each fold"
    )
    study.save(
        draw_layer_intervals(table, f"Accuracy on patients unseen in training. {study.network}"), "layers.png"
    )

    epochs, seed = study.choose(study.args.epochs, quick=QUICK_EPOCHS), study.args.seed
    shared = {**options, "window": window, "random_state": seed}
    taps = list(find_network(options["model"]).taps)
    frozen = make_pipeline(study.features(window=window, layer=taps), make_head("logreg"))
    recipes = {
        f"FineTuneClassifier, last layer, {epochs} epochs": FineTuneClassifier(**shared, epochs=epochs),
        f"FineTuneClassifier, all layers, {epochs} epochs": FineTuneClassifier(
            **shared, epochs=epochs, train_from="all", start="linear", learning_rate=3e-5
        ),
    }
    if not study.args.skip_tutorial:
        network = (options["model"], options["weights"], options["image_size"], window)
        for part in ("last layer", "all layers"):
            recipes[f"Keras: {part}, {epochs} epochs"] = KerasClassifier(*network, part, epochs, seed)
    first = "CNNFeatures, all layers + logistic regression"
    with study.measure(first) as reference:
        frozen.fit(X, y)
    for recipe, estimator in recipes.items():
        with study.measure(recipe) as row:
            result = compare(
                {first: frozen, recipe: estimator}, X, y, groups=groups, cv=3, n_repeats=1, random_state=seed
            )
            row["accuracy"], row["difference"] = result.pooled_scores[recipe], result.difference
            row["low"], row["high"] = map(float, result.interval)
        reference["accuracy"] = result.pooled_scores[first]
        study.say(f"{recipe}: p = {result.p_value:.2g} ({result.test})")
    shown = np.concatenate([np.flatnonzero(y == label)[:4] for label in np.unique(y)])
    draw_images(study, frozen, X, y, groups, shown, window)


def read_images(study: Study, folder: Path) -> Source:
    """Read the images of ``--data``, or draw some."""
    groups = study.args.groups
    if study.args.data is None:
        study.note(STAND_IN)
        size = study.choose((24, 4), quick=(8, 3))
        return read_source(write_radiology_stand_in(folder, *size, study.args.seed), groups="patient")
    if groups is None and Path(study.args.data).is_dir():
        groups = "dicom:PatientID"
    return read_source(study.args.data, groups=groups or "patient")


def compare_formats(study: Study, folder: Path, window: Any) -> None:
    """Report the cosine of the embeddings of one image in three formats."""
    paths = sorted(map(str, folder.iterdir()))
    rows = study.features(window=window, cache=None, verbose=0).fit_transform(paths)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    formats = ", ".join(Path(path).suffix for path in paths)
    study.say(f"one image as {formats}: cosine of the embeddings at least {(rows @ rows.T).min():.6f}")


class KerasClassifier(ClassifierMixin, BaseEstimator):
    """The tutorial's recipe: a dense layer on the pooled map, trained alone or with all layers, by Keras alone."""

    def __init__(self, model, weights, image_size, window, part, epochs, seed):
        self.model, self.weights, self.image_size, self.window = model, weights, image_size, window
        self.part, self.epochs, self.seed = part, epochs, seed

    def fit(self, X, y):
        """Train the network."""
        import keras

        keras.utils.set_random_seed(self.seed)
        network, preprocess = load_keras_network(self.model, self.weights, self.image_size, pooling="avg")
        network.trainable = self.part == "all layers"
        inputs = keras.Input(network.input_shape[1:])
        self.classes_, codes = np.unique(y, return_inverse=True)
        outputs = keras.layers.Dense(len(self.classes_), activation="softmax")(network(preprocess(inputs)))
        self.network_ = keras.Model(inputs, outputs)
        rate = 1e-4 if self.part == "all layers" else 1e-3
        self.network_.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        self.network_.fit(self.read(X), codes, epochs=self.epochs, batch_size=16, verbose=0)
        return self

    def predict(self, X):
        """Predict the class of each image."""
        return self.classes_[self.network_.predict(self.read(X), verbose=0).argmax(axis=1)]

    def read(self, X):
        """Decode images; Keras itself reads neither DICOM nor 16-bit files."""
        return read_pixels(X, self.network_.input_shape[1:3], self.window)


def read_pixels(X: Any, size: tuple[int, int], window: Any) -> np.ndarray:
    """Decode images at one size; uint8 (n, height, width, 3)."""
    return next(iter(decode_batches(list(X), range(len(X)), Decoder(size, window=window), len(X))))[2]


def draw_images(
    study: Study, frozen: Any, X: Any, y: Any, groups: Any, shown: np.ndarray, window: Any
) -> None:
    """Draw images with probabilities of a pipeline that was fitted without their patients."""
    others = ~np.isin(groups, groups[shown])
    if len(np.unique(y[others])) < 2:
        return
    head = clone(frozen).fit(X[others], y[others])
    pixels = read_pixels(X[shown], (160, 160), window)
    titles = [f"{y[i]}, {Path(X[i]).suffix}" for i in shown]
    figure = draw_predictions(
        pixels, head.predict_proba(X[shown]), head.classes_, titles=titles, subtitle=study.network
    )
    study.save(figure, "predictions.png")


if __name__ == "__main__":
    sys.exit(main())
