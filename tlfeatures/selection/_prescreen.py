"""The prescreen of a search: embeddings are scored without fitting heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas
from scipy.stats import spearmanr

from tlfeatures.fingerprints import array_key
from tlfeatures.heads import BlockScaler, blas_threads
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._cv_results import Candidate
from tlfeatures.transferability import transferability

__all__ = ["Prescreen"]


class Prescreen:
    """Scores of the embeddings of a search without heads; they are computed in the constructor.

    Parameters
    ----------
    runner : SearchRunner
        Source of the embeddings, folds and subsets; it is not changed.

    Attributes
    ----------
    embeddings : list of Embedding
        Those of the search, without repetitions: crop and stretch of square images are equal.
    scores : ndarray of shape (len(embeddings),)
        Transferability scores on the first subset, or on all images.
    kept : ndarray of bool, shape (len(embeddings),)
    to_fit : ndarray of bool, shape (len(embeddings), folds)
        Folds on which heads are fitted; with nested cross-validation, the prescreen is repeated on the training rows of
        each fold.
    """

    def __init__(self, runner: Any) -> None:
        self._runner, self._subset = runner, runner.subsets[0] if runner.subsets else None
        self._distinct: dict[Any, Embedding] = {}
        y = runner.data.y if self._subset is None else runner.data.y[self._subset.rows]
        parts = [np.arange(len(y)), *(train for train, _ in (runner.folds if runner.inner_folds else []))]
        with blas_threads(len(y), max(e.width for e in runner.embeddings)):
            scores = np.array(list(runner.run_parallel(_score_parts, self._list_tasks(y, parts))))
        self.embeddings = list(self._distinct.values())
        keep = np.zeros((len(parts), len(self.embeddings)), bool)
        count = runner.search.prescreen or len(self.embeddings)
        for mask, part_scores in zip(keep, scores.T, strict=True):
            mask[np.argsort(-part_scores, kind="stable")[:count]] = True
        self.to_fit = np.zeros((len(self.embeddings), len(runner.all_folds)), bool)
        start = len(runner.folds)
        self.to_fit[:, :start] = keep.any(axis=0)[:, None]
        for mask, folds in zip(keep[1:], runner.inner_folds, strict=True):
            self.to_fit[:, start : start + len(folds)] = mask[:, None]
            start += len(folds)
        self.scores, self.kept = scores[:, 0], keep[0]

    def _list_tasks(self, y: np.ndarray, parts: list[np.ndarray]) -> Iterator[tuple]:
        """Yield the arguments of `_score_parts` for each distinct embedding."""
        search, task, load = self._runner.search, self._runner.data.task, self._runner.load_matrix
        for embedding in self._runner.embeddings:
            X = load(embedding, self._subset)
            key = embedding.blocks, array_key(X)
            if key in self._distinct and self._subset is not None:  # a subset may be equal by chance
                twin = self._distinct[key]
                key = embedding.blocks, array_key(load(embedding))
                if key[1] == array_key(load(twin)):
                    continue
            if key not in self._distinct:
                self._distinct[key] = embedding
                scaler = BlockScaler(embedding.blocks) if embedding.fused else None
                yield X, y, parts, search.prescreen_method, task, scaler

    def compare(
        self, candidates: Sequence[Candidate], means: np.ndarray
    ) -> tuple[pandas.DataFrame, float | None]:
        """Compare the scores with the best score of each embedding.

        Parameters
        ----------
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
        sizes = [e.columns[0].recipe["image_size"] for e in self.embeddings]
        frame = pandas.DataFrame(
            {
                "network": [e.network for e in self.embeddings],
                "image_size": ["x".join(map(str, size)) for size in sizes],
                "resize": [e.params["resize"] for e in self.embeddings],
                "layer": [e.layer_label for e in self.embeddings],
                "pooling": [e.params["pooling"] for e in self.embeddings],
                "prescreen": self.scores,
                "kept": self.kept,
                "score": [best_scores.get(id(e), np.nan) for e in self.embeddings],
            }
        )
        scored = frame.dropna(subset="score")
        varies = len(scored) > 2 and scored["prescreen"].nunique() > 1 and scored["score"].nunique() > 1
        correlation = spearmanr(scored["prescreen"], scored["score"]).statistic if varies else None
        return frame, None if correlation is None else float(correlation)


def _score_parts(
    X: np.ndarray,
    y: np.ndarray,
    parts: Sequence[np.ndarray],
    method: str,
    task: str,
    scaler: BlockScaler | None,
) -> list[float]:
    """Compute the transferability score of each part of the rows, scaled by ``scaler`` if there is one."""
    rows = ((X[part] if scaler is None else scaler.fit_transform(X[part]), y[part]) for part in parts)
    return [transferability(features, labels, method, task) for features, labels in rows]
