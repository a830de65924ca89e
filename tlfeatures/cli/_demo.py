"""`demo`: an offline example on the digits of scikit-learn."""

from __future__ import annotations

import os
import time
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, show_text, stderr_is_terminal

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.extract import ImageCounts
    from tlfeatures.selection import FeatureSearchCV

_MODEL = "tiny"
_SIDE = 64  # pixels; larger sizes do not help on digits of 8 x 8 pixels
_HEADS = ("linear_svm", "svm", "knn")


def demo(
    cache: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the embedding store and of the report.")
    ] = "cache/demo",
    as_json: Json = False,
) -> None:
    """Compare layers and heads on handwritten digits, test the best pipeline, and write a report.

    Works offline, with the digits of scikit-learn and the network that is part of this package. A second run
    reads all embeddings from the store.
    """
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    from tlfeatures.networks import NETWORKS

    start = time.perf_counter()
    images, y = _load_digits()
    train, test = _split_rows(y)
    layers = list(NETWORKS[_MODEL].taps)
    echo = (lambda *_: None) if as_json else show_text
    echo(f"{len(images):,} handwritten digits of 8 x 8 pixels, enlarged to {_SIDE} x {_SIDE}.")
    echo(f"Network {_MODEL} (part of this package), {len(layers)} layers in one pass.")
    counts = _embed(images, layers, cache)
    echo(f"{counts}. Store: {cache}")

    search = _search(images[train], y[train], layers, cache)
    pixels = images[train].reshape(len(train), -1)
    page = str(search.report(os.path.join(cache, "report")))
    table = search.table().sort_values("candidate")
    summary = {
        "model": _MODEL,
        "images": counts.images,
        "from_store": counts.from_store,
        "computed": counts.computed,
        "scores": table[["layer", "width", "head", "score", "std"]].to_dict("records"),
        "best_layer": search.table().iloc[0]["layer"],
        "test_accuracy": float(search.score(images[test], y[test])),
        "raw_pixels": float(cross_val_score(SVC(C=10), pixels, y[train], cv=search.folds_).mean()),
        "files": [page, os.path.join(os.path.dirname(page), "figures", f"layers-{_MODEL}.png")],
    }
    if as_json:
        show_json(summary)
        return
    _show(search, summary, len(test))
    outlook = "In the next run all embeddings will come" if counts.computed else "All embeddings came"
    show_text(f"{time.perf_counter() - start:.0f} s in total. {outlook} from the store.")


def _search(images: np.ndarray, y: np.ndarray, layers: list[str], cache: str) -> FeatureSearchCV:
    """Compare the heads on each layer by cross-validation."""
    from tlfeatures.errors import DuplicateImagesWarning
    from tlfeatures.selection import FeatureSearchCV

    search = FeatureSearchCV(
        _MODEL,
        layers=layers,
        poolings=("avg",),
        image_sizes=[_SIDE],
        resize=("stretch",),
        heads={name: {} for name in _HEADS},
        cache=cache,
        verbose=int(stderr_is_terminal()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuplicateImagesWarning)  # the report counts them
        return search.fit(images, y)


def _show(search: FeatureSearchCV, summary: dict[str, Any], n_test: int) -> None:
    best, best_layer = search.table().iloc[0], summary["best_layer"]
    rows: dict[str, dict[str, Any]] = {}
    for row in summary["scores"]:
        layer, width = row["layer"], row["width"]
        cells = rows.setdefault(layer, {"layer": layer, "features": width})
        cells[f"{row['head']}, {search.n_splits_} folds"] = f"{row['score']:.4f} ± {row['std']:.4f}"
    show_text()
    show_table(
        (cells | {"": "best" if layer == best_layer else ""} for layer, cells in rows.items()),
        best=list(rows).index(best_layer),
    )
    show_text(f"\nSVM on the raw pixels: {summary['raw_pixels']:.4f}.")
    show_text(
        f"{best_layer} with {best['head']}: {summary['test_accuracy']:.4f} on {n_test} held-out digits.",
        style="bold",
    )
    page, plot = summary["files"]
    show_text(f"Plot: {plot}\nPage: {page}")


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype("uint8"), digits.target


def _split_rows(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows: 80% for the search, 20% for the test."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)


def _embed(images: np.ndarray, layers: list[str], cache: str) -> ImageCounts:
    """Compute all layers in one pass, so that the search reads them from the store."""
    from tlfeatures.features import CNNFeatures, embed

    cnn = CNNFeatures(_MODEL, layer=layers, image_size=_SIDE, cache=cache, verbose=int(stderr_is_terminal()))
    return embed(cnn.fit(images), images).counts
