"""`predict`: predict with a saved pipeline."""

from __future__ import annotations

import csv
import glob
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures._inputs import split_frame
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.sources import Source


@dataclass(frozen=True)
class PredictOptions:
    """Images to predict for, and output of `predict`."""

    items: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM...", help="Images, folders, manifests, file.h5::dataset, or quoted patterns."
        ),
    ]
    output: str | None = option(None, "Write the table to a file instead.", "-o", metavar="FILE.csv")
    proba: bool = option(False, "Add a column proba_CLASS with the probability of each class.")
    strict: opt.Strict = False
    path_column: opt.PathColumn = None
    force: opt.Force = False
    as_json: opt.Json = False


@expand_options
def predict(model: opt.SavedModel, options: PredictOptions) -> None:
    """Predict with a saved model; the table has one row per image, in the order of the arguments.

    Columns: path, prediction, probability of the predicted class, and error. For heads without class probabilities,
    a column `decision` has the decision value of the predicted class instead; regression has neither. An unreadable
    image has an error and no prediction; the exit code is 1 if no image could be read.
    """
    import pandas

    from tlfeatures._files import replace_file

    output = options.output
    check_output(output, (".csv",), options.force, _is_our_table)
    fitted = model.load()
    if options.proba and fitted.confidence != "probability":
        raise BadArgument(
            f"--proba needs class probabilities, which {model.pipe!r} does not have. Save a classifier with "
            "`tlfeatures fit`, which calibrates probabilities."
        )
    frames, counts = [], []
    for images, paths in read_items(options.items, options.path_column):
        predictions = fitted.predict(images)
        report_unreadable(paths, predictions.extracted.errors, "has no prediction", "have no predictions")
        frames.append(predictions.to_frame(paths, proba=options.proba))
        counts.append(str(predictions.extracted.counts))
    table = pandas.concat(frames, ignore_index=True)
    if output is not None:
        with replace_file(output) as file:
            table.to_csv(file, index=False, errors="surrogateescape")
    if options.as_json:
        show_json(table)
    elif output is not None:
        show_text(f"{'; '.join(counts)}.")
        show_text(f"{output}: {count(len(table), 'row')}.")
    else:
        show_table(list(table), table.to_numpy().tolist())
    failed = table["error"].notna()
    if failed.all() or (options.strict and failed.any()):
        raise typer.Exit(1)


def _is_our_table(path: str) -> bool:
    """Return whether a CSV file has exactly the columns of a table of predictions."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        header = ",".join(next(csv.reader(file), []))
    return bool(re.fullmatch(r"path,prediction(,probability|,decision)?(,proba_.+)*,error", header))


def read_items(items: list[str], path_column: str | None) -> list[tuple[Any, list[str]]]:
    """Return batches of images with their names; consecutive paths form one batch."""
    batches: list[tuple[Any, list[str]]] = []
    for source in (source for item in items for source in _read_item(item, path_column)):
        if batches and isinstance(source.images, list) and isinstance(batches[-1][0], list):
            batches[-1][0].extend(source.images)
        else:
            paths = list(source.paths)
            batches.append((paths if isinstance(source.images, list) else source.images, paths))
    return batches


def _read_item(item: str, path_column: str | None) -> list[Source]:
    """Read the source, or all sources that match a pattern, without labels."""
    from tlfeatures.sources import is_image_file, read_source

    def read(path: str) -> Source:
        file = split_frame(path)[0]
        column = path_column if os.path.isfile(file) and not is_image_file(file) else None
        return read_source(path, path_column=column, labels=False)

    if os.path.exists(split_frame(item)[0]) or not glob.has_magic(item):
        return [read(item)]
    matches = sorted(glob.glob(item, recursive=True))
    if not matches:
        raise BadArgument(f"No file matches the pattern {item!r}.")
    images = [path for path in matches if is_image_file(path)]
    if 0 < len(images) < len(matches):
        warn(
            f"{len(matches) - len(images):,} of {len(matches):,} matches of {item!r} are not images and are left out."
        )
    return [read(path) for path in images or matches]  # without images, matches are folders or manifests
