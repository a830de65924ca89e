"""Commands that print one table for images, folders, manifests and patterns."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from tlfeatures._inputs import split_frame
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import option
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    import pandas

    from tlfeatures.sources import Source

__all__ = ["TableOptions"]


@dataclass(frozen=True)
class TableOptions:
    """Images, and the output of a table that has the column "error"."""

    header: ClassVar[str] = ""  # regular expression of the columns

    items: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM...", help="Images, folders, manifests, file.h5::dataset, or quoted patterns."
        ),
    ]
    output: str | None = option(None, "Write the table to a file instead.", "-o", metavar="FILE.csv")
    strict: opt.Strict = False
    path_column: opt.PathColumn = None
    force: opt.Force = False
    as_json: opt.Json = False

    def check(self) -> None:
        """Raise an error if the output file cannot be written, or is not a table of this command."""
        check_output(self.output, (".csv",), self.force, self._is_ours)

    def _is_ours(self, path: str) -> bool:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return bool(re.fullmatch(self.header, ",".join(next(csv.reader(file), []))))

    def read(self) -> list[tuple[Any, list[str]]]:
        """Return batches of images with their names, in the order of the arguments."""
        return _read_items(self.items, self.path_column)

    def show(self, table: pandas.DataFrame, counts: Sequence[str]) -> None:
        """Write or print the table; exit with 1 if no image could be read or, with --strict, if one could not."""
        from tlfeatures._files import replace_file

        if self.output is not None:
            with replace_file(self.output) as file:
                table.to_csv(file, index=False, errors="surrogateescape")
        if self.as_json:
            show_json(table)
        elif self.output is not None:
            show_text(f"{'; '.join(counts)}.")
            show_text(f"{self.output}: {count(len(table), 'row')}.")
        else:
            show_table(list(table), table.to_numpy().tolist())
        failed = table["error"].notna()
        if failed.all() or (self.strict and failed.any()):
            raise typer.Exit(1)


def _read_items(items: Sequence[str], path_column: str | None) -> list[tuple[Any, list[str]]]:
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
