"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import stderr_is_terminal

if TYPE_CHECKING:
    from tlfeatures.features import CNNFeatures

_network = partial(typer.Option, rich_help_panel="Network")
_source = partial(typer.Option, rich_help_panel="Source", metavar="NAME")

Model = Annotated[
    str, _network("--model", "-m", metavar="NAME|FILE", help="See `tlfeatures models`; or a .keras file.")
]
Layer = Annotated[
    str | None,
    _network(
        "--layer",
        "-l",
        metavar="NAME,...",
        help="Layers to tap, see `tlfeatures layers`; by default the last convolutional output.",
    ),
]
Pooling = Annotated[str, _network(metavar="NAME", help="avg, max, avgmax, gem or flatten.")]
Weights = Annotated[str, _network(metavar="NAME|FILE", help="imagenet, random, or a weights file.")]
ImageSize = Annotated[
    str | None, _network(metavar="N|HxW", help="Pixels: side, or height x width; by default the network's.")
]
Resize = Annotated[str, _network(metavar="NAME", help="stretch, crop or pad.")]
Decode = Annotated[str, _network(metavar="NAME", help="scaled (quick on large JPEGs) or exact.")]
Precision = Annotated[str, _network(metavar="NAME", help="float32, tf32, bfloat16 or float16.")]
BatchSize = Annotated[
    int, _network(metavar="N", min=1, help="Images through the network at a time; changes no result.")
]
Cache = Annotated[
    str, _network(metavar="auto|none|DIR", help="The embedding store; see `tlfeatures cache --help`.")
]

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, manifest, or file.h5::dataset.")]
PathColumn = Annotated[str | None, _source(help="Column of a manifest with the paths.")]
Target = Annotated[str | None, _source(help="Column or dataset with the labels.")]
Groups = Annotated[
    str | None, _source(help="Column or dataset of what cross-validation keeps together, such as patients.")
]
SplitColumn = Annotated[str | None, _source(help="Column or dataset with the splits.")]
Force = Annotated[bool, typer.Option("--force", help="Write over an existing file of another make.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def make_cnn(
    model: str,
    layer: str | None,
    pooling: str,
    weights: str,
    image_size: str | None,
    resize: str,
    decode: str,
    precision: str,
    batch_size: int,
    cache: str,
) -> CNNFeatures:
    """The transformer that the options describe; paths become absolute, so that it can be saved."""
    from tlfeatures.features import CNNFeatures

    return CNNFeatures(
        os.path.abspath(model) if model.endswith(".keras") else model,
        layer=parse_layers(layer),
        pooling=pooling,
        weights=parse_weights(weights),
        image_size=parse_image_size(image_size),
        resize=resize,
        decode=decode,
        precision=precision,
        batch_size=batch_size,
        cache=parse_cache(cache),
        verbose=int(stderr_is_terminal()),
    )


def parse_layers(text: str | None) -> str | list[str] | None:
    """One name, a list for several, None for the network's last output."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadArgument(f"--layer {text!r} holds an empty name; expected names with commas between them.")
    return names[0] if len(names) == 1 else names


def parse_image_size(text: str | None) -> int | tuple[int, int] | None:
    """A side, or (height, width).

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
    """What `CNNFeatures(cache=...)` takes."""
    if text == "auto":
        return text
    return None if text == "none" else os.path.abspath(os.path.expanduser(text))


def parse_bytes(text: str) -> int:
    """A size in bytes.

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
        raise BadArgument(f"{text!r} is no size; expected bytes, such as 500MB, 2GB or 1000000.") from None


def parse_weights(text: str) -> str | None:
    """What `CNNFeatures(weights=...)` takes."""
    if text in ("imagenet", "bundled"):
        return text
    if text in ("random", "none"):
        return None
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise BadArgument(
            f"--weights {text!r}: no such file; expected imagenet, random, or a .weights.h5 or .h5 file."
        )
    return path
