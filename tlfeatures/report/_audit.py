"""Write the report of an audit to a folder."""

from __future__ import annotations

import os
from pathlib import Path

from tlfeatures.report._code import get_versions
from tlfeatures.report._sections import ReportFolder
from tlfeatures.report._tiles import list_tiles
from tlfeatures.report._write import is_report, remove_earlier_report, write_page
from tlfeatures.results import AuditResult

__all__ = ["is_audit", "write_audit"]

_GENERATOR = "tlfeatures audit"
_TABLES = ("label_errors", "duplicates", "outliers", "faults", "confounders", "classes")


def write_audit(result: AuditResult, folder: str | os.PathLike[str], *, command: str | None = None) -> Path:
    """Write an HTML page that shows what an audit found, and the tables as CSV files.

    Parameters
    ----------
    result : AuditResult
        See :func:`tlfeatures.audit`.
    folder : path
        Created if it does not exist. The files of an earlier audit are replaced.
    command : str, optional
        Shell command that ran the audit, shown on the page.

    Returns
    -------
    Path
        Path of the page, ``index.html``, which is self-contained and uses no scripts. It contains previews of images,
        so share it only if you may share these images. ``tables/*.csv`` contain all rows of all tables, and
        ``report.json`` the counts.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path = Path(folder)
    output = ReportFolder(path)
    remove_earlier_report(path)
    for name in _TABLES:
        output.save(name, getattr(result, name))
    summary = {**result.summary(), "command": command, "versions": get_versions(), "files": output.files()}
    variables = {"result": result, "tiles": list_tiles(result), "tables": output.tables}
    return write_page(path, "audit.html", summary, variables)


def is_audit(page: str | os.PathLike[str]) -> bool:
    """Whether a file is the page of an audit; False if it does not exist."""
    return is_report(page, _GENERATOR)
