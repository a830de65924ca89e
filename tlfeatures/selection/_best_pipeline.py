"""The best pipeline of a search, fitted on all images."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from tlfeatures.errors import RandomWeightsWarning
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Images
from tlfeatures.selection._constraints import NETWORK_PARAMETERS
from tlfeatures.selection._cv_results import Candidate
from tlfeatures.selection._metadata_routing import fit_estimator
from tlfeatures.selection._training_data import TrainingData

__all__ = ["fit_best_pipeline"]


def fit_best_pipeline(
    search: Any, candidate: Candidate, images: Images, features: np.ndarray, data: TrainingData
) -> Pipeline:
    """Fit a candidate on embeddings that are already computed; the network does not run again.

    Parameters
    ----------
    search : FeatureSearchCV
        Source of the parameters; it is not changed.
    candidate : Candidate
    images : Images
    features : ndarray of shape (n, d)
        Embeddings of ``images``.
    data : TrainingData
    """
    embedding, head, point = candidate
    cnn = CNNFeatures(**embedding.params, **{name: getattr(search, name) for name in NETWORK_PARAMETERS})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)  # already issued when the passes were planned
        cnn.fit(images)
    *scale, (name, estimator) = head.steps(point)
    for _, scaler in scale:
        features = scaler.fit_transform(features)
    params = data.metadata.for_head(head, np.arange(len(data.y)))
    fit_estimator(head, estimator, features, data.y, params)
    return Pipeline([("cnn", cnn), *scale, (name, estimator)])
