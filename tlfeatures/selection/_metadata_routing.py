"""Metadata of the images, such as sample weights, for the heads and the scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import config_context, get_config
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import has_fit_parameter

from tlfeatures._warnings import warn
from tlfeatures.selection._head_grids import Head, list_user_estimators

__all__ = ["Metadata", "check_sample_weight", "fit_estimator", "make_router", "routing_enabled"]


def routing_enabled() -> bool:
    """Return whether scikit-learn's metadata routing is enabled."""
    return bool(get_config().get("enable_metadata_routing", False))


@dataclass(frozen=True)
class Metadata:
    """Arguments with one value per image, for `fit` of each head and for the scorer.

    Attributes
    ----------
    heads : dict of str to dict
        Arguments of ``fit``, by the name of the head.
    scorer : dict
        Arguments of the scorer.
    """

    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scorer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def route(
        cls, search: Any, heads: Sequence[Head], n: int, sample_weight: np.ndarray | None, params: dict
    ) -> Metadata:
        """Select the metadata for each head and for the scorer.

        Named heads get ``sample_weight`` if their ``fit`` accepts it. With scikit-learn's metadata routing,
        estimators passed by the user and a scorer object get what they request; without it, such estimators are
        treated like named heads.

        Raises
        ------
        ValueError
            If ``params`` are passed without metadata routing, or do not have one value per image.
        """
        enabled = routing_enabled()
        if params and not enabled:
            raise ValueError(
                f"fit got the metadata {', '.join(sorted(params))}, which is passed on to your own "
                "estimators and scorers only with scikit-learn's metadata routing. "
                "Call sklearn.set_config(enable_metadata_routing=True)."
            )
        passed = {name: value for name, value in params.items() if value is not None}
        for name, value in passed.items():
            if np.ndim(value) == 0 or len(value) != n:
                raise ValueError(
                    f"`{name}` must have one value for each of the {n} images; got the shape {np.shape(value)}."
                )
        passed = {name: np.asarray(value) for name, value in passed.items()}
        if sample_weight is not None:
            passed["sample_weight"] = sample_weight
        if not passed:
            return cls()
        routed = process_routing(search, "fit", **passed) if enabled else {}
        for_heads, unweighted = {}, []
        for head in heads:
            if enabled and head.user_estimator is not None:
                for_heads[head.name] = dict(routed[f"head_{head.name}"].fit)
            elif sample_weight is not None:
                name = _find_weight_argument(head)
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
        """Select some rows of all arguments."""
        heads = {name: _take(params, rows) for name, params in self.heads.items()}
        return Metadata(heads, _take(self.scorer, rows))

    def for_head(self, head: Head, rows: np.ndarray) -> dict[str, Any]:
        """Select the arguments of a head's `fit` for some rows."""
        return _take(self.heads.get(head.name, {}), rows)

    def for_scorer(self, rows: np.ndarray) -> dict[str, Any]:
        """Select the arguments of the scorer for some rows."""
        return _take(self.scorer, rows)


def make_router(search: Any) -> MetadataRouter:
    """Make the router of a search, of the estimators in its ``heads`` and of its scorer."""
    router = MetadataRouter(owner=search).add_self_request(search)
    for name, estimator in list_user_estimators(search.heads).items():
        mapping = MethodMapping().add(caller="fit", callee="fit")
        router.add(method_mapping=mapping, **{f"head_{name}": estimator})
    if callable(search.scoring):
        mapping = MethodMapping().add(caller="fit", callee="score").add(caller="score", callee="score")
        router.add(scorer=search.scoring, method_mapping=mapping)
    return router


def _take(params: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {name: values[rows] for name, values in params.items()}


def _find_weight_argument(head: Head) -> str | None:
    """Return the name of the `fit` argument for sample weights; None if there is none."""
    estimator = head.estimator(0)
    if isinstance(estimator, Pipeline):
        step, final = estimator.steps[-1]
        return f"{step}__sample_weight" if has_fit_parameter(final, "sample_weight") else None
    final = getattr(estimator, "regressor", estimator)  # the head may be a TransformedTargetRegressor
    return "sample_weight" if has_fit_parameter(final, "sample_weight") else None


def fit_estimator(head: Head, estimator: Any, X: np.ndarray, y: np.ndarray, params: dict[str, Any]) -> Any:
    """Fit a head's estimator with its metadata; for named heads no metadata requests are needed."""
    if head.user_estimator is not None:
        return estimator.fit(X, y, **params)
    if head.name == "linear":  # scikit-learn converts the targets to the dtype of X
        X = X.astype(np.float64)
    with config_context(enable_metadata_routing=False):
        return estimator.fit(X, y, **params)


def check_sample_weight(sample_weight: Any, n: int) -> np.ndarray | None:
    """Check sample weights and convert them to float64, shape (n,).

    Raises
    ------
    ValueError
        If there is not one finite, non-negative weight per image, or all weights are 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "`sample_weight` must be numeric; got values that are not numbers. Pass one weight per image."
        ) from None
    if weights.shape != (n,):
        raise ValueError(
            f"`sample_weight` must have the shape ({n},), one weight per image; got {weights.shape}. "
            "Pass the weights of exactly these images."
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "`sample_weight` must be finite and non-negative, with at least one positive weight; got "
            f"weights from {weights.min():g} to {weights.max():g}. Replace missing and negative weights, for "
            "example by 0."
        )
    return weights
