"""Figures that show images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures.images import Decoder, Images
from tlfeatures.studies._drawing import BLUE, GREY, add_caption, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_images", "draw_predictions"]


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
    pixels = _read_images(images)
    probabilities = np.asarray(probabilities, float)
    if probabilities.shape != (len(pixels), len(classes)):
        raise ValueError(
            f"`probabilities` must have shape ({len(pixels)}, {len(classes)}), one row for each image and one column "
            f"for each class; got {probabilities.shape}. Pass what `predict_proba` returns."
        )
    n, top = len(pixels), min(top, len(classes))
    width = max(1, min(columns, n))
    height = -(-n // width)
    figure = make_figure(2.4 * width, height * (2.6 + 0.22 * top) + 0.5)
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
        bars.barh(range(top), probabilities[i][best], color=[BLUE] + [GREY] * (top - 1), height=0.7)
        for row, k in enumerate(best):
            bars.text(-0.03, row, names[k], ha="right", va="center", fontsize=8)
            text = f"{probabilities[i][k]:.1%}"
            bars.text(probabilities[i][k] + 0.02, row, text, va="center", fontsize=8)
        bars.set(xlim=(left, 1.35), ylim=(top - 0.4, -0.6))
    add_caption(figure, subtitle)
    return figure


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
    pixels = _read_images(images)
    width = max(1, min(columns, len(pixels)))
    height = -(-len(pixels) // width)
    figure = make_figure(2.6 * width, 3.0 * height + 0.5)
    for i, image in enumerate(pixels):
        ax = figure.add_subplot(height, width, i + 1)
        ax.set_axis_off()
        ax.imshow(image)
        ax.set_title(titles[i], fontsize=9)
    add_caption(figure, subtitle)
    return figure


def _shorten(text: Any, length: int = 26) -> str:
    text = str(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _read_images(images: Any, side: int = 224) -> list[np.ndarray]:
    """Decode images so that their longer side is ``side``."""
    images, pixels = Images.of(images), []
    for i in range(len(images)):
        width, height = images.size(i)
        scale = side / max(width, height)
        decoder = Decoder((max(1, round(height * scale)), max(1, round(width * scale))))
        pixels.append(images.decode(i, decoder)[1])
    return pixels
