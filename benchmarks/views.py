"""Accuracy with the mean embedding of several views of each image, and with views as additional training rows.

    python benchmarks/views.py [--quick] [--json PATH]

mean       CNNFeatures(views=...): the embeddings of the views of an image are averaged, in training and prediction
rows       each view is a training row of its own, in the fold of its image; mean embeddings are predicted

pets       class folders, 197 images, five-fold cross-validation, four times
signs      the images of the signs tutorial at 64 pixels, five-fold cross-validation
signs_120  the same, trained on 20 images of each class, ten times

The head is a support vector machine with an RBF kernel. Figures are accuracies in percent on the same folds. A gain is
the mean difference to the image alone over the repetitions, in points, with its standard error.
"""

from __future__ import annotations

import os
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, mobilenet_weights, progress, report
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedShuffleSplit

from tlfeatures import CNNFeatures
from tlfeatures.extract import extract
from tlfeatures.heads import make_head
from tlfeatures.images import list_views
from tlfeatures.sources import read_source

KINDS = (None, "flip", "crops", "flip+crops")
MAX_ROWS = 4000  # of training images and their views


def embed_views(cnn: CNNFeatures, paths: list[str]) -> dict[str, np.ndarray]:
    """Return the embeddings of each view by its name."""
    specs = cnn.set_params(views="flip+crops")._make_spec().by_view()
    embeddings = {}
    for spec in specs:
        view = spec.decoder.view
        progress(f"view {view or 'of the image itself'}")
        embeddings[view] = extract(paths, spec).features
    return embeddings


def score(views: np.ndarray, y: np.ndarray, splits: list, as_rows: bool) -> np.ndarray:
    """Return the accuracy of each split in percent; ``views`` has the shape (views, n, d)."""
    mean, scores = views.mean(axis=0), []
    for train, test in splits:
        X, labels = mean[train], y[train]
        if as_rows:
            X, labels = np.concatenate(views[:, train]), np.tile(y[train], len(views))
        scores.append((make_head("svm").fit(X, labels).predict(mean[test]) == y[test]).mean())
    return 100 * np.array(scores)


def compare_kinds(
    embeddings: dict[str, np.ndarray], y: np.ndarray, plan: str, splits: list
) -> dict[str, float]:
    """Return the accuracies and gains of all kinds of views on the same splits."""
    figures, alone = {}, np.empty(0)
    for kind in KINDS:
        views = np.stack([embeddings[view] for view in list_views(kind)])
        for name, as_rows in {"mean": False, "rows": True}.items():
            if as_rows and (kind is None or len(views) * len(splits[0][0]) > MAX_ROWS):
                continue
            progress(f"{plan}, {kind}, {name}")
            scores = score(views, y, splits, as_rows)
            key = f"{plan}_{kind or 'image'}_{name}"
            figures[key] = float(scores.mean())
            if kind is None:
                alone = scores
                continue
            gains = scores - alone
            figures[f"{key}_gain"] = float(gains.mean())
            figures[f"{key}_gain_se"] = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return figures


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    args = arguments(__doc__, "views").parse_args()
    warnings.simplefilter("ignore")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = mobilenet_weights(folder)
        pets = {"image_size": 64 if args.quick else 224}
        signs = {"image_size": 64, "layer": "conv_pw_7_relu"}
        folds, repeats = (2, 1) if args.quick else (5, 4)
        cross_validation = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=0)
        small = StratifiedShuffleSplit(repeats * 5 // 2, train_size=120, random_state=0)
        for data, source, options in (
            ("pets", SIGNS.parent / "pets", pets),
            ("signs", SIGNS / "signs.csv", signs),
        ):
            images = read_source(source)
            rows = np.random.default_rng(0).permutation(len(images.paths))[: 60 if args.quick else None]
            paths, y = [images.paths[row] for row in rows], images.get_labels()[rows]
            progress(f"{len(paths)} images of {data}")
            embeddings = embed_views(
                CNNFeatures("mobilenet_0.75", weights=weights, cache=None, **options), paths
            )
            plans = {data: list(cross_validation.split(paths, y))}
            if data == "signs":
                plans[data] = plans[data][:folds]
                if not args.quick:
                    plans["signs_120"] = list(small.split(paths, y))
            for plan, splits in plans.items():
                figures |= compare_kinds(embeddings, y, plan, splits)
    for name in ("mean", "rows"):
        figures[f"largest_{name}_gain"] = max(
            v for key, v in figures.items() if key.endswith(f"_{name}_gain")
        )
    targets = {"largest_mean_gain": (">=", 1.0), "largest_rows_gain": (">=", 1.0)}
    report("views", args, figures, targets, network="mobilenet_0.75", head="svm")


if __name__ == "__main__":
    main()
