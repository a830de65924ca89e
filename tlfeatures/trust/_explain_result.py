"""The result of `explain`: maps, explained values and the nearest training images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from tlfeatures.images import Decoder, Images
from tlfeatures.report import write_maps_page
from tlfeatures.trust._explain_draw import draw_explanation, project, save_explanations

if TYPE_CHECKING:
    import pandas
    import PIL.Image

__all__ = ["Explanations"]

Method = Literal["exact", "gradient", "occlusion"]


@dataclass(frozen=True)
class Explanations:
    """Maps of the regions of images that support or oppose a prediction.

    For each image, the mean of the map plus the constant is the explained value.

    Attributes
    ----------
    method : {"exact", "gradient", "occlusion"}
        How the maps were computed.
    value : str
        What the explained values are, such as "decision value".
    classes : ndarray or None
        None for regression.
    rows : ndarray of int, shape (m,)
        Rows of the images that could be read.
    names : list of str
        Path or position of each of these images.
    predictions : ndarray of shape (m,)
    labels : ndarray of shape (m,) or None
        The class that each map explains; None for regression.
    values : ndarray of float64, shape (m,)
        The explained values. For a classifier, larger values mean more evidence for the class.
    constants : ndarray of float64, shape (m,)
        With "exact", the intercept; otherwise the part of the value that the map does not explain.
    maps : ndarray of float64, shape (m, h, w)
        Positive at positions that support the class, negative at those that oppose it. For regression, positive at
        positions that increase the prediction.
    neighbors : DataFrame or None
        The nearest training images of each class, if there are training images: "row" of the image, "label" of the
        training image, "rank" from 1, "training_row", "image" and "distance".
    errors : dict
        {row: reason} of the images that could not be read.
    """

    method: Method
    value: str
    classes: np.ndarray | None
    rows: np.ndarray
    names: list[str]
    predictions: np.ndarray
    labels: np.ndarray | None
    values: np.ndarray
    constants: np.ndarray
    maps: np.ndarray
    errors: dict[int, str]
    neighbors: pandas.DataFrame | None
    images: Images = field(repr=False)
    training_images: Images | None = field(repr=False)
    decoder: Decoder = field(repr=False)

    def describe(self, i: int) -> list[str]:
        """Return the class that map ``i`` explains, if there are classes, and its value, as texts.

        Parameters
        ----------
        i : int
            Position of the map.

        Returns
        -------
        list of str
            Texts for a caption.
        """
        value = f"{self.values[i]:+#.3g}"
        return [value] if self.labels is None else [str(self.labels[i]), value]

    def project(self, i: int) -> np.ndarray:
        """Interpolate map ``i`` over its image.

        Parameters
        ----------
        i : int
            Position in ``rows``.

        Returns
        -------
        ndarray of float32, shape (height, width)
            In pixels of the upright image; NaN where the image was cropped.

        Raises
        ------
        ImageReadError
            If the file was deleted in the meantime.
        """
        size = self.images.size(int(self.rows[i]))
        return project(self.maps[i], self.decoder.find_box(size), size)

    def draw(self, i: int) -> PIL.Image.Image:
        """Draw map ``i`` over its image, with a scale of its colors and the nearest training images.

        The colors show the map plus the constant, whose mean is the explained value.

        Parameters
        ----------
        i : int
            Position in ``rows``.

        Returns
        -------
        PIL.Image.Image
        """
        return draw_explanation(self, i)

    def save(self, folder: str | os.PathLike[str]) -> pandas.DataFrame:
        """Write all maps as PNG files, a page that shows them, and a table.

        The names of the files contain the class, cut at 40 characters, and its value.

        Parameters
        ----------
        folder : path
            It is created if it does not exist. Files with the same names are overwritten.

        Returns
        -------
        DataFrame
            As :meth:`to_frame`, with the path of each file in the column "file". It is written to ``maps.csv`` too;
            the page is ``index.html``.
        """
        import pandas

        files = dict(zip(self.rows.tolist(), save_explanations(self, folder), strict=True))
        frame = self.to_frame()
        frame["file"] = pandas.Series([files.get(row) for row in range(len(frame))], dtype=object)
        write_maps_page(frame, folder, value=self.value)
        return frame

    def to_frame(self) -> pandas.DataFrame:
        """Make a table with one row for each image, including the unreadable ones.

        Returns
        -------
        DataFrame
            Columns: "image"; "prediction"; "label", the class that the map explains (not for regression); "value";
            "constant"; "method"; and "error", the reason if the image could not be read, else None.
        """
        import pandas

        columns = {
            "prediction": self.predictions,
            "label": self.labels,
            "value": self.values,
            "constant": self.constants,
        }
        frame = pandas.DataFrame(
            {"image": [self.images.name(row) for row in range(len(self.images))]}, dtype=object
        )
        for name, values in columns.items():
            if values is not None:
                column = np.full(len(frame), None, object)
                column[self.rows] = values.tolist()
                frame[name] = pandas.Series(column, dtype=object)  # pandas would convert None to NaN
        frame["method"] = self.method
        frame["error"] = pandas.Series([self.errors.get(row) for row in range(len(frame))], dtype=object)
        return frame
