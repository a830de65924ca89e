"""The head of a fitted estimator as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if

from tlfeatures._keras import keras

__all__ = ["FittedHead"]

_WITHOUT_EFFECT = ("InputLayer", "Dropout")  # on predictions


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

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the outputs, float64 of shape (n_outputs, d); only heads without hidden layers have them.

        Outputs are the logits of the classes, or the standardized value.
        """
        return self._weights()[0].T

    @property
    def intercept_(self) -> np.ndarray:
        """Constants of the outputs, float64 of shape (n_outputs,); only heads without hidden layers have them."""
        return self._weights()[1]

    def _weights(self) -> list[np.ndarray]:
        *others, output = self.estimator._live().head.layers
        if any(type(layer).__name__ not in _WITHOUT_EFFECT for layer in others):
            raise AttributeError("The head has hidden layers, so it has no coefficients.")
        return [weights.astype(np.float64) for weights in output.get_weights()]

    def _outputs(self, X: Any) -> np.ndarray:
        if hasattr(self, "coef_"):
            outputs = np.asarray(X, np.float64) @ self.coef_.T + self.intercept_
        else:
            head = self.estimator._live().head
            outputs = keras().ops.convert_to_numpy(head(np.asarray(X, np.float32), training=False))
        return outputs[None].astype(np.float64)

    @available_if(lambda self: hasattr(self.estimator, "classes_"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, shape (n, n_classes)."""
        return self.estimator._probabilities(self._outputs(X))

    @available_if(lambda self: hasattr(self.estimator, "classes_") and hasattr(self, "coef_"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits minus their mean, shape (n, n_classes); for two classes, their difference, shape (n,)."""
        logits = self._outputs(X)[0]
        if logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        return logits - logits.mean(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions, shape (n,)."""
        return self.estimator._decide(self._outputs(X))
