"""Build the typed result of a fitted search."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from tlfeatures.results import EmbeddingSample, Score, SearchResult
from tlfeatures.selection._audit import audit_search
from tlfeatures.selection._constraints import NETWORK_PARAMETERS
from tlfeatures.selection._fitted_images import worst_predictions
from tlfeatures.selection._head_grids import list_user_estimators, seed_estimator
from tlfeatures.selection._prediction_sets import measure_search_intervals, measure_search_sets

__all__ = [
    "best_options",
    "build_result",
    "sample_embeddings",
    "scoring_name",
]

_MAP_ROWS = 5000
# Parameters of the search that change how its best pipeline is fitted and scored.
_FIT_PARAMS = ("scoring", *(name for name in NETWORK_PARAMETERS if name not in ("batch_size", "cache")))


def build_result(search: Any) -> SearchResult:
    """Collect what a fitted search measured.

    Parameters
    ----------
    search : FeatureSearchCV
        A fitted search; it is not changed.
    """
    table = search.table()
    best = int(np.flatnonzero(table["candidate"].to_numpy() == search.best_index_)[0])
    on_folds = Score(*(float(table[name][best]) for name in ("score", "ci_low", "ci_high")))
    grouped = search.grouped_score_
    classification = search.task_ == "classification"
    predictions = search.oof_.copy()
    if search.groups_ is not None:
        predictions["group"] = np.asarray(search.groups_)[np.searchsorted(search.rows_, predictions["row"])]
    classes = np.asarray(search.classes_) if classification else None
    mistakes = worst_predictions(search.oof_, search.oof_proba_, search.oof_decision_, classes)
    audit = None
    try:
        features = search.embeddings()
        embedding_sample, embedding_note = sample_embeddings(features), ""
        audit = audit_search(search, features)
    except (OSError, ValueError) as error:  # the images were moved and the store was cleared after the search
        embedding_sample, embedding_note = None, str(error)
    if audit is not None:
        shown = {row for table in audit.select_shown().values() for row in table["row"].tolist()}
        audit = replace(audit, thumbnails=_read_thumbnails(search, sorted(shown)))
    return SearchResult(
        task=search.task_,
        scoring=scoring_name(search.scoring, search.task_),
        classes=classes,
        rows=search.rows_,
        score=on_folds if grouped is None else grouped,
        uncorrected_score=None if grouped is None else on_folds,
        candidates=table,
        best=best,
        best_params=search.best_params_,
        options=best_options(search),
        n_splits=search.n_splits_,
        rule=search.rule,
        grouped_duplicates=bool(search.dedupe_groups),
        predictions=predictions,
        probabilities=search.oof_proba_,
        decision_values=search.oof_decision_,
        metrics=search.metrics_,
        mistakes=mistakes,
        image_problems=search.image_problems_,
        thumbnails=_read_thumbnails(search, mistakes["row"].tolist()),
        embedding_sample=embedding_sample,
        embedding_note=embedding_note,
        regime=search.regime_,
        learning_curve=search.learning_curve_,
        duplicates=search.duplicates_,
        nested_scores=getattr(search, "nested_scores_", None),
        prescreen=search.prescreen_,
        prescreen_correlation=search.prescreen_correlation_,
        prescreen_method=search.prescreen_method,
        timings=search.timings_,
        recipes=list(search.best_estimator_[0].recipes_),
        halving=search.halving_ if len(search.halving_) else None,
        audit=audit,
        prediction_sets=measure_search_sets(search),
        prediction_intervals=measure_search_intervals(search),
    )


def scoring_name(scoring: Any, task: str) -> str:
    """Return the display name of the ``scoring`` parameter."""
    if scoring is None:
        return "accuracy" if task == "classification" else "R2"
    return scoring if isinstance(scoring, str) else "score"


def sample_embeddings(X: np.ndarray) -> EmbeddingSample:
    """Reduce embeddings to at most 5,000 rows and 50 principal components.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    """
    rows = np.arange(len(X))
    if len(X) > _MAP_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(X), _MAP_ROWS, replace=False))
    X = StandardScaler().fit_transform(X[rows].astype(np.float64))
    solver = "randomized" if min(X.shape) > 500 else "full"
    pca = PCA(min(50, *X.shape), svd_solver=solver, random_state=0)
    components = pca.fit_transform(X).astype(np.float32)
    share = float(pca.explained_variance_ratio_[:2].sum()) if X.any() else 0.0
    return EmbeddingSample(rows, components, share)


def _read_thumbnails(search: Any, rows: Sequence[int]) -> dict[int, bytes]:
    """Return JPEG previews of the images that can still be read, by row."""
    thumbnails = {}
    for row in rows:
        with contextlib.suppress(OSError, ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search has already warned
            pixels = search.thumbnail(int(np.searchsorted(search.rows_, row)))
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
            thumbnails[row] = buffer.getvalue()
    return thumbnails


# -- parameters that reproduce the best pipeline ------------------------------------------------


def best_options(search: Any) -> dict[str, Any] | None:
    """Return parameters of a search that has only the best candidate, or None if they cannot be written.

    An estimator passed by the user is written as its ``repr`` if its parameters can be written. Other objects cannot:
    a network in memory, sample weights, a callable score, folds passed as rows, and a splitter that is not from
    scikit-learn or that draws new folds each time.
    """
    best = dict(search.best_params_)
    head, layer = best.pop("head"), "fused" if best.get("fused") else best["layer"]
    prefix = f"{head}__"
    point = {key.removeprefix(prefix): _to_builtin(v) for key, v in best.items() if key.startswith(prefix)}
    user_estimator = list_user_estimators(search.heads).get(head)
    if user_estimator is None:
        heads: Any = {head: {key: [value] for key, value in point.items()}} if point else [head]
    else:
        estimator = seed_estimator(user_estimator, search.seed_).set_params(**point)
        params = {
            k: _to_builtin(v) for k, v in estimator.get_params().items() if isinstance(v, (np.generic, dict))
        }
        heads = {head: estimator.set_params(**params)}
    options = {
        "models": best["model"],
        "layers": [layer],
        "poolings": best["pooling"],
        "image_sizes": None if best["image_size"] is None else [best["image_size"]],
        "resize": best["resize"],
        "heads": heads,
        "cv": int(search.cv) if isinstance(search.cv, Integral) else search.cv,
        "task": search.task_,
        "random_state": int(search.seed_),
    }
    defaults = inspect.signature(type(search).__init__).parameters
    for name in _FIT_PARAMS:
        value = getattr(search, name)
        value = os.fspath(value) if isinstance(value, os.PathLike) else _to_builtin(value)
        if value != defaults[name].default:
            options[name] = value
    options = _to_builtin(options)
    writable = (
        isinstance(options["models"], str)
        and getattr(search, "sample_weight_", None) is None
        and _is_literal(options.get("scoring"))
        and (_is_literal(point) if user_estimator is None else _is_writable_estimator(heads[head]))
        and (isinstance(options["cv"], int) or _is_reproducible_splitter(options["cv"]))
    )
    return options if writable else None


def _to_builtin(value: Any) -> Any:
    """Convert NumPy arrays and numbers at any depth, whose ``repr`` needs an import, to lists and built-in numbers."""
    if isinstance(value, dict):
        return {_to_builtin(key): _to_builtin(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            [_to_builtin(item) for item in value]
            if isinstance(value, list)
            else tuple(map(_to_builtin, value))
        )
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _is_literal(value: Any) -> bool:
    """Whether Python reads back the ``repr`` of a value."""
    if isinstance(value, dict):
        return _is_literal([*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(_is_literal, value))
    return (
        value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    )


def _is_writable_estimator(estimator: Any) -> bool:
    """Whether the ``repr`` of an estimator makes an equal one."""
    if type(estimator).__module__ == "__main__":
        return False
    return all(map(_is_writable, estimator.get_params(deep=False).values()))


def _is_writable(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 30 and all(map(_is_writable, value))  # scikit-learn prints the first 30 elements
    return _is_writable_estimator(value) if hasattr(value, "get_params") else _is_literal(value)


def _is_reproducible_splitter(cv: Any) -> bool:
    """Whether the ``repr`` of a splitter makes the same folds."""
    from_sklearn = type(cv).__module__.startswith("sklearn.model_selection") and _is_literal(vars(cv))
    random = getattr(cv, "shuffle", hasattr(cv, "random_state"))
    return from_sklearn and not (random and cv.random_state is None)
