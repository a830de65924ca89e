"""The scorer of a search."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline

from tlfeatures.evaluation import check_scorer_name
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._metadata_routing import fit_estimator

__all__ = ["compute_score", "make_scorer"]


def make_scorer(scoring: Any, heads: Sequence[Head], y: np.ndarray) -> Any:
    """Make the scorer of a search, and check that a score chosen by name can be computed for all heads.

    Parameters
    ----------
    scoring : str, callable or None
    heads : sequence of Head
    y : ndarray of shape (n,)

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is no such score, or it cannot be computed.
    """
    if isinstance(scoring, str):
        check_scorer_name(scoring)
    scorer = check_scoring(Pipeline(heads[0].steps(0)), scoring=scoring)
    if isinstance(scoring, str):
        _check_scorer(scorer, scoring, heads, y)
    return scorer


def _check_scorer(scorer: Any, name: str, heads: Sequence[Head], y: np.ndarray) -> None:
    """Score every head once on constant features, so that a score that cannot be computed raises early."""
    rows = np.arange(min(len(y), 20))
    if heads[0].task == "classification":  # two rows of each class
        rows = np.concatenate([np.flatnonzero(y == label)[:2] for label in np.unique(y)])
    # on constant features heads predict the mean of the targets, for which every regression score is defined
    X = np.zeros((len(rows), 1))
    for head in heads:
        model = head.estimator(0)
        if head.user_estimator is None and "n_neighbors" in model.get_params():
            model.set_params(n_neighbors=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about constant features
            try:
                fit_estimator(head, model, X, y[rows], {})
            except Exception:
                if head.user_estimator is None:
                    raise
                continue  # an estimator passed by the user may need more rows or columns
            compute_score(scorer, model, X, y[rows], head, f"by {name!r} on these labels", {})


def compute_score(
    scorer: Any, model: Any, X: np.ndarray, y: np.ndarray, head: Head, where: str, params: dict[str, Any]
) -> float:
    """Score a fitted estimator.

    Raises
    ------
    ValueError
        If the score cannot be computed; the message names the head, ``where`` and the reason.
    """
    try:
        return scorer(model, X, y, **params)
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"The head {head.name!r} cannot be scored {where}: {str(error).rstrip('.')}. Leave it out, or choose "
            "another scoring."
        ) from error
