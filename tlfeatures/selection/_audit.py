"""Audit of the images of a fitted search, from its out-of-fold predictions and its stored embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas

from tlfeatures._objects import redact
from tlfeatures.calibration import calibrate_logits
from tlfeatures.results import AuditResult
from tlfeatures.trust import audit_search_rows

__all__ = ["audit_search"]

_ROWS = 20_000  # the cost is quadratic


def audit_search(search: Any, features: np.ndarray) -> AuditResult | None:
    """Find label errors, outliers and groups that predict the label, without fitting a classifier.

    Parameters
    ----------
    search : FeatureSearchCV
        A fitted search; it is not changed.
    features : ndarray of shape (n, d)
        Embeddings of the best candidate.

    Returns
    -------
    AuditResult or None
        None for regression, for more than 20,000 images, and if the head has neither probabilities nor decision values.
    """
    values = search.oof_decision_ if search.oof_proba_ is None else search.oof_proba_
    n = len(search.rows_)
    if search.task_ != "classification" or values is None or n > _ROWS:
        return None
    tested = np.searchsorted(search.rows_, search.oof_["row"])
    codes = np.searchsorted(search.classes_, search.oof_["true"])
    if values.ndim == 1:
        values = np.stack([-values, values], axis=1)
    complete = ~np.isnan(values).any(axis=1)
    if values.shape[1] != len(search.classes_) or not complete.any():
        return None
    if search.oof_proba_ is None:
        values = np.where(complete[:, None], values, 0)
        values[complete] = calibrate_logits(values[complete], codes[complete])
    probabilities = np.full((n, len(search.classes_)), np.nan)
    probabilities[tested[complete]] = values[complete]
    labels = np.full(n, None, dtype=object)
    labels[tested[complete]] = search.classes_[codes[complete]]
    paths = search.fitted_images_.paths
    names = [
        redact(path) if path else f"X[{row}]" for path, row in zip(paths, search.rows_.tolist(), strict=True)
    ]
    columns = {"row": search.rows_, "image": pandas.Series(names, dtype=object), "label": labels}
    about = pandas.DataFrame(columns)
    if search._groups is not None:
        about["group"] = search._groups
    return audit_search_rows(features, search.fitted_images_.keys, about, probabilities, search.classes_)
