"""Groups of options that several commands share, and the `CNNFeatures` with these options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from tlfeatures.cli._groups import BadArgument, Options, argument, format_options, option
from tlfeatures.cli._messages import note_pickle
from tlfeatures.cli._terminal import stderr_is_terminal, warn

if TYPE_CHECKING:
    from tlfeatures.features import CNNFeatures
    from tlfeatures.predictions import FittedModel
    from tlfeatures.sources import Source

PATH_COLUMN = "Column of a manifest with the paths; by default path, file, image or a similar name."
MODEL = "Name of a network, as listed by `tlfeatures models`, or a .keras file."
STRICT = "Exit with code 1 if any image cannot be read."
SCORING = "Scorer of scikit-learn; by default accuracy, or r2 for regression."
VIEWS = "Average the embeddings of an image and its views: flip, crops or flip+crops; by default no views."
TASK = "classification, regression, or auto: inferred from the labels."

SAVED = (
    "Save the model to this file. With the suffix .joblib it is a pickle, and loading a pickle can run code."
)

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON instead of text.")]


class SourceOptions(Options, panel="Source"):
    """Source of the images."""

    default_split: ClassVar[tuple[str, ...]] = ("train",)

    source: str = argument(
        "SOURCE",
        "Folder of images or manifest (CSV or Parquet), as a path or a URI (s3://...); or array (file.h5::dataset).",
    )
    path_column: str | None = option(None, PATH_COLUMN)
    target: str | None = option(
        None,
        "Column of the manifest, or dataset of the HDF5 file, with the labels; by default label, target or class.",
    )
    groups: ClassVar[str | None] = None  # no option here; subclasses add one
    split_column: str | None = option(
        None,
        "Column of the manifest, or dataset of the HDF5 file, with the split of each image; by default the column "
        "split.",
    )
    split: str | None = option(
        None, "train, val, test or all; by default train, or all if there are no splits."
    )

    def read(self) -> Source:
        """List the images of the source, or of one split.

        If the source has splits and --split was not passed, use the first split in `default_split` that exists; print a
        note if it is not the first in that tuple.
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

    def arguments(self) -> list[str]:
        """Return the command-line arguments that describe the source."""
        options = {name: value for name, value in vars(self).items() if value is not None}
        return [options.pop("source"), *format_options(options)]


class TrainingSource(SourceOptions):
    """Source of labelled training images, with groups for cross-validation if available."""

    groups: str | None = option(
        None,
        "Column of the manifest, or dataset of the HDF5 file, with the group of each image, such as the patient; each "
        "group is kept in one fold. dicom:PatientID reads the groups from DICOM files.",
    )


class AllImages(TrainingSource):
    """Images of all splits by default; labels are optional."""

    split: str = option("all", "all, train, val or test.")


class TrainingImages(Options, panel="Training images"):
    """Labelled images on which a saved model was trained."""

    data: str | None = None  # subclasses declare the option, with their own help
    target: str | None = option(
        None,
        "Column of the manifest, or dataset of the HDF5 file, with the labels of --data; by default label, target or "
        "class.",
    )

    def read(self) -> Source | None:
        """List the images of all splits; None without --data.

        Raise an error if another option of this group is passed without --data.
        """
        from tlfeatures.sources import read_source

        if self.data is not None:
            return read_source(self.data, target=self.target)
        if names := self.list_changed(*vars(self)):
            raise BadArgument(f"{names[0]} needs --data, the training images.")
        return None


class InputOptions(Options, panel="Network"):
    """The network and its input."""

    model: str = option("mobilenet", MODEL, "-m")
    image_size: str | None = option(
        None, "Side of a square, or height x width, in pixels; by default the network's."
    )
    resize: str = option("stretch", "How images are resized to this size: stretch, crop or pad.")


class NetworkOptions(InputOptions):
    """The network, its input and its layers."""

    layer: str | None = option(
        None, "Layers, as listed by `tlfeatures layers`; by default the last feature map.", "-l"
    )
    pooling: str = option(
        "avg",
        "How feature maps become vectors: avg, max, avgmax, gem, flatten; for vision transformers also cls, clsavg.",
    )


class EmbeddingOptions(NetworkOptions):
    """The network, its input, its layers, and the views of each image."""

    views: str | None = option(None, VIEWS)


class ComputeOptions(Options, panel="Network"):
    """Precision and speed of the extraction, and the store of the embeddings."""

    weights: str = option("imagenet", "imagenet, random, or a weights file.")
    decode: str = option(
        "scaled", "Decode large JPEGs at a reduced size (scaled: faster) or in full (exact)."
    )
    precision: str = option(
        "float32", "float32, tf32, bfloat16 or float16; the command `embed` also accepts int8."
    )
    batch_size: int = option(32, "Images per batch; does not change the result.", min=1)
    cache: str = option(
        "auto", "Folder of the embedding store, none, or auto (see `tlfeatures cache --help`)."
    )
    max_value: int | None = option(
        None,
        "Value of white in 16-bit images, such as 4095 for 12-bit data; by default 65535.",
        min=1,
        max=65535,
    )
    window: str | None = option(
        None,
        "For DICOM and 16-bit images: center and width of the range of values shown from black to white, such as "
        "40,400. For CT in Hounsfield units.",
    )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `CNNFeatures` and `FeatureSearchCV`."""
        return super().parameters() | {"verbose": int(stderr_is_terminal())}


class FrozenOptions(ComputeOptions):
    """Precision, speed and runtime of the extraction by a frozen network, and the store of the embeddings."""

    runtime: str | None = option(
        None,
        "openvino or onnxruntime: run the network in OpenVINO or ONNX Runtime, which are faster on many types of CPU.",
    )


def make_cnn(network: NetworkOptions, compute: FrozenOptions) -> CNNFeatures:
    """Make a `CNNFeatures` with the parameters of the options."""
    from tlfeatures.features import CNNFeatures

    return CNNFeatures(**network.parameters(), **compute.parameters())


class OutputOptions(Options):
    """Output file and format."""

    output: str | None = None  # subclasses declare the option, with their own help
    force: bool = option(False, "Overwrite an existing file that this command did not write.")
    as_json: bool = option(False, "Print JSON instead of text.", "--json")


class SavedModel(Options):
    """File of a saved model, and options to run it."""

    pipe: str = argument(
        "MODEL",
        "File saved by `fit`, `select` or `finetune`. Loading a .joblib file can run code: load only files you trust.",
    )
    cache: str | None = option(
        None,
        "Folder of the embedding store; by default the store of the current user; for a .joblib file, the store that "
        "was set when it was saved.",
    )
    batch_size: int | None = option(None, "Images per batch; by default that of the model.", min=1)

    def load(self) -> FittedModel:
        """Load the file, with a note if this can run code from the file."""
        from tlfeatures.saved_models import load_model

        note_pickle(self.pipe)
        params = {name: value for name, value in self.parameters().items() if getattr(self, name) is not None}
        return load_model(params.pop("pipe"), verbose=int(stderr_is_terminal()), **params)
