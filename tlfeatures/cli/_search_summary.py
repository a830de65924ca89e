"""Results of a search on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._terminal import count, escape, show_table, show_text

if TYPE_CHECKING:
    from tlfeatures.selection import FeatureSearchCV

__all__ = ["show_search"]


def show_search(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the table of the best candidates, then the best pipeline with its score."""
    is_classifier = summary["task"] == "classification"
    classes = f" in {count(len(search.classes_), 'class', 'classes')}" if is_classifier else ""
    computed = int(search.timings_["computed"].fillna(0).sum())
    seconds = search.timings_["seconds"].sum()
    show_text(
        f"{count(summary['images'], 'image')}{classes}, {count(summary['candidates'], 'candidate')}; "
        f"{count(computed, 'forward pass', 'forward passes')}, {seconds:.1f} s in total.\n"
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
