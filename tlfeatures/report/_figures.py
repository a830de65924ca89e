"""Figures of the report. Color-blind readers can distinguish the colors, and markers or lines differ too.

Most figures are five inches wide, so that they stay readable on a phone; those that need more room for many
classes are larger, and the page lets them scroll.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PredictionErrorDisplay
from sklearn.model_selection import LearningCurveDisplay

from tlfeatures.report._class_names import Labels, shorten
from tlfeatures.report._tables import LayerScores
from tlfeatures.results import LearningCurve

# Okabe and Ito 2008, without the yellow that is hard to see on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_NAMES = 60  # largest number of classes that a figure names
_MARKERS = "osD^vPX*"
_LINES = ("-", "--", "-.", ":")
_GREY = "#767676"


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _subplot(width: float = 5.0, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _add_legend(figure: Figure, axes: Any, columns: int) -> None:
    """Add a legend below the plot, so that it covers no data."""
    if axes.get_legend() is not None:
        axes.get_legend().remove()
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def plot_layers(
    network: str, series: Sequence[LayerScores], scoring: str, limits: tuple[float, float]
) -> Figure:
    """Plot the score by layer, early to late; concatenated layers are on the right."""
    n_single, n_combined = len(series[0].layers), len(series[0].combined)
    x = np.concatenate([np.arange(n_single), np.arange(n_combined) + n_single + 0.3])
    figure, axes = _subplot(max(5.0, min(9.0, 2 + 0.25 * len(x))), 4.0)
    for i, scores in enumerate(series):
        shifted = x + 0.07 * (i - (len(series) - 1) / 2)
        line = _LINES[i // 7 % 4] if len(series) > 7 else _LINES[i % 4]
        options = {
            "color": PALETTE[i % 7], "marker": _MARKERS[i % 8], "markersize": 5, "capsize": 2.5, "elinewidth": 1
        }  # fmt: skip
        for part, options["linestyle"], label in (
            (slice(None, n_single), line, scores.name),
            (slice(n_single, None), "none", None),
        ):
            axes.errorbar(shifted[part], scores.scores[part], scores.errors[part], label=label, **options)
    if n_single and n_combined:
        axes.axvline(n_single - 0.35, color=_GREY, linewidth=0.8, linestyle=":")
    names = [shorten(name, 22) for name in (*series[0].layers, *series[0].combined)]
    shown = np.arange(0, len(names), -(-len(names) // 36))  # at most 36 names, evenly spread
    rotation = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    if len(names) > 14:
        rotation = {"rotation": 90, "ha": "center", "rotation_mode": "default"}
    axes.set_xticks(x[shown], [names[i] for i in shown], **rotation)
    axes.set(xlim=(-0.5, x[-1] + 0.5), ylim=limits, ylabel=scoring)
    axes.set_title(f"Score by layer: {shorten(network, 34)}")
    axes.grid(False, axis="x")
    if len(series) > 1:
        _add_legend(figure, axes, 3)
    return figure


def plot_heads(candidates: pd.DataFrame, scoring: str) -> Figure:
    """Plot the score of each embedding with the best parameters of each head, and the best score of each head."""
    best = candidates.groupby("head")["score"].max().sort_values()
    figure, axes = _subplot(5.0, 1.3 + 0.55 * len(best))
    embedding = ["network", "image_size", "resize", "layer", "pooling"]
    for i, head in enumerate(best.index):
        rows = candidates[candidates["head"] == head].sort_values("score", ascending=False, kind="stable")
        scores = rows.drop_duplicates(embedding)["score"].to_numpy()
        offsets = 0.18 * np.sin(np.arange(len(scores)) * 2.4)  # deterministic jitter
        axes.plot(scores, i + offsets, "o", color=PALETTE[0], alpha=0.35, markersize=4, markeredgewidth=0,
                  label="an embedding" if i == 0 else None)  # fmt: skip
        top = rows.iloc[0]
        axes.errorbar(top["score"], i, xerr=top["se"], fmt="D", color=PALETTE[1], markersize=6, capsize=3,
                      label="the best, ± one standard error" if i == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(best)), best.index)
    axes.set(xlabel=scoring, ylim=(-0.5, len(best) - 0.5), title="Heads compared")
    axes.grid(False, axis="y")
    _add_legend(figure, axes, 2)
    return figure


def plot_confusion(counts: np.ndarray, classes: Sequence[Any], labels: Labels) -> Figure:
    """Plot the confusion matrix: color is the share of the true class, numbers are images."""
    n = len(classes)
    side = 5.0 if n <= 8 else min(2.2 + 0.26 * n, 11.2) if n <= MAX_NAMES else 8.0
    figure, axes = _subplot(side, side)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = n <= MAX_NAMES
    size = 9 if n <= 8 else 7.5 if n <= 20 else 6
    display = ConfusionMatrixDisplay(share, display_labels=[labels(c, 18 if n > 8 else 14) for c in classes])
    display.plot(
        include_values=named, cmap="Blues", ax=axes, colorbar=False, im_kw={"vmin": 0, "vmax": 1},
        text_kw={"fontsize": size}, xticks_rotation=90 if n > 4 else 0,
    )  # fmt: skip
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if named:
        for text, count in zip(display.text_.flat, counts.flat, strict=True):
            text.set(text=f"{count:d}" if count else "", fontsize=size - (count > 99))
        axes.tick_params(labelsize=size)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color="#eeeeee", linewidth=0.6)
        axes.tick_params(which="both", length=0)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    return figure


def plot_class_metrics(frame: pd.DataFrame, labels: Labels) -> Figure:
    """Plot precision and recall of each class, the lowest F1 on top; at most the 60 lowest."""
    rows = frame.sort_values("f1", kind="stable", na_position="first").head(MAX_NAMES).iloc[::-1]
    n = len(rows)
    figure, axes = _subplot(5.0, 1.4 + (0.35 if n <= 10 else 0.2) * n)
    axes.hlines(range(n), rows["precision"], rows["recall"], color="#bdbdbd", linewidth=2)
    axes.plot(rows["precision"], range(n), "o", color=PALETTE[0], markersize=5.5, label="precision")
    axes.plot(rows["recall"], range(n), "s", color=PALETTE[1], markersize=5.5, markerfacecolor="none",
              markeredgewidth=1.4, label="recall")  # fmt: skip
    names = [
        f"{labels(name, 24)} ({images:,})" for name, images in zip(rows["class"], rows["images"], strict=True)
    ]
    axes.set_yticks(range(n), names, fontsize=8 if n <= 20 else 7)
    lowest = np.nanmin(rows[["precision", "recall"]].to_numpy(float))
    axes.set(
        xlim=(min(0.9, max(0.0, lowest - 0.05)), 1.02),
        ylim=(-0.6, n - 0.4),
        title="Precision and recall by class",
    )
    axes.grid(False, axis="y")
    _add_legend(figure, axes, 2)
    return figure


def plot_learning_curve(curve: LearningCurve, scoring: str) -> Figure:
    """Plot the score of the best pipeline by the number of training images."""
    figure, axes = _subplot()
    sizes, scores = curve.sizes, curve.scores
    display = LearningCurveDisplay(  # training scores are not drawn
        train_sizes=sizes, train_scores=scores, test_scores=scores, score_name=scoring
    )
    errorbar_options = {"marker": "o", "color": PALETTE[0], "capsize": 3}
    display.plot(axes, score_type="test", std_display_style="errorbar", errorbar_kw=errorbar_options)
    axes.get_legend().remove()
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="training images", title="Learning curve")
    return figure


def plot_calibration(bins: pd.DataFrame) -> Figure:
    """Plot the fraction of correct predictions against the probability of the predicted class."""
    figure, axes = _subplot(5.0, 3.8)
    accuracy, confidence = bins["accuracy"].to_numpy(), bins["confidence"].to_numpy()
    display = CalibrationDisplay(accuracy, confidence, confidence)
    color = PALETTE[0]
    display.plot(ax=axes, name="bins of equal count, 95% interval", ref_line=False, marker="o", color=color)
    low = max(0.0, min(confidence.min(), bins["low"].min()) - 0.03)
    axes.plot([low, 1], [low, 1], "--", color=_GREY, linewidth=1, label="perfect calibration")
    margins = np.abs(np.stack([accuracy - bins["low"], bins["high"] - accuracy]))
    axes.errorbar(confidence, accuracy, margins, color=color, capsize=3, elinewidth=1, fmt="none")
    axes.set(xlabel="probability of the predicted class", ylabel="fraction of correct predictions", title="Calibration",
             xlim=(low, 1.01), ylim=(low, 1.03), aspect="auto")  # fmt: skip
    _add_legend(figure, axes, 2)
    return figure


def plot_prediction_errors(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot predicted against true values."""
    figure, axes = _subplot(5.0, 4.6)
    alpha = max(0.15, min(0.7, 60 / len(true)))
    PredictionErrorDisplay(y_true=true, y_pred=predicted).plot(
        axes,
        kind="actual_vs_predicted",
        scatter_kwargs={"color": PALETTE[0], "alpha": alpha, "s": 20, "linewidths": 0, "label": "an image"},
        line_kwargs={"color": _GREY, "linewidth": 1, "label": "perfect prediction"},
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel="predicted", ylabel="true", title="Predicted and true values")
    _add_legend(figure, axes, 2)
    return figure


