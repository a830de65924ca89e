"""`classify`: classify images with a pretrained network and its own classes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._parse import parse_image_size, parse_model
from tlfeatures.cli._predict import read_items
from tlfeatures.cli._terminal import count, show_json, show_table, show_text

_COLUMNS = ("path", "rank", "class", "probability", "wordnet_id", "error")


@dataclass(frozen=True)
class ImageNetOptions:
    """The network and its input."""

    panel: ClassVar[str] = "Network"

    model: str = option(
        "mobilenet_0.75", "Network, see `tlfeatures models`, or a .keras file.", "-m", metavar="NAME|FILE"
    )
    image_size: opt.ImageSize = None
    resize: str = option("stretch", "stretch, crop or pad.", metavar="NAME")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `ImageNetClassifier`."""
        return {
            "model": parse_model(self.model),
            "image_size": parse_image_size(self.image_size),
            "resize": self.resize,
        }


@dataclass(frozen=True)
class ClassifyOptions:
    """Images to classify, and output of `classify`."""

    items: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Images, folders, manifests, file.h5::dataset, or quoted patterns."
        ),
    ]
    top: int = option(5, "Number of classes per image.", metavar="N", min=1, max=1000)
    output: str | None = option(None, "Write the table to a file instead.", "-o", metavar="FILE.csv")
    strict: opt.Strict = False
    path_column: opt.PathColumn = None
    force: opt.Force = False
    as_json: opt.Json = False


@expand_options
def classify(options: ClassifyOptions, network: ImageNetOptions, compute: opt.ComputeOptions) -> None:
    """Classify images with a pretrained network and its own 1,000 ImageNet classes, without training.

    The table has one row for each of the most probable classes of each image, in the order of the arguments. The
    class names are part of the package. An unreadable image has one row with an error; the exit code is 1 if no
    image could be read.
    """
    import pandas

    from tlfeatures import pretrained
    from tlfeatures._files import replace_file

    output = options.output
    check_output(output, (".csv",), options.force, _is_our_table)
    classifier = pretrained.ImageNetClassifier(**network.parameters(), **compute.parameters())
    rows, counts, n_readable, n_unreadable = [], [], 0, 0
    for images, paths in read_items(options.items, options.path_column):
        classes, extracted = pretrained.classify(classifier, images, options.top, on_error="nan")
        rows += _make_rows(paths, classes, extracted.errors)
        report_unreadable(paths, extracted.errors, "has no classes", "have no classes")
        counts.append(str(extracted.counts))
        n_unreadable += len(extracted.errors)
        n_readable += len(paths) - len(extracted.errors)
    table = pandas.DataFrame(rows, columns=_COLUMNS, dtype=object)
    if output is not None:
        with replace_file(output) as file:
            table.to_csv(file, index=False, errors="surrogateescape")
    if options.as_json:
        show_json(table)
    elif output is not None:
        show_text(f"{'; '.join(counts)}.")
        show_text(f"{output}: {count(len(table), 'row')}.")
    else:
        show_table(_COLUMNS, rows)
    if n_unreadable and (options.strict or not n_readable):
        raise typer.Exit(1)


def _is_our_table(path: str) -> bool:
    """Return whether a CSV file has the columns of a table of classes."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return tuple(next(csv.reader(file), ())) == _COLUMNS


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
