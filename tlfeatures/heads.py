"""Named heads: the scikit-learn models that are trained on embeddings, and their default grids."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifierCV, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

from tlfeatures.errors import UnknownNameError

__all__ = ["Task", "blas_threads", "head_grid", "list_heads", "make_head"]

Task = Literal["classification", "regression"]

# On standardized embeddings the best penalty was near 300 for 300 to 1,000 images, and grows with them.
_ALPHAS = np.logspace(0, 6, 13)
_MANY_VALUES = 16_000_000


@dataclass(frozen=True)
class _Head:
    """One row of the table: how to build the estimator, and its grid (names relative to it)."""

    build: Callable[..., BaseEstimator]
    grid: dict[str, list[Any]]
    weighs_classes: bool = False


def _svr() -> TransformedTargetRegressor:
    # C and epsilon are in units of the target, so the target is scaled too
    return TransformedTargetRegressor(SVR(C=10.0), transformer=StandardScaler())


_HEADS: dict[str, dict[str, _Head]] = {
    "classification": {
        "logreg": _Head(
            lambda **kw: LogisticRegression(C=1.0, max_iter=2000, **kw), {"C": [0.01, 0.1, 1.0, 10.0]}, True
        ),
        # Two to 100 times faster here than LinearSVC, which also fails to converge where classes separate
        "linear_svm": _Head(
            lambda **kw: SVC(kernel="linear", C=0.01, **kw), {"C": [0.0001, 0.001, 0.01, 0.1]}, True
        ),
        "svm": _Head(lambda **kw: SVC(C=10.0, **kw), {"C": [0.1, 1.0, 10.0, 100.0]}, True),
        "ridge": _Head(lambda **kw: RidgeClassifierCV(alphas=_ALPHAS, **kw), {}, True),
        "knn": _Head(
            lambda: KNeighborsClassifier(n_neighbors=5, weights="distance", metric="cosine"),
            {"n_neighbors": [1, 3, 5, 9], "weights": ["uniform", "distance"]},
        ),
    },
    "regression": {
        "ridge": _Head(lambda: RidgeCV(alphas=_ALPHAS), {}),
        "svr": _Head(_svr, {"regressor__C": [1.0, 10.0, 100.0], "regressor__epsilon": [0.01, 0.1]}),
        "linear": _Head(LinearRegression, {}),
    },
}


def list_heads(task: Task = "classification") -> list[str]:
    """List the names of the heads for a task.

    Parameters
    ----------
    task : {"classification", "regression"}

    Returns
    -------
    list of str

    Raises
    ------
    UnknownNameError
        When ``task`` is neither.

    Examples
    --------
    >>> list_heads()
    ['logreg', 'linear_svm', 'svm', 'ridge', 'knn']
    >>> list_heads("regression")
    ['ridge', 'svr', 'linear']
    """
    return list(_table(task))


def make_head(name: str, task: Task = "classification", *, class_weight: Any = None) -> Pipeline:
    """Make an unfitted head: standardization, then the named estimator.

    No head draws random numbers: the same rows give the same model.

    Parameters
    ----------
    name : str
        One of ``list_heads(task)``.
    task : {"classification", "regression"}
    class_weight : None, "balanced" or dict of class to weight
        "balanced" makes every class count alike, however many images it has. Not for "knn", nor for numbers.

    Returns
    -------
    sklearn.pipeline.Pipeline
        With the steps "scale" and ``name``. It takes embeddings of shape (n, d).

    Raises
    ------
    UnknownNameError
        When there is no such head or task; names the nearest.
    ValueError
        When the head has no ``class_weight``.

    Notes
    -----
    For classes:

    - "logreg": logistic regression. The one to start with where probabilities matter: it alone gives
      calibrated ones, and its cost grows in proportion to the images.
    - "linear_svm": support vectors, linear kernel. Often a shade better than "logreg" on a few hundred
      images. Quadratic in the images; scores, no probabilities.
    - "svm": support vectors, RBF kernel. The best single guess for up to some 20,000 images. Quadratic in
      the images; scores, no probabilities.
    - "ridge": least squares on class indicators. One decomposition tries 13 penalties by leave-one-out,
      so it needs no grid. Scores, no probabilities.
    - "knn": the five nearest images by cosine, weighted by closeness. Nothing is trained: it shows how far
      the embedding alone separates the classes. Its grid needs nine training images or more.

    For numbers:

    - "ridge": as above, and the one to start with.
    - "svr": support vectors, RBF kernel, on a standardized target. For targets that bend; quadratic.
    - "linear": ordinary least squares, a baseline. With fewer than some five images a feature it fits noise,
      worst where both are equal in number, and with fewer images than features it goes through each of them.

    Features that do not vary are harmless: standardization makes them 0.

    Examples
    --------
    >>> head = make_head("svm")
    >>> [step for step, _ in head.steps]
    ['scale', 'svm']
    >>> head.fit([[0.0, 1.0], [0.1, 1.0], [0.9, 1.0], [1.0, 1.0]], ["cat", "cat", "dog", "dog"]).predict([[0.8, 1.0]])
    array(['dog'], dtype='<U3')
    """
    head = _find(name, task)
    if class_weight is None:
        return Pipeline([("scale", StandardScaler()), (name, head.build())])
    if not head.weighs_classes:
        able = [other for other, row in _HEADS["classification"].items() if row.weighs_classes]
        raise ValueError(
            f"The {task} head {name!r} takes no class_weight; got {class_weight!r}. "
            f"Leave it out, or take a classification head that does: {', '.join(able)}."
        )
    return Pipeline([("scale", StandardScaler()), (name, head.build(class_weight=class_weight))])


def head_grid(name: str, task: Task = "classification", prefix: str = "") -> dict[str, list[Any]]:
    """Give the default grid of a head, for ``GridSearchCV`` over ``make_head(name, task)``.

    Parameters
    ----------
    name : str
        One of ``list_heads(task)``.
    task : {"classification", "regression"}
    prefix : str
        What stands before each name, such as "head__" where the head is the step "head" of a pipeline.

    Returns
    -------
    dict of str to list
        A new dict at each call. Empty for "linear", which has nothing to choose, and for "ridge", which
        chooses its penalty itself; ``GridSearchCV`` takes an empty grid as one candidate.

    Raises
    ------
    UnknownNameError
        When there is no such head or task; names the nearest.

    Examples
    --------
    >>> head_grid("logreg", prefix="head__")
    {'head__logreg__C': [0.01, 0.1, 1.0, 10.0]}
    """
    return {f"{prefix}{name}__{key}": list(values) for key, values in _find(name, task).grid.items()}


def blas_threads(rows: int, columns: int) -> AbstractContextManager[Any]:
    """A context with one BLAS thread for small embeddings: there, threads wait for each other more than they work.

    Parameters
    ----------
    rows, columns : int
        Of the matrix that heads are fitted on. From 16 million values on nothing is changed.

    Examples
    --------
    >>> with blas_threads(1000, 768):
    ...     _ = make_head("ridge").fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    """
    return threadpool_limits(1 if rows * columns < _MANY_VALUES else None, user_api="blas")


def _table(task: str) -> dict[str, _Head]:
    if task not in _HEADS:
        raise UnknownNameError.of("task", task, _HEADS)
    return _HEADS[task]


def _find(name: str, task: str) -> _Head:
    table = _table(task)
    if name not in table:
        raise UnknownNameError.of(f"{task} head", name, table)
    return table[name]
