"""From a fitted search to a folder: `write_report`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlfeatures.errors import RandomWeightsWarning
from tlfeatures.report import behaviour, choice, figures, page, summaries
from tlfeatures.report.book import Book

__all__ = ["write_report"]


def write_report(
    search: Any,
    folder: str | os.PathLike[str],
    *,
    source: Sequence[str] | None = None,
    command: str | None = None,
) -> Path:
    """Write a page that shows what a search found, and beside it the same as PNG, CSV and JSON files.

    Parameters
    ----------
    search : FeatureSearchCV
        Fitted.
    folder : path
        Made where it is absent. The files of an earlier report are replaced.
    source : sequence of str, optional
        What the command line calls the images: the source and its options. Only where the images are no
        files is it needed for a command that finds the winner again.
    command : str, optional
        The command that made the search.

    Returns
    -------
    Path
        Of the page, ``index.html``. It needs no other file, no network and no script. It holds small
        pictures of the images that were predicted worst: where these are confidential, so is the page.

    Raises
    ------
    OSError
        When the folder cannot be written to.

    Notes
    -----
    ``report.json``, ``figures/*.png`` and ``tables/*.csv`` hold what the page shows, and more.
    ``tables/predictions.csv`` is also a manifest of the images and labels. The map of embeddings asks the
    store for those of the winner; without a store one pass of its network computes them.
    """
    folder = Path(folder)
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    _clear(folder)
    book = Book(search, folder)
    with figures.style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)  # the search has warned
        html = page.page(
            f"{book.winner['network']}: {book.scoring} {book.winner['score']:.4f}",
            [
                choice.head(book),
                choice.regime(book),
                choice.layers_and_heads(book),
                behaviour.outcome(book),
                behaviour.mistakes(book),
                behaviour.curves(book),
                behaviour.trust(book),
                choice.candidates(book),
                choice.cost(book),
                choice.again(book, source, command),
                choice.made_with(book),
            ],
        )
    (folder / "report.json").write_text(json.dumps(summaries.plain(book.facts), indent=2) + "\n", "utf-8")
    path = folder / "index.html"
    path.write_text(html, "utf-8")
    return path


def _clear(folder: Path) -> None:
    """Remove the plots and tables of an earlier report: it may have had networks that this one has not."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for name in json.loads((folder / "report.json").read_text("utf-8"))["files"]:
            if re.fullmatch(r"(figures|tables)/[\w.-]+\.(png|csv)", name):
                (folder / name).unlink(missing_ok=True)
