"""`demo`: an offline example on the digits of scikit-learn."""

from __future__ import annotations

import os
import time
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli._extraction import Tally
from tlfeatures.cli._options import Json
from tlfeatures.cli._terminal import show_json, show_table, stderr_is_terminal, tell

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
    """Embed handwritten digits at several layers, compare heads on each layer, test the best, write a report.

    Works offline with the digits of scikit-learn and the network that is part of this package. A second run
    reads all embeddings from the store.
    """
    from sklearn.svm import SVC

    from tlfeatures.errors import DuplicateImagesWarning
    from tlfeatures.networks import NETWORKS
    from tlfeatures.selection import FeatureSearchCV

    start = time.perf_counter()
    images, y = _digits()
    train, test = _hold_out(y)
    layers = list(NETWORKS[_MODEL].taps)
    echo = (lambda *_: None) if as_json else tell
    echo(f"{len(images):,} handwritten digits of 8 x 8 pixels, enlarged to {_SIDE} x {_SIDE}.")
    echo(f"Network {_MODEL} (part of this package), {len(layers)} layers in one pass.")
    tally = _embed(images, layers, cache)
    echo(f"{tally}. Store: {cache}")

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
        search.fit(images[train], y[train])
    tested = float(search.score(images[test], y[test]))
    pixels = _cross_validated(SVC(C=10), images[train].reshape(len(train), -1), y[train], search.folds_)
    page = search.report(os.path.join(cache, "report"))
    plot = os.path.join(os.path.dirname(page), "figures", f"layers-{_MODEL}.png")
    table = search.table().sort_values("candidate")
    best = search.table().iloc[0]["layer"]
    if as_json:
        show_json(_json(table, tally, best, tested, pixels, [str(page), plot]))
        return
    tell()
    show_table(
        ("layer", "features", *(f"{name}, {search.n_splits_} folds" for name in _HEADS), ""),
        [
            (layer, int(rows.width.iloc[0]), *map(_score, rows.itertuples()), "best" if layer == best else "")
            for layer, rows in table.groupby("layer", sort=False)
        ],
        best=layers.index(best),
    )
    tell(f"\nSVM on the raw pixels: {pixels:.4f}.")
    head = search.table().iloc[0]["head"]
    tell(f"{best} with {head}: {tested:.4f} on {len(test)} held-out digits.", style="bold")
    tell(f"Plot: {plot}\nPage: {page}")
    outlook = "In the next run all embeddings will come" if tally.computed else "All embeddings came"
    tell(f"{time.perf_counter() - start:.0f} s in total. {outlook} from the store.")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype("uint8"), digits.target


def _hold_out(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows: 80% for the search, 20% for the final test."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)


def _embed(images: np.ndarray, layers: list[str], cache: str) -> Tally:
    """Compute all layers in one pass, so that the search reads them from the store."""
    from tlfeatures.extract import FeatureSpec, extract
    from tlfeatures.networks import Backbone
    from tlfeatures.store import EmbeddingStore

    store = EmbeddingStore(cache)
    plan = FeatureSpec.make(Backbone(_MODEL, image_size=_SIDE), layers, "avg", store)
    return Tally.of(extract(images, plan, store=store, batch_size=64, verbose=int(stderr_is_terminal())))


def _cross_validated(head: Any, X: np.ndarray, y: np.ndarray, folds: Any) -> float:
    from sklearn.model_selection import cross_val_score

    return float(cross_val_score(head, X, y, cv=folds).mean())


def _score(row: Any) -> str:
    return f"{row.score:.4f} ± {row.std:.4f}"


def _json(
    table: Any, tally: Tally, best: str, tested: float, pixels: float, files: list[str]
) -> dict[str, Any]:
    columns = ["layer", "width", "head", "score", "std"]
    return {
        "model": _MODEL,
        "images": tally.images,
        "from_store": tally.from_store,
        "computed": tally.computed,
        "scores": table[columns].to_dict("records"),
        "best_layer": best,
        "test_accuracy": tested,
        "raw_pixels": pixels,
        "files": files,
    }
