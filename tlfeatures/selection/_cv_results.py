"""Scores of the candidates as scikit-learn's ``cv_results_`` and as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from tlfeatures._json import to_json
from tlfeatures.evaluation import Fold, confidence_interval, standard_error
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._fits import Scores
from tlfeatures.selection._head_grids import Head

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Candidate",
    "compute_metrics",
    "format_label",
    "get_parameters",
    "make_cv_results",
    "make_table",
]

Candidate = tuple[Embedding, Head, int]  # the last element is the index of a point in the head's grid


def get_parameters(candidate: Candidate) -> dict[str, Any]:
    """Return the parameters that distinguish a candidate from the others."""
    embedding, head, point = candidate
    fused = {"fused": True} if embedding.fused else {}
    return {**embedding.params, **fused, "head": head.name, **head.params(point)}


def format_label(candidate: Candidate) -> str:
    """Return the display name of a candidate."""
    embedding, head, point = candidate
    settings = ", ".join(f"{key}={value}" for key, value in _simplify(head.points[point]).items())
    height, width = embedding.columns[0].recipe["image_size"]
    size = f"{height}" if height == width else f"{height}x{width}"
    return (
        f"{embedding.network} {size} {embedding.params['resize']} {embedding.layer_label} "
        f"{embedding.params['pooling']}, {head.name}" + (f"({settings})" if settings else "")
    )


def make_cv_results(
    candidates: Sequence[Candidate],
    scores: Scores,
    folds: Sequence[Fold],
    prescreen: np.ndarray,
    bounds: tuple[float, float],
) -> dict[str, Any]:
    """Build ``cv_results_`` with one row per candidate.

    Parameters
    ----------
    candidates : sequence of Candidate
    scores : Scores
        Arrays of shape (candidates, folds).
    folds : sequence of (train, test)
    prescreen : ndarray of shape (candidates,)
    bounds : tuple of float
        Lowest and highest possible value of the score; intervals are clipped to them.
    """
    params = [get_parameters(c) for c in candidates]
    columns: dict[str, Any] = {}
    for name, seconds in (("fit", scores.fit_seconds), ("score", scores.score_seconds)):
        columns |= {f"mean_{name}_time": seconds.mean(axis=1), f"std_{name}_time": seconds.std(axis=1)}
    for name in dict.fromkeys(name for p in params for name in p):
        values = np.ma.masked_all(len(params), dtype=object)
        for i, p in enumerate(params):
            if name in p:
                values.mask[i] = False
                values.data[i] = p[name]  # assigned by element: a list stays one value
        columns[f"param_{name}"] = values
    columns["params"] = params
    columns |= {f"split{i}_test_score": scores.test[:, i] for i in range(len(folds))}
    means = scores.test.mean(axis=1)
    low, high = np.clip(confidence_interval(scores.test, folds), *bounds)
    columns |= {
        "mean_test_score": means,
        "std_test_score": scores.test.std(axis=1),
        "se_test_score": standard_error(scores.test),
        "ci_low_test_score": low,
        "ci_high_test_score": high,
        "rank_test_score": rankdata(-np.nan_to_num(means, nan=-np.inf), method="min").astype(np.int32),
        "width": np.array([e.width for e, _, _ in candidates]),
        "macs": np.array([e.macs for e, _, _ in candidates]),
        "prescreen": prescreen,
    }
    if not np.isnan(scores.mae).all():
        columns |= {"mean_test_mae": scores.mae.mean(axis=1), "std_test_mae": scores.mae.std(axis=1)}
    return columns


def make_table(candidates: Sequence[Candidate], columns: dict[str, Any]) -> pandas.DataFrame:
    """Return one row per candidate, the best first."""
    import pandas

    rows = {
        "rank": columns["rank_test_score"],
        "network": [e.network for e, _, _ in candidates],
        "image_size": [_side(e.columns[0].recipe["image_size"]) for e, _, _ in candidates],
        "resize": [e.params["resize"] for e, _, _ in candidates],
        "layer": [e.layer_label for e, _, _ in candidates],
        "layers": [len(e.layers) for e, _, _ in candidates],
        "depth": [e.depth for e, _, _ in candidates],
        "pooling": [e.params["pooling"] for e, _, _ in candidates],
        "head": [h.name for _, h, _ in candidates],
        "settings": [json.dumps(_simplify(h.points[i]), default=str) for _, h, i in candidates],
        "score": columns["mean_test_score"],
        "std": columns["std_test_score"],
        "se": columns["se_test_score"],
        "ci_low": columns["ci_low_test_score"],
        "ci_high": columns["ci_high_test_score"],
    }
    if "mean_test_mae" in columns:
        rows["mae"] = columns["mean_test_mae"]
    rows |= {
        "width": columns["width"],
        "macs": columns["macs"],
        "prescreen": columns["prescreen"],
        "fit_seconds": columns["mean_fit_time"],
        "score_seconds": columns["mean_score_time"],
    }
    splits = [name for name in columns if name.startswith("split")]
    rows |= {name.removesuffix("_test_score"): columns[name] for name in splits}
    order = ["rank", "macs", "width", "candidate"]
    ascending: bool | list[bool] = True
    if "eliminated" in columns:
        order, ascending = ["rank", "n_images", "subset_score", *order[1:]], [True, False, False, *[True] * 3]
        rows |= {
            "n_images": columns["n_images"],
            "eliminated": columns["eliminated"],
            "subset_score": columns["last_subset_test_score"],
        }
        subsets = [name for name in columns if re.match(r"subset\d", name)]
        rows |= {name.removesuffix("_test_score"): columns[name] for name in subsets}
    frame = pandas.DataFrame(rows)
    frame.insert(0, "candidate", np.arange(len(frame)))
    return frame.sort_values(order, ascending=ascending, ignore_index=True)


def _simplify(point: dict[str, Any]) -> dict[str, Any]:
    """Convert the dicts of a point, such as class weights, to types of JSON: their keys may be NumPy numbers."""
    return {key: to_json(value) if isinstance(value, Mapping) else value for key, value in point.items()}


def _side(size: Sequence[int]) -> int | str:
    height, width = size
    return height if height == width else f"{height}x{width}"


def compute_metrics(true: np.ndarray, predicted: np.ndarray, task: str) -> dict[str, float]:
    """Compute metrics of out-of-fold predictions."""
    if task == "regression":
        return {
            "r2": float(r2_score(true, predicted)),
            "mae": float(mean_absolute_error(true, predicted)),
            "rmse": float(root_mean_squared_error(true, predicted)),
        }
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(true, predicted)),
        "f1_macro": float(f1_score(true, predicted, average="macro")),
    }
