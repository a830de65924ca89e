"""`predict`: a saved pipeline on new images."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._extraction import Tally, extract_images, name_unreadable
from tlfeatures.cli._saved_models import Fitted, Predictions, SavedModel
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, tell, warn

if TYPE_CHECKING:
    import numpy as np


@opt.expand_options
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
        typer.Option("--output", "-o", metavar="FILE.csv", help="Write a table instead of showing it."),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Add the probability of each class, in a column proba_CLASS.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if an image cannot be read.")] = False,
    path_column: opt.PathColumn = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Predict with a saved model: one row per image, in the order given.

    Columns: path, prediction, probability of the predicted class, and error. Heads without class probabilities
    have the decision value of the predicted class instead, in a column `decision`; regression has neither. An
    unreadable image has the error and no prediction; the exit code is 1 when no image could be read.
    """
    from tlfeatures.cli._outputs import check_output, replacing, write_csv

    if output is not None:
        check_output(output, (".csv",), force)
    fitted = model.load()
    if proba and fitted.confidence != "probability":
        raise BadArgument(
            f"--proba needs class probabilities, which {model.pipe!r} does not have. `tlfeatures fit` saves "
            "classifiers with calibrated probabilities."
        )
    table = _empty_table(fitted, proba)
    tallies = []
    for images, paths in _chunks(items, path_column):
        result = extract_images(fitted.cnn, images)
        _append(table, paths, result.errors, fitted.predict(result), fitted.classes)
        name_unreadable(paths, result.errors, "and have no prediction")
        tallies.append(Tally.of(result))
    if output is not None:
        with replacing(output) as file:
            write_csv(file, table)  # None is an empty field
    if as_json:
        show_json([dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)])
    elif output is not None:
        tell(f"{'; '.join(map(str, tallies))}.")
        tell(f"{output}: {count(len(table['path']), 'row')}.")
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


def _append(
    table: dict[str, list[Any]],
    paths: list[str],
    errors: dict[int, str],
    found: Predictions,
    classes: np.ndarray | None,
) -> None:
    """Add a row per image; fields of unreadable images are None."""
    import numpy as np

    n = len(paths)
    columns: dict[str, Any] = {"prediction": found.values}
    if found.probabilities is not None:
        at = np.searchsorted(classes, found.values)
        columns["probability"] = found.probabilities[np.arange(len(at)), at]
        columns |= {f"proba_{name}": found.probabilities[:, i] for i, name in enumerate(classes.tolist())}
    elif found.decision is not None:
        columns["decision"] = found.decision
    table["path"] += paths
    table["error"] += [errors.get(row) for row in range(n)]
    for name in table.keys() - {"path", "error"}:
        values: list[Any] = [None] * n
        if name in columns:
            for row, value in zip(found.rows.tolist(), columns[name].tolist(), strict=True):
                values[row] = value
        table[name] += values


def _chunks(items: list[str], path_column: str | None) -> list[tuple[Any, list[str]]]:
    """Images and what to call each; paths that follow one another go together."""
    chunks: list[tuple[Any, list[str]]] = []
    for item in items:
        for found in _sources(item, path_column):
            if not isinstance(found.images, list):
                chunks.append((found.images, found.names))
            elif chunks and isinstance(chunks[-1][0], list):
                chunks[-1][0].extend(found.images)
            else:
                paths = list(found.images)
                chunks.append((paths, paths))
    return chunks


def _sources(item: str, path_column: str | None) -> list[Any]:
    """What an item stands for, without labels; a pattern stands for images and folders only."""
    from tlfeatures.sources import is_image_file, read_source

    def read(path: str) -> Any:
        manifest = path_column if os.path.isfile(path) and not is_image_file(path) else None
        return read_source(path, path_column=manifest, labels=False)

    if os.path.exists(item) or not glob.has_magic(item):
        return [read(item)]
    matches = sorted(glob.glob(item, recursive=True))
    wanted = [path for path in matches if is_image_file(path)]
    if not wanted:  # no images: folders of images, or manifests
        wanted = matches
    if not wanted:
        raise BadArgument(f"No file matches the pattern {item!r}.")
    if len(wanted) < len(matches):
        warn(
            f"{len(matches) - len(wanted):,} of {len(matches):,} matches of {item!r} are not images and are left out."
        )
    return [read(path) for path in wanted]
