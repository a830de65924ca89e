"""Summaries of a fitted search, as a dict and as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlfeatures.evaluation import DEFAULT_SCORING
from tlfeatures.selection._prediction_sets import measure_search_intervals, measure_search_sets

if TYPE_CHECKING:
    from tlfeatures.selection._fitted_search import FittedSearchMixin

__all__ = ["describe", "summarize"]

_N_BEST = 10  # candidates in the summary
_COLUMNS = [
    "score", "se", "network", "image_size", "resize", "layer", "pooling", "head", "settings", "width",
]  # fmt: skip


def summarize(search: FittedSearchMixin) -> dict[str, Any]:
    """Implement `FeatureSearchCV.summary`."""
    table, results, best = search.table(), search.cv_results_, search.best_index_
    duplicates = search.duplicates_
    sets, intervals = measure_search_sets(search), measure_search_intervals(search)
    return {
        "task": search.task_,
        "images": len(search.rows_) + len(search.unreadable_),
        "unreadable": len(search.unreadable_),
        "candidates": len(table),
        "halving": search.halving_,
        "folds": search.n_splits_,
        "scoring": search.scoring or DEFAULT_SCORING[search.task_],
        "best": {
            "params": search.best_params_,
            "score": search.best_score_,
            "ci": [float(results[f"ci_{end}_test_score"][best]) for end in ("low", "high")],
            "features": int(results["width"][best]),
            "scores": search.fold_scores_,
        },
        "metrics": search.metrics_,
        "nested": getattr(search, "nested_scores_", None),
        "prescreen_correlation": search.prescreen_correlation_,
        "duplicates": {
            "pairs": len(duplicates.pairs),
            "exact": int(duplicates.exact.sum()),
            "in_different_folds": duplicates.crossing,
            "grouped_score": duplicates.grouped_score,
        },
        "prediction_sets": sets and sets.summary(),
        "prediction_intervals": intervals and intervals.summary(),
        "recommendation": search.regime_.recommendation,
        "evidence": search.regime_.evidence,
        "timings": search.timings_,
        "top": table.dropna(subset="score").head(_N_BEST)[_COLUMNS],
    }


def describe(search: FittedSearchMixin) -> list[str]:
    """Implement `FeatureSearchCV.describe`."""
    scores = search.cv_scores_
    if scores is None:
        return [search.describe_best()]
    interval = f"95% interval {scores['low']:.4f} to {scores['high']:.4f}"
    score = f"{scores['folds']}-fold {scores['scoring']}: {scores['mean']:.4f}, {interval}."
    if search.grouped_score_ is not None:
        score += f" Duplicates are kept in one fold; without this, the score is {search.best_score_:.4f}."
    sentences = [search.describe_best(), score]
    if (nested := getattr(search, "nested_scores_", None)) is not None:
        sentences.append(f"Nested cross-validation, which scores the selection: {nested.mean():.4f}.")
    return sentences + [f"{sentence} ({figures})" for sentence, figures in search.regime_.evidence]
