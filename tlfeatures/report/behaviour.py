"""Parts of the page on the winner itself: its mistakes, what more images would do, how far to trust it."""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd

from tlfeatures.report import figures, page, summaries
from tlfeatures.report.book import Book

__all__ = ["curves", "mistakes", "outcome", "trust"]


def outcome(book: Book) -> str:
    """Confusion matrix and classes; or, for numbers, predicted against true."""
    return _numbers(book) if book.classes is None else _classes(book)


def _classes(book: Book) -> str:
    classes, n = book.classes, len(book.classes)
    counts = summaries.confusion(book.oof["true"].to_numpy(), book.oof["predicted"].to_numpy(), classes)
    frame = book.save("per_class", summaries.per_class(counts, classes))
    book.facts["per_class"] = frame.to_dict("records")
    book.save(
        "confusion", pd.DataFrame(counts, pd.Index(classes, name="true \\ predicted"), classes).reset_index()
    )
    lowest = frame.sort_values("f1", kind="stable", na_position="first").iloc[0]
    pictures = [
        book.draw(
            "confusion",
            f"Confusion matrix of {n} classes; {np.trace(counts)} of {counts.sum()} images are right.",
            "Rows are true classes, columns predicted ones. Numbers are images; darker is a larger share of the row."
            + (" Too many classes for names; tables/confusion.csv has them." if book.many_classes else ""),
            figures.draw_confusion, counts, classes.tolist(),
        ),
        book.draw(
            "per_class",
            f"Precision and recall by class; the lowest F1 is that of {lowest['class']}.",
            "Precision: how often this answer is right. Recall: how much of the class is found. In brackets its images."
            + (f" The {figures.NAMED} classes of lowest F1." if book.many_classes else ""),
            figures.draw_per_class, frame,
        ),
    ]  # fmt: skip
    common = summaries.commonest_confusions(counts, classes)
    share = {"share": lambda v: f"{v:.1%}"}
    return page.section(
        "Classes",
        page.figure(pictures),
        "" if common.empty else page.paragraph("Most frequent confusions:") + page.table(common, share),
        page.details(f"All {n:,} classes as a table", page.table(frame)),
    )


def _numbers(book: Book) -> str:
    true, predicted = (book.oof[name].to_numpy(float) for name in ("true", "predicted"))
    found = book.search.metrics_
    caption = f"R2 {found['r2']:.4f}, mean absolute error {found['mae']:.4g}, on images not trained on."
    picture = book.draw(
        "scatter", f"Predicted against true: {caption}", caption, figures.draw_scatter, true, predicted
    )
    return page.section("Predicted and true", page.figure([picture]))


def mistakes(book: Book) -> str:
    """The twelve worst, with their pictures; and all predictions as a table."""
    search, frame = book.search, book.oof.copy()
    if search.groups_ is not None:
        frame["group"] = np.asarray(search.groups_)[np.searchsorted(search.rows_, frame["row"])]
    if book.from_files:
        frame["image"] = [os.path.abspath(name) for name in frame["image"]]
    if search.oof_proba_ is not None and len(book.classes) <= 100:
        shares = zip(book.classes.tolist(), search.oof_proba_.T, strict=True)
        frame = frame.assign(**{f"p({name})": share for name, share in shares})
    book.save("predictions", frame)
    rows = summaries.worst(book.oof, search.oof_proba_, search.oof_decision_, book.classes)
    book.save("worst_mistakes", rows.drop(columns="at"))
    if rows.empty:
        return page.section("Worst mistakes", page.paragraph("There are none."))
    if book.classes is None:
        measure, note = "off by", "The largest errors, the worst first."
    else:
        measure = "lead in decision value" if search.oof_proba_ is None else "lead in probability"
        note = "The most confident mistakes, the worst first; wrong labels are often among them."
    items = []
    for one in rows.itertuples():
        true, predicted = (f"{v:.4g}" if book.classes is None else str(v) for v in (one.true, one.predicted))
        lines = (
            f"true: {true}",
            f"predicted: {predicted}",
            f"{measure}: {one.by:.3g}",
        )
        items.append((book.thumbnail(one.row), _tail(one.image), lines))
    return page.section("Worst mistakes", page.paragraph(note, "note"), page.tiles(items))


def _tail(name: object) -> str:
    """The last part of a path, and the folder that it lies in."""
    return "/".join(re.split(r"[\\/]", str(name))[-2:])


def curves(book: Book) -> str:
    """Learning curve, calibration where there are probabilities, and map of the embeddings."""
    pictures, notes = [], []
    curve, search = book.search.learning_curve_, book.search
    if len(curve.sizes):
        splits = {f"split{i}": column for i, column in enumerate(curve.scores.T)}
        book.save("learning_curve", pd.DataFrame({"training_images": curve.sizes, **splits}))
        steps = zip(curve.sizes, curve.scores.mean(axis=1), strict=True)
        alt = f"Learning curve. {'; '.join(f'{n} images: {mean:.4f}' for n, mean in steps)}"
        caption = (
            "The winner, trained on part of each fold's images; bars are one standard error. A curve that still rises "
            "wants more images."
        )
        args = (curve.sizes, curve.scores, book.scoring)
        pictures.append(book.draw("learning_curve", alt, caption, figures.draw_learning_curve, *args))
    else:
        notes.append("There are too few images for a learning curve.")
    if search.oof_proba_ is not None:
        found = summaries.calibration(book.oof["true"].to_numpy(), search.oof_proba_, book.classes)
        columns = ("confidence", "accuracy", "images", "low", "high")
        book.save("calibration", pd.DataFrame({name: getattr(found, name) for name in columns}))
        book.facts["calibration"] = {"expected_calibration_error": found.error, "brier": found.brier}
        caption = (
            f"Expected calibration error {found.error:.4f}, Brier score {found.brier:.4f}. Below the dashed line the "
            "model is too sure of itself, above it too modest."
        )
        alt = f"Calibration. {caption}"
        pictures.append(book.draw("calibration", alt, caption, figures.draw_calibration, found))
    elif book.classes is not None:
        notes.append(
            f"No calibration: the head {book.winner['head']!r} gives no probabilities; logreg and knn do."
        )
    try:
        pictures.append(_map(book))
    except (OSError, ValueError) as error:  # images moved since, or of a search that was pickled without them
        notes.append(f"No map of the embeddings: {error}")
    return page.section(
        "A closer look", page.figure(pictures), *(page.paragraph(note, "note") for note in notes)
    )


