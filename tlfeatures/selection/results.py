"""What a search found, as scikit-learn's ``cv_results_`` and as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
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

from tlfeatures.evaluation import Fold, confidence_interval, standard_error
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._fits import Scores
from tlfeatures.selection._head_grids import Head

if TYPE_CHECKING:
    import pandas

__all__ = ["Candidate", "cv_results", "label", "metrics", "table"]

Candidate = tuple[Embedding, Head, int]  # the last is the point in the head's grid


def parameters(candidate: Candidate) -> dict[str, Any]:
    """All that tells a candidate from the others."""
    embedding, head, point = candidate
    return {**embedding.params, "head": head.name, **head.params(point)}


def label(candidate: Candidate) -> str:
    """A candidate's name, for people."""
    embedding, head, point = candidate
    settings = ", ".join(f"{key}={value}" for key, value in head.points[point].items())
    height, width = embedding.columns[0].recipe["image_size"]
    size = f"{height}" if height == width else f"{height}x{width}"
    return (
        f"{embedding.network} {size} {embedding.params['resize']} {'+'.join(embedding.layers)} "
        f"{embedding.params['pooling']}, {head.name}" + (f"({settings})" if settings else "")
    )


def cv_results(
    candidates: Sequence[Candidate], scores: Scores, folds: Sequence[Fold], prescreen: np.ndarray
) -> dict[str, Any]:
    """One row a candidate; ``scores`` has arrays of shape (candidates, folds)."""
    params = [parameters(c) for c in candidates]
    found: dict[str, Any] = {}
    for name, seconds in (("fit", scores.fit_seconds), ("score", scores.score_seconds)):
        found |= {f"mean_{name}_time": seconds.mean(axis=1), f"std_{name}_time": seconds.std(axis=1)}
    for name in dict.fromkeys(name for p in params for name in p):
        column = np.ma.masked_all(len(params), dtype=object)
        for i, p in enumerate(params):
            if name in p:
                column.mask[i] = False
                column.data[i] = p[name]  # a list stays one value
        found[f"param_{name}"] = column
    found["params"] = params
    found |= {f"split{i}_test_score": scores.test[:, i] for i in range(len(folds))}
    means = scores.test.mean(axis=1)
    low, high = confidence_interval(scores.test, folds)
    found |= {
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
        found |= {"mean_test_mae": scores.mae.mean(axis=1), "std_test_mae": scores.mae.std(axis=1)}
    return found


def table(candidates: Sequence[Candidate], found: dict[str, Any]) -> pandas.DataFrame:
    """One row a candidate, the best first."""
    import pandas

    rows = {
        "rank": found["rank_test_score"],
        "network": [e.network for e, _, _ in candidates],
        "image_size": [_side(e.columns[0].recipe["image_size"]) for e, _, _ in candidates],
        "resize": [e.params["resize"] for e, _, _ in candidates],
        "layer": ["+".join(e.layers) for e, _, _ in candidates],
        "layers": [len(e.layers) for e, _, _ in candidates],
        "depth": [e.depth for e, _, _ in candidates],
        "pooling": [e.params["pooling"] for e, _, _ in candidates],
        "head": [h.name for _, h, _ in candidates],
        "settings": [json.dumps(h.points[i], default=str) for _, h, i in candidates],
        "score": found["mean_test_score"],
        "std": found["std_test_score"],
        "se": found["se_test_score"],
        "ci_low": found["ci_low_test_score"],
        "ci_high": found["ci_high_test_score"],
    }
    if "mean_test_mae" in found:
        rows["mae"] = found["mean_test_mae"]
    rows |= {
        "width": found["width"],
        "macs": found["macs"],
        "prescreen": found["prescreen"],
        "fit_seconds": found["mean_fit_time"],
        "score_seconds": found["mean_score_time"],
    }
    splits = [name for name in found if name.startswith("split")]
    rows |= {name.removesuffix("_test_score"): found[name] for name in splits}
    frame = pandas.DataFrame(rows)
    frame.insert(0, "candidate", np.arange(len(frame)))
    return frame.sort_values(["rank", "macs", "width", "candidate"], ignore_index=True)


def _side(size: Sequence[int]) -> int | str:
    height, width = size
    return height if height == width else f"{height}x{width}"


def metrics(true: np.ndarray, predicted: np.ndarray, task: str) -> dict[str, float]:
    """Figures on predictions of rows that the models were not trained on."""
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
