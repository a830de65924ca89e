"""The prescreen of a search: embeddings are scored without fitting heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas
from scipy.stats import spearmanr

from tlfeatures.heads import BlockScaler
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._cv_results import Candidate
from tlfeatures.transferability import transferability

__all__ = ["compare_prescreen", "prescreen_subsets"]


def prescreen_subsets(
    X: np.ndarray,
    y: np.ndarray,
    subsets: Sequence[np.ndarray],
    method: str,
    task: str,
    scaler: BlockScaler | None,
) -> list[float]:
    """Compute the transferability score of each subset of rows, scaled by ``scaler`` if there is one."""
    parts = ((X[rows] if scaler is None else scaler.fit_transform(X[rows]), y[rows]) for rows in subsets)
    return [transferability(features, labels, method, task) for features, labels in parts]


def compare_prescreen(
    embeddings: Sequence[Embedding],
    prescreen: np.ndarray,
    kept: np.ndarray,
    candidates: Sequence[Candidate],
    means: np.ndarray,
) -> tuple[pandas.DataFrame, float | None]:
    """Compare the prescreen with the best score of each embedding.

    Parameters
    ----------
    embeddings : sequence of Embedding
    prescreen, kept : ndarray of shape (len(embeddings),)
        Scores of the prescreen, and whether an embedding was kept.
    candidates : sequence of Candidate
    means : ndarray of shape (len(candidates),)
        Mean scores of cross-validation.

    Returns
    -------
    frame : pandas.DataFrame
        One row per embedding.
    correlation : float or None
        Rank correlation; None if it is not defined.
    """
    best_scores: dict[int, float] = {}
    for (embedding, _, _), mean in zip(candidates, means, strict=True):
        best_scores[id(embedding)] = max(best_scores.get(id(embedding), -np.inf), mean)
    sizes = [e.columns[0].recipe["image_size"] for e in embeddings]
    frame = pandas.DataFrame(
        {
            "network": [e.network for e in embeddings],
            "image_size": ["x".join(map(str, size)) for size in sizes],
            "resize": [e.params["resize"] for e in embeddings],
            "layer": [e.layer_label for e in embeddings],
            "pooling": [e.params["pooling"] for e in embeddings],
            "prescreen": prescreen,
            "kept": kept,
            "score": [best_scores.get(id(e), np.nan) for e in embeddings],
        }
    )
    scored = frame.dropna(subset="score")
    varies = len(scored) > 2 and scored["prescreen"].nunique() > 1 and scored["score"].nunique() > 1
    correlation = spearmanr(scored["prescreen"], scored["score"]).statistic if varies else None
    return frame, None if correlation is None else float(correlation)
