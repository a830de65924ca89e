"""Steps of a search after its passes: duplicates, folds, prescreen, cross-validation, choice and analysis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas
from sklearn.utils.parallel import Parallel, delayed

from tlfeatures._warnings import warn
from tlfeatures.evaluation import Fold, find_duplicates
from tlfeatures.heads import blas_threads
from tlfeatures.images import Images
from tlfeatures.results import LearningCurve, score_bounds
from tlfeatures.selection._best_pipeline import fit_best_pipeline
from tlfeatures.selection._candidate_scores import CandidateScores
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._cv_results import (
    Candidate,
    compute_metrics,
    format_label,
    get_parameters,
    make_cv_results,
)
from tlfeatures.selection._fits import predict_fold
from tlfeatures.selection._grouped_score import score_grouped
from tlfeatures.selection._halving import (
    can_compare,
    describe_no_rounds,
    describe_rounds,
    find_comparable_scores,
    tabulate_rounds,
    uses_halving,
)
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._matrices import EmbeddingMatrices
from tlfeatures.selection._out_of_fold import collect_out_of_fold
from tlfeatures.selection._prescreen import Prescreen
from tlfeatures.selection._progress import ProgressSteps
from tlfeatures.selection._result import scoring_name
from tlfeatures.selection._rules import choose, choose_nested
from tlfeatures.selection._subsets import Subset, make_subsets
from tlfeatures.selection._training_data import TrainingData
from tlfeatures.selection.advice import advise, learning_curve

__all__ = ["SearchRunner"]


class SearchRunner:
    """Run the steps of a search on the embeddings of its images.

    Parameters
    ----------
    search : FeatureSearchCV
        Source of the parameters; it is not changed.
    images : sequence of (int, str)
        Row in X and display name of each readable image.
    data : TrainingData
        Labels, groups and metadata of the readable images.
    matrices : EmbeddingMatrices
    embeddings : list of Embedding
    heads : list of Head
    scorer : callable
    steps : ProgressSteps

    Attributes
    ----------
    attributes : dict
        Fitted attributes of `FeatureSearchCV`, by name.
    best : Candidate
    timings : list of dict
    """

    def __init__(
        self,
        search: Any,
        images: Sequence[tuple[int, str]],
        data: TrainingData,
        matrices: EmbeddingMatrices,
        embeddings: list[Embedding],
        heads: list[Head],
        scorer: Any,
        steps: ProgressSteps,
    ) -> None:
        self.search, self.data, self.matrices = search, data, matrices
        self.embeddings, self.heads, self.scorer, self.steps = embeddings, heads, scorer, steps
        self.rows = np.array([row for row, _ in images])
        self.names = [name for _, name in images]
        self.bounds = score_bounds(scoring_name(search.scoring, data.task))
        self.timings = matrices.timings
        self.attributes: dict[str, Any] = {}
        self.candidates: list[Candidate] = []
        self.subsets: list[Subset] = []

    def run(self, images: Images) -> dict[str, Any]:
        """Run all steps and return the fitted attributes."""
        with blas_threads(len(self.rows), max(e.width for e in self.embeddings)):
            with self.step("search for duplicates"):
                self._find_duplicates()
            self._make_folds()
            if self.folds:
                self._compare_candidates()
            else:
                embedding = self.embeddings[0]
                self.candidates = [(embedding, self.list_heads(embedding)[0], 0)]
                self._set_best(self.candidates[0], 0)
            with self.step("fit the best pipeline"):
                features = self.load_matrix(self.best[0])
                pipeline = fit_best_pipeline(self.search, self.best, images, features, self.data)
        return {**self.attributes, "best_estimator_": pipeline}

    def _compare_candidates(self) -> None:
        with self.step(f"prescreen ({self.search.prescreen_method})", len(self.embeddings)):
            self._prescreen()
            if self.subsets and not can_compare(self._count_candidates()):
                self.subsets = []
                self._prescreen()
        self._choose(CandidateScores(self))
        with self.step("predictions, learning curve"):
            self._analyze_best()
        with self.step("grouped cross-validation"):
            self._score_grouped()

    def _set_best(self, candidate: Candidate, index: int) -> None:
        self.best = candidate
        self.attributes |= {
            "best_index_": index,
            "best_params_": get_parameters(candidate),
            "candidates_": self.candidates,
        }

    def list_heads(self, embedding: Embedding) -> list[Head]:
        """Return the heads with the scaling and the kernel for an embedding."""
        return [head.for_embedding(embedding.blocks, len(self.rows)) for head in self.heads]

    def load_matrix(self, embedding: Embedding, subset: Subset | None = None) -> np.ndarray:
        """Load an embedding of the readable images, or of a subset of them, float32 (n, d)."""
        return self.matrices.load(embedding, self.rows if subset is None else self.rows[subset.rows])

    @contextlib.contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[None]:
        """Show the progress of a step, and record its seconds."""
        start = time.perf_counter()
        self.steps.begin(description, total)
        yield
        self.timings.append({"step": description, "seconds": time.perf_counter() - start})

    def run_parallel(self, function: Callable[..., Any], arguments: Iterable[tuple]) -> Iterator[Any]:
        """Yield results in order; arguments are generated when workers become free."""
        tasks = (delayed(function)(*values) for values in arguments)
        try:
            parallel = Parallel(n_jobs=self.search.n_jobs, return_as="generator")
        except ValueError:  # the backend, such as Ray's, returns all results at the end
            parallel = Parallel(n_jobs=self.search.n_jobs)
        for result in parallel(tasks):
            self.steps.advance()
            yield result

    # -- steps -------------------------------------------------------------------------------

    def _find_duplicates(self) -> None:
        # the last layer of the largest network at its largest size confuses the fewest similar images with duplicates
        embedding = max(self.embeddings, key=lambda e: (e.macs, e.depth, -len(e.layers)))
        self.duplicates = find_duplicates(
            self.matrices.keys[self.rows],
            self.load_matrix(embedding),
            self.search.duplicate_threshold,
            self.data.groups,
        )
        self.attributes["duplicates_"] = self.duplicates

    def _make_folds(self) -> None:
        self.inner_folds: list[list[Fold]] = []
        if self.search.dedupe_groups:
            self.data = replace(self.data, groups=self.duplicates.groups)
        try:
            self.folds = self.data.make_folds()
            if self.search.nested:
                self.inner_folds = self.data.make_inner_folds(self.folds)
        except ValueError as error:
            if not self.search.dedupe_groups:
                raise
            raise ValueError(
                f"`dedupe_groups=True`: the largest group of duplicates, merged with `groups` if passed, has "
                f"{self.duplicates.largest} of {len(self.data.y)} images. {error} Or pass a higher "
                f"duplicate_threshold than {self.duplicates.threshold:g}."
            ) from error
        self.all_folds = [*self.folds, *(fold for folds in self.inner_folds for fold in folds)]
        min_rows = min((len(train) for train, _ in self.all_folds), default=len(self.data.y))
        self.heads = [head.for_rows(min_rows) for head in self.heads]
        self.attributes |= {
            "folds_": self.folds,
            "n_splits_": len(self.folds),
            "groups_": self.data.groups,
        }
        if uses_halving(self.search, len(self.rows), len(self.folds)):
            y, task, seed = self.data.y, self.data.task, self.data.seed
            groups, first = self.duplicates.groups, self.search.first_subset
            self.subsets = make_subsets(y, groups, self.folds, task, seed, first)

    def _prescreen(self) -> None:
        self.prescreen = Prescreen(self)
        self.embeddings = self.prescreen.embeddings

    def _count_candidates(self) -> int:
        kept = [e for e, is_kept in zip(self.embeddings, self.prescreen.kept, strict=True) if is_kept]
        return sum(len(head.points) for e in kept for head in self.list_heads(e))

    def _choose(self, compared: CandidateScores) -> None:
        n_folds, rule = len(self.folds), self.search.rule
        costs, widths, embedding_index = compared.costs, compared.widths, compared.embedding_index
        self.rounds = compared.rounds
        if self.search.search == "halving" and not self.rounds:
            warn(describe_no_rounds(compared.skipped))
        if self.inner_folds:
            bounds = np.cumsum([n_folds, *map(len, self.inner_folds)])
            test = compared.scores.test
            inner_scores = [test[:, start:stop] for start, stop in pairwise(bounds)]
            nested, choices = choose_nested(test[:, :n_folds], inner_scores, costs, widths, rule)
            self.attributes["nested_scores_"] = nested
            self.attributes["nested_params_"] = [get_parameters(compared.candidates[c]) for c in choices]
        # embeddings kept only by the prescreen within a fold are not candidates of the final search
        keep = np.flatnonzero(self.prescreen.kept[embedding_index])
        prescreen = self.prescreen.scores[embedding_index][keep]
        self.candidates = [compared.candidates[i] for i in keep]
        self.scores = compared.scores.select(keep, n_folds)
        best = choose(self.scores.test, costs[keep], widths[keep], rule)
        self._set_best(self.candidates[best], best)
        results = make_cv_results(self.candidates, self.scores, self.folds, prescreen, self.bounds)
        results |= describe_rounds(self.rounds, len(self.candidates), len(self.rows))
        self.attributes |= {
            "cv_results_": results,
            "best_score_": float(results["mean_test_score"][best]),
            "fold_scores_": self.scores.test[best],
            "halving_": tabulate_rounds(
                self.rounds, compared.skipped, len(compared.candidates), len(self.rows)
            ),
        }
        # the prescreen used the images of the first subset
        means = self.rounds[0].means if self.rounds else results["mean_test_score"]
        self.attributes["prescreen_"], self.attributes["prescreen_correlation_"] = self.prescreen.compare(
            self.candidates, means
        )

    def _analyze_best(self) -> None:
        embedding, head, point = self.best
        X, data = self.load_matrix(embedding), self.data
        self._predict_out_of_fold(X, head.at(point))
        curve = LearningCurve(np.empty(0, int), np.empty((0, len(self.folds))))
        if self.search.learning_curve:
            full_scores = self.attributes["fold_scores_"] if self.subsets else None
            curve = learning_curve(
                X,
                data.y,
                self.folds,
                head,
                point,
                self.scorer,
                data.seed,
                data.groups,
                data.metadata,
                full_scores,
            )
        cost = np.array([e.relative_cost if len(e.layers) == 1 else np.nan for e, _, _ in self.candidates])
        last, early = cost == 1, cost < 1
        scores, images = find_comparable_scores(self.rounds, self.scores.test, last, early)
        best_possible = self.bounds[1] if np.isfinite(self.bounds[1]) else None
        names = [format_label(candidate) for candidate in self.candidates]
        self.attributes["learning_curve_"] = curve
        self.attributes["regime_"] = advise(
            self.scores.test,
            last,
            early,
            curve if self.search.learning_curve else None,
            names,
            best_possible,
            scores,
            images,
        )

    def _predict_out_of_fold(self, X: np.ndarray, head: Head) -> None:
        y, task = self.data.y, self.data.task
        tasks = ((X, y, fold, head, self.data.metadata) for fold in self.folds)
        out = collect_out_of_fold(self.run_parallel(predict_fold, tasks), y, task)
        self.attributes["oof_"] = pandas.DataFrame(
            {
                "row": self.rows[out.rows],
                # pandas cannot convert names that are not UTF-8 to its own type of text
                "image": pandas.Series([self.names[i] for i in out.rows], dtype=object),
                "fold": out.fold,
                "true": y[out.rows],
                "predicted": out.predicted,
            }
        )
        self.attributes["oof_proba_"], self.attributes["oof_decision_"] = (
            out.probabilities,
            out.decision_values,
        )
        self.attributes["metrics_"] = compute_metrics(y[out.rows], out.predicted, task)

    def _score_grouped(self) -> None:
        embedding, head, point = self.best
        if self.duplicates.count_crossing(self.folds):
            self.duplicates.score = self.attributes["best_score_"]
        score, scores = score_grouped(
            self.load_matrix(embedding),
            self.data,
            self.folds,
            head.at(point),
            self.scorer,
            self.duplicates,
            self.bounds,
        )
        self.attributes |= {"grouped_score_": score, "grouped_fold_scores_": scores}
