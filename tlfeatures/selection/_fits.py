"""Fits of one embedding over folds and heads, sharing what they have in common.

Per fold the embedding is standardized once. Its Gram matrix serves the kernels of all support vector
machines (exact: the kernel does not depend on C) and, where rows are fewer than columns, turns the columns
into as many coordinates as there are rows: a rotation, which linear models with a ridge penalty do not see.
Ridge takes all penalties from one decomposition, and logistic regression starts each C at the last one's end.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.metrics import mean_absolute_error
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.svm import SVC

from tlfeatures.evaluation import Fold
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._metadata import Metadata, fit_estimator

__all__ = ["Head", "Scores", "evaluate", "predict_folds", "try_scorer"]

_NO_METADATA = Metadata()
_DECISION_CLASSES = 100  # support vectors decide between pairs of classes: too many to list above this
_KERNEL_ROWS = 6000  # training rows up to which a kernel matrix is kept: 0.3 GB


@dataclass
class Scores:
    """Scores of one head at all points of its grid, arrays of shape (points, folds); NaN where not asked."""

    test: np.ndarray
    fit_seconds: np.ndarray
    score_seconds: np.ndarray
    mae: np.ndarray = field(repr=False)

    @classmethod
    def empty(cls, points: int, folds: int) -> Scores:
        """All NaN."""
        return cls(*(np.full((points, folds), np.nan) for _ in range(4)))

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Of several heads, one below the other."""
        return cls(*(np.concatenate([vars(part)[name] for part in parts]) for name in cls.__annotations__))

    def part(self, rows: np.ndarray, folds: int) -> Scores:
        """Some rows of the first folds."""
        return Scores(*(array[rows, :folds] for array in vars(self).values()))


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
        Folds that are None are passed over.
    heads : sequence of Head
    scorer : callable (estimator, X, y) -> float
        The X that it is given is in coordinates of the fit; it must only hand it to the estimator.
    metadata : Metadata
        Such as sample weights, for heads and scorer.

    Returns
    -------
    list of Scores
        One for each head.
    """
    results = [Scores.empty(len(head.points), len(folds)) for head in heads]
    for i, pair in enumerate(folds):
        if pair is None:
            continue
        fold = _Fold(X, y, *pair, metadata)
        for head, scores in zip(heads, results, strict=True):
            for point, model, rows, seconds in _fitted(fold, head):
                start = time.perf_counter()
                scores.test[point, i] = _score(
                    scorer, model, rows, fold.y_test, head, f"on fold {i}", metadata.for_scorer(pair[1])
                )
                scores.score_seconds[point, i] = time.perf_counter() - start
                scores.fit_seconds[point, i] = seconds
                if head.task == "regression":
                    scores.mae[point, i] = mean_absolute_error(fold.y_test, model.predict(rows))
    return results


def try_scorer(scorer: Any, name: str, heads: Sequence[Head], y: np.ndarray) -> None:
    """Score every head once on nothing, so that a score that does not go with it or the labels fails at once.

    Raises
    ------
    ValueError
        Names the head, the score and what is wrong.
    """
    rows = np.arange(min(len(y), 20))
    if heads[0].task == "classification":  # of each class two
        rows = np.concatenate([np.flatnonzero(y == label)[:2] for label in np.unique(y)])
    X = np.zeros((len(rows), 1))  # predictions are the targets' mean, which every score of numbers takes
    for head in heads:
        model = head.estimator(0)
        if head.own_estimator is None and "n_neighbors" in model.get_params():
            model.set_params(n_neighbors=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the zeros
            try:
                fit_estimator(head, model, X, y[rows], {})
            except Exception:
                if head.own_estimator is None:
                    raise
                continue  # an own estimator may need more rows or columns than these
            _score(scorer, model, X, y[rows], head, f"by {name!r} on these labels", {})


def _score(
    scorer: Any, model: Any, X: np.ndarray, y: np.ndarray, head: Head, how: str, params: dict[str, Any]
) -> float:
    try:
        return scorer(model, X, y, **params)
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"The head {head.name!r} cannot be scored {how}: {str(error).rstrip('.')}. Leave it out, or choose "
            "another scoring."
        ) from error


def predict_folds(
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[Fold],
    head: Head,
    point: int,
    metadata: Metadata = _NO_METADATA,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """For each fold: test rows, predictions, probabilities and decision values, None where there are none.

    A class that the fold does not train on has the probability 0 and the decision value NaN.
    """
    one = head.at(point)
    classes = np.unique(y)
    for pair in folds:
        for _, model, rows, _ in _fitted(_Fold(X, y, *pair, metadata), one):
            values = [getattr(model, way, None) for way in ("predict_proba", "decision_function")]
            if isinstance(model, SVC) and len(model.classes_) > _DECISION_CLASSES:
                values[1] = None
            found = [None if value is None else value(rows) for value in values]
            if head.task == "classification" and len(model.classes_) < len(classes):
                at = np.searchsorted(classes, model.classes_)
                found = [_spread(v, at, len(classes), of) for v, of in zip(found, (0.0, np.nan), strict=True)]
            yield pair[1], model.predict(rows), *found


def _spread(values: np.ndarray | None, at: np.ndarray, classes: int, absent: float) -> np.ndarray | None:
    """Columns of some classes among those of all."""
    if values is None or (values.ndim == 2 and values.shape[1] != len(at)):  # decisions between pairs
        return values
    whole = np.full((len(values), classes), absent)
    whole[:, at] = values if values.ndim == 2 else np.stack([-values, values], axis=1)
    return whole


class _Fold:
    """One split of one embedding, with what its heads share."""

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        metadata: Metadata = _NO_METADATA,
    ) -> None:
        self.rows, self.metadata = train, metadata
        self.y_train, self.y_test = y[train], y[test]
        self.raw = X[train], X[test]
        scaler = StandardScaler().fit(X[train])
        self.train, self.test = (np.asarray(scaler.transform(X[rows]), np.float64) for rows in (train, test))

    @property
    def small(self) -> bool:
        """Whether a kernel matrix is worth its memory."""
        return len(self.train) <= _KERNEL_ROWS

    @cached_property
    def gram(self) -> tuple[np.ndarray, np.ndarray]:
        """Inner products of training rows, and of test with training rows."""
        return self.train @ self.train.T, self.test @ self.train.T

    @cached_property
    def rbf(self) -> tuple[np.ndarray, np.ndarray]:
        """The kernel that ``gamma="scale"`` means."""
        variance = self.train.var()
        gamma = 1.0 / (self.train.shape[1] * variance) if variance else 1.0
        inner, across = self.gram
        norms = np.diag(inner)
        norms_test = (self.test**2).sum(axis=1)
        kernels = inner * 2, across * 2
        for kernel, left in zip(kernels, (norms, norms_test), strict=True):
            kernel -= left[:, None]
            kernel -= norms
            np.minimum(kernel, 0, out=kernel)  # minus the squared distance
            kernel *= gamma
            np.exp(kernel, out=kernel)
        return kernels

    @cached_property
    def cosine(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosine distances, as scikit-learn's: rows of zeros are at distance 1."""
        inner, across = self.gram
        norms, norms_test = np.sqrt(np.diag(inner)), np.sqrt((self.test**2).sum(axis=1))
        norms, norms_test = (np.where(v == 0, 1, v) for v in (norms, norms_test))
        within = np.clip(1 - inner / norms / norms[:, None], 0, 2)
        np.fill_diagonal(within, 0)
        return within, np.clip(1 - across / norms / norms_test[:, None], 0, 2)

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The decomposition: left vectors (n, r) and singular values (r,) of training rows, coordinates of test rows.

        From the Gram matrix of rows or of columns, whichever is smaller.
        """
        n, d = self.train.shape
        dual = n < d
        inner, across = self.gram if dual else (self.train.T @ self.train, None)
        values, vectors = np.linalg.eigh(inner)
        keep = values > max(n, d) * np.finfo(float).eps * max(values[-1], 1.0)
        if not keep.any():  # no feature varies
            return np.zeros((n, 1)), np.ones(1), np.zeros((len(self.test), 1))
        values, vectors = np.sqrt(values[keep]), np.ascontiguousarray(vectors[:, keep])
        if dual:
            return vectors, values, across @ vectors / values
        return self.train @ vectors / values, values, self.test @ vectors

    @cached_property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test rows, rotated to fewer columns where rows are fewer than columns."""
        if len(self.train) >= self.train.shape[1] or not self.small:
            return self.train, self.test
        left, values, test = self.axes
        return left * values, test


