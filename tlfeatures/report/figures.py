"""Plots as matplotlib figures: colours that the colour-blind tell apart, and never colour alone.

Every figure is about five inches wide, so that it stays readable on a phone; those that need more room for
many classes are larger, and the page lets them scroll.
"""

from __future__ import annotations

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from tlfeatures.report.summaries import Calibration, Flat, Series

__all__ = [
    "draw_calibration",
    "draw_confusion",
    "draw_heads",
    "draw_layers",
    "draw_learning_curve",
    "draw_map",
    "draw_per_class",
    "draw_prescreen",
    "draw_scatter",
    "png",
    "style",
]

# Okabe and Ito 2008, without the yellow that is lost on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
GREY = "#767676"
NAMED = 60  # classes that have room for their names
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Hiragino Sans", "Microsoft YaHei",
          "Arial Unicode MS")  # fmt: skip
_STYLE = {
    "figure.dpi": 150, "savefig.dpi": 150, "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "lines.linewidth": 1.6,
    "axes.titlelocation": "left", "axes.titleweight": "bold",
    "text.parse_math": False,  # a dollar in a class's name is a dollar
}  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's own; theirs is back afterwards."""
    here = set(get_font_names())
    fonts = [name for name in _FONTS if name in here]
    with matplotlib.style.context(["default", {**_STYLE, "font.family": fonts}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the tables of the page have all names
        yield


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    held = io.BytesIO()
    FigureCanvasAgg(figure).print_png(held, metadata={"Software": None})
    return held.getvalue()


def short(name: Any, most: int = 26) -> str:
    """A name of at most so many characters, its beginning and its end."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    return text if len(text) <= most else f"{text[: most * 2 // 3 - 1]}…{text[-(most // 3) :]}"


def _figure(width: float = 5.0, height: float = 3.6) -> Figure:
    return Figure((width, height), layout="constrained")


def _legend(figure: Figure, axes: Any, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:  # below the plot, where it hides nothing
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def _few(n: int, most: int) -> np.ndarray:
    """Places, evenly spread, of at most so many of n labels."""
    return np.arange(0, n, -(-n // most))


def draw_layers(network: str, series: Sequence[Series], scoring: str, limits: tuple[float, float]) -> Figure:
    """Score by layer, early to late; what is concatenated stands apart on the right."""
    single, joined = len(series[0].layers), len(series[0].joined)
    places = np.concatenate([np.arange(single), np.arange(joined) + single + 0.3])
    wide = max(5.0, min(9.0, 2 + 0.25 * len(places)))
    figure = _figure(wide, 4.0)
    axes = figure.add_subplot()
    for i, one in enumerate(series):
        shift = 0.07 * (i - (len(series) - 1) / 2)
        look = {"color": PALETTE[i % 7], "marker": MARKERS[i % 8], "markersize": 5, "capsize": 2.5,
                "elinewidth": 1, "linestyle": LINES[i // 7 % 4] if len(series) > 7 else LINES[i % 4]}  # fmt: skip
        axes.errorbar(
            places[:single] + shift, one.scores[:single], one.errors[:single], label=one.name, **look
        )
        axes.errorbar(
            places[single:] + shift, one.scores[single:], one.errors[single:], **{**look, "linestyle": "none"}
        )
    if joined and single:
        axes.axvline(single - 0.35, color=GREY, linewidth=0.8, linestyle=":")
    names = [short(name, 22) for name in (*series[0].layers, *series[0].joined)]
    shown = _few(len(names), 36)
    steep = len(names) > 14
    axes.set_xticks(places[shown], [names[i] for i in shown], rotation=90 if steep else 35,
                    ha="center" if steep else "right", rotation_mode="default" if steep else "anchor")  # fmt: skip
    axes.set(
        ylabel=scoring,
        ylim=limits,
        title=f"Score by layer: {short(network, 34)}",
        xlim=(-0.5, places[-1] + 0.5),
    )
    axes.grid(False, axis="x")
    if len(series) > 1:
        _legend(figure, axes, 3)
    return figure


def draw_heads(table: pd.DataFrame, scoring: str) -> Figure:
    """Each dot is an embedding, at the best of the head's grid; the diamond is the best of them."""
    best = table.groupby("head")["score"].max().sort_values()
    figure = _figure(5.0, 1.3 + 0.55 * len(best))
    axes = figure.add_subplot()
    keys = ["network", "image_size", "resize", "layer", "pooling"]
    for i, head in enumerate(best.index):
        rows = table[table["head"] == head].sort_values("score", ascending=False, kind="stable")
        dots = rows.drop_duplicates(keys)["score"].to_numpy()
        spread = 0.18 * np.sin(np.arange(len(dots)) * 2.4)  # apart, without chance
        axes.plot(dots, i + spread, "o", color=PALETTE[0], alpha=0.35, markersize=4, markeredgewidth=0,
                  label="an embedding" if i == 0 else None)  # fmt: skip
        top = rows.iloc[0]
        axes.errorbar(top["score"], i, xerr=top["se"], fmt="D", color=PALETTE[1], markersize=6, capsize=3,
                      label="the best, ± one standard error" if i == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(best)), best.index)
    axes.set(xlabel=scoring, ylim=(-0.5, len(best) - 0.5), title="Heads compared")
    axes.grid(False, axis="y")
    _legend(figure, axes, 2)
    return figure


def draw_confusion(counts: np.ndarray, classes: Sequence[Any]) -> Figure:
    """Share of each true class, with the counts written in; above 60 classes without names and counts."""
    n = len(classes)
    side = 5.0 if n <= 8 else min(2.2 + 0.26 * n, 11.2) if n <= NAMED else 8.0
    figure = _figure(side, side)
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if n <= NAMED:
        size = 9 if n <= 8 else 7.5 if n <= 20 else 6
        names = [short(name, 18 if n > 8 else 14) for name in classes]
        axes.set_xticks(range(n), names, rotation=90 if n > 4 else 0, fontsize=size)
        axes.set_yticks(range(n), names, fontsize=size)
        for i, j in zip(*np.nonzero(counts), strict=True):
            axes.text(j, i, f"{counts[i, j]:d}", ha="center", va="center", fontsize=min(size, 9) - (counts[i, j] > 99),
                      color="white" if share[i, j] > 0.5 else "black")  # fmt: skip
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color="#eeeeee", linewidth=0.6)
        axes.tick_params(which="both", length=0)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix")
    return figure


