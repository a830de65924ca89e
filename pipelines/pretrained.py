"""A pretrained network with its own classes: classify images without any training.

    python pipelines/pretrained.py --data FOLDER                        # class folders named cats, dogs, horses, ...
    python pipelines/pretrained.py --data FOLDER --predict my_pet.jpg   # the five most probable classes of an image

The tutorial loads a network with its 1,000 ImageNet classes and calls `predict` for one image after the other. Here
ImageNetClassifier does the same for all images in batches, and keeps the probabilities in the store. The names of the
classes are part of tlfeatures, so that nothing is downloaded but the weights of a network that is not on this machine.

An image counts as correct if its most probable class (top-1), or one of the five most probable classes (top-5),
belongs to the name of its folder: any breed of dog for "dogs", "sorrel" for "horses" (ImageNet's only horse), or the
class with the same name as the folder. "Sum of classes" adds the probabilities of these classes and predicts the
folder with the largest sum. The last row of tlfeatures is trained, for comparison: a logistic regression on the
embeddings, in cross-validation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import ImageNetClassifier
from tlfeatures.sources import read_source
from tlfeatures.studies import Study, draw_confusion, draw_predictions, load_keras_network, load_pixels

# names of folders -> columns of ImageNet's classes
COLUMNS = {"cats": range(281, 286), "dogs": range(151, 269), "horses": range(339, 340)}


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("pretrained", __doc__, tutorial_network="vgg16", data="data/pets", predict=True)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes."""
    X, y, names = study.load(read_source(study.args.data))
    if study.args.quick:
        X, y, names = X[::8], y[::8], names[::8]
    study.say(f"{len(X)} images")
    columns = find_columns(study, y)
    options = {key: value for key, value in study.options().items() if key != "weights"}
    clf = ImageNetClassifier(weights=study.args.weights, **options)
    for run in ("ImageNetClassifier", "ImageNetClassifier again, from the store"):
        with study.measure(run) as row:
            probabilities = clf.predict_proba(X)
            row |= score(probabilities, y, columns)
    if len(columns) > 1:
        compare_with_training(study, X, y, probabilities, columns)
    if not study.args.skip_tutorial:
        with study.measure("Keras: the tutorial's recipe, one image at a time") as row:
            row |= score(predict_with_keras(study, X), y, columns)

    shown = np.linspace(0, len(X) - 1, min(8, len(X))).astype(int)
    titles = [f"{y[i]}: {Path(names[i]).name}" for i in shown]
    figure = draw_predictions(
        X[shown], probabilities[shown], clf.classes_, titles=titles, top=5, subtitle=study.network
    )
    study.save(figure, "classes.png")
    study.predict(clf, study.args.predict)


def find_columns(study: Study, y: np.ndarray) -> dict[str, list[int]]:
    """Return the columns of the ImageNet classes that belong to each label."""
    classes = [name.lower() for name in ImageNetClassifier().classes_]
    columns = {}
    for label in np.unique(y):
        name = str(label).lower()
        matches = COLUMNS.get(name, [i for i, text in enumerate(classes) if text in (name, name.rstrip("s"))])
        if matches:
            columns[label] = list(matches)
        else:
            study.say(f"{label}: not the name of a class of ImageNet; these images are not scored")
    return columns


def score(probabilities: np.ndarray, y: np.ndarray, columns: dict[str, list[int]]) -> dict[str, float]:
    """Return the fraction of the labelled images with the right class among the first one, and five."""
    rows = [i for i in range(len(probabilities)) if y[i] in columns]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return {
        f"top-{k}": float(np.mean([np.isin(order[i, :k], columns[y[i]]).any() for i in rows]))
        for k in (1, 5)
        if rows
    }


def compare_with_training(
    study: Study, X: np.ndarray, y: np.ndarray, probabilities: np.ndarray, columns: dict[str, list[int]]
) -> None:
    """Choose between the labels only: by sums of probabilities, and by a logistic regression trained on embeddings."""
    rows = np.isin(y, list(columns))
    labels = np.array(list(columns))
    with study.measure("ImageNetClassifier, sum of classes") as row:
        sums = np.stack([probabilities[rows][:, each].sum(axis=1) for each in columns.values()], axis=1)
        predicted = labels[sums.argmax(axis=1)]
        row["accuracy"] = float(np.mean(predicted == y[rows]))
    title = f"Sum of classes, without training. {study.network}"
    study.save(draw_confusion(y[rows], predicted, title), "confusion.png")
    with study.measure("CNNFeatures + logistic regression, trained, cross-validation") as row:
        pipeline = make_pipeline(study.features(), StandardScaler(), LogisticRegression(max_iter=1000))
        folds = study.choose(5, quick=2)
        row["accuracy"] = float(cross_val_score(pipeline, X[rows], y[rows], cv=folds).mean())


def predict_with_keras(study: Study, X: np.ndarray) -> np.ndarray:
    """Classify one image at a time with Keras alone, as the tutorial does."""
    args = study.args
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size, top=True)
    size = network.input_shape[1:3]
    rows = [
        network.predict(preprocess(load_pixels(X[i : i + 1], size).astype("float32")), verbose=0)
        for i in range(len(X))
    ]
    return np.concatenate(rows)


if __name__ == "__main__":
    sys.exit(main())