def plot_prescreen(frame: pd.DataFrame, scoring: str, method: str) -> Figure:
    """Plot the prescreen score of each embedding against its best cross-validated score."""
    figure, axes = _subplot()
    for i, (network, rows) in enumerate(frame.groupby("network", sort=False)):
        axes.plot(rows["prescreen"], rows["score"], _MARKERS[i % 8], color=PALETTE[i % 7], markersize=5.5,
                  markerfacecolor=PALETTE[i % 7] if i < 7 else "none", label=shorten(network, 24))  # fmt: skip
    axes.locator_params(axis="x", nbins=6)
    axes.set(xlabel=f"prescreen ({method})", ylabel=f"best {scoring}", title="Prescreen and final score")
    _add_legend(figure, axes, 2)
    return figure


def plot_map(
    xy: np.ndarray, method: str, targets: np.ndarray, wrong: np.ndarray | None, labels: Labels
) -> Figure:
    """Plot embeddings in the plane.

    Parameters
    ----------
    xy : ndarray of shape (m, 2)
    method : str
        Name of the projection.
    targets : ndarray of shape (m,)
        Classes, or numbers if ``wrong`` is None.
    wrong : ndarray of bool, shape (m,), or None
        Whether each prediction is wrong; these points get a ring.
    labels : Labels
    """
    figure, axes = _subplot(5.0, 4.8)
    size, (x, y) = 22 if len(xy) <= 500 else 9, xy.T
    axes.set(xticks=[], yticks=[], title=f"Map of the embeddings ({method})")
    axes.margins(0.06)
    if wrong is None:
        dots = axes.scatter(x, y, size, targets, cmap="cividis", linewidths=0)
        figure.colorbar(dots, ax=axes, label="target", shrink=0.8)
        return figure
    classes, codes = np.unique(targets, return_inverse=True)
    legend = len(classes) <= len(PALETTE)
    for i, name in enumerate(classes):
        rows = codes == i
        axes.scatter(x[rows], y[rows], size, color=PALETTE[i % 7], marker=_MARKERS[(i + i // 7) % 8], linewidths=0,
                     alpha=0.75, label=labels(name, 20) if legend else None)  # fmt: skip
    axes.scatter(x[wrong], y[wrong], size * 3.5, facecolors="none", edgecolors="black", linewidths=0.9,
                 label="wrong prediction" if wrong.any() else None)  # fmt: skip
    _add_legend(figure, axes, 3)
    if not legend:
        _name_clusters(figure, axes, xy, codes, [labels(name, 16) for name in classes])
    return figure


def _name_clusters(figure: Figure, axes: Any, xy: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    """Write the name of each class at or near the median of its images; names that would overlap are left out."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # text placed in pixels must not move
    renderer, frame = canvas.get_renderer(), axes.get_window_extent()
    occupied: list[Any] = []
    offsets = [(0.0, 0.0), *((r * np.cos(a), r * np.sin(a)) for r in (10, 20, 30, 42, 56, 72)
                             for a in np.linspace(0, 2 * np.pi, 12, endpoint=False))]  # fmt: skip
    for code in np.argsort(-np.bincount(codes), kind="stable")[:MAX_NAMES]:
        center = axes.transData.transform(np.median(xy[codes == code], axis=0))
        text = axes.text(0, 0, "\n".join(textwrap.wrap(names[code], 16)), fontsize=6.5, ha="center", va="center",
                         path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
        for offset in offsets:
            text.set_position(axes.transData.inverted().transform(center + offset))
            box = text.get_window_extent(renderer).padded(1.5)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in occupied):
                occupied.append(box)
                break
        else:
            text.remove()
