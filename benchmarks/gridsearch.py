"""What a grid search over layers, poolings and heads costs beside the same search on a ready matrix.

    python benchmarks/gridsearch.py [--quick] [--json PATH]

24 candidates x 5 folds: six layers of MobileNet 0.75 x avg and max x two of an SVM's C, on the training
images of SIGNS (left out where ../shared is absent) and on made photographs of 500 pixels.

extract   CNNFeatures(layer=[all], pooling="avgmax", cache=None), once: the ready matrix
ready     the search where the step before the SVM takes rows of that matrix out of a file
cold      the one call with all layers into an empty store, then the search with CNNFeatures
warm      that search again, on the store that cold left

Each reading is made in a new process, timed after its imports.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _common import SIGNS, arguments, child, mobilenet_weights, photographs, report
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from tlfeatures import CNNFeatures
from tlfeatures.heads import make_head

LAYERS = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
POOLINGS = ["avg", "max"]
FOLDS = 5
HEAD = "linear_svm"
COLD, WARM = 1.3, 1.15


class Ready(TransformerMixin, BaseEstimator):
    """Rows of a matrix on disk, by number: the cheapest that the embedding step can be."""

    def __init__(self, folder: str = "", layer: str = "", pooling: str = "") -> None:
        self.folder = folder
        self.layer = layer
        self.pooling = pooling

    def fit(self, X, y=None) -> Ready:
        """Learn nothing."""
        self.fitted_ = True
        return self

    def transform(self, X) -> np.ndarray:
        """Rows ``X[:, 0]``."""
        path = os.path.join(self.folder, f"{self.layer}-{self.pooling}.npy")
        return np.load(path, mmap_mode="r")[X[:, 0]]


def search(step, X, y, n_jobs: int) -> dict[str, float]:
    """Seconds of the search, and the mean of all scores."""
    pipe = Pipeline([("cnn", step), ("svm", make_head(HEAD))])
    (c,) = (name for name in pipe.get_params() if name.endswith("__C"))
    grid = {"cnn__layer": LAYERS, "cnn__pooling": POOLINGS, c: [1.0, 10.0]}
    start = time.perf_counter()
    found = GridSearchCV(pipe, grid, cv=FOLDS, n_jobs=n_jobs).fit(X, y)
    return {
        "seconds": time.perf_counter() - start,
        "score": float(found.cv_results_["mean_test_score"].mean()),
    }


def task(name: str, paths: list[str], labels: list, ready: str, cache: str, n_jobs: int, cnn: dict) -> dict:
    """One reading; in a new process."""
    start = time.perf_counter()
    if name == "extract":
        X = CNNFeatures(layer=LAYERS, pooling="avgmax", cache=None, **cnn)
        features = X.fit_transform(paths)
        spent = time.perf_counter() - start
        at = 0
        for recipe in X.recipes_:
            block = np.ascontiguousarray(features[:, at : at + recipe["width"]])
            np.save(os.path.join(ready, f"{recipe['layer']}-{recipe['pooling']}.npy"), block)
            at += recipe["width"]
        return {"seconds": spent}
    if name == "ready":
        return search(Ready(ready), np.arange(len(paths))[:, None], labels, n_jobs)
    if name == "cold":
        CNNFeatures(layer=LAYERS, cache=cache, **cnn).fit_transform(paths)
    first = time.perf_counter() - start
    found = search(CNNFeatures(cache=cache, **cnn), paths, labels, n_jobs)
    return {**found, "seconds": first + found["seconds"], "first": first}


def signs() -> tuple[list[str], list[str]]:
    """Training images of SIGNS and their labels."""
    with open(SIGNS / "signs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return [str(SIGNS / row["path"]) for row in rows], [row["label"] for row in rows]


def measure(paths: list[str], labels: list, cnn: dict, jobs: list[int], rounds: int) -> dict[str, float]:
    """All readings on one set of images."""
    figures = {"images": len(paths)}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "images.json")  # too long for a command line
        given.write_text(json.dumps([paths, labels]))
        common = {"images": str(given), "ready": folder, "cnn": cnn}
        read = lambda name, **more: child(__file__, name, **common, **{"cache": "", "n_jobs": 1, **more})  # noqa: E731
        extraction = []
        for n_jobs in jobs:
            runs = []
            for i in range(rounds):
                cache = os.path.join(folder, f"store-{n_jobs}-{i}")
                extraction.append(read("extract")["seconds"])
                run = {"ready": read("ready", n_jobs=n_jobs)}
                for name in ("cold", "warm"):
                    run[name] = read(name, n_jobs=n_jobs, cache=cache)
                run["ready again"] = read("ready", n_jobs=n_jobs)
                runs.append(run)
                if len({r["score"] for r in run.values()}) > 1:
                    raise SystemExit(f"The scores differ: {run}")
            middle = {
                name: statistics.median(run[name]["seconds"] for run in runs) for name in ("cold", "warm")
            }
            ready = statistics.median(r[k]["seconds"] for r in runs for k in ("ready", "ready again"))
            one = statistics.median(extraction)
            first = statistics.median(run["cold"]["first"] for run in runs)
            figures |= {
                f"{n_jobs}_jobs_extract_s": one,
                f"{n_jobs}_jobs_ready_s": ready,
                f"{n_jobs}_jobs_first_call_s": first,
                f"{n_jobs}_jobs_cold_s": middle["cold"],
                f"{n_jobs}_jobs_warm_s": middle["warm"],
                f"{n_jobs}_jobs_cold_ratio": middle["cold"] / (one + ready),
                f"{n_jobs}_jobs_warm_ratio": middle["warm"] / ready,
                "mean_score": runs[0]["ready"]["score"],
            }
    return figures


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = arguments(__doc__, "gridsearch")
    parser.add_argument("--photographs", type=int, default=5000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--given", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        warnings.simplefilter("ignore")
        options = json.loads(given.given)
        paths, labels = json.loads(Path(options.pop("images")).read_text())
        print(json.dumps(task(given.child, paths, labels, **options)))
        return
    figures, notes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cnn = {"model": "mobilenet_0.75", "weights": mobilenet_weights(folder), "image_size": 224}
        if given.quick:
            cnn["image_size"] = 64
        sets = {}
        if not SIGNS.is_dir():
            notes["signs"] = "left out: ../shared/data/signs is absent"
        elif not given.quick:
            sets["signs"] = signs(), 3
        n = 60 if given.quick else given.photographs
        labels = [i % 10 for i in range(n)]
        sets["photographs"] = (photographs(os.path.join(folder, "images"), n, classes=10), labels), 1
        for name, (images, rounds) in sets.items():
            found = measure(*images, cnn, [2] if given.quick else [1, 2], rounds)
            figures |= {f"{name}_{key}": value for key, value in found.items()}
    targets = {k: ("<=", COLD if "cold" in k else WARM) for k in figures if k.endswith("_ratio")}
    report("gridsearch", given, figures, targets, candidates=24, folds=FOLDS, **notes)


if __name__ == "__main__":
    main()
