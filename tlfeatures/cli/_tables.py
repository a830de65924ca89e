"""Arguments and output of commands that print one table for images, folders, manifests and patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, argument, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._outputs import check_csv, write_csv
from tlfeatures.cli._terminal import show_json, show_table, show_text

if TYPE_CHECKING:
    from tlfeatures.sources import Source

__all__ = ["ImageItems", "TableOptions"]


class ImageItems(Options, panel="Source"):
    """Images of several sources, without labels."""

    items: list[str] = argument(
        "ITEM", "Images, folders, manifests, arrays (file.h5::dataset), or quoted patterns."
    )
    path_column: str | None = option(None, opt.PATH_COLUMN)

    def read(self) -> list[Source]:
        """List the images, in the order of the arguments."""
        from tlfeatures.sources import read_items

        return read_items(self.items, self.path_column)


class TableOptions(opt.OutputOptions):
    """Output of a command that makes a table with the column "error"."""

    header: ClassVar[str] = ""  # regular expression that matches the header of the table

    output: str | None = option(
        None, "Write the table to this file instead of printing it.", "-o", metavar="FILE.csv"
    )
    strict: bool = option(False, opt.STRICT)

    def check(self) -> None:
        """Raise an error if the output file cannot be written, or exists and is not a table of this command."""
        check_csv(self.output, self.header, self.force)

    def run(
        self, items: ImageItems, predict: Callable[[Any], Any], missing: tuple[str, str], **options: Any
    ) -> int:
        """Write or print the table; return 1 if no image can be read or, with --strict, if any cannot.

        Parameters
        ----------
        items : ImageItems
        predict : callable
            Function from images to their predictions.
        missing : tuple of str
            What the messages say of an image, and of several images, that cannot be read.
        **options
            Options of ``to_frame`` of the predictions.
        """
        import pandas

        tables, counts = [], []
        for source in items.read():
            result = predict(source.images)
            report_unreadable(source.paths, result.extracted.errors, *missing)
            tables.append(result.to_frame(source.paths, **options))
            counts.append(str(result.extracted.counts))
        table = pandas.concat(tables, ignore_index=True)
        if self.output is not None:
            write_csv(table, self.output)
        if self.as_json:
            show_json(table)
        elif self.output is not None:
            show_text(f"{'; '.join(counts)}.")
            show_text(f"{self.output}: {count(len(table), 'row')}.")
        else:
            show_table(table)
        failed = table["error"].notna()
        return int(failed.all() or (self.strict and failed.any()))
