"""Charts of the studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlfeatures.studies._drawing import (
    BLUE,
    COLORS,
    GREY,
    add_caption,
    add_title,
    line_style,
    make_figure,
    tidy_axes,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = [
    "draw_bars",
    "draw_confusion",
    "draw_histories",
    "draw_layer_intervals",
    "draw_layer_scores",
    "draw_regression",
]


def draw_confusion(y: np.ndarray, predicted: np.ndarray, title: str = "") -> Figure:
    """Draw the confusion matrix of predicted labels.

    Parameters
    ----------
    y, predicted : ndarray of shape (n,)
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = draw_confusion(np.array(["cat", "dog"]), np.array(["cat", "cat"]))
    >>> figure.axes[0].get_xlabel()
    'Predicted label'
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    labels = np.unique(np.concatenate([y, predicted]))
    side = max(3.6, 1.6 + 0.5 * len(labels))
    figure = make_figure(side, side + 0.5)
    rotation = "horizontal" if max(len(str(label)) for label in labels) <= 7 else "vertical"
    ConfusionMatrixDisplay.from_predictions(
        y, predicted, ax=figure.add_subplot(), cmap="Blues", colorbar=False, xticks_rotation=rotation
    )
    add_title(figure, title)
    return figure


def draw_bars(
    values: Mapping[str, Sequence[float]], labels: Sequence[str], ylabel: str, title: str = ""
) -> Figure:
    """Draw groups of bars: one group for each label, one bar in it for each key of ``values``.

    Parameters
    ----------
    values : mapping from str to sequence of float
        Name of a recipe, and its value for each label.
    labels : sequence of str
    ylabel : str
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = draw_bars({"a": [0.5, 1], "b": [0.75, 0.25]}, ["cat", "dog"], "recall")
    >>> len(figure.axes[0].patches)
    4
    """
    width = max(5.0, 1.5 + 0.35 * len(labels) * len(values))
    figure = make_figure(width, 3.4 + 0.2 * len(values))
    axes = figure.add_subplot()
    step = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        x = np.arange(len(labels)) + step * (i - (len(values) - 1) / 2)
        axes.bar(x, heights, width=0.9 * step, color=COLORS[i % len(COLORS)], label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel=ylabel)
    tidy_axes(axes)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)
    add_title(figure, title)
    return figure


def draw_histories(histories: Mapping[str, pandas.DataFrame], title: str = "") -> Figure:
    """Draw loss and accuracy by epoch for several trainings: solid on training, dashed on validation images.

    Parameters
    ----------
    histories : mapping from str to DataFrame
        Name of a recipe, and its ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` for each epoch, such as the
        rows of one stage of ``FineTuneClassifier.history_``, or ``History.history`` of Keras.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import pandas
    >>> columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    >>> figure = draw_histories({"a": pandas.DataFrame([[1, 0.5, 2, 0.4], [0.5, 0.75, 1, 0.7]], columns=columns)})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'accuracy']
    """
    from matplotlib.ticker import MaxNLocator

    figure = make_figure(8.4, 3.7 + 0.2 * len(histories))
    axes = figure.subplots(1, 2)
    for i, (name, history) in enumerate(histories.items()):
        epochs = np.arange(1, len(history["loss"]) + 1)
        for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
            ax.plot(epochs, history[metric], label=name if metric == "loss" else None, **line_style(i, 3))
            ax.plot(epochs, history[f"val_{metric}"], linestyle="--", **line_style(i, 3))
    for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
        ax.set(xlabel="epoch", ylabel=metric)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy_axes(ax, grid=True)
    axes[0].set_yscale("log")
    figure.legend(loc="outside lower center", ncols=min(2, len(histories)), fontsize=8)
    note = "Solid: training images, with augmentation. Dashed: validation images."
    add_title(figure, f"{title} {note}".strip())
    return figure


