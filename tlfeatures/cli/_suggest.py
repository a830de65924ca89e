"""`suggest`: the images to label next."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import typer

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, Options, argument, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_csv, check_report_folder, write_csv
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.sources import Source

_HEADER = r"path(,prediction,alternative,margin)?"


class LabelledSource(Options, panel="Source"):
    """Images, some of which have labels in a manifest."""

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


class SuggestOptions(Options):
    """The classifier, and the number of images."""

    n: int = option(10, "Number of images to suggest.", "--number", "-n", metavar="N", min=1)
    head: str = option("svm", "Classifier: logreg, linear_svm, svm, ridge or knn.")
    seed: int = option(0, "Seed of the clusters and folds.", min=0)


class SuggestOutput(opt.OutputOptions):
    """Output of `suggest`."""

    output: str | None = option(
        None,
        "FILE.csv: write the table to this file. DIR: save a page that shows the images in this folder.",
        "-o",
        metavar="FILE.csv|DIR",
    )

    @property
    def is_table(self) -> bool:
        """Whether the output is a file, not a folder."""
        return self.output is not None and self.output.lower().endswith(".csv")

    def check(self, source: str) -> None:
        """Raise an error if the output cannot be written, or exists and is not of this command."""
        from tlfeatures.report import is_suggestions

        if self.is_table:
            check_csv(self.output, _HEADER, self.force)
        elif self.output is not None:
            if os.path.splitext(self.output)[1][1:].isalpha() and not os.path.isdir(self.output):
                raise BadArgument(f"-o {self.output!r} must end in .csv, or name a folder for the page.")
            check_report_folder(self.output, source, self.force, is_suggestions)


def suggest(
    context: typer.Context,
    source: LabelledSource,
    options: SuggestOptions,
    files: SuggestOutput,
    network: opt.NetworkOptions,
    compute: opt.FrozenOptions,
) -> None:
    """Suggest the images to label next: uncertain, unlike each other, and no duplicates.

    A classifier is trained on the labelled images. The columns of the table are path, prediction, alternative (the
    second most likely class), and margin (the difference between the decision values of the two); the most uncertain
    image is first. With -o and a folder, index.html shows the images. Label these images, add them to the table of
    --labelled, and repeat.
    """
    from sklearn.pipeline import Pipeline

    from tlfeatures.heads import make_head
    from tlfeatures.report import write_suggestions
    from tlfeatures.trust import suggest as choose

    files.check(source.source)
    images = source.read()
    pipeline = Pipeline([("cnn", opt.make_cnn(network, compute)), ("head", make_head(options.head))])
    result = choose(images.images, images.y, options.n, estimator=pipeline, random_state=options.seed)
    skipped = report_unreadable(images.paths, result.errors)
    table = result.to_frame()
    if files.is_table:
        write_csv(table, files.output)
    elif files.output is not None:
        write_suggestions(result, files.output, command=shlex.join(["tlfeatures", *context.obj]))
    if files.as_json:
        show_json(result.summary() | {"skipped": skipped, "suggestions": table, "output": files.output})
        return
    show_text(result.describe())
    if files.output is None:
        show_table(table)
    elif files.is_table:
        show_text(f"{files.output}: {count(len(table), 'row')}.")
    else:
        show_text(f"Saved {os.path.join(files.output, 'index.html')}.")
