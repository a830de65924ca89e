"""Figures of studies that predict a number."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures.studies._figures import read_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_images", "draw_regression"]


def draw_images(images: Any, titles: Sequence[str], *, columns: int = 4, subtitle: str = "") -> Figure:
    """Draw images with a title above each, such as a predicted number.

    Parameters
    ----------
    images : images, as in :class:`~tlfeatures.CNNFeatures`
    titles : sequence of str
    columns : int, default=4
        Largest number of images side by side.
    subtitle : str
        Text below the images, such as the name of the network.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes show the images with a longer side of 224 pixels.

    Raises
    ------
    ImageReadError
        If an image cannot be read.

    Examples
    --------
    >>> figure = draw_images(np.zeros((2, 32, 32, 3), "uint8"), ["46 cm", "75 cm"])
    >>> [axes.get_title() for axes in figure.axes]
    ['46 cm', '75 cm']
    """
    from matplotlib.figure import Figure

    pixels = read_images(images)
    width = max(1, min(columns, len(pixels)))
    height = -(-len(pixels) // width)
    figure = Figure((2.6 * width, 3.0 * height + 0.5), layout="constrained")
    for i, image in enumerate(pixels):
        ax = figure.add_subplot(height, width, i + 1)
        ax.set_axis_off()
        ax.imshow(image)
        ax.set_title(titles[i], fontsize=9)
    if subtitle:
        figure.supxlabel(textwrap.fill(subtitle, int(34 * width)), fontsize=8, color="0.35")
    return figure


def draw_regression(
    y: np.ndarray, predictions: Mapping[str, np.ndarray], label: str, title: str = ""
) -> Figure:
    """Draw the predictions of regressors against the true values, one panel for each.

    Parameters
    ----------
    y : ndarray of float, shape (n,)
    predictions : dict of str to ndarray of float, shape (n,)
        By the name of the regressor.
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
    from matplotlib.figure import Figure
    from sklearn.metrics import r2_score

    side = 3.2
    figure = Figure((side * len(predictions) + 0.3, side + 0.8), layout="constrained")
    panels = figure.subplots(1, len(predictions), sharex=True, sharey=True, squeeze=False)[0]
    values = np.concatenate([y, *predictions.values()])
    ends = [values.min(), values.max()]
    for ax, (name, predicted) in zip(panels, predictions.items(), strict=True):
        ax.plot(ends, ends, color="#b0b0b0", linewidth=1, zorder=1)
        ax.scatter(y, predicted, s=14, color="#0072B2", alpha=0.7, linewidths=0, zorder=2)
        ax.set_title(f"{name}\nR² {r2_score(y, predicted):.3f}", fontsize=9)
        ax.set_xlabel(f"{label}, true", fontsize=8)
        ax.set_aspect("equal")
    panels[0].set_ylabel(f"{label}, predicted", fontsize=8)
    figure.suptitle(textwrap.fill(title, int(13 * side * len(predictions))), fontsize=9)
    return figure
