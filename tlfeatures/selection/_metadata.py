"""Metadata of the images, such as sample weights, on its way to the heads and to the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import config_context, get_config
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import has_fit_parameter

from tlfeatures._warnings import warn
from tlfeatures.selection._head_grids import Head

__all__ = ["Metadata", "check_sample_weight", "fit_estimator", "routing_enabled"]


def routing_enabled() -> bool:
    """Tell whether scikit-learn routes metadata by requests."""
    return bool(get_config().get("enable_metadata_routing", False))


@dataclass(frozen=True)
class Metadata:
    """Arguments of one value per image for `fit` of each head and for the scorer.

    Attributes
    ----------
    heads : dict of str to dict
        By the head's name.
    scorer : dict
    """

    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scorer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def route(
        cls, search: Any, heads: Sequence[Head], n: int, sample_weight: np.ndarray | None, params: dict
    ) -> Metadata:
        """Decide what each head and the scorer get.

        Named heads get ``sample_weight`` where they take it. With scikit-learn's metadata routing, own
        estimators and a scorer object get what they request; without it, own estimators are treated as named heads.

        Raises
        ------
        ValueError
            When ``params`` are passed without metadata routing, or with another number of values than images.
        """
        enabled = routing_enabled()
        if params and not enabled:
            raise ValueError(
                f"fit got the metadata {', '.join(sorted(params))}, which reaches own heads and scorers only by "
                "scikit-learn's metadata routing. Call sklearn.set_config(enable_metadata_routing=True)."
            )
        passed = {name: value for name, value in params.items() if value is not None}
        for name, value in passed.items():
            if np.ndim(value) == 0 or len(value) != n:
                raise ValueError(
                    f"Got {n} images but `{name}` is not of that length; give one value per image."
                )
        passed = {name: np.asarray(value) for name, value in passed.items()}
        if sample_weight is not None:
            passed["sample_weight"] = sample_weight
        if not passed:
            return cls()
        routed = process_routing(search, "fit", **passed) if enabled else {}
        for_heads, unweighted = {}, []
        for head in heads:
            if enabled and head.own_estimator is not None:
                for_heads[head.name] = dict(routed[f"head_{head.name}"].fit)
            elif sample_weight is not None:
                name = _weight_argument(head)
                if name is None:
                    unweighted.append(repr(head.name))
                else:
                    for_heads[head.name] = {name: sample_weight}
        if unweighted:
            warn(
                f"`sample_weight` has no effect on the head(s) {', '.join(unweighted)}, whose `fit` does not take it. "
                "Leave them out to compare weighted heads only."
            )
        return cls(for_heads, dict(routed["scorer"].score) if "scorer" in routed else {})

    def take(self, rows: np.ndarray) -> Metadata:
        """Select some rows of everything."""
        heads = {name: _take(params, rows) for name, params in self.heads.items()}
        return Metadata(heads, _take(self.scorer, rows))

    def for_head(self, head: Head, rows: np.ndarray) -> dict[str, Any]:
        """Select the arguments of a head's `fit` for some rows."""
        return _take(self.heads.get(head.name, {}), rows)

    def for_scorer(self, rows: np.ndarray) -> dict[str, Any]:
        """Select the arguments of the scorer for some rows."""
        return _take(self.scorer, rows)


def _take(params: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {name: values[rows] for name, values in params.items()}


def _weight_argument(head: Head) -> str | None:
    """Name of the `fit` argument that takes sample weights; None where there is none."""
    estimator = head.estimator(0)
    if isinstance(estimator, Pipeline):
        last, final = estimator.steps[-1]
        return f"{last}__sample_weight" if has_fit_parameter(final, "sample_weight") else None
    final = getattr(estimator, "regressor", estimator)  # of TransformedTargetRegressor
    return "sample_weight" if has_fit_parameter(final, "sample_weight") else None


def fit_estimator(head: Head, estimator: Any, X: np.ndarray, y: np.ndarray, params: dict[str, Any]) -> Any:
    """Fit a head's estimator with its metadata; named heads need no requests to be set."""
    if head.own_estimator is not None:
        return estimator.fit(X, y, **params)
    with config_context(enable_metadata_routing=False):
        return estimator.fit(X, y, **params)


def check_sample_weight(sample_weight: Any, n: int) -> np.ndarray | None:
    """Check sample weights; float64 of shape (n,).

    Raises
    ------
    ValueError
        When there is not one finite weight of at least 0 per image, or all are 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "`sample_weight` must be numeric; got other values. Give one weight per image."
        ) from None
    if weights.shape != (n,):
        raise ValueError(
            f"`sample_weight` must have the shape ({n},), one weight per image; got {weights.shape}. "
            "Pass the weights of exactly these images."
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "`sample_weight` must be finite and at least 0, and not 0 for all images; got others. "
            "Replace missing and negative weights, for example by 0."
        )
    return weights
