"""Write the page of the images that `suggest` chose."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from tlfeatures.report._code import get_versions
from tlfeatures.report._sections import ReportFolder
from tlfeatures.report._tiles import list_tiles
from tlfeatures.report._write import is_report, remove_earlier_report, write_page
from tlfeatures.results import Suggestions

__all__ = ["is_suggestions", "write_suggestions"]

_GENERATOR = "tlfeatures suggest"


def write_suggestions(
    result: Suggestions, folder: str | os.PathLike[str], *, command: str | None = None
) -> Path:
    """Write an HTML page that shows which images to label next, and the tables as CSV files.

    Parameters
    ----------
    result : Suggestions
        See :func:`tlfeatures.suggest`.
    folder : path
        Created if it does not exist. The files of earlier suggestions are replaced.
    command : str, optional
        Shell command that chose the images, shown on the page.

    Returns
    -------
    Path
        Path of the page, ``index.html``, which is self-contained and uses no scripts. It contains previews of images,
        so share it only if you may share these images. ``tables/suggestions.csv`` is the table of
        :meth:`~tlfeatures.results.Suggestions.to_frame`, ``tables/duplicates.csv`` lists what was skipped,
        ``tables/classes.csv`` counts the labels, and ``report.json`` contains the counts.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    output = ReportFolder(Path(folder))
    remove_earlier_report(output.path)
    output.save("suggestions", result.to_frame())
    output.save("duplicates", result.duplicates)
    output.save("classes", result.classes)
    if result.errors:
        errors = [(result.names[row], reason) for row, reason in result.errors.items()]
        output.save("unreadable", pd.DataFrame(errors, columns=["image", "reason"], dtype=object))
    summary = {**result.summary(), "command": command, "versions": get_versions(), "files": output.files()}
    variables = {"result": result, "tiles": list_tiles(result), "tables": output.tables}
    return write_page(output.path, "suggestions.html", summary, variables)


def is_suggestions(page: str | os.PathLike[str]) -> bool:
    """Whether a file is the page of suggested images; False if it does not exist."""
    return is_report(page, _GENERATOR)
