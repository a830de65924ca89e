"""Results of a search on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._terminal import count, escape, show_table, show_text

if TYPE_CHECKING:
    from tlfeatures.selection import FeatureSearchCV

__all__ = ["show_search", "summarize_duplicates", "summarize_search"]

_N_SHOWN = 10  # candidates in the table
_COLUMNS = ["score", "se", "network", "image_size", "resize", "layer", "pooling", "head", "settings", "width"]


def summarize_search(search: FeatureSearchCV) -> dict[str, Any]:
    """Return the results of a search as JSON values and tables."""
    from tlfeatures.evaluation import DEFAULT_SCORING

    table, results, best = search.table(), search.cv_results_, search.best_index_
    return {
        "task": search.task_,
        "images": len(search.rows_) + len(search.unreadable_),
        "unreadable": len(search.unreadable_),
        "candidates": len(table),
        "folds": search.n_splits_,
        "scoring": search.scoring or DEFAULT_SCORING[search.task_],
        "best": {
            "params": search.best_params_,
            "score": search.best_score_,
            "ci": [results[f"ci_{end}_test_score"][best] for end in ("low", "high")],
            "features": results["width"][best],
            "scores": search.fold_scores_,
        },
        "metrics": search.metrics_,
        "nested": getattr(search, "nested_scores_", None),
        "prescreen_correlation": search.prescreen_correlation_,
        "duplicates": summarize_duplicates(search),
        "recommendation": search.regime_.recommendation,
        "evidence": search.regime_.evidence,
        "timings": search.timings_,
        "top": table.head(_N_SHOWN)[_COLUMNS],
    }


def summarize_duplicates(search: FeatureSearchCV) -> dict[str, Any]:
    """Return the numbers of duplicate pairs, and the score of grouped cross-validation if it differs."""
    duplicates = search.duplicates_
    return {
        "pairs": len(duplicates.pairs),
        "exact": duplicates.exact.sum(),
        "in_different_folds": duplicates.crossing,
        "grouped_score": duplicates.grouped_score,
    }


def show_search(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the table of the best candidates, then the best pipeline with its score."""
    is_classifier = summary["task"] == "classification"
    classes = f" in {count(len(search.classes_), 'class', 'classes')}" if is_classifier else ""
    computed = int(search.timings_["computed"].fillna(0).sum())
    seconds = search.timings_["seconds"].sum()
    show_text(
        f"{count(summary['images'], 'image')}{classes}, {count(summary['candidates'], 'candidate')}; "
        f"{count(computed, 'pass', 'passes')} of an image through a network, {seconds:.1f} s in total.\n"
    )
    _show_top(search, summary)
    best = summary["best"]
    show_text(f"\n{escape(search.describe_best())}", style="bold")
    score, (low, high), note = best["score"], best["ci"], ""
    if (grouped := search.grouped_score_) is not None:
        score, low, high = grouped.mean, grouped.low, grouped.high
        note = f" Duplicates are kept in one fold; without this, the score is {best['score']:.4f}."
    show_text(
        f"{summary['folds']}-fold {summary['scoring']}: {score:.4f}, 95% interval {low:.4f} to {high:.4f}.{note}",
        style="bold",
    )
    if summary["nested"] is not None:
        show_text(f"Nested cross-validation, which scores the selection: {summary['nested'].mean():.4f}.")
    for sentence, figures in summary["evidence"]:
        show_text(f"{sentence} ({escape(figures)})")


def _show_top(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the best candidates; columns in which all candidates have the same value are left out."""
    table, top = search.table(), summary["top"]
    varying = [
        name for name in ("network", "image_size", "resize", "layer", "pooling") if table[name].nunique() > 1
    ]
    settings = top["settings"].map(lambda text: ",".join(f"{k}={v}" for k, v in json.loads(text).items()))
    top = top.assign(head=(top["head"] + " " + settings).str.strip())
    titles = {"score": summary["scoring"], "image_size": "size", "width": "features"}
    best = table["candidate"].tolist().index(search.best_index_)
    show_table(top[["score", "se", *varying, "head", "width"]].rename(columns=titles), best=best)
