"""Figures of the studies."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = [
    "draw_bars",
    "draw_confusion",
    "draw_histories",
    "draw_layer_intervals",
    "draw_layer_scores",
    "draw_predictions",
]

# Okabe and Ito 2008
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_BLUE, _GREY = _COLORS[0], "#b0b0b0"


def draw_predictions(
    images: Any,
    probabilities: np.ndarray,
    classes: Sequence[Any],
    *,
    titles: Sequence[str] | None = None,
    top: int = 3,
    columns: int = 4,
    subtitle: str = "",
) -> Figure:
    """Draw images, each above bars with its most probable classes.

    Parameters
    ----------
    images : images, as in :class:`~tlfeatures.CNNFeatures`
    probabilities : ndarray of shape (n, n_classes)
    classes : sequence of length n_classes
        Names of the classes.
    titles : sequence of str, optional
        Text above each image, such as its file name or its true class.
    top : int, default=3
        Number of classes to draw for each image.
    columns : int, default=4
        Largest number of images side by side.
    subtitle : str
        Text below the images, such as the name of the network.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImageReadError
        If an image cannot be read.

    Examples
    --------
    >>> X = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    >>> figure = draw_predictions(X, np.array([[0.9, 0.1], [0.2, 0.8]]), ["cat", "dog"])
    >>> [axes.get_title() for axes in figure.axes if axes.get_title()], len(figure.axes)
    ([], 4)
    """
    from matplotlib.figure import Figure

    pixels = read_images(images)
    probabilities = np.asarray(probabilities, float)
    if probabilities.shape != (len(pixels), len(classes)):
        raise ValueError(
            f"`probabilities` must have shape ({len(pixels)}, {len(classes)}), one row for each image and one column "
            f"for each class; got {probabilities.shape}. Pass what `predict_proba` returns."
        )
    n, top = len(pixels), min(top, len(classes))
    width = max(1, min(columns, n))
    height = -(-n // width)
    figure = Figure((2.4 * width, height * (2.6 + 0.22 * top) + 0.5), layout="constrained")
    ratios = [10, 1 + top] * height
    # inches; room for the titles of the first row
    figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[call-arg]
    names = [_shorten(name, 18) for name in classes]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    left = -0.05 - 0.05 * max((len(names[k]) for k in order.ravel()), default=0)  # room for the names
    axes = figure.subplots(2 * height, width, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for ax in axes.ravel():
        ax.set_axis_off()
    for i in range(n):
        image, bars = axes[2 * (i // width), i % width], axes[2 * (i // width) + 1, i % width]
        image.imshow(pixels[i])
        if titles is not None:
            image.set_title(_shorten(titles[i]), fontsize=8)
        best = order[i]
        bars.barh(range(top), probabilities[i][best], color=[_BLUE] + [_GREY] * (top - 1), height=0.7)
        for row, k in enumerate(best):
            bars.text(-0.03, row, names[k], ha="right", va="center", fontsize=8)
            text = f"{probabilities[i][k]:.1%}"
            bars.text(probabilities[i][k] + 0.02, row, text, va="center", fontsize=8)
        bars.set(xlim=(left, 1.35), ylim=(top - 0.4, -0.6))
    if subtitle:
        text = textwrap.fill(subtitle, int(32 * width))
        figure.supxlabel(text, fontsize=8, color="0.35")
    return figure


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
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    side = max(3.6, 1.6 + 0.5 * len(np.unique(np.concatenate([y, predicted]))))
    figure = Figure((side, side + 0.5), layout="constrained")
    longest = max(len(str(label)) for label in np.unique(np.concatenate([y, predicted])))
    rotation = "horizontal" if longest <= 7 else "vertical"
    ConfusionMatrixDisplay.from_predictions(
        y, predicted, ax=figure.add_subplot(), cmap="Blues", colorbar=False, xticks_rotation=rotation
    )
    figure.suptitle(textwrap.fill(title, int(12 * side)), fontsize=9)
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
    from matplotlib.figure import Figure

    width = max(5.0, 1.5 + 0.35 * len(labels) * len(values))
    figure = Figure((width, 3.4 + 0.2 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    step = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        x = np.arange(len(labels)) + step * (i - (len(values) - 1) / 2)
        axes.bar(x, heights, width=0.9 * step, color=_COLORS[i % len(_COLORS)], label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)
    figure.suptitle(textwrap.fill(title, int(12 * width)), fontsize=9)
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
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((8.4, 3.7 + 0.2 * len(histories)), layout="constrained")
    axes = figure.subplots(1, 2)
    for i, (name, history) in enumerate(histories.items()):
        epochs = np.arange(1, len(history["loss"]) + 1)
        for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
            options = {"color": _COLORS[i % len(_COLORS)], "marker": "osD^vP"[i % 6], "markersize": 3}
            ax.plot(epochs, history[metric], label=name if metric == "loss" else None, **options)
            ax.plot(epochs, history[f"val_{metric}"], linestyle="--", **options)
    for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
        ax.set(xlabel="epoch", ylabel=metric)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="#e4e4e4", linewidth=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    figure.legend(loc="outside lower center", ncols=min(2, len(histories)), fontsize=8)
    note = "Solid: training images, with augmentation. Dashed: validation images."
    figure.suptitle(textwrap.fill(f"{title} {note}".strip(), 110), fontsize=9)
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
    from matplotlib.figure import Figure

    width = min(3, len(curves))
    height = -(-len(curves) // width)
    figure = Figure((3.3 * width, 2.7 * height + 0.7), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    for ax, (domain, sizes) in zip(axes, curves.items(), strict=False):
        for i, (size, accuracies) in enumerate(sizes.items()):
            options = {"color": _COLORS[i % len(_COLORS)], "marker": "osD^vP"[i % 6], "markersize": 4}
            ax.plot(range(len(layers)), accuracies, label=size, **options)
        if (value := (baselines or {}).get(domain)) is not None:
            ax.axhline(value, color="0.35", linestyle=":", label=baseline)
        ax.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)
        ax.set_title(domain, fontsize=9)
        ax.grid(color="#e4e4e4", linewidth=0.7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=7, framealpha=0.85, edgecolor="none")
    figure.supylabel("accuracy on test images", fontsize=9)
    figure.supxlabel(textwrap.fill(subtitle, int(40 * width)), fontsize=8, color="0.35")
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
    from matplotlib.figure import Figure

    single = table[~table["layer"].str.contains("+", regex=False)]
    best = single.drop_duplicates("layer").sort_values("depth", ascending=False)
    figure = Figure((6.4, 1.6 + 0.35 * len(best)), layout="constrained")
    axes = figure.add_subplot()
    errors = [best["score"] - best["ci_low"], best["ci_high"] - best["score"]]
    axes.errorbar(best["score"], best["layer"], xerr=errors, fmt="o", capsize=3, color=_BLUE)
    axes.set(xlabel="score, with 95% interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure


def _shorten(text: Any, length: int = 26) -> str:
    text = str(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def read_images(images: Any, side: int = 224) -> list[np.ndarray]:
    """Decode images so that their longer side is ``side``; black borders, which padding adds, are cut off."""
    from tlfeatures.images import Decoder, Images

    images, decoder = Images.of(images), Decoder((side, side), "pad")
    cropped = []
    for i in range(len(images)):
        pixels = images.decode(i, decoder)[1]
        rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in ((1, 2), (0, 2)))
        if len(rows):
            pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cropped.append(pixels)
    return cropped
