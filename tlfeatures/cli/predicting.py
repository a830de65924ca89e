"""`predict`: a saved pipeline on new images."""

from __future__ import annotations

import glob
import os
from typing import Annotated, Any

import typer

from tlfeatures.cli import options as opt
from tlfeatures.cli.images import Tally, extract_images, name_unreadable
from tlfeatures.cli.pipes import BatchAgain, CacheAgain, Fitted, Pipe
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, show_json, show_table, tell, warn


def predict(
    pipe: Pipe,
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
    path_column: opt.PathColumn = None,
    cache: CacheAgain = None,
    batch_size: BatchAgain = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Predict with a saved pipeline: one row an image, in the order given, with path, prediction, score and error.

    The score is the probability of the predicted class, or its decision score where the head has no
    probabilities. An unreadable image has a row too, with the error and no prediction. Loading a pipeline runs
    code from its file: load only files you trust.
    """
    from tlfeatures.cli.outputs import check_output, replacing, write_csv

    if output is not None:
        check_output(output, (".csv",), force)
    fitted = Fitted.load(pipe, cache, batch_size)
    table: dict[str, list[Any]] = {"path": [], "prediction": [], "score": [], "error": []}
    tallies = []
    for images, paths in _chunks(items, path_column):
        result = extract_images(fitted.cnn, images)
        rows, predictions, scores = fitted.predict(result)
        n, start = len(paths), len(table["path"])
        table["path"] += paths
        table["error"] += [result.errors.get(row) for row in range(n)]
        table["prediction"] += [None] * n
        table["score"] += [None] * n
        for i, row in enumerate(rows.tolist()):
            table["prediction"][start + row] = predictions[i].item()
            table["score"][start + row] = None if scores is None else float(scores[i])
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
            f"{len(matches) - len(wanted):,} of {len(matches):,} matches of {item!r} are no images: left out."
        )
    return [read(path) for path in wanted]