def draw_layer_scores(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    layers: Sequence[str],
    baselines: Mapping[str, float | None] | None = None,
    *,
    subtitle: str = "",
    baseline: str = "from scratch, large",
) -> Figure:
    """Draw the accuracy of each layer, one panel for each domain and one line for each size of the training data.

    Parameters
    ----------
    curves : mapping from str to mapping from str to sequence of float
        {domain: {size: accuracy of each layer}}.
    layers : sequence of str
        From input to output.
    baselines : mapping from str to float or None, optional
        {domain: accuracy of a recipe without layers to choose}, a dotted line.
    subtitle : str
        Text below the panels.
    baseline : str
        Name of that recipe.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> curves = {"photographs": {"small": [0.5, 0.9]}, "digits": {"small": [0.8, 0.6]}}
    >>> figure = draw_layer_scores(curves, ["early", "late"], {"digits": 0.7})
    >>> [axes.get_title() for axes in figure.axes]
    ['photographs', 'digits']
    """
    width = min(3, len(curves))
    height = -(-len(curves) // width)
    figure = make_figure(3.3 * width, 2.7 * height + 0.7)
    axes = figure.subplots(height, width, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    for ax, (domain, sizes) in zip(axes, curves.items(), strict=False):
        for i, (size, accuracies) in enumerate(sizes.items()):
            ax.plot(range(len(layers)), accuracies, label=size, **line_style(i, 4))
        if (value := (baselines or {}).get(domain)) is not None:
            ax.axhline(value, color="0.35", linestyle=":", label=baseline)
        ax.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)
        ax.set_title(domain, fontsize=9)
        tidy_axes(ax, grid=True)
        ax.legend(fontsize=7, framealpha=0.85, edgecolor="none")
    figure.supylabel("accuracy on test images", fontsize=9)
    add_caption(figure, subtitle)
    return figure


def draw_layer_intervals(table: pandas.DataFrame, title: str = "") -> Figure:
    """Draw the best score of each layer with its confidence interval, the earliest layer at the top.

    Parameters
    ----------
    table : DataFrame
        As ``FeatureSearchCV.table()`` returns it; several layers together are left out.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import pandas
    >>> rows = {"layer": ["a", "b"], "score": [0.9, 0.8], "ci_low": [0.8, 0.7], "ci_high": [1, 0.9], "depth": [0, 1]}
    >>> figure = draw_layer_intervals(pandas.DataFrame(rows))
    >>> figure.axes[0].get_xlabel()
    'score, with 95% interval'
    """
    single = table[~table["layer"].str.contains("+", regex=False)]
    best = single.drop_duplicates("layer").sort_values("depth", ascending=False)
    figure = make_figure(6.4, 1.6 + 0.35 * len(best))
    axes = figure.add_subplot()
    errors = [best["score"] - best["ci_low"], best["ci_high"] - best["score"]]
    axes.errorbar(best["score"], best["layer"], xerr=errors, fmt="o", capsize=3, color=BLUE)
    axes.set(xlabel="score, with 95% interval")
    tidy_axes(axes)
    add_title(figure, title)
    return figure


def draw_regression(
    y: np.ndarray, predictions: Mapping[str, np.ndarray], label: str, title: str = ""
) -> Figure:
    """Draw the predictions of regressors against the true values, one panel for each.

    Parameters
    ----------
    y : ndarray of float, shape (n,)
    predictions : dict of str to ndarray of float, shape (n,)
        The predictions of each regressor, by name.
    label : str
        What is predicted, with its unit.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = draw_regression(np.arange(3.0), {"ridge": np.ones(3)}, "length in cm")
    >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    ('length in cm, true', 'length in cm, predicted')
    """
    from sklearn.metrics import r2_score

    side = 3.2
    figure = make_figure(side * len(predictions) + 0.3, side + 0.8)
    panels = figure.subplots(1, len(predictions), sharex=True, sharey=True, squeeze=False)[0]
    values = np.concatenate([y, *predictions.values()])
    ends = [values.min(), values.max()]
    for ax, (name, predicted) in zip(panels, predictions.items(), strict=True):
        ax.plot(ends, ends, color=GREY, linewidth=1, zorder=1)
        ax.scatter(y, predicted, s=14, color=BLUE, alpha=0.7, linewidths=0, zorder=2)
        ax.set_title(f"{name}\nR² {r2_score(y, predicted):.3f}", fontsize=9)
        ax.set_xlabel(f"{label}, true", fontsize=8)
        ax.set_aspect("equal")
    panels[0].set_ylabel(f"{label}, predicted", fontsize=8)
    add_title(figure, title)
    return figure
