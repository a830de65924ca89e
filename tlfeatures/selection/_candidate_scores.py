"""Scores of all candidates of a search, on growing subsets of the images first in a search by halving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlfeatures.evaluation import Fold
from tlfeatures.heads import blas_threads
from tlfeatures.selection._cv_results import Candidate
from tlfeatures.selection._fits import Scores, evaluate
from tlfeatures.selection._halving import Round, SkippedRound, can_compare, choose_survivors
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._subsets import Subset

__all__ = ["CandidateScores"]


class CandidateScores:
    """Candidates of a search and their scores; they are computed in the constructor.

    Parameters
    ----------
    runner : SearchRunner
        Source of the embeddings, heads, folds, subsets and the prescreen; it is not changed.

    Attributes
    ----------
    candidates : list of Candidate
        All points of all heads on all embeddings to fit.
    embedding_index : ndarray of int, shape (candidates,)
    costs, widths : ndarray of shape (candidates,)
        Multiply-accumulate operations per image, and number of features.
    rounds : list of Round
        One for each subset on which candidates were compared; empty for an exhaustive search.
    skipped : list of SkippedRound
        One for each subset on which they could not be compared.
    scores : Scores
        Scores on all images, arrays of shape (candidates, folds). Those of eliminated candidates are NaN; their
        times are those on the last subset.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.candidates: list[Candidate] = []
        indices: list[int] = []
        grids: list[int] = []
        for i in np.flatnonzero(runner.prescreen.to_fit.any(axis=1)).tolist():
            embedding = runner.embeddings[i]
            heads = runner.list_heads(embedding)
            for head in heads:
                self.candidates += [(embedding, head, point) for point in range(len(head.points))]
                indices += [i] * len(head.points)
                grids += [len(grids)] * len(head.points)
        self.embedding_index, self._grids = np.array(indices), np.array(grids)
        self.costs = np.array([e.macs for e, _, _ in self.candidates])
        self.widths = np.array([e.width for e, _, _ in self.candidates])
        self.rounds: list[Round] = []
        self.skipped: list[SkippedRound] = []
        alive = self._eliminate(np.arange(len(self.candidates)))
        with runner.step("cross-validation", self._count_tasks(alive)):
            scores = self._score(alive)
        self.scores = Scores.empty(len(self.candidates), len(runner.all_folds))
        for past in self.rounds:
            self.scores.fit_seconds[past.candidates] = past.scores.fit_seconds
            self.scores.score_seconds[past.candidates] = past.scores.score_seconds
        self.scores.update(alive, scores)

    def _eliminate(self, alive: np.ndarray) -> np.ndarray:
        """Score candidates on the subsets, and return the ones to score on all images."""
        for subset in self._runner.subsets:
            if not can_compare(len(alive)):
                break
            images = len(subset.rows)
            step = self._runner.step(
                f"{len(alive):,} candidates on {images:,} images", self._count_tasks(alive)
            )
            try:
                with step, blas_threads(images, self.widths[alive].max()):
                    scores = self._score(alive, subset)
            except Exception as error:  # of any kind; the images may be too few for a head or the score
                self.skipped.append(SkippedRound(images, len(alive), f"skipped: {error.__cause__ or error}"))
                continue
            # a score may be undefined on a fold, for example without an image of one class
            common = scores.test[:, np.isfinite(scores.test).all(axis=0)]
            if common.shape[1] < 2:
                reason = "skipped: fewer than two folds have a score of all candidates"
                self.skipped.append(SkippedRound(images, len(alive), reason))
                continue
            kept = choose_survivors(
                common, self.costs[alive], self.widths[alive], self._grids[alive], self._runner.search.rule
            )
            self.rounds.append(Round(images, alive, scores, common.mean(axis=1), alive[kept]))
            alive = alive[kept]
        return alive

    def _count_tasks(self, alive: np.ndarray) -> int:
        return len(np.unique(self.embedding_index[alive])) * self._tasks_per_embedding

    @property
    def _tasks_per_embedding(self) -> int:
        """One task for each fold in a search by halving, because few embeddings of many images are left."""
        return len(self._runner.all_folds) if self._runner.subsets else 1

    def _score(self, alive: np.ndarray, subset: Subset | None = None) -> Scores:
        """Score candidates on the folds of all images or of a subset."""
        data = self._runner.data if subset is None else self._runner.data.take(subset.rows)
        folds = self._runner.all_folds if subset is None else subset.folds
        parts = [alive[self.embedding_index[alive] == i] for i in np.unique(self.embedding_index[alive])]

        def arguments() -> Iterator[tuple]:
            for part in parts:
                index = self.embedding_index[part[0]]
                X = self._runner.load_matrix(self._runner.embeddings[index], subset)
                heads = self._list_heads(part, len(X))
                to_fit = self._runner.prescreen.to_fit[index]
                selected = [fold if fits else None for fold, fits in zip(folds, to_fit, strict=True)]
                for task in [selected] if self._tasks_per_embedding == 1 else _separate(selected):
                    yield X, data.y, task, heads, self._runner.scorer, data.metadata

        tasks = self._runner.run_parallel(evaluate, arguments())
        results = (Scores.concatenate(scores) for scores in tasks)
        return Scores.concatenate(
            [Scores.merge([next(results) for _ in range(self._tasks_per_embedding)]) for _ in parts]
        )

    def _list_heads(self, candidates: np.ndarray, n_images: int) -> list[Head]:
        """Return the heads of candidates with the same embedding, with their points only, for a number of images."""
        points: dict[str, tuple[Head, list[dict[str, Any]]]] = {}
        for i in candidates:
            _, head, point = self.candidates[i]
            points.setdefault(head.name, (head, []))[1].append(head.points[point])
        return [
            replace(head.for_embedding(head.blocks, n_images), points=tuple(kept))
            for head, kept in points.values()
        ]


def _separate(folds: Sequence[Fold | None]) -> list[list[Fold | None]]:
    """Return one list for each fold, in which the others are None."""
    return [[fold if i == j else None for j in range(len(folds))] for i, fold in enumerate(folds)]
