"""Coverage of prediction sets, and images of other data sets that are reported as unusual.

Repeated random splits of embeddings of MobileNet 0.75 that are computed once: signs and digits at 64 pixels (layer
conv_pw_7), pets at 224 (last layer). On each split, a ConformalClassifier of the head "svm" with an error rate of 10%
is fitted on 75% of the images, at most 600, and tested on at most 150 of the others.

    python benchmarks/conformal.py [--quick] [--json PATH]

*_coverage           share of test images whose set contains the true class; *_set_size is the mean size
*_empty_allowed_*    the same if sets may be empty; _excess is the coverage minus 90%
*_worst_class        lowest coverage of a class with 50 calibration images or more, with per_class=True
*_false_alarms       share of test images that the detector, at 5%, reports as unusual
*_flagged_NAME       share of images of another data set that it reports; _standardized: on standardized embeddings
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, mobilenet_weights, progress, report
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import CNNFeatures, ConformalClassifier
from tlfeatures.heads import blas_threads, make_head
from tlfeatures.trust import OutlierDetector

PETS = SIGNS.parent / "pets"
MODELS = {"signs": (64, "conv_pw_7_relu"), "digits": (64, "conv_pw_7_relu"), "pets": (224, None)}
TRAINING = 600  # images of one split
TEST = 150
OTHERS = 300  # images of another data set
TARGETS = {
    f"{name}_{figure}": bound
    for name in MODELS
    for figure, bound in {
        "coverage": (">=", 0.89),
        "empty_allowed_coverage": (">=", 0.89),
        "empty_allowed_excess": ("<=", 0.015),
        "worst_class": (">=", 0.87),
        "empty_allowed_worst_class": (">=", 0.87),
        **{f"flagged_{other}": (">=", 0.9) for other in (*MODELS, "noise") if other != name},
    }.items()
}


def load_data_sets(quick: bool) -> dict[str, tuple[list, np.ndarray]]:
    """Return the images and labels of each data set that is on this machine, and generated noise."""
    digits = load_digits()
    sets = {"digits": (list(np.round(digits.images * 255 / 16).astype(np.uint8)), digits.target)}
    if SIGNS.is_dir():
        rows = np.loadtxt(SIGNS / "signs.csv", str, delimiter=",", skiprows=1)
        sets["signs"] = [str(SIGNS / row[0]) for row in rows], rows[:, 1]
    if PETS.is_dir():
        paths = sorted(path for path in PETS.glob("*/*") if path.is_file())
        sets["pets"] = [str(path) for path in paths], np.array([path.parent.name for path in paths])
    noise = np.random.default_rng(0).integers(0, 256, (OTHERS, 64, 64, 3), dtype=np.uint8)
    sets["noise"] = list(noise), np.zeros(OTHERS)
    step = 6 if quick else 1
    return {name: (images[::step], y[::step]) for name, (images, y) in sets.items()}


def embed(sets: dict, weights: str) -> dict[str, dict[str, np.ndarray]]:
    """Return embeddings by model and data set; of other data sets for at most 300 images."""
    embeddings: dict[str, dict[str, np.ndarray]] = {}
    for model in MODELS.keys() & sets.keys():
        size, layer = MODELS[model]
        cnn = CNNFeatures("mobilenet_0.75", weights=weights, image_size=size, layer=layer, cache=None)
        for name, (images, _) in sets.items():
            progress(f"embeddings of {name} for the model of {model}")
            step = 1 if name == model else max(1, len(images) // OTHERS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras's, of the input shape
                embeddings.setdefault(model, {})[name] = cnn.fit_transform(images[::step])
    return embeddings


def evaluate(X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, others: dict) -> dict:
    """Return the figures of one split; those of each class as arrays."""
    names, codes = np.unique(y, return_inverse=True)
    row, true = np.arange(len(test)), codes[test]
    conformal = ConformalClassifier(make_head("svm"), error_rate=0.1).fit(X[train], y[train])
    sets, p_values = conformal.predict_set_and_p_values(X[test])
    empty = p_values > 0.1 + 1e-9
    of_class, p_of_class = conformal.set_params(per_class=True).predict_set_and_p_values(X[test])
    figures = {
        "coverage": sets[row, true].mean(),
        "set_size": sets.sum(axis=1).mean(),
        "empty_allowed_coverage": empty[row, true].mean(),
        "empty_allowed_set_size": empty.sum(axis=1).mean(),
        "accuracy": (conformal.predict(X[test]) == y[test]).mean(),
        "classes": np.array([of_class[true == i, i].mean() for i in range(len(names))]),
        "empty_allowed_classes": np.array(
            [(p_of_class[true == i, i] > 0.1 + 1e-9).mean() for i in range(len(names))]
        ),
    }
    detectors = {"": OutlierDetector(), "_standardized": make_pipeline(StandardScaler(), OutlierDetector())}
    for suffix, detector in detectors.items():
        detector.fit(X[train])
        figures[f"false_alarms{suffix}"] = (detector.predict(X[test]) == -1).mean()
        for name, rows in others.items():
            figures[f"flagged_{name}{suffix}"] = (detector.predict(rows) == -1).mean()
    return figures


def measure(X: np.ndarray, y: np.ndarray, others: dict, n_splits: int) -> dict[str, float]:
    """Return the mean figures over random splits."""
    n = min(TRAINING, int(0.75 * len(y)))
    n_test = min(TEST, len(y) - n)
    splits = StratifiedShuffleSplit(n_splits, train_size=n, test_size=n_test, random_state=0).split(X, y)
    with blas_threads(*X.shape):
        runs = Parallel(os.cpu_count(), prefer="threads")(
            delayed(evaluate)(X, y, train, test, others) for train, test in splits
        )
    means = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    counts = np.unique(y, return_counts=True)[1] * n / len(y)
    for prefix in ("", "empty_allowed_"):
        classes = means.pop(f"{prefix}classes")
        means[f"{prefix}worst_class"] = classes[counts >= min(50, counts.max())].min()
    means["empty_allowed_excess"] = means["empty_allowed_coverage"] - 0.9
    return {name: float(value) for name, value in means.items()}


def main() -> None:
    """Measure, print and write the figures."""
    args = arguments(__doc__, Path(__file__).stem).parse_args()
    n_splits = 2 if args.quick else 100
    sets = load_data_sets(args.quick)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = embed(sets, mobilenet_weights(folder))
    figures = {}
    for model in (name for name in MODELS if name in embeddings):
        progress(f"{n_splits} splits of {model}")
        others = {name: rows for name, rows in embeddings[model].items() if name != model}
        result = measure(embeddings[model][model], sets[model][1], others, n_splits)
        figures |= {f"{model}_{name}": value for name, value in result.items()}
    report("conformal", args, figures, TARGETS, splits=n_splits)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "`error_rate=|`false_alarm_rate=")
    main()
