"""`suggest`: the images to label next."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, argument, expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.sources import Source

_HEADERS = ("path", "path,prediction,margin")


@dataclass(frozen=True)
class LabelledSource(Options):
    """Images, some of which have labels in a manifest."""

    panel: ClassVar[str] = "Source"

    source: str = argument("SOURCE", "Folder or manifest of all image files, labelled or not.")
    labelled: str = option(
        ...,
        "Table of the images labelled so far, with their paths, relative to the table, and labels.",
        metavar="FILE.csv",
    )
    path_column: str | None = option(None, "Column of --labelled with the paths.")
    target: str | None = option(
        None, "Column of --labelled with the labels; by default label, target or class."
    )

    def read(self) -> Source:
        """Return all images, with None where there is no label."""
        from tlfeatures.sources import merge_labels, read_items, read_source

        (images,) = read_items([self.source])
        labelled = read_source(self.labelled, path_column=self.path_column, target=self.target)
        merged = merge_labels(images, labelled)
        if n := len(merged) - len(images):
            warn(
                f"{count(n, 'labelled image')} not in {self.source!r} will be used for training only.",
                "note: ",
            )
        return merged


@dataclass(frozen=True)
class SuggestOptions(Options):
    """The classifier, and the number of images."""

    n: int = option(10, "Number of images to suggest.", "--number", "-n", metavar="N", min=1)
    head: str = option("svm", "Classifier: logreg, linear_svm, svm, ridge or knn.")
    seed: int = option(0, "Seed of the clusters and folds.", min=0)


@dataclass(frozen=True)
class SuggestOutput(opt.OutputOptions):
    """Output of `suggest`."""

    output: str | None = option(None, "Write the table to a file instead.", "-o", metavar="FILE.csv")

    def check(self) -> None:
        """Raise an error if the file cannot be written, or exists and is not a table of this command."""
        check_output(self.output, (".csv",), self.force, _is_ours)


@expand_options
def suggest(
    source: LabelledSource,
    options: SuggestOptions,
    output: SuggestOutput,
    network: opt.NetworkOptions,
    compute: opt.ComputeOptions,
) -> None:
    """Suggest the images to label next: uncertain, unlike each other, and no duplicates.

    A classifier is trained on the labelled images. The columns of the table are path, prediction, and margin, the
    difference to the next class; the most uncertain image is first. Label these images, add them to the table of
    --labelled, and repeat.
    """
    from sklearn.pipeline import Pipeline

    from tlfeatures._files import replace_file
    from tlfeatures.heads import make_head
    from tlfeatures.trust import suggest as choose

    output.check()
    images = source.read()
    pipeline = Pipeline([("cnn", opt.make_cnn(network, compute)), ("head", make_head(options.head))])
    result = choose(images.images, images.y, options.n, estimator=pipeline, random_state=options.seed)
    skipped = report_unreadable(images.paths, result.extracted.errors)
    table = result.to_frame(images.paths)
    labels = [label for label in images.y if label is not None]
    if output.output is not None:
        with replace_file(output.output) as file:
            table.to_csv(file, index=False, errors="surrogateescape")
    if output.as_json:
        show_json(
            {
                "labelled": len(labels),
                "classes": len(set(labels)),
                "accuracy": result.accuracy,
                "duplicates": result.n_duplicates,
                "skipped": skipped,
                "suggestions": table,
            }
        )
        return
    scored = "" if result.accuracy is None else f", cross-validated accuracy {result.accuracy:.3f}"
    show_text(
        f"{count(len(labels), 'labelled image')} of {count(len(set(labels)), 'class', 'classes')}{scored}; "
        f"{count(result.n_duplicates, 'duplicate')} skipped."
    )
    if output.output is None:
        show_table(table)
    else:
        show_text(f"{output.output}: {count(len(table), 'row')}.")


def _is_ours(path: str) -> bool:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return ",".join(next(csv.reader(file), [])) in _HEADERS
