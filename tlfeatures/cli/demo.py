"""`demo`: the main job from end to end, offline, on images that every machine has."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli.images import Tally
from tlfeatures.cli.options import Json
from tlfeatures.cli.terminal import show_json, show_table, stderr_is_terminal, tell

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.registry import NetworkSpec

_SIDE = 64  # pixels: the 8 x 8 digits gain nothing from more
_HEADS = ("linear_svm", "svm", "knn")
_FOLDS = 5


@dataclass(frozen=True)
class Score:
    """How one head does on one layer: the scores of the folds."""

    layer: str
    features: int
    head: str
    scores: np.ndarray

    @property
    def mean(self) -> float:
        """Of the folds."""
        return float(self.scores.mean())


def demo(
    cache: Annotated[str, typer.Option(metavar="DIR", help="Folder of the embedding store.")] = "cache/demo",
    as_json: Json = False,
) -> None:
    """Embed handwritten digits at several layers of a network, compare heads on each layer, test the best.

    Works offline: on scikit-learn's digits, with the smallest network whose pretrained weights are on this
    machine, or else with random weights. Run it twice: the second time everything comes from the store.
    """
    from tlfeatures.heads import make_head

    start = time.perf_counter()
    images, y = _digits()
    train, test = _hold_out(y)
    spec, weights = _network()
    kind = "RANDOM" if weights is None else "ImageNet" if spec.url else "bundled"
    say = (lambda *_: None) if as_json else tell
    say(f"{len(images):,} handwritten digits of 8 x 8 pixels, enlarged to {_SIDE} x {_SIDE}.")
    say(f"Network {spec.name} with {kind} weights, {len(spec.taps)} layers in one pass.")
    if not weights:
        say(
            "No pretrained weights are on this machine: these figures show the machinery, not transfer learning."
        )
    tally, blocks = _embed(images, spec, weights, cache)
    say(f"{tally}. Store: {cache}")
    blocks = {"raw pixels": images.reshape(len(images), -1), **blocks}
    scores = [_score(layer, X[train], y[train], head) for layer, X in blocks.items() for head in _HEADS]
    best = max(range(len(scores)), key=lambda i: (scores[i].layer in spec.taps, scores[i].mean))
    chosen = scores[best]
    X = blocks[chosen.layer]
    tested = make_head(chosen.head).fit(X[train], y[train]).score(X[test], y[test])
    if as_json:
        show_json(_report(spec, weights, tally, scores, chosen, tested))
        return
    tell()
    show_table(
        ("layer", "features", "head", f"accuracy, {_FOLDS} folds", ""),
        [
            (
                s.layer,
                s.features,
                s.head,
                f"{s.mean:.4f} ± {s.scores.std():.4f}",
                "best layer" if s is chosen else "",
            )
            for s in scores
        ],
        best=best,
    )
    tell(
        f"\n{chosen.layer} with {chosen.head}: {tested:.4f} on {len(test)} digits that took no part in the choice "
        f"({kind} weights).",
        style="bold",
    )
    again = "" if tally.computed == 0 else " Run it again: all embeddings will come from the store."
    tell(f"{time.perf_counter() - start:.0f} s in all.{again}")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype("uint8"), digits.target


def _hold_out(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to choose on, and a fifth to test the choice on."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    return train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=0)


def _network() -> tuple[NetworkSpec, str | None]:
    """The smallest network whose weights are here; without any, a small one with random weights."""
    from tlfeatures.networks.weights import find_weights
    from tlfeatures.registry import NETWORKS

    here = [
        (os.path.getsize(path), spec.name)
        for spec in NETWORKS.values()
        # those made for more pixels take no images of this size
        if spec.image_size <= 224 and (path := find_weights(spec, top=False, image_size=(_SIDE, _SIDE)))
    ]
    if here:
        return NETWORKS[min(here)[1]], "imagenet"
    return NETWORKS["mobilenet_0.25"], None


def _embed(
    images: np.ndarray, spec: NetworkSpec, weights: str | None, cache: str
) -> tuple[Tally, dict[str, np.ndarray]]:
    from tlfeatures.extract import Plan, extract
    from tlfeatures.networks import Backbone
    from tlfeatures.store import EmbeddingStore

    store = EmbeddingStore(cache)
    plan = Plan.make(Backbone(spec.name, weights, _SIDE), spec.taps, "avg", store)
    result = extract(images, plan, store=store, batch_size=64, verbose=int(stderr_is_terminal()))
    blocks = {
        column.tap.layer: result.features[:, place]
        for column, place in zip(plan.columns, plan.slices, strict=True)
    }
    return Tally.of(result), blocks


def _score(layer: str, X: np.ndarray, y: np.ndarray, head: str) -> Score:
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    from tlfeatures.heads import make_head

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    return Score(layer, X.shape[1], head, cross_val_score(make_head(head), X, y, cv=folds))


def _report(
    spec: NetworkSpec, weights: str | None, tally: Tally, scores: list[Score], chosen: Score, tested: float
) -> dict[str, Any]:
    return {
        "model": spec.name,
        "weights": weights or "random",
        "images": tally.images,
        "from_store": tally.from_store,
        "computed": tally.computed,
        "scores": [
            {
                "layer": s.layer,
                "features": s.features,
                "head": s.head,
                "mean": s.mean,
                "std": float(s.scores.std()),
                "scores": s.scores.tolist(),
            }
            for s in scores
        ],
        "best": {"layer": chosen.layer, "head": chosen.head},
        "test_accuracy": float(tested),
    }
