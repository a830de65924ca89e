"""Output files: checks before any work is done, and CSV files."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlfeatures._params import join_alternatives
from tlfeatures.cli._groups import BadArgument

if TYPE_CHECKING:
    import pandas

__all__ = ["check_csv", "check_existing", "check_folder", "check_output", "check_report_folder", "write_csv"]


def check_output(
    path: str | None,
    suffixes: Sequence[str],
    force: bool = False,
    is_ours: Callable[[str], bool] | None = None,
    option: str = "-o",
) -> None:
    """Raise an error if an output file cannot or must not be written.

    Parameters
    ----------
    path : str or None
        Path of the file; None if no file is written.
    suffixes : sequence of str
        Accepted suffixes.
    force : bool, default=False
        Whether an existing file may be overwritten.
    is_ours : callable, optional
        Function that returns whether this command wrote the existing file, which may then be overwritten. None means
        that no existing file may be overwritten.
    option : str, default="-o"
        Name of the option in messages.

    Raises
    ------
    BadArgument
        If the suffix is unknown, the parent folder is missing, or the file exists and must not be overwritten.
    OSError
        If the folder is not writable.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in suffixes:
        raise BadArgument(f"{option} {path!r} must end in {join_alternatives(suffixes)}.")
    if os.path.isdir(path):
        raise BadArgument(f"{option} {path!r} is a folder; pass the path of a file.")
    _check_writable(os.path.dirname(os.path.realpath(path)), f"{option} {path!r}")
    if os.path.exists(path) and not force:
        if is_ours is None:
            raise BadArgument(
                f"{option} {path!r} exists. Name another file, or pass --force to overwrite it."
            )
        check_existing(path, force, is_ours)


def check_existing(path: str, force: bool, is_ours: Callable[[str], bool]) -> None:
    """Raise an error if a file exists that must not be overwritten, because this command did not write it."""
    if os.path.lexists(path) and not force and not (os.path.isfile(path) and is_ours(path)):
        raise BadArgument(
            f"{path!r} exists and was not written by this command. Name another file or folder, or pass --force."
        )


def check_folder(path: str, sources: Iterable[str]) -> None:
    """Raise an error if an output folder is a file, or is inside the folder of a source."""
    for source in filter(os.path.isdir, sources):
        if Path(path).resolve().is_relative_to(Path(source).resolve()):
            raise BadArgument(
                f"-o {path!r} is inside the folder of the images, so its figures would be read as images. Name another "
                "folder."
            )
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadArgument(f"-o {path!r} is a file; name a folder.")


def check_report_folder(path: str, source: str, force: bool, is_page: Callable[[str], bool]) -> None:
    """Raise an error if a report cannot or must not be written into a folder.

    Parameters
    ----------
    path : str
        The folder.
    source : str
        Source of the images. The report must not be inside it.
    force : bool
        Whether files that this command did not write may be overwritten.
    is_page : callable
        Function that returns whether a file is the page of an earlier report of this command.

    Raises
    ------
    BadArgument
        If ``path`` is a file or inside the source, or contains a page or JSON file that this command did not write and
        must not overwrite, or if the parent folder is missing.
    OSError
        If the folder is not writable.
    """
    check_folder(path, [source])
    _check_writable(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path)), f"-o {path!r}")
    page = os.path.join(path, "index.html")
    for file in (page, os.path.join(path, "report.json")):
        check_existing(file, force, lambda _: is_page(page))


def _check_writable(folder: str, name: str) -> None:
    if not os.path.isdir(folder):
        raise BadArgument(f"{name}: the folder {folder!r} does not exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, f"No permission to write into the folder of {name}", folder)


def check_csv(path: str | None, header: str, force: bool, option: str = "-o") -> None:
    """Check a CSV file as `check_output` does.

    An existing file may be overwritten if its header, joined with commas, matches the regular expression ``header``.
    """

    def is_ours(path: str) -> bool:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            try:
                columns = next(csv.reader(file), [])
            except csv.Error:  # such as a field that is too long
                return False
        return bool(re.fullmatch(header, ",".join(columns)))

    check_output(path, (".csv",), force, is_ours, option)


def write_csv(table: pandas.DataFrame, path: str) -> None:
    """Write a table to a CSV file, which is replaced when the new one is complete."""
    from tlfeatures._files import replace_file

    with replace_file(path) as file:
        table.to_csv(file, index=False, errors="surrogateescape")
