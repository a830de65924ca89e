"""Input of meta-estimators: embeddings, or images if their estimator is a pipeline that begins with CNNFeatures."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures.evaluation import check_groups, find_duplicates
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.images import Images

__all__ = ["DUPLICATE_THRESHOLD", "EmbeddedMixin", "check_rows", "split_head"]

DUPLICATE_THRESHOLD = 0.95  # the default of FeatureSearchCV


def split_head(estimator: Any) -> tuple[CNNFeatures | None, Any]:
    """Split a pipeline that begins with CNNFeatures into that step and the rest.

    Parameters
    ----------
    estimator : estimator
        A pipeline, or an estimator that is fitted on embeddings.

    Returns
    -------
    cnn : CNNFeatures or None
    head : estimator
        The only other step, or a pipeline of the others. Neither return value is a clone.
    """
    steps = estimator.steps if isinstance(estimator, Pipeline) else []
    if len(steps) < 2 or not isinstance(steps[0][1], CNNFeatures):
        return None, estimator
    return steps[0][1], steps[1][1] if len(steps) == 2 else estimator[1:]


def check_rows(X: Any, name: str = "X") -> None:
    """Raise an error if rows of a numeric array contain NaN or infinity.

    Parameters
    ----------
    X : array-like
        Other input is not checked.
    name : str, default="X"

    Raises
    ------
    ValueError
        If a row contains NaN or infinity.
    """
    values = X.to_numpy() if hasattr(X, "to_numpy") else X
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim != 2:
        return
    rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(rows):
        raise ValueError(
            f"{len(rows):,} of {len(values):,} rows of `{name}` contain NaN or infinity (inf). The first is row "
            f"{rows[0]}. CNNFeatures(on_error='nan') returns such rows for unreadable images. Drop these rows."
        )


class EmbeddedMixin:
    """Input of a meta-estimator: embeddings, or images if ``estimator`` is a pipeline that begins with CNNFeatures.

    The first step of such a pipeline transforms the images once; only the other steps are fitted several times.
    """

    estimator: Any

    def _fit_input(self, X: Any, y: Any, groups: Any) -> tuple[Any, np.ndarray, Any, np.ndarray | None]:
        """Return the head to fit, its input, the labels, and the groups, merged with groups of duplicate images."""
        cnn, head = split_head(self.estimator)
        if cnn is None:
            vars(self).pop("cnn_", None)  # set by an earlier fit on images
            check_rows(X)
            X, y = validate_data(self, X, y, ensure_min_samples=2)
            if (X[0] == X).all():
                raise ValueError(
                    f"All {len(X)} rows of `X` are equal, so nothing can be learned from them; expected embeddings of "
                    "different images. Check the images."
                )
            return head, X, y, check_groups(groups, len(X))
        images = Images.of(X)
        self.cnn_ = clone(cnn).fit(images)
        extracted = embed(self.cnn_, images)
        check_rows(extracted.features)
        codes = check_groups(groups, len(extracted.features))
        duplicates = find_duplicates(extracted.keys, extracted.features, DUPLICATE_THRESHOLD, codes)
        self.training_digests_ = np.unique(extracted.keys, axis=0)
        self.n_features_in_ = extracted.features.shape[1]
        return head, extracted.features, y, duplicates.groups

    def _embed(self, X: Any) -> np.ndarray:
        """Return the embeddings of images, or check the embeddings."""
        check_is_fitted(self)
        if hasattr(self, "cnn_"):
            X = self.cnn_.transform(X)
            check_rows(X)
            return X
        check_rows(X)
        return validate_data(self, X, reset=False)
