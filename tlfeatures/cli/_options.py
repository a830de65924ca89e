"""Groups of options that several commands share, and the estimator that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from tlfeatures.cli._groups import Options, argument, option
from tlfeatures.cli._parse import (
    parse_cache,
    parse_image_size,
    parse_layers,
    parse_model,
    parse_weights,
    parse_window,
)
from tlfeatures.cli._terminal import stderr_is_terminal, warn

if TYPE_CHECKING:
    from tlfeatures.features import CNNFeatures
    from tlfeatures.predictions import FittedModel
    from tlfeatures.sources import Source

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite an existing file that this command did not write.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if an image cannot be read.")]
PathColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a manifest with the paths.", rich_help_panel="Source"),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Side, or height x width, in pixels; by default the network's.",
        rich_help_panel="Network",
    ),
]
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

    panel: ClassVar[str] = "Source"
    default_split: ClassVar[tuple[str, ...]] = ("train",)

    source: str = argument("SOURCE", "Folder, manifest, or file.h5::dataset.")
    path_column: PathColumn = None
    target: str | None = option(None, "Column or dataset with the labels.", metavar="NAME")
    groups: ClassVar[str | None] = None
    split_column: str | None = option(None, "Column or dataset with the names of the splits.", metavar="NAME")
    split: str | None = option(
        None,
        "train, val, test or all; by default train if the source has splits, otherwise all.",
        metavar="NAME",
    )

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


@dataclass(frozen=True)
class TrainingSource(SourceOptions):
    """Labelled training images, with groups for cross-validation if available."""

    groups: str | None = option(
        None,
        "Column or dataset with groups, such as patients, that are kept in one fold; or dicom:PatientID.",
        metavar="NAME",
    )


@dataclass(frozen=True)
class NetworkOptions(Options):
    """The network, its layers and its input."""

    panel: ClassVar[str] = "Network"

    model: str = option(
        "mobilenet", "Network, see `tlfeatures models`, or a .keras file.", "-m", metavar="NAME|FILE"
    )
    layer: str | None = option(
        None,
        "Layers, see `tlfeatures layers`; by default the last convolutional output.",
        "-l",
        metavar="NAME,...",
    )
    pooling: str = option("avg", "avg, max, avgmax, gem or flatten.", metavar="NAME")
    image_size: ImageSize = None
    resize: str = option("stretch", "stretch, crop or pad.", metavar="NAME")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `CNNFeatures`; a path becomes absolute, so that the pipeline can be saved."""
        return super().parameters() | {
            "model": parse_model(self.model),
            "layer": parse_layers(self.layer),
            "image_size": parse_image_size(self.image_size),
        }


@dataclass(frozen=True)
class ComputeOptions(Options):
    """Precision and speed of the extraction, and the store of the embeddings."""

    panel: ClassVar[str] = "Network"

    weights: str = option("imagenet", "imagenet, random, or a file of weights.", metavar="NAME|FILE")
    decode: str = option("scaled", "scaled (quick on large JPEGs) or exact.", metavar="NAME")
    precision: str = option("float32", "float32, tf32, bfloat16 or float16.", metavar="NAME")
    batch_size: int = option(32, "Images per batch; does not change the result.", metavar="N", min=1)
    cache: str = option(
        "auto", "Folder of the embedding store; see `tlfeatures cache --help`.", metavar="auto|none|DIR"
    )
    max_value: int | None = option(
        None,
        "Largest value of 16-bit images, such as 4095 for 12-bit data; by default 65535.",
        metavar="N",
        min=1,
        max=65535,
    )
    window: str | None = option(
        None,
        "Centre and width of the values of DICOM (hounsfield units for CT) and 16-bit images, such as 40,400.",
        metavar="C,W",
    )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `CNNFeatures` and `FeatureSearchCV`."""
        return super().parameters() | {
            "weights": parse_weights(self.weights),
            "cache": parse_cache(self.cache),
            "window": parse_window(self.window),
            "verbose": int(stderr_is_terminal()),
        }


def make_cnn(network: NetworkOptions, compute: ComputeOptions) -> CNNFeatures:
    """Make the transformer that the options describe."""
    from tlfeatures.features import CNNFeatures

    return CNNFeatures(**network.parameters(), **compute.parameters())


@dataclass(frozen=True)
class SavedModel:
    """File of a saved model, and options to run it."""

    pipe: str = argument(
        "PIPE",
        "File saved by `fit`, `select` or `finetune`. Loading a .joblib file can run code: load only files you trust.",
    )
    cache: str | None = option(
        None, "Folder of the embedding store; by default that of the model.", metavar="auto|none|DIR"
    )
    batch_size: int | None = option(
        None, "Images per batch; by default that of the model.", metavar="N", min=1
    )

    def load(self) -> FittedModel:
        """Load the file, with a note if this can run code of the file."""
        from tlfeatures.saved_models import load_model, recognize_model

        if recognize_model(self.pipe) == "pickle":
            warn(
                f"{self.pipe} is a pickle, and loading a pickle can run code: load only files you trust.",
                "note: ",
            )
        params: dict[str, Any] = {"verbose": int(stderr_is_terminal())}
        if self.cache is not None:
            params["cache"] = parse_cache(self.cache)
        if self.batch_size is not None:
            params["batch_size"] = self.batch_size
        return load_model(self.pipe, **params)
