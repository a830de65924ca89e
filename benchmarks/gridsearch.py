"""Cost of a grid search over layers, poolings and heads, compared with the same search on a ready matrix.

    python benchmarks/gridsearch.py [--sets signs photographs] [--quick] [--json PATH]

24 candidates x 5 folds: six layers of MobileNet 0.75 x avg and max x two of an SVM's C, on the training
images of SIGNS (RBF kernel; left out if ../shared is absent) and on generated photographs of 500 pixels
(linear kernel).

extract   one run of CNNFeatures(layer=[all], pooling="avgmax", cache=None), which makes the ready matrix
ready     the search, with a step before the SVM that reads rows of that matrix from a file
cold      one call with all layers and an empty store, then the search with CNNFeatures
warm      the same search on the store that cold wrote

Each side runs in a new process and is timed after its imports (``imports_s``: those of the first `transform`, which
a fitted pipeline needs once in a process). Ready and warm alternate; figures are medians.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _common import SIGNS, arguments, child, mobilenet_weights, photographs, progress, report
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from tlfeatures import CNNFeatures
from tlfeatures.heads import make_head

LAYERS = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
HEADS = {"signs": ("svm", [1.0, 10.0]), "photographs": ("linear_svm", [0.01, 0.1])}
COLD, WARM = 1.3, 1.15


class Ready(TransformerMixin, BaseEstimator):
    """Transformer that reads rows of a matrix on disk, as the cheapest possible embedding step."""

    def __init__(self, folder: str = "", layer: str = "", pooling: str = "") -> None:
        self.folder = folder
        self.layer = layer
        self.pooling = pooling

    def fit(self, X, y=None) -> Ready:
        """Do nothing; the transformer is stateless."""
        self.fitted_ = True
        return self

    def transform(self, X) -> np.ndarray:
        """Read the rows ``X[:, 0]``."""
        path = os.path.join(self.folder, f"{self.layer}-{self.pooling}.npy")
        return np.load(path, mmap_mode="r")[X[:, 0]]


def run_search(step, X, y, layers: list[str], head: tuple[str, list[float]], n_jobs: int) -> dict[str, float]:
    """Run the search; return its seconds and the mean of all scores."""
    pipe = Pipeline([("cnn", step), ("head", make_head(head[0]))])
    (c,) = (name for name in pipe.get_params() if name.endswith("__C"))
    grid = {"cnn__layer": layers, "cnn__pooling": ["avg", "max"], c: head[1]}
    start = time.perf_counter()
    fitted = GridSearchCV(pipe, grid, cv=5, n_jobs=n_jobs).fit(X, y)
    return {
        "seconds": time.perf_counter() - start,
        "score": float(fitted.cv_results_["mean_test_score"].mean()),
    }


def import_lazy_modules() -> float:
    """Import what `CNNFeatures` imports when it first reads from the store; return the seconds."""
    start = time.perf_counter()
    for name in ("tlfeatures.extract", "h5py"):
        importlib.import_module(name)
    Image.preinit()
    return time.perf_counter() - start


def measure_side(
    name: str, paths: list[str], labels: list, ready: str, cache: str, cnn: dict, **options
) -> dict[str, float]:
    """Measure one side in this new process; ``options`` are arguments of `search`."""
    imports = import_lazy_modules()
    start = time.perf_counter()
    if name == "extract":
        extractor = CNNFeatures(layer=options["layers"], pooling="avgmax", cache=None, **cnn)
        features = extractor.fit_transform(paths)
        spent = time.perf_counter() - start
        ends = np.cumsum([recipe["width"] for recipe in extractor.recipes_])
        for recipe, block in zip(extractor.recipes_, np.split(features, ends[:-1], axis=1), strict=True):
            name = f"{recipe['layer']}-{recipe['pooling']}.npy"
            np.save(os.path.join(ready, name), np.ascontiguousarray(block))
        return {"seconds": spent}
    if name == "ready":
        return run_search(Ready(ready), np.arange(len(paths))[:, None], labels, **options)
    if name == "cold":
        CNNFeatures(layer=options["layers"], cache=cache, **cnn).fit_transform(paths)
    first = time.perf_counter() - start
    figures = run_search(CNNFeatures(cache=cache, **cnn), paths, labels, **options)
    return {**figures, "seconds": first + figures["seconds"], "first": first, "imports": imports}


def load_signs() -> tuple[list[str], list[str]]:
    """Return the paths and labels of the training images of SIGNS."""
    with open(SIGNS / "signs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return [str(SIGNS / row["path"]) for row in rows], [row["label"] for row in rows]


def measure(
    paths: list[str], labels: list, cnn: dict, jobs: list[int], rounds: int, turns: int, **options
) -> dict[str, float]:
    """Make all measurements on one set of images."""
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.json")  # the list is too long for a command line
        images.write_text(json.dumps([paths, labels]))

        def read(name: str, cache: str = "", n_jobs: int = 1) -> dict[str, float]:
            common = {"images": str(images), "ready": folder, "cnn": cnn, **options}
            return child(__file__, name, **common, cache=cache, n_jobs=n_jobs)

        for i in range(rounds):
            progress(f"round {i + 1} of {rounds}, {len(paths)} images")
            extract_seconds = read("extract")["seconds"]
            run = {"extract_s": extract_seconds}
            for n_jobs in jobs:
                cache = os.path.join(folder, f"store-{n_jobs}-{i}")
                cold = read("cold", cache, n_jobs)
                pairs = [(read("ready", cache, n_jobs), read("warm", cache, n_jobs)) for _ in range(turns)]
                if len({reading["score"] for reading in (cold, *sum(pairs, ()))}) > 1:
                    raise SystemExit(f"The scores differ: {cold}, {pairs}")
                ready, warm = (
                    statistics.median(reading["seconds"] for reading in side)
                    for side in zip(*pairs, strict=True)
                )
                figures = {
                    "imports_s": statistics.median(warm["imports"] for _, warm in pairs),
                    "ready_s": ready,
                    "first_call_s": cold["first"],
                    "cold_s": cold["seconds"],
                    "warm_s": warm,
                    "cold_ratio": cold["seconds"] / (extract_seconds + ready),
                    "warm_ratio": warm / ready,
                }
                run |= {f"{n_jobs}_jobs_{name}": value for name, value in figures.items()}
            runs.append({**run, "mean_score": cold["score"]})
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return {"images": len(paths), **medians}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "gridsearch")
    parser.add_argument("--sets", nargs="+", default=["signs", "photographs"], metavar="SET")
    parser.add_argument("--photographs", type=int, default=2500)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        options = json.loads(args.options)
        paths, labels = json.loads(Path(options.pop("images")).read_text())
        print(json.dumps(measure_side(args.child, paths, labels, **options)))
        return
    figures, notes, sets = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cnn = {"model": "mobilenet_0.75", "weights": mobilenet_weights(folder), "image_size": 224}
        layers, jobs, n, turns = LAYERS, [1, 2], args.photographs, 2
        if args.quick:
            cnn["image_size"], layers, jobs, n, turns, args.sets = (
                64,
                LAYERS[-1:],
                [1],
                40,
                1,
                ["photographs"],
            )
        if "signs" in args.sets:
            if SIGNS.is_dir():
                sets["signs"] = load_signs(), 1
            else:
                notes["signs"] = "left out: ../shared/data/signs is absent"
        if "photographs" in args.sets:
            labels = [i % 4 for i in range(n)]
            sets["photographs"] = (photographs(os.path.join(folder, "images"), n, classes=4), labels), 1
        for name, (images, rounds) in sets.items():
            measured = measure(*images, cnn, jobs, rounds, turns, layers=layers, head=HEADS[name])
            figures |= {f"{name}_{key}": value for key, value in measured.items()}
    targets = {k: ("<=", COLD if "cold" in k else WARM) for k in figures if k.endswith("_ratio")}
    report("gridsearch", args, figures, targets, candidates=4 * len(layers), folds=5, **notes)


if __name__ == "__main__":
    main()
