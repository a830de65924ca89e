"""Prediction sets or intervals of a fitted search, from its out-of-fold predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from tlfeatures.calibration import to_logits
from tlfeatures.results import PredictionIntervals, PredictionSets
from tlfeatures.trust import measure_prediction_intervals, measure_prediction_sets

__all__ = ["measure_search_intervals", "measure_search_sets"]


def measure_search_sets(search: Any) -> PredictionSets | None:
    """Measure coverage and size of the prediction sets of the best candidate, without fitting a classifier.

    Parameters
    ----------
    search : FeatureSearchCV
        A fitted search; it is not changed.

    Returns
    -------
    PredictionSets or None
        None for regression. The tables are empty if the head has neither decision values nor probabilities, or if
        there are too few images; ``note`` is the reason.
    """
    if search.task_ != "classification":
        return None
    n, classes = len(search.oof_), search.classes_
    reason = "the head has neither decision values nor probabilities."
    if search.oof_decision_ is not None or search.oof_proba_ is not None:
        logits = to_logits(search.oof_decision_, search.oof_proba_)
        if logits.shape[1] == len(classes):
            codes, predicted = (np.searchsorted(classes, search.oof_[name]) for name in ("true", "predicted"))
            return measure_prediction_sets(logits, codes, predicted, classes, _list_groups(search))
        reason = f"the head has {logits.shape[1]} decision values for {len(classes)} classes; expected one per class."
    return PredictionSets(n, pandas.DataFrame(), pandas.DataFrame(), reason)


def measure_search_intervals(search: Any) -> PredictionIntervals | None:
    """Measure coverage and width of the prediction intervals of the best candidate, without fitting a regressor.

    Parameters
    ----------
    search : FeatureSearchCV
        A fitted search; it is not changed.

    Returns
    -------
    PredictionIntervals or None
        None for classification.
    """
    if search.task_ != "regression":
        return None
    y, predicted = (search.oof_[name].to_numpy(float) for name in ("true", "predicted"))
    return measure_prediction_intervals(y, predicted, _list_groups(search))


def _list_groups(search: Any) -> np.ndarray:
    """Return the group of duplicates of each row of ``search.oof_``."""
    return search.duplicates_.groups[np.searchsorted(search.rows_, search.oof_["row"])]
