"""Named heads: the scikit-learn estimators that are fitted on embeddings, and their default grids."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifierCV, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from tlfeatures._threads import one_blas_thread
from tlfeatures.errors import UnknownNameError
from tlfeatures.heads._nystroem import StableNystroem

__all__ = [
    "DEFAULT_HEAD",
    "MAX_KERNEL_ROWS",
    "Task",
    "blas_threads",
    "head_grid",
    "list_heads",
    "make_head",
    "make_nystroem",
]

Task = Literal["classification", "regression"]

DEFAULT_HEAD = {"classification": "svm", "regression": "ridge"}

# On standardized embeddings of 300 to 1,000 images the best penalty was near 300; it increases with their number.
_ALPHAS = np.logspace(0, 6, 13)
_MIN_VALUES_FOR_THREADS = 16_000_000
# Above this number of images, kernels are approximated: a kernel matrix of 6,000 images needs 0.3 GB.
MAX_KERNEL_ROWS = 6000
_KERNEL_COLUMNS = 500


@dataclass(frozen=True)
class _HeadSpec:
    """One row of the table of heads.

    Attributes
    ----------
    build : callable
        Function that makes the unfitted estimator.
    grid : dict of str to list
        Default grid: values by parameter name of the estimator.
    supports_class_weight : bool
    build_large : callable or None
        Function that makes the unfitted estimator for more than ``MAX_KERNEL_ROWS`` images, if it is another one.
    has_kernel : bool
        Whether the estimator has an RBF kernel, which is approximated for this number of images.
    """

    build: Callable[..., BaseEstimator]
    grid: dict[str, list[Any]]
    supports_class_weight: bool = False
    build_large: Callable[..., BaseEstimator] | None = None
    has_kernel: bool = False


def _svr() -> TransformedTargetRegressor:
    # C and epsilon are in units of the target, so the target is standardized too
    return TransformedTargetRegressor(SVR(C=10.0), transformer=StandardScaler())


# The primal problem of the squared loss: its cost is linear in the number of images, and it always converges. With a
# tolerance of 1e-2 instead of 1e-1 the fits took 1.6 times as long, with equal scores.


def _large_svm(C: float, **params: Any) -> LinearSVC:
    return LinearSVC(C=C, dual=False, tol=0.1, **params)


def _large_svr() -> TransformedTargetRegressor:
    svr = LinearSVR(C=10.0, loss="squared_epsilon_insensitive", dual=False, tol=0.01)
    return TransformedTargetRegressor(svr, transformer=StandardScaler())


_HEADS: dict[str, dict[str, _HeadSpec]] = {
    "classification": {
        "logreg": _HeadSpec(
            lambda **kw: LogisticRegression(C=1.0, max_iter=2000, **kw), {"C": [0.01, 0.1, 1.0, 10.0]}, True
        ),
        # for embeddings 2 to 100 times faster than LinearSVC, which also fails to converge on separable classes
        "linear_svm": _HeadSpec(
            lambda **kw: SVC(kernel="linear", C=0.01, **kw),
            {"C": [0.0001, 0.001, 0.01, 0.1]},
            True,
            build_large=lambda **kw: _large_svm(0.01, **kw),
        ),
        "svm": _HeadSpec(
            lambda **kw: SVC(C=10.0, **kw),
            {"C": [0.1, 1.0, 10.0, 100.0]},
            True,
            build_large=lambda **kw: _large_svm(10.0, **kw),
            has_kernel=True,
        ),
        "ridge": _HeadSpec(lambda **kw: RidgeClassifierCV(alphas=_ALPHAS, **kw), {}, True),
        "knn": _HeadSpec(
            lambda: KNeighborsClassifier(n_neighbors=5, weights="distance", metric="cosine"),
            {"n_neighbors": [1, 3, 5, 9], "weights": ["uniform", "distance"]},
        ),
    },
    "regression": {
        "ridge": _HeadSpec(lambda: RidgeCV(alphas=_ALPHAS), {}),
        "svr": _HeadSpec(
            _svr,
            {"regressor__C": [1.0, 10.0, 100.0], "regressor__epsilon": [0.01, 0.1]},
            build_large=_large_svr,
            has_kernel=True,
        ),
        "linear": _HeadSpec(LinearRegression, {}),
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
        If there is no such task.

    Examples
    --------
    >>> list_heads()
    ['logreg', 'linear_svm', 'svm', 'ridge', 'knn']
    >>> list_heads("regression")
    ['ridge', 'svr', 'linear']
    """
    return list(_table(task))


