"""`predict`: predict with a saved pipeline."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._extraction import Tally, extract_images, report_unreadable
from tlfeatures.cli._groups import expand_options
from tlfeatures.cli._saved_models import Fitted, Predictions, SavedModel
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.sources import Source


@expand_options
def predict(
    model: SavedModel,
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM...", help="Images, folders, manifests, file.h5::dataset, or quoted patterns."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.csv", help="Write the table to a file instead."),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Add a column proba_CLASS with the probability of each class.")
    ] = False,
    strict: opt.Strict = False,
    path_column: opt.PathColumn = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Predict with a saved model; the table has one row per image, in the order of the arguments.

    Columns: path, prediction, probability of the predicted class, and error. For heads without class probabilities,
    a column `decision` has the decision value of the predicted class instead; regression has neither. An unreadable
    image has an error and no prediction; the exit code is 1 if no image could be read.
    """
    from tlfeatures.cli._outputs import check_output, replacing, write_csv

    if output is not None:
        check_output(output, (".csv",), force)
    fitted = model.load()
    if proba and fitted.confidence != "probability":
        raise BadArgument(
            f"--proba needs class probabilities, which {model.pipe!r} does not have. Save a classifier with "
            "`tlfeatures fit`, which calibrates probabilities."
        )
    table = _empty_table(fitted, proba)
    tallies = []
    for images, paths in _read_items(items, path_column):
        result = extract_images(fitted.cnn, images)
        _append_rows(table, paths, result.errors, fitted.predict(result), fitted.classes)
        report_unreadable(paths, result.errors, "and have no prediction")
        tallies.append(Tally.of(result))
    if output is not None:
        with replacing(output) as file:
            write_csv(file, table)  # None is an empty field
    if as_json:
        show_json([dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)])
    elif output is not None:
        show_text(f"{'; '.join(map(str, tallies))}.")
        show_text(f"{output}: {count(len(table['path']), 'row')}.")
    else:
        show_table(list(table), zip(*table.values(), strict=True))
    failed = sum(error is not None for error in table["error"])
    if failed and (strict or failed == len(table["error"])):
        raise typer.Exit(1)


def _empty_table(fitted: Fitted, proba: bool) -> dict[str, list[Any]]:
    columns = ["path", "prediction", *([fitted.confidence] if fitted.confidence else []), "error"]
    if proba:
        columns += [f"proba_{name}" for name in fitted.classes.tolist()]
    return {name: [] for name in columns}


def _append_rows(
    table: dict[str, list[Any]],
    paths: list[str],
    errors: dict[int, str],
    predictions: Predictions,
    classes: np.ndarray | None,
) -> None:
    """Append a row for each image; the fields of unreadable images are None."""
    import numpy as np

    n = len(paths)
    columns: dict[str, Any] = {"prediction": predictions.values}
    if (proba := predictions.probabilities) is not None:
        indices = np.searchsorted(classes, predictions.values)
        columns["probability"] = proba[np.arange(len(indices)), indices]
        columns |= {f"proba_{name}": proba[:, i] for i, name in enumerate(classes.tolist())}
    elif predictions.decision is not None:
        columns["decision"] = predictions.decision
    table["path"] += paths
    table["error"] += [errors.get(row) for row in range(n)]
    for name in table.keys() - {"path", "error"}:
        values: list[Any] = [None] * n
        if name in columns:
            for row, value in zip(predictions.rows.tolist(), columns[name].tolist(), strict=True):
                values[row] = value
        table[name] += values


def _read_items(items: list[str], path_column: str | None) -> list[tuple[Any, list[str]]]:
    """Return batches of images with their names; consecutive paths form one batch."""
    batches: list[tuple[Any, list[str]]] = []
    for item in items:
        for source in _read_item(item, path_column):
            if not isinstance(source.images, list):
                batches.append((source.images, source.names))
            elif batches and isinstance(batches[-1][0], list):
                batches[-1][0].extend(source.images)
            else:
                paths = list(source.images)
                batches.append((paths, paths))
    return batches


def _read_item(item: str, path_column: str | None) -> list[Source]:
    """Read the source, or all sources that match a pattern, without labels."""
    from tlfeatures.sources import is_image_file, read_source

    def read(path: str) -> Source:
        column = path_column if os.path.isfile(path) and not is_image_file(path) else None
        return read_source(path, path_column=column, labels=False)

    if os.path.exists(item) or not glob.has_magic(item):
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
