"""The explained value: a value of a fitted head as a function of the pooled embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.base import is_clusterer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, NuSVC

from tlfeatures.calibration import CalibratedHead
from tlfeatures.errors import InvalidParameterError
from tlfeatures.skip_unreadable import SkipUnreadable
from tlfeatures.trust._conformal_classifier import ConformalClassifier
from tlfeatures.trust._conformal_regressor import ConformalRegressor

__all__ = ["HeadValues"]

_MIN_PROBABILITY = 1e-12
_SCALE = 0.1  # distance at which the weight of a training row is 1/e, as a share of the mean distance


class HeadValues:
    """Values of a fitted head that increase with the evidence for a class, one column per class.

    Parameters
    ----------
    head : estimator
        The steps of a fitted pipeline after `CNNFeatures`.

    Attributes
    ----------
    name : str
        What the values are.
    classes : ndarray or None
        None for regression and outlier detection.
    head_name : str
        Name of the class of the last estimator.
    has_coefficients : bool
        Whether the last estimator has ``coef_``, as linear ones have.

    Raises
    ------
    InvalidParameterError
        If the head has no such values. The error is also a ``TypeError`` and a ``ValueError``.
    """

    def __init__(self, head: Any) -> None:
        self._transformers: list[Any] = []
        self._last = self._unwrap(head)
        self.head_name = type(self._last).__name__
        self._column_names = getattr(head, "feature_names_in_", None)
        self.classes = getattr(self._last, "classes_", None)
        if isinstance(self.classes, list) or getattr(self._last, "multilabel_", False):
            raise InvalidParameterError(
                f"The head {self.head_name} predicts several labels for each image; expected one label.",
                "pipeline",
            )
        self.name, self._function = self._choose()
        members = getattr(self._last, "estimators_", None)  # one-vs-rest classifiers and ensembles have these
        members = [self._last] if members is None else list(members)
        self.has_coefficients = all(hasattr(member, "coef_") for member in members)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the values of embeddings (n, d), float64 of shape (n, k); k = 1 without classes.

        Raises
        ------
        InvalidParameterError
            If the number of values of the head is not that of its classes.
        """
        values = np.asarray(self._function(self.transform(embeddings)), float)
        if self.classes is None:
            values = values[:, None] if values.ndim == 1 else values
        elif values.ndim == 1:  # two classes: positive values predict the second
            values = np.stack([-values, values], axis=1)
        expected = 1 if self.classes is None else len(self.classes)
        if values.shape[1] != expected:
            raise InvalidParameterError(
                f"The head {self.head_name} has {values.shape[1]} values for each image; expected "
                f"{expected}: one number, or one for each class.",
                "pipeline",
            )
        return values

    def transform(self, embeddings: np.ndarray) -> Any:
        """Apply the steps before the last estimator, such as standardization."""
        X: Any = embeddings
        if self._column_names is not None:  # fitted with set_output(transform="pandas")
            import pandas

            X = pandas.DataFrame(embeddings, columns=self._column_names)
        for transformer in self._transformers:
            X = transformer.transform(X)
        return X

    def find_baseline(self, width: int) -> np.ndarray | None:
        """Return the start of the line on which gradients are averaged.

        It is the mean training embedding, or zeros if the head does not center its input. None means that the gradient
        at the end of the line is sufficient, because distances to neighbors change at a nearly constant rate.
        """
        if isinstance(self._last, KNeighborsClassifier):
            return None
        mean = getattr(self._transformers[0], "mean_", None) if self._transformers else None
        return np.zeros(width) if np.shape(mean) != (width,) else np.asarray(mean, float)

    def _unwrap(self, head: Any) -> Any:
        """Return the last estimator, and collect the transformers before it."""
        if isinstance(head, Pipeline):
            self._transformers += [step for _, step in head.steps[:-1] if step not in (None, "passthrough")]
            return self._unwrap(head.steps[-1][1])
        if isinstance(head, (CalibratedHead, ConformalClassifier, ConformalRegressor, SkipUnreadable)):
            return self._unwrap(head.estimator_)
        return self._unwrap(head.best_estimator_) if hasattr(head, "best_estimator_") else head

    def _choose(self) -> tuple[str, Callable[[Any], np.ndarray]]:
        """Return what the values of the last estimator are, and the function that computes them."""
        last, classes = self._last, self.classes
        if isinstance(last, (SVC, NuSVC)) and len(classes) > 2:
            pairwise = copy.copy(last).set_params(decision_function_shape="ovo", break_ties=False)
            return "mean of the pairwise decision values", lambda X: _average_pairs(
                pairwise.decision_function(X), len(classes)
            )
        if hasattr(last, "decision_function"):
            return "decision value", last.decision_function
        if isinstance(last, KNeighborsClassifier):
            smooth = copy.copy(last).set_params(n_neighbors=last.n_samples_fit_, weights=_decrease)
            return "log odds of the class, all training images weighted by distance", (
                lambda X: _log_odds(smooth.predict_proba(X))
            )
        if hasattr(last, "predict_proba"):
            return "log odds of the class", lambda X: _log_odds(last.predict_proba(X))
        if classes is None and hasattr(last, "predict") and not is_clusterer(last):
            return "prediction", last.predict
        raise InvalidParameterError(
            f"The head {self.head_name} has no values to explain; expected a classifier with decision_function or "
            "predict_proba, or a regressor.",
            "pipeline",
        )


def _average_pairs(pairs: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the mean decision value of each class against the others; positive values favor the first of a pair."""
    values = np.zeros((len(pairs), n_classes))
    for column, (i, j) in zip(pairs.T, combinations(range(n_classes), 2), strict=True):
        values[:, i] += column
        values[:, j] -= column
    return values / (n_classes - 1)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)); 1 - p is computed from the other probabilities, which is accurate for p near 1."""
    others = probabilities @ (1 - np.eye(probabilities.shape[1]))
    return np.log(np.maximum(probabilities, _MIN_PROBABILITY) / np.maximum(others, _MIN_PROBABILITY))


def _decrease(distances: np.ndarray) -> np.ndarray:
    """Return a weight for each training row, by distance (n, n_rows).

    The probabilities are then a continuous function of X, unlike those of the nearest neighbors.
    """
    scale = _SCALE * distances.mean(axis=1, keepdims=True)
    return np.exp((distances.min(axis=1, keepdims=True) - distances) / np.maximum(scale, 1e-300))
