"""Fits and out-of-fold responses of one estimator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import has_fit_parameter

from tlfeatures.evaluation._folds import Fold

__all__ = ["EstimatorRun", "Responses"]

_METHODS = ("predict", "predict_proba", "decision_function")


class Responses:
    """Proxy of a fitted estimator that computes each response (such as ``predict``) to one set of rows only once.

    It is passed to scorers in place of the estimator. If ``pooled`` is True, the responses are those of all folds, and
    the ``X`` of its methods is an array of indices into them.
    """

    def __init__(self, estimator: Any, responses: dict[str, np.ndarray], pooled: bool = False) -> None:
        self._estimator, self._responses, self._pooled = estimator, responses, pooled

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            return getattr(self._estimator, name)
        if self._pooled and name not in self._responses:
            raise AttributeError(f"There are no pooled responses of {name}.")
        method = getattr(self._estimator, name)

        def respond(X: Any) -> np.ndarray:
            if self._pooled:
                return self._responses[name][X]
            if name not in self._responses:
                self._responses[name] = np.asarray(method(X))
            return self._responses[name]

        respond.__name__ = name  # scikit-learn looks up the method by its name
        return respond


@dataclass(frozen=True)
class EstimatorRun:
    """Scores and responses of one estimator on all folds."""

    scores: np.ndarray
    pooled: Responses
    predictions: np.ndarray
    attributes: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        estimator: Any,
        X: Any,
        y: np.ndarray,
        groups: np.ndarray | None,
        folds: Sequence[Fold],
        scorer: Any,
        from_responses: bool,
        attributes: Sequence[str],
    ) -> EstimatorRun:
        """Fit and score the estimator on each fold."""
        scores, parts, fitted_attributes = [], [], []
        for train, test in folds:
            fit_kwargs = (
                {"groups": groups[train]}
                if groups is not None and has_fit_parameter(estimator, "groups")
                else {}
            )
            fitted = clone(estimator).fit(_safe_indexing(X, train), y[train], **fit_kwargs)
            X_test, responses = _safe_indexing(X, test), {}
            recorded = Responses(fitted, responses)
            recorded.predict(X_test)
            scores.append(float(scorer(recorded if from_responses else fitted, X_test, y[test])))
            parts.append(responses)
            fitted_attributes.append(
                {name: getattr(fitted, name) for name in attributes if hasattr(fitted, name)}
            )
        pooled = {
            name: np.concatenate([part[name] for part in parts])
            for name in _METHODS
            if all(name in part for part in parts) and len({part[name].shape[1:] for part in parts}) == 1
        }
        return cls(
            np.array(scores), Responses(fitted, pooled, pooled=True), pooled["predict"], fitted_attributes
        )
