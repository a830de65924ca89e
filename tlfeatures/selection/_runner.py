"""One search after its passes: folds, prescreen, fits, choice, and a closer look at the winner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.utils.parallel import Parallel, delayed

from tlfeatures._warnings import warn
from tlfeatures.errors import DuplicateImagesWarning
from tlfeatures.evaluation import (
    Fold,
    confidence_interval,
    find_duplicates,
    group_folds,
    make_folds,
    make_inner_folds,
)
from tlfeatures.fingerprints import array_key
from tlfeatures.heads import blas_threads
from tlfeatures.results import Score, score_bounds
from tlfeatures.selection._candidates import Embedding
from tlfeatures.selection._cv_results import Candidate, cv_results, label, metrics, parameters
from tlfeatures.selection._fits import Scores, evaluate, predict_folds
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._matrices import Matrices
from tlfeatures.selection._metadata import Metadata
from tlfeatures.selection._progress import Steps
from tlfeatures.selection._result import scoring_name
from tlfeatures.selection.advice import advise, learning_curve
from tlfeatures.selection.rules import choose, choose_nested
from tlfeatures.transferability import transferability

__all__ = ["SearchRunner"]


class SearchRunner:
    """Carries a search out; what it finds is in ``found``, by the names of `FeatureSearchCV`'s attributes.

    Parameters
    ----------
    options : FeatureSearchCV
        Read, not written.
    matrices : Matrices
    embeddings : sequence of Embedding
    heads : sequence of Head
    rows : ndarray of int, shape (n,)
        Readable rows of the images.
    y : ndarray of shape (n,)
    groups : ndarray of shape (n,) or None
    metadata : Metadata
    task : {"classification", "regression"}
    cv : int, splitter or list of folds
    seed : int
    scorer : callable
    names : list of str
        Of the n images, for people.
    steps : Steps
    """

    def __init__(
        self,
        options: Any,
        matrices: Matrices,
        embeddings: Sequence[Embedding],
        heads: Sequence[Head],
        rows: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray | None,
        metadata: Metadata,
        task: str,
        cv: Any,
        seed: int,
        scorer: Any,
        names: list[str],
        steps: Steps,
    ) -> None:
        self.options, self.matrices, self.embeddings, self.heads = options, matrices, embeddings, heads
        self.rows, self.y, self.groups, self.task = rows, y, groups, task
        self.metadata = metadata
        self.cv, self.seed, self.scorer, self.names, self.steps = cv, seed, scorer, names, steps
        self.bounds = score_bounds(scoring_name(options.scoring, task))
        self.timings = matrices.timings
        self.found: dict[str, Any] = {}

    def execute(self) -> dict[str, Any]:
        """Run all steps; the attributes."""
        with blas_threads(len(self.rows), max(e.width for e in self.embeddings)):
            self._execute()
        return self.found

    def _execute(self) -> None:
        with self._step("search for duplicates"):
            self._find_duplicates()
        self._make_folds()
        with self._step(f"prescreen ({self.options.prescreen_method})", len(self.embeddings)):
            self._prescreen()
        with self._step("cross-validation", int(self.wanted.any(axis=1).sum())):
            self._cross_validate()
        self._choose()
        with self._step("predictions, learning curve"):
            self._look_closer()
        with self._step("grouped cross-validation"):
            self._weigh_duplicates()

    def matrix(self, embedding: Embedding) -> np.ndarray:
        """Rows of an embedding."""
        return self.matrices.of(embedding, self.rows)

    @contextlib.contextmanager
    def _step(self, what: str, total: int | None = None) -> Iterator[None]:
        start = time.perf_counter()
        self.steps.begin(what, total)
        yield
        self.timings.append({"step": what, "seconds": time.perf_counter() - start})

    def _parallel(self, work: Callable[..., Any], arguments: Iterable[tuple]) -> Iterator[Any]:
        """Results in order; arguments are made as workers become free."""
        tasks = (delayed(work)(*given) for given in arguments)
        for result in Parallel(n_jobs=self.options.n_jobs, return_as="generator")(tasks):
            self.steps.advance()
            yield result

    # -- steps -------------------------------------------------------------------------------

    def _find_duplicates(self) -> None:
        # the last layer of the largest network, at its largest size: smaller ones take the alike for the same
        space = max(self.embeddings, key=lambda e: (e.macs, e.depth, -len(e.layers)))
        self.duplicates = find_duplicates(
            self.matrices.keys[self.rows], self.matrix(space), self.options.duplicate_threshold, self.groups
        )
        self.found["duplicates_"] = self.duplicates

    def _make_folds(self) -> None:
        self.inner: list[list[Fold]] = []
        if self.options.dedupe_groups:
            self.groups = self.duplicates.groups
        try:
            self.folds = make_folds(self.cv, self.y, self.groups, self.task, self.seed)
            if self.options.nested:
                self.inner = make_inner_folds(self.cv, self.y, self.groups, self.task, self.seed, self.folds)
        except ValueError as error:
            if not self.options.dedupe_groups:
                raise
            raise ValueError(
                f"dedupe_groups=True: up to {self.duplicates.largest} of {len(self.y)} images hang together as copies "
                f"and near-copies. {error} Or take a higher duplicate_threshold than {self.duplicates.threshold:g}."
            ) from error
        self.pairs = [*self.folds, *(pair for folds in self.inner for pair in folds)]
        least = min(len(train) for train, _ in self.pairs)
        self.heads = [head.for_rows(least) for head in self.heads]
        self.found |= {"folds_": self.folds, "n_splits_": len(self.folds), "groups_": self.groups}

    def _prescreen(self) -> None:
        """Scores before the fits, and ``wanted``: bool (embeddings, pairs), what is to be fitted."""
        every = np.arange(len(self.y))
        subsets = [every, *(train for train, _ in (self.folds if self.inner else []))]
        labels = self.y
        seen: dict[bytes, Embedding] = {}
        distinct = []

        def arguments() -> Iterator[tuple]:
            for embedding in self.embeddings:
                X = self.matrix(embedding)
                key = array_key(X)
                if key not in seen:  # such as crop and stretch of square images
                    seen[key] = embedding
                    distinct.append(embedding)
                    yield X, labels, subsets, self.options.prescreen_method, self.task

        found = np.array(list(self._parallel(_screen, arguments())))
        self.embeddings = distinct
        keep = np.zeros((len(subsets), len(distinct)), bool)
        count = self.options.prescreen or len(distinct)
        for mask, scores in zip(keep, found.T, strict=True):
            mask[np.argsort(-scores, kind="stable")[:count]] = True
        self.wanted = np.zeros((len(distinct), len(self.pairs)), bool)
        self.wanted[:, : len(self.folds)] = keep.any(axis=0)[:, None]
        at = len(self.folds)
        for mask, folds in zip(keep[1:], self.inner, strict=True):
            self.wanted[:, at : at + len(folds)] = mask[:, None]
            at += len(folds)
        self.prescreen, self.kept = found[:, 0], keep[0]

    def _cross_validate(self) -> None:
        chosen = np.flatnonzero(self.wanted.any(axis=1))
        self.embeddings_fitted = [self.embeddings[i] for i in chosen]

        def arguments() -> Iterator[tuple]:
            for i in chosen:
                pairs = [
                    pair if wanted else None for pair, wanted in zip(self.pairs, self.wanted[i], strict=True)
                ]
                yield self.matrix(self.embeddings[i]), self.y, pairs, self.heads, self.scorer, self.metadata

        self.candidates: list[Candidate] = []
        parts: list[Scores] = []
        before, main = [], []
        for i, scores in zip(chosen, self._parallel(evaluate, arguments()), strict=True):
            for head, part in zip(self.heads, scores, strict=True):
                parts.append(part)
                self.candidates += [(self.embeddings[i], head, point) for point in range(len(head.points))]
                before += [self.prescreen[i]] * len(head.points)
                main += [self.kept[i]] * len(head.points)
        self.scores = Scores.joined(parts)
        self.before, self.main = np.array(before), np.array(main)

    def _choose(self) -> None:
        k = len(self.folds)
        costs = np.array([e.macs for e, _, _ in self.candidates])
        widths = np.array([e.width for e, _, _ in self.candidates])
        rule = self.options.rule
        if self.inner:
            at = np.cumsum([k, *map(len, self.inner)])
            inner = [self.scores.test[:, a:b] for a, b in pairwise(at)]
            nested, choices = choose_nested(self.scores.test[:, :k], inner, costs, widths, rule)
            self.found["nested_scores_"] = nested
            self.found["nested_params_"] = [parameters(self.candidates[c]) for c in choices]
        # what only a fold's own prescreen kept is no candidate of the search as a whole
        keep = np.flatnonzero(self.main)
        self.candidates = [self.candidates[i] for i in keep]
        self.scores = self.scores.part(keep, k)
        best = choose(self.scores.test, costs[keep], widths[keep], rule)
        self.best = self.candidates[best]
        results = cv_results(self.candidates, self.scores, self.folds, self.before[keep], self.bounds)
        self.found |= {
            "cv_results_": results,
            "candidates_": self.candidates,
            "best_index_": best,
            "best_score_": float(results["mean_test_score"][best]),
            "best_params_": parameters(self.best),
        }
        self._compare_prescreen(results["mean_test_score"])

    def _compare_prescreen(self, means: np.ndarray) -> None:
        """The prescreen beside the best score of each embedding, and their rank correlation."""
        import pandas

        after: dict[int, float] = {}
        for (embedding, _, _), mean in zip(self.candidates, means, strict=True):
            after[id(embedding)] = max(after.get(id(embedding), -np.inf), mean)
        self.found["prescreen_"] = frame = pandas.DataFrame(
            {
                "network": [e.network for e in self.embeddings],
                "image_size": [
                    "x".join(map(str, e.columns[0].recipe["image_size"])) for e in self.embeddings
                ],
                "resize": [e.params["resize"] for e in self.embeddings],
                "layer": ["+".join(e.layers) for e in self.embeddings],
                "pooling": [e.params["pooling"] for e in self.embeddings],
                "prescreen": self.prescreen,
                "kept": self.kept,
                "score": [after.get(id(e), np.nan) for e in self.embeddings],
            }
        )
        both = frame.dropna(subset="score")
        varied = len(both) > 2 and both["prescreen"].nunique() > 1 and both["score"].nunique() > 1
        self.found["prescreen_correlation_"] = (
            float(spearmanr(both["prescreen"], both["score"]).statistic) if varied else None
        )

    def _look_closer(self) -> None:
        embedding, head, point = self.best
        X = self.matrix(embedding)
        self._predict(X, head, point)
        curve = learning_curve(
            X, self.y, self.folds, head, point, self.scorer, self.seed, self.groups, self.metadata
        )
        reach = np.array([e.reach if len(e.layers) == 1 else np.nan for e, _, _ in self.candidates])
        self.found["learning_curve_"] = curve
        self.found["regime_"] = advise(
            self.scores.test, reach == 1, reach < 1, curve, [label(c) for c in self.candidates],
            self.bounds[1] if np.isfinite(self.bounds[1]) else None,
        )  # fmt: skip

    def _predict(self, X: np.ndarray, head: Head, point: int) -> None:
        """Out-of-fold predictions of the winner; a row that is tested twice keeps the first."""
        import pandas

        n = len(self.y)
        fold, predicted = (
            np.full(n, -1),
            np.empty(n, self.y.dtype if self.task == "classification" else float),
        )
        values: dict[str, np.ndarray | None] = {"oof_proba_": None, "oof_decision_": None}
        found = predict_folds(X, self.y, self.folds, head, point, self.metadata)
        for i, (rows, guess, *more) in enumerate(found):
            new = fold[rows] < 0
            fold[rows[new]], predicted[rows[new]] = i, guess[new]
            for name, value in zip(values, more, strict=True):
                if value is not None:
                    if values[name] is None:
                        values[name] = np.full((n, *value.shape[1:]), np.nan)
                    if values[name].shape[1:] == value.shape[1:]:
                        values[name][rows[new]] = value[new]
        tested = np.flatnonzero(fold >= 0)
        self.found["oof_"] = pandas.DataFrame(
            {
                "row": self.rows[tested],
                "image": [self.names[i] for i in tested],
                "fold": fold[tested],
                "true": self.y[tested],
                "predicted": predicted[tested],
            }
        )
        self.found |= {name: None if value is None else value[tested] for name, value in values.items()}
        self.found["metrics_"] = metrics(self.y[tested], predicted[tested], self.task)

    def _weigh_duplicates(self) -> None:
        found = self.duplicates
        self.found["grouped_score_"] = None
        crossing = found.count_crossing(self.folds)
        if not crossing:
            return
        embedding, head, point = self.best
        one = head.at(point)
        found.score = self.found["best_score_"]
        try:
            folds = group_folds(self.folds, found.groups, self.y, self.task, self.seed)
            X = self.matrix(embedding)
            scores = evaluate(X, self.y, folds, [one], self.scorer, self.metadata)[0].test[0]
        except ValueError:
            effect = (
                f"Grouped cross-validation is not possible: the largest duplicate group has {found.largest:,} of "
                f"{len(self.y):,} images. If they are not duplicates, pass a higher duplicate_threshold"
            )
        else:
            found.score_together = float(scores.mean())
            interval = np.clip(confidence_interval(scores, folds), *self.bounds)
            self.found["grouped_score_"] = Score(found.score_together, *map(float, interval))
            effect = (
                f"Grouped cross-validation scores {found.score_together:.4f} instead of {found.score:.4f}. "
                "dedupe_groups=True uses grouped folds throughout"
            )
        warn(
            f"Duplicate images are split between folds, so the score may be too high: {crossing:,} of "
            f"{len(found.pairs):,} pair(s) of duplicates (cosine >= {found.threshold:g}; {int(found.exact.sum()):,} "
            f"are exact). {effect}; see duplicates_ for the pairs.",
            DuplicateImagesWarning,
        )


def _screen(
    X: np.ndarray, y: np.ndarray, subsets: Sequence[np.ndarray], method: str, task: str
) -> list[float]:
    """The method's score on each subset of rows; in a worker."""
    return [transferability(X[rows], y[rows], method, task) for rows in subsets]
