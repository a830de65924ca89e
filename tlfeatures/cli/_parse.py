"""Parse the values of options: one function for each parameter of the library that is not a plain text or number."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from typing import Any

from tlfeatures._inputs import is_url

__all__ = ["PARSERS", "parse_heads", "parse_hidden_layers", "parse_image_size", "parse_names"]


def parse_names(text: str) -> list[str]:
    """Split names at their commas.

    >>> parse_names("svm, ridge")
    ['svm', 'ridge']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError("a name is empty; expected names separated by commas.")
    return names


def parse_model(text: str) -> str:
    """Return the parameter `model` of `CNNFeatures`: a name, or the absolute path of a .keras file."""
    return os.path.abspath(text) if text.endswith(".keras") else text


def parse_models(text: str) -> list[str]:
    """Return the parameter `models` of `FeatureSearchCV`."""
    return [parse_model(name) for name in parse_names(text)]


def parse_layer(text: str) -> str | list[str]:
    """Return the parameter `layer` of `CNNFeatures`: a name, or a list of names."""
    names = parse_names(text)
    return names[0] if len(names) == 1 else names


def parse_layers(text: str) -> str | list[str | list[str]]:
    """Return the parameter `layers` of `FeatureSearchCV`.

    >>> parse_layers("auto"), parse_layers("fused,conv4,conv4+conv5")
    ('auto', ['fused', 'conv4', ['conv4', 'conv5']])
    """
    if text == "auto":
        return text
    return [name.split("+") if "+" in name else name for name in parse_names(text)]


def parse_image_size(text: str) -> int | tuple[int, int]:
    """Return the side of a square, or (height, width).

    >>> parse_image_size("96"), parse_image_size("160x224")
    (96, (160, 224))
    """
    match = re.fullmatch(r"(\d{1,5})(?:[xX,](\d{1,5}))?", text.strip())
    if match is None:
        raise ValueError("expected pixels, such as 224, or height x width, such as 160x224.")
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


def parse_image_sizes(text: str) -> str | list[int | tuple[int, int] | None]:
    """Return the parameter `image_sizes` of `FeatureSearchCV`.

    >>> parse_image_sizes("auto"), parse_image_sizes("default,96")
    ('auto', [None, 96])
    """
    if text == "auto":
        return text
    return [None if size == "default" else parse_image_size(size) for size in parse_names(text)]


def parse_cache(text: str) -> str | None:
    """Return the parameter `cache` of `CNNFeatures`: "auto", None or an absolute path."""
    if text == "auto" or is_url(text):  # the store refuses URLs
        return text
    return None if text == "none" else os.path.abspath(os.path.expanduser(text))


def parse_weights(text: str) -> str | None:
    """Return the parameter `weights` of `CNNFeatures`: "imagenet", None for random, or an absolute path."""
    if text in ("imagenet", "bundled"):
        return text
    if text in ("random", "none"):
        return None
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise ValueError("no such file; expected imagenet, random, or the path of a .weights.h5 or .h5 file.")
    return path


def parse_window(text: str) -> tuple[float, float]:
    """Return the parameter `window` of `CNNFeatures`.

    >>> parse_window("40,400")
    (40.0, 400.0)
    """
    try:
        center, width = map(float, text.split(","))
    except ValueError:
        raise ValueError("expected CENTER,WIDTH, such as 40,400.") from None
    return center, width


def parse_heads(text: str) -> list[str] | dict[str, dict[str, list[Any]] | None]:
    """Return the parameter `heads` of `FeatureSearchCV`: names of heads, with grids if any has one.

    >>> parse_heads("ridge,svm:C=1/10"), parse_heads("ridge")
    ({'ridge': None, 'svm': {'C': [1, 10]}}, ['ridge'])
    """
    heads: dict[str, dict[str, list[Any]] | None] = {}
    for head in parse_names(text):
        name, *settings = head.split(":")
        grid = {}
        for setting in settings:
            key, _, values = setting.partition("=")
            if not (key and values):
                raise ValueError(
                    f"{setting!r} is not a setting; expected for example svm:C=1/10, a grid of two values."
                )
            grid[key] = [_parse_literal(value) for value in values.split("/")]
        heads[name] = grid or None
    return heads if any(heads.values()) else list(heads)


def parse_train_from(text: str) -> str | int:
    """Return the parameter `train_from` of the fine-tuned estimators: a name, or a number of blocks."""
    return int(text) if text.isdigit() else text


def parse_hidden_layers(text: str) -> tuple[float, ...]:
    """Parse widths of hidden layers and dropout rates.

    >>> parse_hidden_layers("256,0.5")
    (256, 0.5)
    """
    values = tuple(_parse_literal(part.strip()) for part in text.split(",") if part.strip())
    if not all(type(value) in (int, float) for value in values):
        raise ValueError("expected widths and dropout rates, such as 128 or 256,0.5.")
    return values


def parse_augment(text: str) -> dict[str, Any] | None:
    """Parse the names and strengths of augmentations.

    >>> parse_augment("crop=4,flip=horizontal")
    {'crop': 4, 'flip': 'horizontal'}
    """
    steps = {}
    for part in filter(None, text.split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not name or not value:
            raise ValueError("expected NAME=X, such as crop=4,flip=horizontal.")
        steps[name] = _parse_literal(value)
    return steps or None


def _parse_literal(text: str) -> Any:
    """Return the value of a Python literal, or any other text unchanged.

    >>> _parse_literal("0.1"), _parse_literal("scale")
    (0.1, 'scale')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# parameter -> function from the text of its option to its value, and the text that stands for the value in help texts
PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "model": (parse_model, "NAME|FILE"),
    "models": (parse_models, "NAME,..."),
    "layer": (parse_layer, "NAME,..."),
    "layers": (parse_layers, "auto|NAME,..."),
    "poolings": (parse_names, "NAME,..."),
    "image_size": (parse_image_size, "N|HxW"),
    "image_sizes": (parse_image_sizes, "auto|N,..."),
    "weights": (parse_weights, "NAME|FILE"),
    "cache": (parse_cache, "auto|none|DIR"),
    "window": (parse_window, "C,W"),
    "heads": (parse_heads, "NAME,..."),
    "train_from": (parse_train_from, "LAYER|head|all|N"),
    "augment": (parse_augment, "NAME=X,..."),
}