class _RidgeFit(BaseEstimator):
    """A linear model in the coordinates of a fold."""

    def __init__(self, coef: np.ndarray, intercept: np.ndarray, alpha: float) -> None:
        self.coef = coef
        self.intercept = intercept
        self.alpha = alpha

    def _linear(self, X: np.ndarray) -> np.ndarray:
        values = X @ self.coef + self.intercept
        return values[:, 0] if values.shape[1] == 1 else values


class _RidgeClasses(ClassifierMixin, _RidgeFit):
    classes_: np.ndarray

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Values above 0 for the second class, or one column a class."""
        return self._linear(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Classes."""
        values = self._linear(X)
        return self.classes_[(values > 0).astype(int) if values.ndim == 1 else values.argmax(axis=1)]


class _RidgeNumbers(RegressorMixin, _RidgeFit):
    def predict(self, X: np.ndarray) -> np.ndarray:
        """Numbers."""
        return self._linear(X)


def ridge_path(fold: _Fold, head: Head) -> _RidgeFit:
    """What RidgeCV and RidgeClassifierCV fit, from the fold's decomposition.

    The penalty is chosen among the head's by the squared error of leaving one row out: its residual is
    that of the whole fit, divided by one less the row's leverage (Golub, Heath and Wahba 1979).
    """
    left, values, _ = fold.axes
    classes = head.task == "classification"
    targets = fold.y_train[:, None]
    if classes:
        binarizer = LabelBinarizer(pos_label=1, neg_label=-1).fit(fold.y_train)
        targets = binarizer.transform(fold.y_train)
    mean = targets.mean(axis=0)
    projected = left.T @ (targets - mean)
    n, squared, best = len(targets), left**2, (np.inf, 0.0)
    for alpha in head.estimator(0).alphas:
        shrink = values**2 / (values**2 + alpha)
        leverage = 1 / n + squared @ shrink
        errors = (targets - mean - left @ (shrink[:, None] * projected)) / (1 - leverage)[:, None]
        best = min(best, (float((errors**2).mean()), float(alpha)), key=lambda pair: pair[0])
    coef = projected * (values / (values**2 + best[1]))[:, None]
    if not classes:
        return _RidgeNumbers(coef, mean, best[1])
    model = _RidgeClasses(coef, mean, best[1])
    model.classes_ = binarizer.classes_
    return model


