"""What the figures of the studies have in common: colors, layout, titles."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "COLORS", "GREY", "add_caption", "add_title", "line_style", "make_figure", "tidy_axes"]

# Okabe and Ito 2008
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
BLUE, GREY = COLORS[0], "#b0b0b0"


def make_figure(width: float, height: float) -> Figure:
    """Make an empty figure; the size is in inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def add_title(figure: Figure, text: str) -> None:
    """Write a title above the figure, in lines that fit its width."""
    figure.suptitle(textwrap.fill(text, int(12 * figure.get_figwidth())), fontsize=9)


def add_caption(figure: Figure, text: str) -> None:
    """Write a text below the figure, in lines that fit its width."""
    if text:
        figure.supxlabel(textwrap.fill(text, int(13 * figure.get_figwidth())), fontsize=8, color="0.35")


def tidy_axes(axes: Any, grid: bool = False) -> None:
    """Remove the upper and the right line; with ``grid``, draw a grid."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e4e4e4", linewidth=0.7)


def line_style(i: int, markersize: float) -> dict[str, Any]:
    """Return color and marker of the i-th line."""
    return {"color": COLORS[i % len(COLORS)], "marker": "osD^vP"[i % 6], "markersize": markersize}
