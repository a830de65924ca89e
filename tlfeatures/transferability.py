"""Transferability scores, which rank embeddings without fitting a head: LogME, H-score and its shrinkage variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlfeatures._inputs import is_missing
from tlfeatures.errors import UnknownNameError

__all__ = ["METHODS", "h_score", "logme", "shrunk_h_score", "transferability"]

_EPSILON, _MAX_ITERATIONS, _TOLERANCE = 1e-10, 200, 1e-5


def logme(features: Any, y: Any, task: str = "classification") -> float:
    """Compute the logarithm of the maximum evidence of a Bayesian linear model, per row; higher is better.

    Parameters
    ----------
    features : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Class labels, or targets with ``task="regression"``.
    task : {"classification", "regression"}
        For classification the evidence is averaged over one-hot columns, one per class.

    Returns
    -------
    float
        In nats per row. Comparable between embeddings of any width for the same rows and labels.

    Raises
    ------
    ValueError
        If the shapes do not match, values are not finite, or all labels are equal.

    Notes
    -----
    K. You, Y. Liu, J. Wang and M. Long, "LogME: Practical assessment of pre-trained models for transfer
    learning", ICML 2021. The prior precision and the noise precision are computed by MacKay's fixed-point
    iteration until it converges, from one decomposition of the smaller Gram matrix. As in the paper the
    model has no intercept. The result is deterministic.

    Examples
    --------
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> noise = np.random.default_rng(0).normal(size=(100, 5))
    >>> logme(noise + 3 * (y == "cat")[:, None], y) > logme(noise, y)
    True
    """
    F, codes = _check_inputs(features, y, task)
    # the evidence does not depend on the scale of F, but the lower bounds in the iteration do
    F = F / (np.sqrt(np.mean(F**2)) or 1.0)
    unit = codes.std() if task == "regression" else 1.0
    targets = codes[:, None] / unit if task == "regression" else np.eye(int(codes.max()) + 1)[codes]
    n = len(F)
    variances, projected = _spectrum(F, targets)
    total = (targets**2).sum(axis=0)
    outside = np.maximum(total - projected.sum(axis=0), 0.0)  # outside the column space
    evidence = [
        _evidence(variances, projected[:, k], outside[k], total[k], n) for k in range(targets.shape[1])
    ]
    return float(np.mean(evidence) / n - np.log(unit))


def _spectrum(F: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute squared singular values of ``F``, and squared projections of the targets on its left singular vectors."""
    wide = F.shape[1] > F.shape[0]
    variances, vectors = np.linalg.eigh(F @ F.T if wide else F.T @ F)
    keep = variances > max(F.shape) * np.finfo(float).eps * max(variances[-1], 0.0)
    variances, vectors = variances[keep], vectors[:, keep]
    if wide:
        return variances, (vectors.T @ targets) ** 2
    return variances, (vectors.T @ (F.T @ targets)) ** 2 / variances[:, None]


def _evidence(variances: np.ndarray, projected: np.ndarray, outside: float, total: float, n: int) -> float:
    """Maximize the log evidence over the prior precision alpha and the noise precision beta."""
    alpha, beta = 1.0, n / max(total, _EPSILON)
    for _ in range(_MAX_ITERATIONS):
        spread = alpha + beta * variances
        gamma = float((beta * variances / spread).sum())  # number of well-determined directions
        weights = float((beta**2 * variances * projected / spread**2).sum())
        residual = float((alpha**2 * projected / spread**2).sum()) + outside
        alpha, previous = gamma / max(weights, _EPSILON), alpha / beta
        beta = max(n - gamma, _EPSILON) / max(residual, _EPSILON)
        alpha = min(max(alpha, _EPSILON), beta / _EPSILON)
        if abs(alpha / beta - previous) <= _TOLERANCE * previous:
            break
    spread = alpha + beta * variances
    weights = float((beta**2 * variances * projected / spread**2).sum())
    residual = float((alpha**2 * projected / spread**2).sum()) + outside
    return 0.5 * (
        n * np.log(beta / (2 * np.pi))
        - np.log1p(beta / alpha * variances).sum()
        - beta * residual
        - alpha * weights
    )


def h_score(features: Any, y: Any) -> float:
    """Compute the between-class variance relative to the variance of the embedding; higher is better.

    Parameters
    ----------
    features : array-like of shape (n, d)
    y : array-like of shape (n,)
        Class labels.

    Returns
    -------
    float
        From 0 to the number of classes minus one. It increases with the width d. If d >= n - 1, it is in general
        at its maximum for any labels; use `shrunk_h_score` or `logme` then.

    Raises
    ------
    ValueError
        If the shapes do not match, values are not finite, or there is only one class.

    Notes
    -----
    The score is trace(cov(f)^-1 cov(E[f|y])), with the pseudo-inverse if the covariance is singular: Bao, Li, Huang,
    Zhang, Zheng, Zamir and Guibas, "An information-theoretic approach to transferability in task transfer learning",
    ICIP 2019.

    Examples
    --------
    >>> round(h_score([[0.0], [0.0], [1.0], [1.0]], ["a", "a", "b", "b"]), 6)
    1.0
    """
    F, codes = _check_inputs(features, y)
    # with f = U S V^T the trace is the sum over classes of |U^T 1_c|^2 / n_c
    members = np.eye(int(codes.max()) + 1)[codes]
    _, projected = _spectrum(F - F.mean(axis=0), members)
    return float((projected.sum(axis=0) / members.sum(axis=0)).sum())


