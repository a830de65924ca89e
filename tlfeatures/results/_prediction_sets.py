"""How sure the predictions of a search are: properties of its prediction sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas

__all__ = ["PredictionSets"]


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
