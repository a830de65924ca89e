"""Networks of the studies: plain Keras, and the name of the one that stands in for the tutorial's."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tlfeatures._keras import keras
from tlfeatures.errors import InvalidParameterError
from tlfeatures.networks import find_network, find_weights
from tlfeatures.networks._modules import find_builder
from tlfeatures.networks._normalization import normalizer
from tlfeatures.networks._weights import fetch_weights, read_weights

__all__ = ["describe_network", "has_weights", "load_keras_network", "load_pixels"]


def describe_network(
    model: str, tutorial_network: str, weights: str | os.PathLike[str] | None = "imagenet"
) -> str:
    """Name a network and, if it is not the tutorial's, say that it stands in for that one, and why.

    Parameters
    ----------
    model : str
        Name of the network that is used, or a ``.keras`` file.
    tutorial_network : str
        Name of the network of the tutorial, or a description if Keras does not have it, such as "a speech network".
    weights : str, path or None
        As in :class:`~tlfeatures.CNNFeatures`.

    Returns
    -------
    str

    Raises
    ------
    UnknownNameError
        If no network has one of these names.

    Examples
    --------
    >>> describe_network("vgg19", "vgg19", None)
    'vgg19, the network of the tutorial, with random weights'
    """
    name = model if model.endswith(".keras") else find_network(model).name
    random = ", with random weights" if weights is None else ""
    if tutorial_network.startswith("a "):  # not a network of Keras
        return f"{name}{random or ', trained on photographs'}, stands in for {tutorial_network}"
    tutorial = find_network(tutorial_network).name
    if name == tutorial:
        return f"{name}, the network of the tutorial{random}"
    random = f"{random}," if random else ""
    if has_weights(tutorial):
        return f"{name}{random} stands in for {tutorial} (`--model {tutorial}` uses the tutorial's network)"
    return f"{name}{random} stands in for {tutorial}, whose weights are not on this machine"


def has_weights(model: str) -> bool:
    """Return whether the ImageNet weights of a network are on this machine.

    Parameters
    ----------
    model : str
        Name of a network.

    Returns
    -------
    bool

    Raises
    ------
    UnknownNameError
        If no network has this name.

    Examples
    --------
    >>> has_weights("tiny")  # they are part of the package
    True
    """
    spec = find_network(model)
    size = (spec.image_size,) * 2
    return any(find_weights(spec, top=top, image_size=size) is not None for top in (False, True))


def load_keras_network(
    model: str,
    weights: str | os.PathLike[str] | None = "imagenet",
    image_size: int | None = None,
    pooling: str | None = None,
    top: bool = False,
) -> tuple[Any, Callable[[Any], Any]]:
    """Load a network as ``keras.applications`` does, with its preprocessing.

    Parameters
    ----------
    model : str
        Name of a network.
    weights : "imagenet", path or None
        None is Keras's random initialization.
    image_size : int, optional
        Side of the images in pixels.
    pooling : {"avg", "max"}, optional
        Global pooling of the last feature map; None returns the map.
    top : bool, default=False
        Include the layers of ImageNet's 1,000 classes.

    Returns
    -------
    network : keras.Model
        From normalized pixels, float32 (n, size, size, 3), to the map, the pooled map or the probabilities.
    preprocess : callable
        From RGB pixels from 0 to 255 to normalized pixels, in Keras operations.

    Raises
    ------
    UnknownNameError, InvalidParameterError
        If no network has this name, or it is a file.
    WeightsError
        If the weights are not on this machine and cannot be downloaded.

    Examples
    --------
    >>> network, preprocess = load_keras_network("tiny", image_size=32, pooling="max")
    >>> network.output.shape
    (None, 320)
    """
    if model.endswith(".keras"):
        raise InvalidParameterError(
            f"`model` must be the name of a network; got the file {model!r}. Leave out the recipes of Keras alone "
            "(--skip-tutorial).",
            "model",
        )
    spec = find_network(model)
    size = (image_size or spec.image_size,) * 2
    build = find_builder(spec.module, spec.builder)
    network = build(include_top=top, weights=None, input_shape=(*size, 3), **dict(spec.kwargs))
    if weights is not None:
        if weights == "imagenet":
            check = functools.partial(read_weights, network)
            weights = fetch_weights(spec, top=top, image_size=size, check=check)
        read_weights(network, weights)
    if pooling is not None:
        layer = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[pooling]
        network = keras().Model(network.inputs, getattr(keras().layers, layer)()(network.output))
    return network, normalizer(spec.module)


def load_pixels(images: Any, size: tuple[int, int]) -> np.ndarray:
    """Load images at one size, as Keras's guides do: paths by ``keras.utils.load_img``, arrays resized by Pillow.

    Parameters
    ----------
    images : sequence of paths, or ndarray of uint8, shape (n, h, w, 3)
    size : (int, int)
        Height and width in pixels.

    Returns
    -------
    ndarray of uint8, shape (n, height, width, 3)

    Examples
    --------
    >>> load_pixels(np.zeros((2, 8, 8, 3), "uint8"), (4, 6)).shape
    (2, 4, 6, 3)
    """
    from PIL import Image

    if isinstance(images, np.ndarray) and images.ndim > 1:
        resized = (Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR) for image in images)
    else:
        load = keras().utils.load_img
        resized = (load(path, target_size=size, interpolation="bilinear") for path in images)
    return np.stack([np.asarray(image, np.uint8) for image in resized])
