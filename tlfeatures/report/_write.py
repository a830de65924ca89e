"""Write the report of a search to a folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tlfeatures._json import to_json
from tlfeatures.report._code import get_versions, make_python_code
from tlfeatures.report._sections import ReportFolder, make_sections
from tlfeatures.report._tables import calibration_errors, candidates_table, describe
from tlfeatures.results import SearchResult

__all__ = ["is_report", "write_report"]


def write_report(
    result: SearchResult,
    folder: str | os.PathLike[str],
    *,
    command: str | None = None,
    best_command: str | None = None,
) -> Path:
    """Write an HTML page that shows the result of a search, and the same content as PNG, CSV and JSON files.

    Parameters
    ----------
    result : SearchResult
        See :meth:`tlfeatures.FeatureSearchCV.result`.
    folder : path
        Created if it does not exist. The files of an earlier report are replaced.
    command : str, optional
        Shell command that ran the search, shown on the page.
    best_command : str, optional
        Shell command that reproduces the best pipeline, shown on the page.

    Returns
    -------
    Path
        Path of the page, ``index.html``, which is self-contained and uses no scripts. It contains small previews of
        the worst predictions, so share it only if you may share these images.

    Raises
    ------
    OSError
        If the folder cannot be written to.

    Notes
    -----
    ``report.json``, ``figures/*.png`` and ``tables/*.csv`` contain the content of the page and more.
    ``tables/predictions.csv`` is also a manifest of the images and labels.
    """
    path = Path(folder)
    output = ReportFolder(path)
    remove_earlier_report(path)
    variables = make_sections(result, output)
    summary = _summarize(result, output.tables) | {
        "command": command, "best_command": best_command, "best_code": make_python_code(result, folder),
        "versions": get_versions(), "recipes": result.recipes, "files": output.files(),
    }  # fmt: skip
    variables |= {"result": result, "figures": output.figures, "tables": output.tables}
    return write_page(path, "report.html", summary, variables)


def write_page(folder: Path, template: str, summary: dict[str, Any], variables: dict[str, Any]) -> Path:
    """Write ``report.json``, and the page ``index.html``, whose path is returned."""
    html = make_environment().get_template(template).render(variables, summary=summary)
    (folder / "report.json").write_text(json.dumps(to_json(summary), indent=2) + "\n", "utf-8")
    page = folder / "index.html"
    page.write_text(html, "utf-8", errors="backslashreplace")  # file names may not be Unicode
    return page


def is_report(page: str | os.PathLike[str], generator: str = "tlfeatures") -> bool:
    """Whether a file is the page of a report, or of another ``generator``; False if it does not exist."""
    try:
        with open(page, encoding="utf-8", errors="replace") as file:
            return f'<meta name="generator" content="{generator}">' in file.read(2000)
    except FileNotFoundError:
        return False


def make_environment() -> Environment:
    """Make the environment of the templates."""
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=PackageLoader("tlfeatures.report"), **options)
    environment.filters |= {"cell": _format_cell, "describe": describe, "thousands": "{:,}".format}
    environment.filters["json"] = lambda value: json.dumps(to_json(value), indent=2)
    environment.globals |= {"candidates_table": candidates_table, "zip": zip}
    return environment


def _format_cell(value: Any, template: str | None = None) -> str:
    """Format a value of a table; missing values are empty."""
    if value is None or value != value:
        return ""
    if template is None:
        template = "{:.4f}" if isinstance(value, float) else "{:,}" if type(value) is int else "{}"
    return template.format(value)


def _summarize(result: SearchResult, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the numbers of the report, for ``report.json`` and the template."""
    regime, duplicates, nested = result.regime, result.duplicates, result.nested_scores
    errors = result.image_problems[result.image_problems["problem"] == "error"]
    best = result.candidates.iloc[result.best]
    summary = {
        "best": {
            **result.best_params, "scoring": result.scoring, "score": result.score.mean,
            "ci_low": result.score.low, "ci_high": result.score.high,
            "uncorrected_score": result.uncorrected_score and result.uncorrected_score.mean,
            "se": best["se"], "width": best["width"], "macs": best["macs"],
        },
        "task": result.task,
        "images": len(result.rows),
        "classes": None if result.classes is None else len(result.classes),
        "unreadable": dict(zip(errors["row"], errors["reason"], strict=True)),
        "folds": result.n_splits,
        "candidates": len(result.candidates),
        "halving": None if result.halving is None else result.halving.to_dict("records"),
        "metrics": result.metrics,
        "regime": {name: getattr(regime, name) for name in ("domain", "data", "recommendation", "evidence")},
        "duplicates": {
            "pairs": len(duplicates.pairs), "exact": int(duplicates.exact.sum()),
            "in_different_folds": duplicates.crossing, "threshold": duplicates.threshold,
        },
        "prescreen_correlation": result.prescreen_correlation,
        "timings": tables["timings"].to_dict("records"),
    }  # fmt: skip
    if nested is not None:
        error = np.std(nested, ddof=1) / np.sqrt(len(nested))
        summary["nested"] = {"scores": nested, "mean": np.mean(nested), "se": error}
    if "per_class" in tables:
        summary["per_class"] = tables["per_class"].to_dict("records")
    if result.prediction_sets is not None:
        summary["prediction_sets"] = result.prediction_sets.summary()
    if result.prediction_intervals is not None:
        summary["prediction_intervals"] = result.prediction_intervals.summary()
    if "calibration" in tables:
        args = (result.predictions["true"].to_numpy(), result.probabilities, result.classes)
        summary["calibration"] = calibration_errors(tables["calibration"], *args)
    return summary


def remove_earlier_report(folder: Path) -> None:
    """Remove figures and tables of an earlier report, whose names may differ."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for name in json.loads((folder / "report.json").read_text("utf-8"))["files"]:
            if re.fullmatch(r"(figures|tables)/[\w.-]+\.(png|csv)", name):
                (folder / name).unlink(missing_ok=True)
