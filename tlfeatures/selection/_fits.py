"""Fits and scores of heads on the folds of one embedding.

Heads share the matrices that `FoldData` computes once per fold. Ridge fits all penalties from one decomposition, and
logistic regression starts each C from the solution for the previous one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import mean_absolute_error
from sklearn.svm import SVC

from tlfeatures.evaluation import Fold
from tlfeatures.selection._fold_data import FoldData
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._metadata_routing import Metadata, fit_estimator
from tlfeatures.selection._ridge_path import fit_ridge_path
from tlfeatures.selection._scorer import compute_score

__all__ = ["FoldPredictions", "Scores", "evaluate", "predict_fold"]

_NO_METADATA = Metadata()
# An SVC has a decision value for each pair of classes. Above this number of classes, decision values are not computed.
_MAX_DECISION_CLASSES = 100


@dataclass
class Scores:
    """Scores of one head at all points of its grid, arrays of shape (points, folds); NaN for skipped folds."""

    test: np.ndarray
    fit_seconds: np.ndarray
    score_seconds: np.ndarray
    mae: np.ndarray = field(repr=False)

    @classmethod
    def empty(cls, points: int, folds: int) -> Scores:
        """Make arrays of NaN."""
        return cls(*(np.full((points, folds), np.nan) for _ in range(4)))

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """Stack the points of several heads."""
        return cls(*(np.concatenate([vars(part)[name] for part in parts]) for name in cls.__annotations__))

    @classmethod
    def merge(cls, parts: Sequence[Scores]) -> Scores:
        """Merge scores of the same points on different folds."""
        merged = cls.empty(*parts[0].test.shape)
        for part in parts:
            for name, array in vars(part).items():
                np.copyto(vars(merged)[name], array, where=~np.isnan(array))
        return merged

    def update(self, points: np.ndarray, scores: Scores) -> None:
        """Replace the scores of some points."""
        for name, array in vars(scores).items():
            vars(self)[name][points] = array

    def select(self, points: np.ndarray, folds: int) -> Scores:
        """Select some points on the first folds."""
        return Scores(*(array[points, :folds] for array in vars(self).values()))


@dataclass(frozen=True)
class FoldPredictions:
    """Predictions for the test rows of one fold.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
    predicted : ndarray of shape (m,)
    probabilities, decision_values : ndarray or None
        One column for each class of ``y``. A class without training rows in the fold has the probability 0 and the
        decision value NaN.
    """

    rows: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray | None
    decision_values: np.ndarray | None


def evaluate(
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[Fold | None],
    heads: Sequence[Head],
    scorer: Any,
    metadata: Metadata = _NO_METADATA,
) -> list[Scores]:
    """Score every head at every point of its grid on every fold.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,)
    folds : sequence of (train, test) or None
        Folds that are None are skipped.
    heads : sequence of Head
        Heads with the same ``blocks``.
    scorer : callable (estimator, X, y) -> float
        X may be a kernel matrix or rotated features, so the scorer must use it only to call methods of the estimator.
    metadata : Metadata
        Metadata for the heads and the scorer, such as sample weights.

    Returns
    -------
    list of Scores
        One for each head.
    """
    results = [Scores.empty(len(head.points), len(folds)) for head in heads]
    for i, pair in enumerate(folds):
        if pair is None:
            continue
        fold, scorer_params = FoldData(X, y, pair, heads[0], metadata), metadata.for_scorer(pair[1])
        for head, scores in zip(heads, results, strict=True):
            for point, model, rows, seconds in _fit_points(fold, head):
                start = time.perf_counter()
                scores.test[point, i] = compute_score(
                    scorer, model, rows, fold.y_test, head, f"on fold {i}", scorer_params
                )
                scores.score_seconds[point, i] = time.perf_counter() - start
                scores.fit_seconds[point, i] = seconds
                if head.task == "regression":
                    scores.mae[point, i] = mean_absolute_error(fold.y_test, model.predict(rows))
    return results


def predict_fold(
    X: np.ndarray, y: np.ndarray, fold: Fold, head: Head, metadata: Metadata = _NO_METADATA
) -> FoldPredictions:
    """Predict the test rows of a fold with a head whose grid has one point."""
    classes = np.unique(y)
    ((_, model, rows, _),) = _fit_points(FoldData(X, y, fold, head, metadata), head)
    methods = [getattr(model, name, None) for name in ("predict_proba", "decision_function")]
    # three classes have three pairs, whose decision values would be mistaken for those of the classes
    has_three_pairs = getattr(model, "decision_function_shape", None) == "ovo" and len(model.classes_) == 3
    if has_three_pairs or (isinstance(model, SVC) and len(model.classes_) > _MAX_DECISION_CLASSES):
        methods[1] = None
    probabilities, decisions = (None if method is None else method(rows) for method in methods)
    if head.task == "classification" and len(model.classes_) < len(classes):
        columns = np.searchsorted(classes, model.classes_)
        probabilities = _insert_classes(probabilities, columns, len(classes), 0.0)
        decisions = _insert_classes(decisions, columns, len(classes), np.nan)
    return FoldPredictions(fold[1], model.predict(rows), probabilities, decisions)


def _insert_classes(
    values: np.ndarray | None, columns: np.ndarray, n_classes: int, fill: float
) -> np.ndarray | None:
    """Insert columns with the value ``fill`` for the classes that the estimator was not fitted on."""
    has_pairs = values is not None and values.ndim == 2 and values.shape[1] != len(columns)
    if values is None or has_pairs:  # one column for each pair of classes
        return values
    full = np.full((len(values), n_classes), fill)
    full[:, columns] = values if values.ndim == 2 else np.stack([-values, values], axis=1)
    return full


# -- fits that share matrices -----------------------------------------------------------------------

# Named heads that accept a precomputed matrix: the attribute of FoldData, and the parameters that select it.
_PRECOMPUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "svm": ("rbf", {"kernel": "precomputed"}),
    "linear_svm": ("gram", {"kernel": "precomputed"}),
    "svr": ("rbf", {"regressor__kernel": "precomputed"}),
    "knn": ("cosine_distances", {"metric": "precomputed"}),
}
_ROTATION_INVARIANT = {"logreg", "linear", "ridge"}
# Parameters that do not change the shared matrix. A head with other parameters in its grid is fitted on the features.
_SHARING_PARAMS = {
    "C", "epsilon", "class_weight", "tol", "n_neighbors", "weights", "alphas",
    "regressor__C", "regressor__epsilon",
}  # fmt: skip

FittedPoint = tuple[int, Any, np.ndarray, float]


def _fit_points(fold: FoldData, head: Head) -> Iterator[FittedPoint]:
    """Fit each point of a head's grid; yield its index, the fitted estimator, the test rows and the seconds.

    The time for a shared matrix is included in that of the first fit that needs it. Use each estimator before
    requesting the next one, which may be the same object fitted again.
    """
    params = fold.metadata.for_head(head, fold.train_rows)
    if head.user_estimator is not None:
        return _fit_user_estimator(fold, head, params)
    if head.name == "ridge" and head.points == ({},) and not params:
        return _fit_ridge(fold, head)
    if head.approximates_kernel:
        return _fit_each(fold, head, "nystroem", {}, params)
    source, settings = "standardized", {}
    if {key for point in head.points for key in point} <= _SHARING_PARAMS:
        precomputed = _PRECOMPUTED.get(head.name)
        if (
            precomputed
            and fold.fits_kernel
            and precomputed[1].keys() <= head.estimator(0).get_params().keys()
        ):
            source, settings = precomputed
        elif head.name in _ROTATION_INVARIANT:
            source = "rotated"
    if head.name == "logreg" and all(set(point) == {"C"} for point in head.points):
        return _fit_logreg_path(fold, head, source, params)
    return _fit_each(fold, head, source, settings, params)


def _fit_each(
    fold: FoldData, head: Head, source: str, settings: dict[str, Any], params: dict[str, Any]
) -> Iterator[FittedPoint]:
    for i in range(len(head.points)):
        start = time.perf_counter()
        train, test = getattr(fold, source)
        model = head.estimator(i).set_params(**settings)
        fit_estimator(head, model, train, fold.y_train, params)
        yield i, model, test, time.perf_counter() - start


def _fit_logreg_path(
    fold: FoldData, head: Head, source: str, params: dict[str, Any]
) -> Iterator[FittedPoint]:
    """Fit the points in order of decreasing penalty, each warm-started from the previous solution."""
    model = clone(head.estimator(0))
    model.set_params(warm_start=True, tol=model.tol / 10)  # near the solution the solver would stop too early
    for i in sorted(range(len(head.points)), key=lambda i: head.points[i]["C"]):
        start = time.perf_counter()
        train, test = getattr(fold, source)
        fit_estimator(head, model.set_params(**head.points[i]), train, fold.y_train, params)
        yield i, model, test, time.perf_counter() - start


def _fit_ridge(fold: FoldData, head: Head) -> Iterator[FittedPoint]:
    start = time.perf_counter()
    model = fit_ridge_path(fold, head)
    yield 0, model, fold.svd[2], time.perf_counter() - start


def _fit_user_estimator(fold: FoldData, head: Head, params: dict[str, Any]) -> Iterator[FittedPoint]:
    train, test = fold.standardized if head.standardizes else fold.raw
    for i in range(len(head.points)):
        start = time.perf_counter()
        model = head.estimator(i)
        try:
            fit_estimator(head, model, train, fold.y_train, params)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"The head {head.name!r} cannot be fitted on {len(train)} images with {train.shape[1]} features: "
                f"{str(error).rstrip('.')}. Change its parameters {head.points[i]}, or leave it out."
            ) from error
        yield i, model, test, time.perf_counter() - start
