"""`classify`: classify images with a pretrained network and its own classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._parse import parse_image_size, parse_model
from tlfeatures.cli._tables import TableOptions

_COLUMNS = ("path", "rank", "class", "probability", "wordnet_id", "error")


@dataclass(frozen=True)
class ImageNetOptions(Options):
    """The network and its input."""

    panel: ClassVar[str] = "Network"

    model: str = option(
        "mobilenet_0.75", "Network, see `tlfeatures models`, or a .keras file.", "-m", metavar="NAME|FILE"
    )
    image_size: opt.ImageSize = None
    resize: str = option("stretch", "stretch, crop or pad.", metavar="NAME")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `ImageNetClassifier`."""
        parsed = {"model": parse_model(self.model), "image_size": parse_image_size(self.image_size)}
        return super().parameters() | parsed


@dataclass(frozen=True)
class ClassifyOptions(TableOptions):
    """Images to classify, and output of `classify`."""

    header = ",".join(_COLUMNS)

    top: int = option(5, "Number of classes per image.", metavar="N", min=1, max=1000)


@expand_options
def classify(options: ClassifyOptions, network: ImageNetOptions, compute: opt.ComputeOptions) -> None:
    """Classify images with a pretrained network and its own 1,000 ImageNet classes, without training.

    The table has one row for each of the most probable classes of each image, in the order of the arguments. The
    class names are part of the package. An unreadable image has one row with an error; the exit code is 1 if no
    image could be read.
    """
    import pandas

    from tlfeatures import pretrained

    options.check()
    classifier = pretrained.ImageNetClassifier(**network.parameters(), **compute.parameters())
    rows, counts = [], []
    for source in options.read():
        classes, extracted = pretrained.classify(classifier, source.images, options.top, on_error="nan")
        rows += _make_rows(source.paths, classes, extracted.errors)
        report_unreadable(source.paths, extracted.errors, "has no classes", "have no classes")
        counts.append(str(extracted.counts))
    options.show(pandas.DataFrame(rows, columns=_COLUMNS, dtype=object), counts)


def _make_rows(
    paths: list[str], classes: list[list[tuple[str, str, float]]], errors: dict[int, str]
) -> list[tuple[Any, ...]]:
    """Return a row for each class of each image, and one for each unreadable image."""
    rows: list[tuple[Any, ...]] = []
    for i, path in enumerate(paths):
        if i in errors:
            rows.append((path, None, None, None, None, errors[i]))
        for rank, (wordnet_id, name, probability) in enumerate(classes[i], start=1):
            rows.append((path, rank, name, probability, wordnet_id, None))
    return rows
