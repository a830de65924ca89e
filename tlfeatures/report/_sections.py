"""Figures and tables of the report, which the template arranges and describes."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from tlfeatures._objects import is_object
from tlfeatures.report import _figures, _tables
from tlfeatures.report._class_names import Labels
from tlfeatures.report._tiles import list_tiles
from tlfeatures.results import SearchResult

_PIXELS_PER_INCH = 96


class ReportFolder:
    """The folder of a report, to which figures and tables are written.

    Parameters
    ----------
    path : Path
        Created if it does not exist.

    Attributes
    ----------
    figures : dict of str to dict
        ``data`` (the PNG, base64) and ``width`` (pixels; None to fit the page) of each figure.
    tables : dict of str to DataFrame
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self._files: set[str] = set()
        path.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table as CSV."""
        path = self._add("tables", f"{name}.csv")
        frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", errors="surrogateescape")
        self.tables[name] = frame

    def draw(self, name: str, plot: Callable[..., Figure], *args: Any) -> None:
        """Write a figure as PNG."""
        figure = plot(*args)
        png = _figures.to_png(figure)
        path = self._add("figures", f"{name}.png")
        path.write_bytes(png)
        inches = figure.get_figwidth()
        # a wide figure is not scaled down to the width of a phone, where its many class names would be unreadable
        width = round(inches * _PIXELS_PER_INCH) if inches > 5.5 else None
        self.figures[name] = {"data": base64.b64encode(png).decode(), "width": width}

    def files(self) -> list[str]:
        """Return the names of all figures and tables of the report; the folder may contain other files."""
        return sorted(self._files)

    def _add(self, part: str, name: str) -> Path:
        """Return the path of a new file."""
        self._files.add(f"{part}/{name}")
        (self.path / part).mkdir(exist_ok=True)
        return self.path / part / name


def make_sections(result: SearchResult, folder: ReportFolder) -> dict[str, Any]:
    """Write all figures and tables; return further variables of the template."""
    labels = Labels(() if result.classes is None else result.classes)
    for name in ("candidates", "prescreen", "timings"):
        folder.save(name, getattr(result, name))
    if len(result.image_problems):
        folder.save("image_problems", result.image_problems)
    _save_duplicates(result, folder)
    if result.audit is not None:
        folder.save("label_errors", result.audit.label_errors)
        folder.save("outliers", result.audit.outliers)
    if result.prediction_sets is not None and len(result.prediction_sets.error_rates):
        folder.save("prediction_sets", result.prediction_sets.error_rates)
        folder.save("prediction_sets_by_class", result.prediction_sets.classes)
    if result.prediction_intervals is not None and len(result.prediction_intervals.error_rates):
        folder.save("prediction_intervals", result.prediction_intervals.error_rates)
        folder.save("prediction_intervals_by_third", result.prediction_intervals.thirds)
    with labels.style():
        layers = _draw_layers(result, folder)
        folder.draw("heads", _figures.plot_heads, _comparable(result), result.scoring)
        _draw_predictions(result, folder, labels)
        embedding_map = _draw_curves(result, folder, labels)
    return {
        "labels": labels,
        "layer_scores": layers,
        "head_scores": _comparable(result).groupby("head")["score"].max(),
        "embedding_map": embedding_map,
        "mistakes": _save_predictions(result, folder),
        "audit_tiles": {} if result.audit is None else list_tiles(result.audit),
        "max_names": _figures.MAX_NAMES,
        "max_legend": len(_figures.PALETTE),
    }


def _comparable(result: SearchResult) -> pd.DataFrame:
    """Return the candidates with scores on the same images; in a search by halving, those of the first subset."""
    if "subset0" not in result.candidates:
        return result.candidates
    scores = result.candidates["subset0"]
    compared = result.candidates.assign(score=scores, se=np.nan)
    return compared.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _draw_layers(result: SearchResult, folder: ReportFolder) -> dict[str, list[_tables.LayerScores]]:
    """Draw the score by layer for each network; return the scores by name of figure."""
    by_network = _tables.layer_scores(_comparable(result))
    all_series = [scores for series in by_network.values() for scores in series]
    low = np.nanmin(np.concatenate([s.scores - np.nan_to_num(s.errors) for s in all_series]))
    high = np.nanmax(np.concatenate([s.scores + np.nan_to_num(s.errors) for s in all_series]))
    margin = 0.04 * (high - low) or 0.02
    by_figure, rows = {}, []
    for network, series in by_network.items():
        name = base = "layers-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", network)[:60]
        while name.lower() in map(str.lower, by_figure):
            name = f"{base}-{len(by_figure)}"
        by_figure[name] = series
        limits = (low - margin, high + margin)
        folder.draw(name, _figures.plot_layers, network, series, result.scoring, limits)
        for scores in series:
            layers = zip((*scores.layers, *scores.combined), scores.scores, scores.errors, strict=True)
            rows += [(network, scores.name, *values) for values in layers]
    folder.save("layers", pd.DataFrame(rows, columns=["network", "series", "layer", "score", "se"]))
    return by_figure


def _draw_predictions(result: SearchResult, folder: ReportFolder, labels: Labels) -> None:
    """Draw the confusion matrix and the metrics of each class; for regression, the prediction errors."""
    true, predicted = (result.predictions[name].to_numpy() for name in ("true", "predicted"))
    if result.classes is None:
        folder.draw("scatter", _figures.plot_prediction_errors, true, predicted)
        return
    counts = confusion_matrix(true, predicted, labels=result.classes)
    index = pd.Index(result.classes, name="true \\ predicted")
    folder.save("confusion", pd.DataFrame(counts, index, result.classes).reset_index())
    folder.save("per_class", _tables.class_metrics(true, predicted, result.classes))
    folder.draw("confusion", _figures.plot_confusion, counts, result.classes.tolist(), labels)
    folder.draw("per_class", _figures.plot_class_metrics, folder.tables["per_class"], labels)
    folder.tables["confusions"] = _tables.frequent_confusions(counts, result.classes)


def _draw_curves(result: SearchResult, folder: ReportFolder, labels: Labels) -> _tables.EmbeddingMap | None:
    """Draw the learning curve, the calibration, the prescreen and the map of the embeddings, if available."""
    curve, prescreen = result.learning_curve, result.prescreen
    if len(curve.sizes) > 1:
        splits = {f"split{i}": column for i, column in enumerate(curve.scores.T)}
        folder.save("learning_curve", pd.DataFrame({"training_images": curve.sizes, **splits}))
        folder.draw("learning_curve", _figures.plot_learning_curve, curve, result.scoring)
    if result.probabilities is not None:
        true = result.predictions["true"].to_numpy()
        folder.save("calibration", _tables.calibration(true, result.probabilities, result.classes))
        folder.draw("calibration", _figures.plot_calibration, folder.tables["calibration"])
    scored = prescreen[np.isfinite(prescreen[["prescreen", "score"]]).all(axis=1)]
    if result.prescreen_correlation is not None and len(scored) > 2:
        folder.draw("prescreen", _figures.plot_prescreen, scored, result.scoring, result.prescreen_method)
    if result.embedding_sample is None:
        return None
    embedding_map = _tables.map_embeddings(result.embedding_sample)
    shown = result.rows[result.embedding_sample.rows]
    frame = result.predictions.merge(
        pd.DataFrame(embedding_map.xy, shown, ["x", "y"]), left_on="row", right_index=True
    )
    folder.save("map", frame[["row", "image", "true", "predicted", "x", "y"]])
    wrong = None if result.classes is None else (frame["true"] != frame["predicted"]).to_numpy()
    xy = frame[["x", "y"]].to_numpy()
    folder.draw("map", _figures.plot_map, xy, embedding_map.method, frame["true"].to_numpy(), wrong, labels)
    return embedding_map


def _save_predictions(result: SearchResult, folder: ReportFolder) -> list[dict[str, Any]]:
    """Save all predictions; return the worst mistakes with thumbnails."""
    frame = result.predictions.copy()
    if result.from_files:
        names = [name if is_object(name) else os.path.abspath(name) for name in frame["image"]]
        frame["image"] = pd.Series(names, frame.index, dtype=object)
    if result.probabilities is not None and len(result.classes) <= 100:
        columns = [f"p({name})" for name in result.classes]
        frame = pd.concat([frame, pd.DataFrame(result.probabilities, frame.index, columns)], axis=1)
    folder.save("predictions", frame)
    folder.save("worst_mistakes", result.mistakes)
    mistakes = result.mistakes.to_dict("records")
    for mistake in mistakes:
        jpeg = result.thumbnails.get(mistake["row"])
        mistake["thumbnail"] = None if jpeg is None else base64.b64encode(jpeg).decode()
        # the name of the file and of its folder
        mistake["image"] = "/".join(re.split(r"[\\/]", str(mistake["image"]))[-2:])
    return mistakes


def _save_duplicates(result: SearchResult, folder: ReportFolder) -> None:
    pairs = result.duplicates
    names = dict(zip(result.predictions["row"], result.predictions["image"], strict=True))
    image, duplicate = (
        pd.Series([names.get(row, f"row {row}") for row in result.rows[side].tolist()], dtype=object)
        for side in pairs.pairs.T
    )
    columns = {"image": image, "duplicate": duplicate, "cosine": pairs.cosine, "exact": pairs.exact}
    folder.save("duplicates", pd.DataFrame(columns))
