"""Plots and averages of training histories."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

__all__ = ["average_histories", "draw_curves"]

_TRAIN, _VALIDATION = "#0072B2", "#D55E00"  # Okabe and Ito 2008


def average_histories(histories: Sequence[Any]) -> Any:
    """Average the histories of several fits, such as those on the folds of a cross-validation.

    Parameters
    ----------
    histories : sequence of DataFrame
        ``history_`` of fitted estimators.

    Returns
    -------
    DataFrame
        One row for each stage and epoch, with means over the fits that reached the epoch.

    Examples
    --------
    >>> import pandas
    >>> first = pandas.DataFrame({"stage": ["head", "head"], "epoch": [1, 2], "loss": [1.0, 0.5]})
    >>> second = pandas.DataFrame({"stage": ["head"], "epoch": [1], "loss": [2.0]})
    >>> average_histories([first, second])["loss"].tolist()
    [1.5, 0.5]
    """
    import pandas

    return pandas.concat(histories).groupby(["stage", "epoch"], as_index=False).mean()


def draw_curves(history: Any) -> bytes:
    """Plot the loss, and the accuracy or the mean absolute error, against the epochs of all stages.

    Parameters
    ----------
    history : DataFrame
        ``history_`` of a fitted estimator.

    Returns
    -------
    bytes
        Content of a PNG file.

    Examples
    --------
    >>> import numpy as np, pandas
    >>> row = {"stage": "head", "epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": np.nan, "val_accuracy": np.nan}
    >>> draw_curves(pandas.DataFrame([row]))[:4]
    b'\\x89PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metric = "accuracy" if "accuracy" in history else "mae"
    figure = Figure(figsize=(5.2, 5.2), dpi=150, layout="constrained")
    stages, epochs = history["stage"].tolist(), history["epoch"].tolist()
    # epoch 0 is before the first step of a stage
    steps = [i - (0 in epochs[: i + 1]) + 1 for i in range(len(epochs))]
    for axes, name in zip(figure.subplots(2, 1, sharex=True), ("loss", metric), strict=True):
        axes.plot(steps, history[name], color=_TRAIN, marker="o", markersize=3, label="training")
        if history[f"val_{name}"].notna().any():
            values = history[f"val_{name}"]
            axes.plot(
                steps, values, color=_VALIDATION, linestyle="--", marker="s", markersize=3, label="validation"
            )
        if name == "loss" and (history["loss"].dropna() > 0).all():
            axes.set_yscale("log")
        for i in range(1, len(stages)):
            if stages[i] != stages[i - 1]:
                x = steps[i] - 0.5 * (epochs[i] > 0)
                axes.axvline(x, color="#767676", linewidth=0.8)
                axes.annotate(
                    f" {stages[i]}", (x, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8
                )
        axes.set_ylabel("mean absolute error" if name == "mae" else name)
        axes.grid(color="#e4e4e4", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("epoch, of all stages")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
