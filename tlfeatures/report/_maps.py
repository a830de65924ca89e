"""HTML page that shows the maps of `explain`."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from tlfeatures.report._code import get_versions
from tlfeatures.report._write import make_environment

__all__ = ["write_maps_page"]


def write_maps_page(table: pd.DataFrame, folder: str | os.PathLike[str], *, value: str) -> Path:
    """Write an HTML page that shows the PNG files of the maps, and write the table as a CSV file.

    Parameters
    ----------
    table : DataFrame
        Table, as returned by :meth:`tlfeatures.trust.Explanations.save`: one row for each image.
    folder : path
        Existing folder that contains the PNG files.
    value : str
        Name of the explained value, such as "decision value".

    Returns
    -------
    Path
        Path of the page, ``index.html``, which refers to the files in the same folder. The table is in ``maps.csv``.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    names = [None if file is None else Path(file).name for file in table["file"]]
    table = table.assign(file=pd.Series(names, dtype=object, index=table.index))
    table.to_csv(Path(folder) / "maps.csv", index=False, errors="surrogateescape")
    rows = table.to_dict("records")
    maps = [{**row, "url": quote(row["file"])} for row in rows if row["file"] is not None]
    errors = [row for row in rows if row["error"] is not None]
    variables = {"maps": maps, "errors": errors, "value": value, "versions": get_versions()}
    html = make_environment().get_template("maps.html").render(variables)
    page = Path(folder) / "index.html"
    page.write_text(html, "utf-8", errors="backslashreplace")  # file names may not be Unicode
    return page
