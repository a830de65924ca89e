"""Check output files before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tlfeatures._params import join_alternatives
from tlfeatures.cli._session import BadArgument

__all__ = ["check_existing", "check_output", "check_report_folder", "check_writable"]


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
        If the suffix is unknown, the folder is missing, or the file exists.
    OSError
        If the folder is not writable.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in suffixes:
        raise BadArgument(f"{option} {path!r} must end in {join_alternatives(suffixes)}.")
    if os.path.isdir(path):
        raise BadArgument(f"{option} {path!r} is a folder; pass the path of a file.")
    check_writable(os.path.dirname(os.path.realpath(path)), f"{option} {path!r}")
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


def check_writable(folder: str, name: str) -> None:
    """Raise an error if a folder does not exist, or is not writable."""
    if not os.path.isdir(folder):
        raise BadArgument(f"{name}: the folder {folder!r} does not exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, f"No permission to write into the folder of {name}", folder)


def check_report_folder(path: str, source: str) -> None:
    """Raise an error if a report cannot be written into a folder, or if it is inside the folder of the images."""
    folder, name = Path(path), f"-o {path!r}"
    if os.path.isdir(source) and folder.resolve().is_relative_to(Path(source).resolve()):
        raise BadArgument(
            f"{name} is inside the folder of the images, so its figures would be read as images. Name another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise BadArgument(f"{name} is a file; name a folder for the report.")
    check_writable(path if folder.is_dir() else str(folder.absolute().parent), name)
