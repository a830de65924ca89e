"""Uncertainty of the predictions of a search: properties of its prediction sets or intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas

__all__ = ["PredictionIntervals", "PredictionSets"]


@dataclass(frozen=True)
class PredictionSets:
    """Properties of the prediction sets that the out-of-fold predictions of a classifier give.

    The set of an image contains the predicted class and all classes that cannot be excluded at an error rate. Each
    image is ranked among the other images; images of its own group and its duplicates are left out.

    Attributes
    ----------
    images : int
        Number of images with out-of-fold values of all classes.
    error_rates : pandas.DataFrame
        One row for each error rate: ``error_rate``; ``coverage``, the share of images whose set contains the true
        class; ``mean_size``, the mean number of classes in a set; ``one_class``, the share of sets with one class.
    classes : pandas.DataFrame
        One row for each class with 10 images or more, at the error rate 0.1: ``class``, ``images``, ``coverage`` and
        ``mean_size``.
    note : str
        Reason why a table is empty or incomplete; otherwise empty.
    """

    images: int
    error_rates: pandas.DataFrame
    classes: pandas.DataFrame
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """Return all attributes as numbers, text and lists of dicts.

        Returns
        -------
        dict
        """
        tables = {name: getattr(self, name).to_dict("records") for name in ("error_rates", "classes")}
        return {"images": self.images, **tables, "note": self.note}


@dataclass(frozen=True)
class PredictionIntervals:
    """Properties of the prediction intervals that the out-of-fold predictions of a regressor give.

    The interval of an image is its prediction plus or minus a quantile of the absolute errors of the other images;
    images of its own group and its duplicates are left out.

    Attributes
    ----------
    images : int
        Number of images with out-of-fold predictions.
    error_rates : pandas.DataFrame
        One row for each error rate: ``error_rate``; ``coverage``, the share of images whose interval contains the true
        value; ``width`` of the intervals; ``share_of_range``, the width divided by the range of the true values.
    thirds : pandas.DataFrame
        One row for each third of the images, sorted by prediction, at the error rate 0.1: ``lowest_prediction``,
        ``highest_prediction``, ``images``, ``coverage`` and ``mean_error``, the mean absolute error. Coverages that
        differ show that a constant width does not suit all values.
    note : str
        Reason why a table is empty; otherwise empty.
    """

    images: int
    error_rates: pandas.DataFrame
    thirds: pandas.DataFrame
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """Return all attributes as numbers, text and lists of dicts.

        Returns
        -------
        dict
        """
        tables = {name: getattr(self, name).to_dict("records") for name in ("error_rates", "thirds")}
        return {"images": self.images, **tables, "note": self.note}
