"""What every part of a report shares: the search, the files, and the facts for report.json."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlfeatures.report import figures
from tlfeatures.report.page import Picture

__all__ = ["Book"]


class Book:
    """One report in the making.

    Parameters
    ----------
    search : FeatureSearchCV
        Fitted; read, not written.
    folder : Path

    Attributes
    ----------
    table : DataFrame
        All candidates.
    winner : Series
        Its row in ``table``, which is row ``best``.
    classes : ndarray or None
        None for numbers.
    scoring : str
        The score's name, for people.
    facts : dict
        For report.json.
    """

    def __init__(self, search: Any, folder: Path) -> None:
        self.search, self.folder = search, folder
        self.table: pd.DataFrame = search.table()
        self.oof: pd.DataFrame = search.oof_
        self.best = int(np.flatnonzero(self.table["candidate"].to_numpy() == search.best_index_)[0])
        self.winner = self.table.iloc[self.best]
        self.classes = np.asarray(search.classes_) if search.task_ == "classification" else None
        scoring = search.scoring
        default = "R2" if self.classes is None else "accuracy"
        self.scoring = default if scoring is None else scoring if isinstance(scoring, str) else "score"
        self.facts: dict[str, Any] = {}

    @property
    def many_classes(self) -> bool:
        """Whether there are too many classes to name them all in a plot."""
        return self.classes is not None and len(self.classes) > figures.NAMED

    @property
    def from_files(self) -> bool:
        """Whether the images are files."""
        return not any(re.fullmatch(r"X\[\d+\]", str(name)) for name in self.oof["image"])

    def save(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Write a table, and give it back."""
        path = self.folder / "tables" / f"{name}.csv"
        frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8", errors="surrogateescape")
        return frame

    def draw(self, name: str, alt: str, caption: str, plot: Callable[..., Any], *args: Any) -> Picture:
        """Draw a plot, write it, and give what the page needs."""
        figure = plot(*args)
        data = figures.png(figure)
        (self.folder / "figures" / f"{name}.png").write_bytes(data)
        return Picture(name, data, float(figure.get_figwidth()), alt, caption)

    def thumbnail(self, row: int) -> bytes | None:
        """A small JPEG of an image; None where it is not there any more."""
        from PIL import Image

        try:
            pixels = self.search.thumbnail(int(np.searchsorted(self.search.rows_, row)))
        except (OSError, ValueError):  # moved since, or of a search that was pickled without its arrays
            return None
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "JPEG", quality=85)
        return held.getvalue()

    def files(self) -> list[str]:
        """Names of the plots and tables that stand in the folder."""
        return sorted(
            f"{part}/{name}" for part in ("figures", "tables") for name in os.listdir(self.folder / part)
        )
