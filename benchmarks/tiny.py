"""Accuracy of the embeddings of the bundled network "tiny" by layer, compared with random weights.

Accuracy of one layer at 96x96 pixels, with the poolings "avg" and "avgmax", standard scaling and an RBF SVM with
C=10, on data that the network was not trained on. The five folds are stratified and shuffled with seed 0. The figures
are those of the best layer. Missing data sets are skipped.

    python benchmarks/tiny.py [--weights FILE.npz] [--json PATH]
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import SIGNS, arguments, progress, report
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tlfeatures import CNNFeatures
from tlfeatures.errors import RandomWeightsWarning
from tlfeatures.networks import NETWORKS, tiny

PETS = SIGNS.parent / "pets"
TARGETS = {
    f"{name}{pooling}_{split}": (">=", least)
    for name, split, least in (("signs", "test", 0.97), ("pets", "5fold", 0.75), ("digits", "5fold", 0.98))
    for pooling in ("", "_avgmax")
}


def load_data_sets(quick: bool) -> Iterator[tuple[str, Any, np.ndarray, np.ndarray | None]]:
    """Yield name, images, labels, and a mask of the test set, or None if there is none."""
    subset = slice(None, None, 10 if quick else 1)
    if SIGNS.is_dir():
        rows = np.loadtxt(SIGNS / "signs.csv", str, delimiter=",", skiprows=1)[subset]
        yield "signs", [str(SIGNS / row[0]) for row in rows], rows[:, 1], rows[:, 2] == "test"
    else:
        print(f"signs: skipped, no folder {SIGNS}")
    if PETS.is_dir():
        paths = sorted(path for path in PETS.glob("*/*") if path.is_file())
        yield "pets", [str(path) for path in paths], np.array([path.parent.name for path in paths]), None
    else:
        print(f"pets: skipped, no folder {PETS}")
    images, labels = (a[subset] for a in (load_digits().images, load_digits().target))
    yield "digits", np.round(images * 255 / 16).astype(np.uint8), labels, None


def score_layers(X: Any, y: np.ndarray, test: np.ndarray | None, weights: Any) -> dict[tuple[str, str], Any]:
    """Return the 5-fold accuracy and the accuracy on the test set for each pooling and layer."""
    cnn = CNNFeatures(
        "tiny",
        layer=list(NETWORKS["tiny"].taps),
        pooling="avgmax",
        weights=weights,
        image_size=96,
        cache=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        features = cnn.fit_transform(X)
    blocks = np.split(features, np.cumsum([recipe["width"] for recipe in cnn.recipes_])[:-1], axis=1)
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for recipe, block in zip(cnn.recipes_, blocks, strict=True):
        for pooling in (recipe["pooling"], "avgmax"):
            parts.setdefault((pooling, recipe["layer"]), []).append(block)
    svm = make_pipeline(StandardScaler(), SVC(C=10))
    folds, accuracies = StratifiedKFold(5, shuffle=True, random_state=0), {}
    for (pooling, layer), columns in parts.items():
        if pooling == "max":
            continue
        part, held_out = np.hstack(columns), np.nan
        if test is not None:
            held_out = svm.fit(part[~test], y[~test]).score(part[test], y[test])
        accuracies[pooling, layer] = (float(cross_val_score(svm, part, y, cv=folds).mean()), float(held_out))
    return accuracies


def main() -> None:
    """Score trained and random weights on all data sets; print every layer and write the JSON file."""
    parser = arguments(__doc__, "tiny")
    parser.add_argument("--weights", type=Path, help="file with other weights than the bundled ones")
    args = parser.parse_args()
    file = args.weights or Path(tiny.__file__).with_name(NETWORKS["tiny"].bundled)
    figures: dict[str, float] = {}
    for name, X, y, test in load_data_sets(args.quick):
        for side, weights in (("", args.weights or "bundled"), ("random_", None)):
            progress(f"{name}, {side.rstrip('_') or 'tiny'}")
            by_layer = score_layers(X, y, test, weights)
            for pooling in ("avg", "avgmax"):
                accuracies = {layer: score for (p, layer), score in by_layer.items() if p == pooling}
                listing = ", ".join(
                    f"{layer} {cv:.3f}" + ("" if test is None else f" (test {t:.3f})")
                    for layer, (cv, t) in accuracies.items()
                )
                print(f"{name}, {side.rstrip('_') or 'tiny'}, {pooling}: {listing}", flush=True)
                stem = f"{side}{name}" + ("" if pooling == "avg" else "_avgmax")
                figures[f"{stem}_5fold"] = max(cv for cv, _ in accuracies.values())
                if test is not None:
                    figures[f"{stem}_test"] = max(t for _, t in accuracies.values())
                    figures[f"{stem}_test_of_best_5fold_layer"] = max(accuracies.values())[1]
    print()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    report("tiny", args, figures, TARGETS, weights=file.name, sha256=digest)


if __name__ == "__main__":
    main()