def draw_per_class(frame: pd.DataFrame) -> Figure:
    """Precision and recall of each class, the lowest F1 on top; of many classes the 60 lowest."""
    rows = frame.sort_values("f1", kind="stable", na_position="first").head(NAMED).iloc[::-1]
    n = len(rows)
    figure = _figure(5.0, 1.4 + (0.35 if n <= 10 else 0.2) * n)
    axes = figure.add_subplot()
    axes.hlines(range(n), rows["precision"], rows["recall"], color="#bdbdbd", linewidth=2)
    axes.plot(rows["precision"], range(n), "o", color=PALETTE[0], markersize=5.5, label="precision")
    axes.plot(rows["recall"], range(n), "s", color=PALETTE[1], markersize=5.5, markerfacecolor="none",
              markeredgewidth=1.4, label="recall")  # fmt: skip
    names = [
        f"{short(name, 24)} ({images:,})" for name, images in zip(rows["class"], rows["images"], strict=True)
    ]
    axes.set_yticks(range(n), names, fontsize=8 if n <= 20 else 7)
    left = np.nanmin(rows[["precision", "recall"]].to_numpy(float)) if n else 0.0
    axes.set(
        xlim=(min(0.9, max(0.0, left - 0.05)), 1.02),
        ylim=(-0.6, n - 0.4),
        title="Precision and recall by class",
    )
    axes.grid(False, axis="y")
    _legend(figure, axes, 2)
    return figure