def shrunk_h_score(features: Any, y: Any) -> float:
    """Compute the H-score with a shrunk covariance, for embeddings with few rows per column; higher is better.

    Parameters
    ----------
    features : array-like of shape (n, d)
    y : array-like of shape (n,)
        Class labels.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As in `h_score`.

    Notes
    -----
    The covariance is shrunk toward a multiple of the identity matrix with the coefficient of Ledoit and Wolf 2004,
    "A well-conditioned estimator for large-dimensional covariance matrices". The covariance of the class means is
    multiplied by one minus this coefficient. Ibrahim, Ponomareva and Mazumder 2021, "Newer is not always better:
    Rethinking transferability metrics, their peculiarities, stability and performance".

    Examples
    --------
    >>> y = np.repeat([0, 1], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 200))
    >>> shrunk_h_score(noise + (y == 1)[:, None], y) > 2 * shrunk_h_score(noise, y)
    True
    """
    F, codes = _check_inputs(features, y)
    n, d = F.shape
    F = F - F.mean(axis=0)
    wide = d > n
    gram = F @ F.T if wide else F.T @ F
    mean_variance = np.trace(gram) / n / d
    if mean_variance == 0:
        return 0.0
    squares = (gram**2).sum() / n**2
    noise = (((F**2).sum(axis=1) ** 2).sum() / n - squares) / n / d
    distance = squares / d - mean_variance**2
    shrinkage = min(noise, distance) / distance if distance > 0 else 1.0
    if shrinkage >= 1:
        return 0.0
    members = np.eye(int(codes.max()) + 1)[codes]
    sizes = members.sum(axis=0)
    # in the basis of the eigenvectors, which works for both shapes of the matrix
    variances, projected = _spectrum(F, members)
    means = variances[:, None] * projected / sizes**2  # squared coordinates of the class means
    spread = (1 - shrinkage) * variances / n + shrinkage * mean_variance
    return float((1 - shrinkage) * (means / spread[:, None] * (sizes / n)).sum())


METHODS: dict[str, Callable[..., float]] = {
    "logme": logme,
    "hscore": lambda F, y, task: h_score(F, y),
    "shrunk_hscore": lambda F, y, task: shrunk_h_score(F, y),
}


def transferability(features: Any, y: Any, method: str = "logme", task: str = "classification") -> float:
    """Score embeddings by a named method; higher is better.

    Parameters
    ----------
    features : array-like of shape (n, d)
    y : array-like of shape (n,)
    method : {"logme", "hscore", "shrunk_hscore"}
    task : {"classification", "regression"}

    Returns
    -------
    float

    Raises
    ------
    UnknownNameError
        If there is no such method or task.
    ValueError
        If the method does not support regression, or the shapes do not match.

    Examples
    --------
    >>> transferability([[0.0], [0.0], [1.0], [1.0]], [3, 3, 7, 7], "hscore")
    1.0
    """
    if method not in METHODS:
        raise UnknownNameError.of("transferability method", method, METHODS)
    if task == "regression" and method != "logme":
        raise ValueError(f"`method` must be 'logme' for regression; got {method!r}, which compares classes.")
    return METHODS[method](features, y, task)


def _check_inputs(features: Any, y: Any, task: str = "classification") -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings as float64, and labels as class indices, or targets as centered float64 numbers."""
    if task not in ("classification", "regression"):
        raise UnknownNameError.of("task", task, ("classification", "regression"))
    F = np.asarray(features, dtype=np.float64)
    labels = np.asarray(y if hasattr(y, "__array__") else list(y))
    if F.ndim != 2 or labels.shape != F.shape[:1] or len(F) < 2 or not F.shape[1]:
        raise ValueError(
            "`features` and `y` must have shapes (n, d) and (n,) with n >= 2 and d >= 1; "
            f"got {F.shape} and {labels.shape}."
        )
    if not np.isfinite(F).all():
        raise ValueError(
            f"`features` must be finite; got {(~np.isfinite(F).all(axis=1)).sum()} rows with NaN or infinity. "
            "Remove them."
        )
    if task == "regression":
        labels = labels.astype(np.float64)
        if not np.isfinite(labels).all():
            raise ValueError("`y` must be finite for regression; got NaN or infinity. Remove these rows.")
        if np.ptp(labels) == 0:
            raise ValueError("`y` must have at least two different values; all targets are equal.")
        return F, labels - labels.mean()
    if missing := sum(map(is_missing, labels.tolist())):
        raise ValueError(f"`y` has {missing} missing labels, None or NaN. Label these rows, or remove them.")
    names, codes = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"`y` must have at least two classes; all labels are {names.tolist()[0]!r}.")
    return F, codes
