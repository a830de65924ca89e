"""Options that several commands share, in groups, and the estimator that they describe.

A command declares a group as one parameter::

    @expand_options
    def fit(source: TrainingSource, network: NetworkOptions, compute: ComputeOptions, cv: int = 5) -> None:
        images = source.read()
        cnn = make_cnn(network, compute)

`expand_options` gives the command one option for each field of its groups; a subclass of a group can add
options or override their defaults and help texts.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer

from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, stderr_is_terminal, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.features import CNNFeatures
    from tlfeatures.sources import Source

_network = partial(typer.Option, rich_help_panel="Network")
_source = partial(typer.Option, rich_help_panel="Source", metavar="NAME")

Model = Annotated[
    str,
    _network(
        "--model", "-m", metavar="NAME|FILE", help="Network, see `tlfeatures models`, or a .keras file."
    ),
]
Layer = Annotated[
    str | None,
    _network(
        "--layer",
        "-l",
        metavar="NAME,...",
        help="Layers, see `tlfeatures layers`; by default the last convolutional output.",
    ),
]
Pooling = Annotated[str, _network(metavar="NAME", help="avg, max, avgmax, gem or flatten.")]
Weights = Annotated[str, _network(metavar="NAME|FILE", help="imagenet, random, or a file of weights.")]
ImageSize = Annotated[
    str | None,
    _network(metavar="N|HxW", help="Side, or height x width, in pixels; by default the network's."),
]
Resize = Annotated[str, _network(metavar="NAME", help="stretch, crop or pad.")]
Decode = Annotated[str, _network(metavar="NAME", help="scaled (quick on large JPEGs) or exact.")]
MaxValue = Annotated[
    int | None,
    _network(
        "--max-value",
        metavar="N",
        min=1,
        max=65535,
        help="Largest value of 16-bit images, such as 4095 for 12-bit data; by default 65535.",
    ),
]
Precision = Annotated[str, _network(metavar="NAME", help="float32, tf32, bfloat16 or float16.")]
BatchSize = Annotated[int, _network(metavar="N", min=1, help="Images per batch; does not change the result.")]
Cache = Annotated[
    str,
    _network(metavar="auto|none|DIR", help="Folder of the embedding store; see `tlfeatures cache --help`."),
]

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, manifest, or file.h5::dataset.")]
PathColumn = Annotated[str | None, _source(help="Column of a manifest with the paths.")]
Target = Annotated[str | None, _source(help="Column or dataset with the labels.")]
Groups = Annotated[
    str | None, _source(help="Column or dataset with groups, such as patients, that are kept in one fold.")
]
SplitColumn = Annotated[str | None, _source(help="Column or dataset with the names of the splits.")]
Split = Annotated[
    str | None,
    _source(help="train, val, test or all; by default train if the source has splits, otherwise all."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite an existing file that this command did not write.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if an image cannot be read.")]
Scoring = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Any scorer of scikit-learn; by default accuracy, or r2 for regression."
    ),
]
Task = Annotated[
    str, typer.Option(metavar="NAME", help="classification, regression, or auto: inferred from the labels.")
]


@dataclass(frozen=True)
class SourceOptions:
    """Source of the images."""

    source: SourceName
    path_column: PathColumn = None
    target: Target = None
    split_column: SplitColumn = None
    split: Split = None

    default_split: ClassVar[tuple[str, ...]] = ("train",)
    groups: ClassVar[str | None] = None

    def read(self) -> Source:
        """List the images of the source, or of one split.

        If the source has splits and none was chosen, this is the first of `default_split` that the source has, with a
        note unless it is the first one.
        """
        from tlfeatures.sources import read_source

        images = read_source(
            self.source,
            path_column=self.path_column,
            target=self.target,
            groups=self.groups,
            split=self.split_column,
        )
        split = self.split
        if split is None:
            split = "all" if images.split is None else self._choose_split(images)
        return images if split == "all" else images.subset(split)

    def _choose_split(self, images: Source) -> str:
        first = self.default_split[0]
        split = next((name for name in self.default_split if (images.split == name).any()), first)
        if split != first:
            warn(f"{self.source!r} has no {first} split; its {split} split is used.", "note: ")
        return split

    def get_labels(self, images: Source) -> np.ndarray:
        """Return the labels of the images that `read` returned.

        Raises
        ------
        BadArgument
            If any image has no label.
        """
        from tlfeatures.sources import quote_names

        if images.y is None:
            fix = {
                "manifest": f"Name their column with --target. Columns: {quote_names(images.columns)}.",
                "hdf5": f"Name their dataset with --target. Datasets: {quote_names(images.columns)}.",
                "flat folder": "Put the images of each class into a folder of its own, or write a manifest.",
            }.get(images.kind, "Expected class folders, or a manifest with a column of labels.")
            raise BadArgument(f"{self.source!r} has no labels. {fix}")
        missing = [row for row, label in enumerate(images.y.tolist()) if label is None]
        if missing:
            raise BadArgument(
                f"{len(missing)} of {count(len(images), 'image')} of {self.source!r} have no label, such as "
                f"{images.names[missing[0]]!r}. Choose a split that has labels with --split."
            )
        return images.y


@dataclass(frozen=True)
class TrainingSource(SourceOptions):
    """Labelled training images, with groups for cross-validation if available."""

    groups: Groups = None


@dataclass(frozen=True)
class NetworkOptions:
    """The network, its layers and its input."""

    model: Model = "mobilenet"
    layer: Layer = None
    pooling: Pooling = "avg"
    image_size: ImageSize = None
    resize: Resize = "stretch"

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `CNNFeatures`; a path becomes absolute, so that the pipeline can be saved."""
        return {
            "model": parse_model(self.model),
            "layer": parse_layers(self.layer),
            "pooling": self.pooling,
            "image_size": parse_image_size(self.image_size),
            "resize": self.resize,
        }


@dataclass(frozen=True)
class ComputeOptions:
    """Precision and speed of the extraction, and the store of the embeddings."""

    weights: Weights = "imagenet"
    decode: Decode = "scaled"
    precision: Precision = "float32"
    batch_size: BatchSize = 32
    cache: Cache = "auto"
    max_value: MaxValue = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `CNNFeatures` and `FeatureSearchCV`."""
        return {
            "weights": parse_weights(self.weights),
            "decode": self.decode,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "cache": parse_cache(self.cache),
            "max_value": self.max_value,
            "verbose": int(stderr_is_terminal()),
        }


def make_cnn(network: NetworkOptions, compute: ComputeOptions) -> CNNFeatures:
    """Make the transformer that the options describe."""
    from tlfeatures.features import CNNFeatures

    return CNNFeatures(**network.parameters(), **compute.parameters())


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is annotated with a dataclass by the fields of the dataclass.

    The returned function takes the fields as keyword arguments, with their annotations and defaults, and calls
    ``command`` with instances of the dataclasses.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _field_parameters(groups[name])
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _field_parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def parse_model(text: str) -> str:
    """Return the parameter `model` of `CNNFeatures`: a name, or the absolute path of a .keras file."""
    return os.path.abspath(text) if text.endswith(".keras") else text


def parse_layers(text: str | None) -> str | list[str] | None:
    """Return the parameter `layer` of `CNNFeatures`: a name, a list of names, or None for the default."""
    if text is None:
        return None
    names = split_names("--layer", text)
    return names[0] if len(names) == 1 else names


def split_names(option: str, text: str) -> list[str]:
    """Split the value of an option at its commas.

    >>> split_names("--head", "svm, ridge")
    ['svm', 'ridge']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadArgument(f"{option} {text!r} contains an empty name; expected names separated by commas.")
    return names


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