def draw_learning_curve(sizes: np.ndarray, scores: np.ndarray, scoring: str) -> Figure:
    """Score of the winner by the number of training images."""
    figure = _figure()
    axes = figure.add_subplot()
    errors = scores.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    axes.errorbar(sizes, scores.mean(axis=1), errors, marker="o", color=PALETTE[0], capsize=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{size:,}" for size in sizes])
    axes.set(xlabel="training images", ylabel=scoring, title="Learning curve")
    return figure


def draw_calibration(found: Calibration) -> Figure:
    """Stated probability of the predicted class against how often it was right."""
    figure = _figure(5.0, 3.8)
    axes = figure.add_subplot()
    low = max(0.0, min(found.confidence.min(), found.low.min()) - 0.03)
    axes.plot([low, 1], [low, 1], "--", color=GREY, linewidth=1, label="perfect")
    reach = np.abs(np.stack([found.accuracy - found.low, found.high - found.accuracy]))
    axes.errorbar(found.confidence, found.accuracy, reach, marker="o", color=PALETTE[0], capsize=3,
                  elinewidth=1, label="images in bins of equal count, 95% interval")  # fmt: skip
    axes.set(xlabel="stated probability of the predicted class", ylabel="share that was right", title="Calibration",
             xlim=(low, 1.01), ylim=(low, 1.03))  # fmt: skip
    _legend(figure, axes, 2)
    return figure


def draw_scatter(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Predicted numbers against true ones."""
    figure = _figure(5.0, 4.6)
    axes = figure.add_subplot()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, "--", color=GREY, linewidth=1, label="exact")
    axes.plot(true, predicted, "o", color=PALETTE[0], alpha=max(0.15, min(0.7, 60 / len(true))), markersize=4.5,
              markeredgewidth=0, label="an image")  # fmt: skip
    axes.set(xlabel="true", ylabel="predicted", title="Predicted and true")
    _legend(figure, axes, 2)
    return figure


def draw_prescreen(frame: pd.DataFrame, scoring: str, method: str) -> Figure:
    """What the prescreen said before, and what cross-validation found."""
    figure = _figure()
    axes = figure.add_subplot()
    for i, (network, rows) in enumerate(frame.groupby("network", sort=False)):
        axes.plot(rows["prescreen"], rows["score"], MARKERS[i % 8], color=PALETTE[i % 7], markersize=5.5,
                  markerfacecolor=PALETTE[i % 7] if i < 7 else "none", label=short(network, 24))  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=f"prescreen ({method})", ylabel=f"best {scoring}", title="Prescreen against final score")
    _legend(figure, axes, 2)
    return figure


def draw_map(flat: Flat, labels: np.ndarray, wrong: np.ndarray | None) -> Figure:
    """Embeddings in the plane.

    Parameters
    ----------
    flat : Flat
    labels : ndarray of shape (m,)
        Classes, or with ``wrong`` None numbers.
    wrong : ndarray of bool, shape (m,), or None
        Mistakes, which are ringed.
    """
    figure = _figure(5.0, 4.8)
    axes = figure.add_subplot()
    x, y = flat.xy.T
    size = 22 if len(x) <= 500 else 9
    if wrong is None:
        dots = axes.scatter(x, y, size, labels, cmap="cividis", linewidths=0)
        figure.colorbar(dots, ax=axes, label="target", shrink=0.8)
    else:
        names, codes = np.unique(labels, return_inverse=True)
        for i, name in enumerate(names):
            at = codes == i
            axes.scatter(x[at], y[at], size, color=PALETTE[i % 7], marker=MARKERS[(i + i // 7) % 8], linewidths=0,
                         alpha=0.75, label=short(name, 20))  # fmt: skip
        axes.scatter(x[wrong], y[wrong], size * 3.5, facecolors="none", edgecolors="black", linewidths=0.9,
                     label="predicted wrongly" if wrong.any() else None)  # fmt: skip
    axes.set(xticks=[], yticks=[], title=f"Map of the embeddings ({flat.method})")
    axes.grid(False)
    axes.margins(0.06)
    if wrong is not None and len(names) <= len(PALETTE):
        _legend(figure, axes, 3)
    elif wrong is not None:
        if wrong.any():
            handles, texts = axes.get_legend_handles_labels()
            figure.legend(handles[-1:], texts[-1:], loc="outside lower center")
        _name_groups(figure, axes, flat.xy, codes, names)
    return figure


def _name_groups(figure: Figure, axes: Any, xy: np.ndarray, codes: np.ndarray, names: np.ndarray) -> None:
    """Write each class at its middle, or as near as no other name is; names without room are left out."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what is placed in pixels must stay there
    renderer, frame = canvas.get_renderer(), axes.get_window_extent()
    taken: list[Any] = []
    tries = [(0.0, 0.0), *((r * np.cos(a), r * np.sin(a)) for r in (10, 20, 30, 42, 56, 72)
                           for a in np.linspace(0, 2 * np.pi, 12, endpoint=False))]  # fmt: skip
    for code in np.argsort(-np.bincount(codes), kind="stable")[:NAMED]:
        middle = axes.transData.transform(np.median(xy[codes == code], axis=0))
        text = axes.text(0, 0, "\n".join(textwrap.wrap(short(names[code], 16), 16)), fontsize=6.5, ha="center",
                         va="center", path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
        for step in tries:
            text.set_position(axes.transData.inverted().transform(middle + step))
            box = text.get_window_extent(renderer).padded(1.5)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
        else:
            text.remove()
