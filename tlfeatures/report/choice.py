"""Parts of the page on the choice: the winner, what it was chosen from, what it cost, how to find it again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tlfeatures.report import figures, page, reproduce, summaries
from tlfeatures.report.book import Book

__all__ = ["again", "candidates", "cost", "head", "layers_and_heads", "made_with", "regime"]

_SHOWN = 20  # candidates on the page; the table has them all
_METRICS = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1",
    "r2": "R2", "mae": "mean absolute error (MAE)", "rmse": "root mean square error",
}  # fmt: skip


def _settings(text: str) -> str:
    return ", ".join(f"{key}={value}" for key, value in json.loads(text).items())


def head(book: Book) -> str:
    """The winner and its score."""
    search, best = book.search, book.winner
    settings = _settings(best["settings"])
    named = f"{best['head']} ({settings})" if settings else best["head"]
    what = (
        f"{best['network']} at {best['image_size']} px, {best['resize']}, {best['layer']}, {best['pooling']} pooling, "
        f"then {named}."
    )
    images = f"{len(search.rows_):,} images"
    if book.classes is not None:
        images += f" in {len(book.classes):,} classes"
    if search.unreadable_:
        images += f"; {len(search.unreadable_):,} more could not be read and were left out"
    low, high = (summaries.possible(best[end], book.scoring) for end in ("ci_low", "ci_high"))
    about = (
        f"Mean over {search.n_splits_} folds; 95% interval {low:.4f} to {high:.4f}. {images}. "
        f"{len(book.table):,} candidates, chosen by the rule {search.rule!r}."
    )
    winner = {name: best[name] for name in ("se", "ci_low", "ci_high", "width", "macs")}
    book.facts |= {
        "winner": {**search.best_params_, "score": search.best_score_, "scoring": book.scoring, **winner},
        "task": search.task_,
        "images": len(search.rows_),
        "classes": None if book.classes is None else len(book.classes),
        "unreadable": search.unreadable_,
        "folds": search.n_splits_,
        "candidates": len(book.table),
        "metrics": search.metrics_,
    }
    return (
        "<h1>Which network, layer and head</h1>\n"
        + page.paragraph(what, "winner", f"{book.scoring} {best['score']:.4f}")
        + page.paragraph(about)
        + page.paragraph(
            "Predictions for images that the model was not trained on, all folds together:", "note"
        )
        + page.pairs({_METRICS.get(name, name): f"{value:.4f}" for name, value in search.metrics_.items()})
    )


def regime(book: Book) -> str:
    """What follows from the measurements."""
    found = book.search.regime_
    book.facts["regime"] = {
        name: getattr(found, name) for name in ("domain", "data", "recommendation", "evidence")
    }
    return page.section("What the measurements say", page.findings(found.evidence))


def layers_and_heads(book: Book) -> str:
    """Score by layer, a plot for each network, and the heads beside each other."""
    found = summaries.layer_series(book.table)
    series = [s for many in found.values() for s in many]
    low, high = (
        pick(np.concatenate([s.scores + sign * np.nan_to_num(s.errors) for s in series]))
        for pick, sign in ((np.nanmin, -1), (np.nanmax, 1))
    )
    pad = 0.04 * (high - low) or 0.02
    poolings = set(book.table["pooling"])
    pictures, rows, used = [], [], set()
    for network, series in found.items():
        name = base = "layers-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", network)[:60]
        while name.lower() in used:
            name = f"{base}-{len(used)}"
        used.add(name.lower())
        tops = [f"{s.name}: best {np.nanmax(s.scores):.4f}" for s in series if not np.isnan(s.scores).all()]
        each = (
            ""
            if len(series) == 1
            else " for each pooling"
            if series[0].name in poolings
            else " for each size"
        )
        caption = (
            f"The best candidate at each layer{each}, early to late; bars are one standard error over folds."
        )
        if series[0].joined:
            caption += " Right of the dotted line: several layers, concatenated."
        alt = f"{book.scoring} by layer of {network}. {'; '.join(tops)}"
        args = (network, series, book.scoring, (low - pad, high + pad))
        pictures.append(book.draw(name, alt, caption, figures.draw_layers, *args))
        for s in series:
            for layer, score, error in zip((*s.layers, *s.joined), s.scores, s.errors, strict=True):
                rows.append((network, s.name, layer, score, error))
    book.save("layers", pd.DataFrame(rows, columns=["network", "series", "layer", "score", "se"]))
    best = book.table.groupby("head")["score"].max().sort_values(ascending=False)
    alt = f"Best {book.scoring} of each head: {', '.join(f'{k} {v:.4f}' for k, v in best.items())}"
    caption = "Each dot is an embedding, at the best settings of the head; the diamond is the head's best."
    pictures.append(book.draw("heads", alt, caption, figures.draw_heads, book.table, book.scoring))
    return page.section("Layers and heads", page.figure(pictures))


def candidates(book: Book) -> str:
    """The best candidates as a table."""
    book.save("candidates", book.table)
    columns = ["rank", "score", "ci_low", "ci_high", "mae", "network", "image_size", "resize", "layer", "pooling",
               "head", "settings", "width", "macs"]  # fmt: skip
    names = {"score": book.scoring, "ci_low": "95% from", "ci_high": "to", "image_size": "size", "width": "features",
             "macs": "million mult./image"}  # fmt: skip
    places = sorted({*range(min(_SHOWN, len(book.table))), book.best})
    shown = book.table.iloc[places][[name for name in columns if name in book.table]]
    shown = shown.assign(settings=[_settings(text) for text in shown["settings"]]).rename(columns=names)
    for name in ("95% from", "to"):
        shown[name] = [summaries.possible(bound, book.scoring) for bound in shown[name]]
    text = f"The best {len(places):,} of {len(book.table):,}; tables/candidates.csv has all, with each fold's score."
    millions = {"million mult./image": lambda v: f"{v / 1e6:,.1f}"}
    return page.section(
        "Candidates", page.paragraph(text, "note"), page.table(shown, millions, places.index(book.best))
    )


def cost(book: Book) -> str:
    """Seconds of each step."""
    frame = book.search.timings_.reindex(columns=["step", "images", "computed", "seconds"])
    book.facts["timings"] = book.save("timings", frame).to_dict("records")
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(frame["computed"] > 0, frame["computed"] / frame["seconds"], np.nan)
    whole = {name: lambda v: f"{v:,.0f}" for name in ("images", "computed", "images/s")}
    text = (
        f"{frame['seconds'].sum():,.1f} s in all. Images that were not computed came from the store. An image costs "
        f"the winner {book.winner['macs'] / 1e6:,.1f} million multiplications, and becomes "
        f"{book.winner['width']:,} features."
    )
    shown = frame.assign(**{"images/s": speed})[["seconds", "step", "images", "computed", "images/s"]]
    return page.section(
        "Time and cost",
        page.paragraph(text, "note"),
        page.table(shown, {**whole, "seconds": lambda v: f"{v:,.2f}"}, bar="seconds"),
    )


def again(book: Book, source: Sequence[str] | None, command: str | None) -> str:
    """The command and the code that find the winner again."""
    search, options = book.search, reproduce.winner_options(book.search)
    book.facts["command"] = command
    made = _code("The command that made this report", command)
    if options is None:
        text = (
            "There is no exact command: the network, score, folds or settings were given as Python objects."
        )
        return page.section("The winner again", page.paragraph(text), made)
    grouped, manifest = search.groups_ is not None, None
    if book.from_files and len(book.oof) == len(search.rows_):
        manifest = os.path.join(book.folder, "tables", "predictions.csv")
        source = [manifest, "--path-column", "image", "--target", "true"]
        source += ["--groups", "group"] if grouped else []
    elif search.dedupe_groups:
        source = None  # with the winner's embedding alone other images may count as near-copies
    alone = None if source is None else reproduce.command(options, source)
    texts = book.classes is not None and book.classes.dtype.kind in "US"
    code = reproduce.python_code(options, manifest, grouped, texts)
    book.facts |= {"winner_command": alone, "winner_code": code}
    return page.section(
        "The winner again",
        made,
        _code("The command that finds the winner alone: the same folds, score and pipeline", alone),
        _code("The code that finds the winner alone" if alone is None else "The same in Python", code),
    )


def _code(title: str, code: str | None) -> str:
    return "" if code is None else page.paragraph(f"{title}:") + page.pre(code, wrap="\n" not in code)


def made_with(book: Book) -> str:
    """Versions, recipe and files; the last part, for it lists what the others wrote."""
    versions, recipes = reproduce.versions(), list(book.search.best_estimator_[0].recipes_)
    book.facts |= {"versions": versions, "recipes": recipes, "files": book.files()}
    recipe = json.dumps(summaries.plain(recipes), indent=2)
    note = "This page holds small pictures of the images: share it only where these may be shared."
    return page.section(
        "Made with",
        page.pairs(versions),
        page.details("Recipe: all that decides the winner's embeddings", page.pre(recipe)),
        page.details("Files beside this page", page.pre("\n".join(["report.json", *book.files()]))),
        page.paragraph(note, "note"),
    )
