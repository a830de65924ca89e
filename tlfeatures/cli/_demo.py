"""`demo`: an offline example on the digits of scikit-learn."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, show_text, stderr_is_terminal

if TYPE_CHECKING:
    import numpy as np

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
    from sklearn.model_selection import cross_val_score, train_test_split
    from sklearn.svm import SVC

    from tlfeatures.features import CNNFeatures, embed
    from tlfeatures.networks import NETWORKS
    from tlfeatures.selection import FeatureSearchCV

    start = time.perf_counter()
    images, y = _load_digits()
    layers = list(NETWORKS[_MODEL].taps)
    common = {"cache": cache, "verbose": int(stderr_is_terminal())}
    echo = (lambda *_: None) if as_json else show_text
    echo(f"{len(images):,} handwritten digits of 8 x 8 pixels, enlarged to {_SIDE} x {_SIDE}.")
    echo(f"Network {_MODEL} (part of this package), {len(layers)} layers in one pass.")
    cnn = CNNFeatures(_MODEL, layer=layers, image_size=_SIDE, **common)
    counts = embed(cnn.fit(images), images).counts
    echo(f"{counts}. Store: {cache}")

    X, X_test, y, y_test = train_test_split(images, y, test_size=0.2, stratify=y, random_state=0)
    search = FeatureSearchCV(
        _MODEL, layers=layers, poolings="avg", image_sizes=[_SIDE], resize="stretch",
        heads={name: {} for name in _HEADS}, **common,
    ).fit(X, y)  # fmt: skip
    page = str(search.report(os.path.join(cache, "report")))
    pixels = cross_val_score(SVC(C=10), X.reshape(len(X), -1), y, cv=search.folds_)
    table = search.table()
    summary = {
        "model": _MODEL,
        "images": counts.images,
        "from_store": counts.from_store,
        "computed": counts.computed,
        "scores": table.sort_values("candidate")[["layer", "width", "head", "score", "std"]],
        "best_layer": table["layer"].iloc[0],
        "test_accuracy": search.score(X_test, y_test),
        "raw_pixels": pixels.mean(),
        "files": [page, os.path.join(os.path.dirname(page), "figures", f"layers-{_MODEL}.png")],
    }
    if as_json:
        show_json(summary)
        return
    _show(summary, search.n_splits_)
    show_text(
        f"{summary['best_layer']} with {table['head'].iloc[0]}: {summary['test_accuracy']:.4f} on {len(y_test)} "
        "held-out digits.",
        style="bold",
    )
    show_text(f"Plot: {summary['files'][1]}\nPage: {page}")
    outlook = "In the next run all embeddings will come" if counts.computed else "All embeddings came"
    show_text(f"{time.perf_counter() - start:.0f} s in total. {outlook} from the store.")


def _show(summary: dict[str, Any], n_splits: int) -> None:
    """Print the scores of the layers and heads, and of the raw pixels."""
    rows: dict[str, dict[str, Any]] = {}
    for row in summary["scores"].to_dict("records"):
        cells = rows.setdefault(row["layer"], {"layer": row["layer"], "features": row["width"]})
        cells[f"{row['head']}, {n_splits} folds"] = f"{row['score']:.4f} ± {row['std']:.4f}"
    best = list(rows).index(summary["best_layer"])
    show_text("")
    show_table([row | {"": "best" if i == best else ""} for i, row in enumerate(rows.values())], best=best)
    show_text(f"\nSVM on the raw pixels: {summary['raw_pixels']:.4f}.")


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype("uint8"), digits.target
