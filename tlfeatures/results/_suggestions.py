"""Result of `suggest`: the images to label next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas

from tlfeatures._text import count

__all__ = ["Suggestions"]

_SHOWN = 200  # images of a report
_SHOWN_GROUPS, _SHOWN_DUPLICATES = 15, 6


@dataclass(frozen=True)
class Suggestions:
    """Images to label next.

    :func:`tlfeatures.suggest` returns it.

    Attributes
    ----------
    rows : ndarray of int, shape (k,)
        Rows of X, the most uncertain first.
    predictions : ndarray of shape (k,) or None
        Predicted classes; None if the labels have fewer than two classes.
    alternatives : ndarray of shape (k,) or None
        The second most likely classes.
    margins : ndarray of float, shape (k,) or None
        Difference between the decision values, or logarithms of probabilities, of the two most likely classes; small if
        the prediction is uncertain.
    accuracy : float or None
        Accuracy on the labelled images, from cross-validation.
    classes : DataFrame
        One row for each class: ``class`` and the number of labelled ``images``.
    duplicates : DataFrame
        Groups of duplicates with unlabelled images that are skipped: ``group`` (number of the group), ``row``,
        ``image``, ``label`` (None without a label) and ``skipped``. A group has one image that is not skipped, or
        labelled images.
    names : sequence
        Path or position of each image of X.
    errors : mapping of int to str
        Reasons of the rows of unreadable images, which are never suggested.
    thumbnails : mapping of int to bytes
        JPEG previews of the rows that the report shows.
    """

    rows: np.ndarray
    predictions: np.ndarray | None
    alternatives: np.ndarray | None
    margins: np.ndarray | None
    accuracy: float | None
    classes: pandas.DataFrame
    duplicates: pandas.DataFrame
    names: Sequence[Any] = field(repr=False)
    errors: Mapping[int, str] = field(default_factory=dict)
    thumbnails: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    @property
    def n_duplicates(self) -> int:
        """Number of unlabelled images that are skipped as duplicates of labelled or of other unlabelled images."""
        return int(self.duplicates["skipped"].sum())

    def to_frame(self) -> pandas.DataFrame:
        """Make a table with one row for each suggested image.

        Returns
        -------
        DataFrame
            Columns "path", the path or position of the image, and "prediction", "alternative" and "margin" if
            available.
        """
        # pandas cannot convert names that are not UTF-8 to its own type of text
        paths = pandas.Series([self.names[row] for row in self.rows], dtype=object)
        columns: dict[str, Any] = {"path": paths}
        if self.predictions is not None:
            columns |= {
                "prediction": self.predictions, "alternative": self.alternatives, "margin": self.margins
            }  # fmt: skip
        return pandas.DataFrame(columns)

    def select_shown(self) -> dict[str, pandas.DataFrame]:
        """Select the rows of each table whose images a report shows.

        Returns
        -------
        dict of str to DataFrame
            The first rows of ``suggestions``, and the first images of the first groups of ``duplicates``.
        """
        suggestions = self.to_frame().rename(columns={"path": "image"}).assign(row=self.rows)
        groups = self.duplicates[self.duplicates["group"] < _SHOWN_GROUPS]
        return {
            "suggestions": suggestions.head(_SHOWN),
            "duplicates": groups.groupby("group", sort=False).head(_SHOWN_DUPLICATES),
        }

    def summary(self) -> dict[str, Any]:
        """Return the numbers of images, classes and duplicates, and the accuracy.

        Returns
        -------
        dict
        """
        return {
            "images": len(self.names),
            "labelled": int(self.classes["images"].sum()),
            "classes": len(self.classes),
            "accuracy": self.accuracy,
            "duplicates": self.n_duplicates,
            "unreadable": len(self.errors),
            "suggested": len(self.rows),
        }

    def describe(self) -> str:
        """Describe the labels, the accuracy of the classifier trained on them, and the duplicates in one line.

        Returns
        -------
        str
        """
        labelled = count(int(self.classes["images"].sum()), "labelled image")
        accuracy = "" if self.accuracy is None else f", cross-validated accuracy {self.accuracy:.3f}"
        return (
            f"{labelled} of {count(len(self.classes), 'class', 'classes')}{accuracy}; "
            f"{count(self.n_duplicates, 'duplicate')} skipped."
        )
