"""The head of a fitted estimator as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if

from tlfeatures._keras import keras

__all__ = ["FittedHead"]


class FittedHead(BaseEstimator):
    """The head of a fitted estimator, on embeddings of shape (n, d)."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        if hasattr(estimator, "classes_"):
            self.classes_ = estimator.classes_

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None) -> FittedHead:
        """Do nothing: the head is fitted. Pipelines need this method."""
        return self

    def _outputs(self, X: Any) -> np.ndarray:
        head = self.estimator._live().head
        outputs = keras().ops.convert_to_numpy(head(np.asarray(X, np.float32), training=False))
        return outputs[None].astype(np.float64)

    @available_if(lambda self: hasattr(self.estimator, "classes_"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, shape (n, n_classes)."""
        return self.estimator._probabilities(self._outputs(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions, shape (n,)."""
        return self.estimator._decide(self._outputs(X))
