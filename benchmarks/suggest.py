"""Accuracy by number of labels: images chosen by `suggest`, at random, and by uncertainty alone.

Simulated rounds of 20 labels on embeddings of MobileNet 0.75 at 64 pixels that are computed once: signs and digits
(layer conv_pw_7), and signs in the last layer ("hard"), which separates them badly. 30% of the images are the test set.
All strategies start from the same 20 random labels. Means of seeds 40 to 49: the rule for the number of candidates of
`suggest` was chosen with seeds 0 to 19.

    python benchmarks/suggest.py [--quick] [--json PATH]

*_labels_ratio      labels that `suggest` needs for the accuracy that random labelling reaches with all labels, as a
                    share of them; *_uncertain_labels_ratio the same for the smallest margins alone
*_worst_difference  smallest difference to the accuracy of random labelling, from the third round on
*_accuracy_N        accuracy with N labels; *_random_accuracy_N that of random labelling
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
from sklearn.model_selection import train_test_split

from tlfeatures import CNNFeatures, suggest
from tlfeatures.heads import blas_threads, make_head

LABELS = 20  # of one round
STRATEGIES = ("random", "uncertain", "suggest")
TARGETS = {
    **{f"{name}_labels_ratio": ("<=", 0.6) for name in ("signs", "digits")},
    **{f"{name}_worst_difference": (">=", -0.02) for name in ("signs", "digits", "hard")},
}


def embed(weights: str, quick: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return embeddings and labels of each data set that is on this machine."""
    digits, step = load_digits(), 4 if quick else 1
    images = list(np.round(digits.images * 255 / 16).astype(np.uint8))
    sets = {"digits": (images, digits.target, "conv_pw_7_relu")}
    if SIGNS.is_dir():
        rows = np.loadtxt(SIGNS / "signs.csv", str, delimiter=",", skiprows=1)
        paths = [str(SIGNS / row[0]) for row in rows]
        sets = {"signs": (paths, rows[:, 1], "conv_pw_7_relu"), **sets, "hard": (paths, rows[:, 1], None)}
    embeddings = {}
    for name, (X, y, layer) in sets.items():
        progress(f"embeddings of {name}")
        cnn = CNNFeatures("mobilenet_0.75", weights=weights, image_size=64, layer=layer, cache=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, of the input shape
            embeddings[name] = cnn.fit_transform(X[::step]), y[::step]
    return embeddings


def choose(strategy: str, X: np.ndarray, labels: np.ndarray, head, seed: int) -> np.ndarray:
    """Return the rows to label next."""
    if strategy == "suggest":
        return suggest(X, labels, n=LABELS, random_state=seed).rows
    pool = np.flatnonzero([label is None for label in labels])
    if strategy == "random":
        return np.random.default_rng([seed, len(pool)]).choice(pool, LABELS, replace=False)
    decision = np.sort(head.decision_function(X[pool]).reshape(len(pool), -1), axis=1)
    return pool[np.argsort(decision[:, -1] - decision[:, -2], kind="stable")[:LABELS]]


def simulate(X: np.ndarray, y: np.ndarray, strategy: str, seed: int, rounds: int) -> list[float]:
    """Return the accuracy on test images with the labels of each round."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=seed)
    y_train, labels = y[train], np.full(len(train), None)
    rows, accuracies = np.random.default_rng(seed).choice(len(train), LABELS, replace=False), []
    for i in range(rounds):
        labels[rows] = y_train[rows]
        labelled = np.flatnonzero([label is not None for label in labels])
        head = make_head("svm").fit(X[train[labelled]], y_train[labelled])
        accuracies.append(head.score(X[test], y[test]))
        if i < rounds - 1:
            rows = choose(strategy, X[train], labels, head, seed)
    return accuracies


def compare(X: np.ndarray, y: np.ndarray, rounds: int, seeds: int) -> dict[str, float]:
    """Return the figures of one data set."""
    with blas_threads(1, 1):
        runs = Parallel(os.cpu_count(), prefer="threads")(
            delayed(simulate)(X, y, name, seed, rounds)
            for name in STRATEGIES
            for seed in range(40, 40 + seeds)
        )
    means = dict(zip(STRATEGIES, np.reshape(runs, (3, seeds, rounds)).mean(axis=1), strict=True))
    goal = means["random"][-1]
    figures = {}
    for name, prefix in (("suggest", ""), ("uncertain", "uncertain_")):
        reached = np.flatnonzero(means[name] >= goal)
        figures[f"{prefix}labels_ratio"] = (int(reached[0]) + 1) / rounds if len(reached) else 2.0
        figures[f"{prefix}worst_difference"] = float((means[name] - means["random"])[2:].min())
    for i in range(0, rounds, max(1, rounds // 5)):
        figures[f"accuracy_{LABELS * (i + 1)}"] = float(means["suggest"][i])
        figures[f"random_accuracy_{LABELS * (i + 1)}"] = float(means["random"][i])
    return figures


def main() -> None:
    """Measure, print and write the figures."""
    args = arguments(__doc__, Path(__file__).stem).parse_args()
    rounds, seeds = (4, 1) if args.quick else (15, 10)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = embed(mobilenet_weights(folder), args.quick)
    figures = {}
    for name, (X, y) in embeddings.items():
        progress(f"{seeds} seeds x {rounds} rounds of {name}")
        figures |= {f"{name}_{figure}": value for figure, value in compare(X, y, rounds, seeds).items()}
    report("suggest", args, figures, TARGETS, labels=LABELS * rounds, seeds=seeds)


if __name__ == "__main__":
    main()