def _map(book: Book) -> page.Picture:
    """The winner's embeddings in the plane."""
    X = book.search.embeddings()
    flat = summaries.flatten(X[np.searchsorted(book.search.rows_, book.oof["row"].to_numpy())])
    shown = book.oof.iloc[flat.rows]
    true = shown["true"].to_numpy()
    wrong = None if book.classes is None else true != shown["predicted"].to_numpy()
    places = {"x": flat.xy[:, 0], "y": flat.xy[:, 1]}
    book.save("map", shown[["row", "image", "true", "predicted"]].assign(**places))
    caption = flat.note
    if len(flat.rows) < len(book.oof):
        caption += f" A sample of {len(flat.rows):,} images."
    if book.classes is not None and len(book.classes) > len(figures.PALETTE):
        caption += " Each class is named at its middle; names without room are left out."
    alt = f"The winner's embeddings of {len(flat.rows):,} images in the plane, by {flat.method}."
    return book.draw("map", alt, caption, figures.draw_map, flat, true, wrong)


def trust(book: Book) -> str:
    """Nested scores, copies of images, and the prescreen against what came after."""
    nested, score, text = getattr(book.search, "nested_scores_", None), book.winner["score"], ""
    if nested is not None:
        mean, error = float(np.mean(nested)), float(np.std(nested, ddof=1) / np.sqrt(len(nested)))
        book.facts["nested"] = {"scores": nested, "mean": mean, "se": error}
        text = (
            f"Nested cross-validation: what the search chooses without a fold scores {mean:.4f} ± {error:.4f} on "
            f"it (standard error). Expect this of new images of the kind, not the winner's own {score:.4f}."
        )
    elif len(book.table) > 1:
        text = (
            f"The winner is the best of {len(book.table):,} candidates on these very folds, so its score flatters it a "
            "little; nested=True (--nested) measures by how much."
        )
    first = page.paragraph(text) if text else ""
    return page.section("How far to trust it", first, _copies(book), _prescreen(book))


def _copies(book: Book) -> str:
    found, search = book.search.duplicates_, book.search
    exact = int(found.exact.sum())
    book.facts["copies"] = {"pairs": len(found.pairs), "exact": exact, "in_different_folds": found.crossing,
                            "threshold": found.threshold, "score_together": found.score_together}  # fmt: skip
    names = dict(zip(book.oof["row"], book.oof["image"], strict=True))
    sides = [[names.get(row, f"row {row}") for row in search.rows_[side].tolist()] for side in found.pairs.T]
    book.save(
        "copies",
        pd.DataFrame({"image": sides[0], "copy": sides[1], "cosine": found.cosine, "exact": found.exact}),
    )
    limited = "" if found.searched else " There are too many images to look for near-copies."
    if not len(found.pairs):
        return page.paragraph(
            f"There are no copies{'' if limited else ' or near-copies'} among the images.{limited}"
        )
    text = (
        f"Pairs of images that are copies of each other: {exact:,}; near-copies (cosine >= {found.threshold:g}): "
        f"{len(found.pairs) - exact:,}. tables/copies.csv names them.{limited}"
    )
    if not found.crossing:
        return page.paragraph(f"{text} None is split between folds.")
    text += f" In different folds, where one image gives the other away: {found.crossing:,}."
    if found.score_together is not None:
        text += (
            f" With such images kept together the winner scores {found.score_together:.4f} in place of "
            f"{found.score:.4f}. dedupe_groups=True (--dedupe-groups) keeps them together throughout."
        )
    else:
        text += (
            f" They cannot be kept together: up to {found.largest:,} of {len(search.rows_):,} hang together. Where "
            "they are no copies, a higher duplicate_threshold (--duplicate-threshold) tells them apart."
        )
    return page.paragraph(text, "warning")


def _prescreen(book: Book) -> str:
    search, frame = book.search, book.save("prescreen", book.search.prescreen_)
    both = frame[np.isfinite(frame[["prescreen", "score"]]).all(axis=1)]
    rho = book.facts["prescreen_correlation"] = search.prescreen_correlation_
    if rho is None or not np.isfinite(rho) or len(both) < 3:
        return ""
    advice = (
        "it can be trusted to prune here" if rho >= 0.7
        else "prune with it only generously" if rho >= 0.4 else "do not prune with it here"
    )  # fmt: skip
    text = (
        f"The prescreen ({search.prescreen_method}) ranks embeddings without a fit. Its rank "
        f"correlation (Spearman) with the final scores of {len(both)} embeddings is {rho:+.2f}: {advice}."
    )
    if not frame["kept"].all():
        text += f" {int(frame['kept'].sum())} of {len(frame)} embeddings were cross-validated."
    alt = f"Prescreen against final score; rank correlation {rho:+.2f}."
    args = (both, book.scoring, search.prescreen_method)
    picture = book.draw(
        "prescreen", alt, "A dot is an embedding, at its best head.", figures.draw_prescreen, *args
    )
    return page.paragraph(text) + page.figure([picture])
