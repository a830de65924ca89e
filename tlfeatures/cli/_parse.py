"""Parse the values of options."""

from __future__ import annotations

import ast
import os
import re
from typing import Any

from tlfeatures.cli._session import BadArgument

__all__ = [
    "parse_augment",
    "parse_bytes",
    "parse_cache",
    "parse_heads",
    "parse_hidden_layers",
    "parse_image_size",
    "parse_layers",
    "parse_literal",
    "parse_model",
    "parse_weights",
    "parse_window",
    "split_names",
]


def split_names(option: str, text: str) -> list[str]:
    """Split the value of an option at its commas.

    >>> split_names("--head", "svm, ridge")
    ['svm', 'ridge']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadArgument(f"{option} {text!r} contains an empty name; expected names separated by commas.")
    return names


def parse_model(text: str) -> str:
    """Return the parameter `model` of `CNNFeatures`: a name, or the absolute path of a .keras file."""
    return os.path.abspath(text) if text.endswith(".keras") else text


def parse_layers(text: str | None) -> str | list[str] | None:
    """Return the parameter `layer` of `CNNFeatures`: a name, a list of names, or None for the default."""
    if text is None:
        return None
    names = split_names("--layer", text)
    return names[0] if len(names) == 1 else names


def parse_image_size(text: str | None) -> int | tuple[int, int] | None:
    """Return the side of a square, or (height, width).

    >>> parse_image_size("96"), parse_image_size("160x224")
    (96, (160, 224))
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[xX,](\d{1,5}))?", text.strip())
    if match is None:
        raise BadArgument(
            f"--image-size {text!r}; expected pixels, such as 224, or height x width, such as 160x224."
        )
    height, width = match.groups()
    return int(height) if width is None else (int(height), int(width))


def parse_cache(text: str) -> str | None:
    """Return the parameter `cache` of `CNNFeatures`: "auto", None or an absolute path."""
    if text == "auto":
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
        raise BadArgument(
            f"--weights {text!r}: no such file; expected imagenet, random, or the path of a .weights.h5 or .h5 file."
        )
    return path


def parse_window(text: str | None) -> tuple[float, float] | None:
    """Return the parameter `window` of `CNNFeatures`.

    >>> parse_window("40,400")
    (40.0, 400.0)
    """
    if text is None:
        return None
    try:
        centre, width = map(float, text.split(","))
    except ValueError:
        raise BadArgument(f"--window {text!r}; expected CENTRE,WIDTH, such as 40,400.") from None
    return centre, width


def parse_bytes(text: str) -> int:
    """Return a number of bytes.

    >>> parse_bytes("500MB"), parse_bytes("2 GiB"), parse_bytes("1e3")
    (500000000, 2147483648, 1000)
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*(?:([kmgt]?)(i?)b?)", text.strip().lower())
    try:
        if match is None:
            raise ValueError
        number, prefix, binary = match.groups()
        return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(prefix) if prefix else 0))
    except (ValueError, OverflowError):
        raise BadArgument(f"{text!r} is not a size; expected bytes, such as 500MB, 2GB or 1000000.") from None


def parse_heads(text: str | None) -> list[str] | dict[str, dict[str, list[Any]] | None] | None:
    """Return the parameter `heads` of `FeatureSearchCV`: names of heads, with grids if any has one.

    >>> parse_heads("ridge,svm:C=1/10"), parse_heads("ridge")
    ({'ridge': None, 'svm': {'C': [1, 10]}}, ['ridge'])
    """
    if text is None:
        return None
    heads: dict[str, dict[str, list[Any]] | None] = {}
    for head in split_names("--head", text):
        name, *settings = head.split(":")
        grid = {}
        for setting in settings:
            key, equals, values = setting.partition("=")
            if not (key and equals and values):
                raise BadArgument(
                    f"--head {head!r}: {setting!r} is not a setting; expected for example svm:C=1/10 for two values."
                )
            grid[key] = [parse_literal(value) for value in values.split("/")]
        heads[name] = grid or None
    return heads if any(heads.values()) else list(heads)


def parse_literal(text: str) -> Any:
    """Return a value of Python, or the text if it is none.

    >>> parse_literal("0.1"), parse_literal("scale")
    (0.1, 'scale')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_hidden_layers(text: str) -> tuple[float, ...]:
    """Parse widths of hidden layers and dropout rates.

    >>> parse_hidden_layers("256,0.5")
    (256, 0.5)
    """
    values = tuple(parse_literal(part.strip()) for part in text.split(",") if part.strip())
    if not all(type(value) in (int, float) for value in values):
        raise BadArgument(f"--head {text!r}; expected widths and dropout rates, such as 128 or 256,0.5.")
    return values


def parse_augment(text: str | None) -> dict[str, Any] | None:
    """Parse the names and strengths of augmentations.

    >>> parse_augment("crop=4,flip=horizontal")
    {'crop': 4, 'flip': 'horizontal'}
    """
    if not text:
        return None
    steps = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise BadArgument(f"--augment {text!r}; expected NAME=X, such as crop=4,flip=horizontal.")
        steps[name] = parse_literal(value)
    return steps