def make_head(
    name: str, task: Task = "classification", *, class_weight: Any = None, n_images: int | None = None
) -> Pipeline:
    """Make an unfitted head: standardization, then the named estimator.

    All named heads are deterministic.

    Parameters
    ----------
    name : str
        One of ``list_heads(task)``.
    task : {"classification", "regression"}
    class_weight : None, "balanced" or dict of class to weight
        As in scikit-learn; "balanced" weights classes inversely to their frequency. Not available for "knn"
        and for regression.
    n_images : int or None
        Number of images that the head is to be fitted on. For more than 6,000, support vector machines are replaced by
        ones whose cost is linear in the number of images: `sklearn.svm.LinearSVC` or `LinearSVR`, after the step
        "nystroem" that approximates the RBF kernel by 500 features [1]_. None is for fewer images.

    Returns
    -------
    sklearn.pipeline.Pipeline
        With the steps "scale" and ``name``, to be fitted on embeddings of shape (n, d).

    Raises
    ------
    UnknownNameError
        If there is no such head or task; the message lists the nearest names.
    ValueError
        If the head does not support ``class_weight``.

    Notes
    -----
    Classification:

    - "logreg": logistic regression. Recommended where probabilities matter: it is the only head whose
      probabilities are calibrated. Its cost is linear in the number of images.
    - "linear_svm": support vector machine with a linear kernel. Often slightly better than "logreg" on a few
      hundred images. Its cost is quadratic in the number of images; it has decision values, no probabilities.
    - "svm": support vector machine with an RBF kernel. Its cost is quadratic in the number of images, unless
      ``n_images`` is passed; it has decision values, no probabilities.
    - "ridge": least squares on class indicators. One decomposition tries 13 penalties by leave-one-out
      cross-validation, so it needs no grid. It has decision values, no probabilities.
    - "knn": the five nearest images by cosine distance, weighted by proximity. It shows how well the embedding
      alone separates the classes. Its default grid needs at least nine training images.

    Regression:

    - "ridge": as above; the recommended default.
    - "svr": support vector regression with an RBF kernel on a standardized target, for nonlinear relations. Its
      cost is quadratic in the number of images.
    - "linear": ordinary least squares, as a baseline. It overfits with fewer than about five images per feature;
      overfitting is worst at one image per feature.

    Constant features have no effect: standardization sets them to 0.

    References
    ----------
    .. [1] Williams and Seeger, "Using the Nystroem method to speed up kernel machines", NIPS 2000.

    Examples
    --------
    >>> head = make_head("svm")
    >>> [step for step, _ in head.steps]
    ['scale', 'svm']
    >>> [step for step, _ in make_head("svm", n_images=50_000).steps]
    ['scale', 'nystroem', 'svm']
    >>> head.fit([[0.0, 1.0], [0.1, 1.0], [0.9, 1.0], [1.0, 1.0]], ["cat", "cat", "dog", "dog"]).predict([[0.8, 1.0]])
    array(['dog'], dtype='<U3')
    """
    head = _find(name, task)
    build, steps = head.build, [("scale", StandardScaler())]
    if n_images is not None and n_images > MAX_KERNEL_ROWS and head.build_large is not None:
        build = head.build_large
        if head.has_kernel:
            steps.append(("nystroem", make_nystroem()))
    if class_weight is None:
        return Pipeline([*steps, (name, build())])
    if not head.supports_class_weight:
        supported = [other for other, spec in _HEADS["classification"].items() if spec.supports_class_weight]
        raise ValueError(
            f"`class_weight` must be None for the {task} head {name!r}; got {class_weight!r}. "
            f"Classification heads that support it: {', '.join(supported)}."
        )
    return Pipeline([*steps, (name, build(class_weight=class_weight))])


def make_nystroem() -> StableNystroem:
    """Make the unfitted approximation of the RBF kernel of standardized embeddings by 500 features.

    Examples
    --------
    >>> make_nystroem().fit_transform(np.random.default_rng(0).normal(size=(600, 3))).shape
    (600, 500)
    """
    return StableNystroem(n_components=_KERNEL_COLUMNS, random_state=0)


def head_grid(name: str, task: Task = "classification", prefix: str = "") -> dict[str, list[Any]]:
    """Return the default grid of a head, for ``GridSearchCV`` over ``make_head(name, task)``.

    Parameters
    ----------
    name : str
        One of ``list_heads(task)``.
    task : {"classification", "regression"}
    prefix : str
        Prefix of each name, such as ``"head__"`` if the head is the step "head" of a pipeline.

    Returns
    -------
    dict of str to list
        A new dict at each call. It is empty for "linear", which has no parameter to tune, and for "ridge",
        which chooses its penalty itself; ``GridSearchCV`` takes an empty grid as one candidate.

    Raises
    ------
    UnknownNameError
        If there is no such head or task; the message lists the nearest names.

    Examples
    --------
    >>> head_grid("logreg", prefix="head__")
    {'head__logreg__C': [0.01, 0.1, 1.0, 10.0]}
    """
    return {f"{prefix}{name}__{key}": list(values) for key, values in _find(name, task).grid.items()}


def blas_threads(rows: int, columns: int) -> AbstractContextManager[Any]:
    """Limit BLAS to one thread for small matrices, where synchronization costs more than threads gain.

    Parameters
    ----------
    rows, columns : int
        Shape of the matrix that heads are fitted on. There is no limit for 16 million values or more.

    Returns
    -------
    context manager

    Examples
    --------
    >>> with blas_threads(1000, 768):
    ...     _ = make_head("ridge").fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    """
    return one_blas_thread if rows * columns < _MIN_VALUES_FOR_THREADS else nullcontext()


def _table(task: str) -> dict[str, _HeadSpec]:
    if task not in _HEADS:
        raise UnknownNameError.of("task", task, _HEADS)
    return _HEADS[task]


def _find(name: str, task: str) -> _HeadSpec:
    table = _table(task)
    if name not in table:
        raise UnknownNameError.of(f"{task} head", name, table)
    return table[name]