# Heads that take a ready matrix: which, and how their estimator is told.
_MATRICES: dict[str, tuple[str, dict[str, Any]]] = {
    "svm": ("rbf", {"kernel": "precomputed"}),
    "linear_svm": ("gram", {"kernel": "precomputed"}),
    "svr": ("rbf", {"regressor__kernel": "precomputed"}),
    "knn": ("cosine", {"metric": "precomputed"}),
}
_ROTATED = {"logreg", "linear", "ridge"}
# Parameters that do not change the matrix; a grid over others is fitted plainly.
_HARMLESS = {
    "C", "epsilon", "class_weight", "tol", "n_neighbors", "weights", "alphas",
    "regressor__C", "regressor__epsilon",
}  # fmt: skip


def _fitted(fold: _Fold, head: Head) -> Iterator[tuple[int, Any, np.ndarray, float]]:
    """Each point of the grid: its number, the fitted estimator, the test rows as it takes them, seconds.

    What is shared is counted with the first fit that needs it. An estimator may change after the next step.
    """
    params = fold.metadata.for_head(head, fold.rows)
    if head.own_estimator is not None:
        yield from _fit_own(fold, head, params)
        return
    if head.name == "ridge" and head.points == ({},) and not params:
        start = time.perf_counter()
        model = ridge_path(fold, head)
        yield 0, model, fold.axes[2], time.perf_counter() - start
        return
    shared = {key for point in head.points for key in point} <= _HARMLESS
    source, extra = "", {}
    if shared and head.name in _MATRICES and fold.small:
        source, extra = _MATRICES[head.name]
    elif shared and head.name in _ROTATED:
        source = "coordinates"
    order = range(len(head.points))
    path = shared and head.name == "logreg" and all(set(point) == {"C"} for point in head.points)
    if path:  # from the heaviest penalty on, each start is near the next end
        order = sorted(order, key=lambda i: head.points[i]["C"])
    model = None
    for i in order:
        start = time.perf_counter()
        train, test = getattr(fold, source) if source else (fold.train, fold.test)
        if model is not None and path:
            model.set_params(**head.points[i])
        else:
            model = clone(head.estimator(i)).set_params(**extra)
            if path:
                model.set_params(warm_start=True, tol=model.tol / 10)  # a near start ends early
        fit_estimator(head, model, train, fold.y_train, params)
        yield i, model, test, time.perf_counter() - start


def _fit_own(fold: _Fold, head: Head, params: dict[str, Any]) -> Iterator[tuple[int, Any, np.ndarray, float]]:
    """Fit the user's estimator at each point."""
    train, test = (fold.train, fold.test) if head.standardizes else fold.raw
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
