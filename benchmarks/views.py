"""Accuracy with the mean embedding of several views of each image, and with views as additional training rows.

    python benchmarks/views.py [--quick] [--json PATH]

mean       CNNFeatures(views=...): the embeddings of the views of an image are averaged, in training and prediction
rows       each view is a training row of its own, in the fold of its image; mean embeddings are predicted

pets       class folders, 197 images, five-fold cross-validation, four times
signs      the images of the signs tutorial at 64 pixels, five-fold cross-validation
signs_120  the same, trained on 20 images of each class, ten times

The head is a support vector machine with an RBF kernel. Figures are accuracies in percent; the same folds are used for
all rows.
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


def score(views: np.ndarray, y: np.ndarray, splits: list, as_rows: bool) -> float:
    """Return the mean accuracy in percent; ``views`` has the shape (views, n, d)."""
    mean, scores = views.mean(axis=0), []
    for train, test in splits:
        X, labels = mean[train], y[train]
        if as_rows:
            X, labels = np.concatenate(views[:, train]), np.tile(y[train], len(views))
        scores.append((make_head("svm").fit(X, labels).predict(mean[test]) == y[test]).mean())
    return 100 * float(np.mean(scores))


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
                for kind in KINDS:
                    views = np.stack([embeddings[view] for view in list_views(kind)])
                    progress(f"{plan}, {kind}")
                    figures[f"{plan}_{kind or 'image'}_mean"] = score(views, y, splits, as_rows=False)
                    if kind and len(views) * len(splits[0][0]) <= MAX_ROWS:
                        figures[f"{plan}_{kind}_rows"] = score(views, y, splits, as_rows=True)
    report("views", args, figures, {}, network="mobilenet_0.75", head="svm")


if __name__ == "__main__":
    main()
