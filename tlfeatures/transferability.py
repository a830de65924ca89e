"""How well embeddings suit labels, guessed without fitting a head: LogME, H-score and its shrinkage variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlfeatures.errors import UnknownNameError

__all__ = ["METHODS", "h_score", "logme", "shrunk_h_score", "transferability"]

_TINY, _STEPS, _TOLERANCE = 1e-10, 200, 1e-5


def logme(features: Any, y: Any, task: str = "classification") -> float:
    """Logarithm of maximum evidence of a Bayesian linear model, per row; the higher the better.

    Parameters
    ----------
    features : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Classes of any kind, or numbers with ``task="regression"``.
    task : {"classification", "regression"}
        Classes are taken as one column of 0 and 1 each, whose evidences are averaged.

    Returns
    -------
    float
        In nats a row. Comparable between embeddings of the same rows and labels, of any width.

    Raises
    ------
    ValueError
        When the arrays do not fit, are not finite, or the labels do not vary.

    Notes
    -----
    You, Liu, Wang and Long 2021, "LogME: Practical assessment of pre-trained models for transfer
    learning", ICML. The prior precision and the noise precision are found by the fixed point of
    MacKay, here run until it stands still, from one decomposition of the smaller Gram matrix.
    As in the paper the model has no intercept. No random numbers are drawn.

    Examples
    --------
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> noise = np.random.default_rng(0).normal(size=(100, 5))
    >>> logme(noise + 3 * (y == "cat")[:, None], y) > logme(noise, y)
    True
    """
    F, codes, _ = _checked(features, y, task)
    # in units of their own: the evidence does not depend on that of F, and the floors below would be in its way
    F = F / (np.sqrt(np.mean(F**2)) or 1.0)
    unit = codes.std() if task == "regression" else 1.0
    targets = codes[:, None] / unit if task == "regression" else np.eye(int(codes.max()) + 1)[codes]
    n = len(F)
    variances, projected = _spectrum(F, targets)
    total = (targets**2).sum(axis=0)
    outside = np.maximum(total - projected.sum(axis=0), 0.0)  # what no weights can reach
    evidence = [
        _evidence(variances, projected[:, k], outside[k], total[k], n) for k in range(targets.shape[1])
    ]
    return float(np.mean(evidence) / n - np.log(unit))


def _spectrum(F: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values of ``F``, and the squared projections of the targets on its left vectors."""
    wide = F.shape[1] > F.shape[0]
    variances, vectors = np.linalg.eigh(F @ F.T if wide else F.T @ F)
    keep = variances > max(F.shape) * np.finfo(float).eps * max(variances[-1], 0.0)
    variances, vectors = variances[keep], vectors[:, keep]
    if wide:
        return variances, (vectors.T @ targets) ** 2
    return variances, (vectors.T @ (F.T @ targets)) ** 2 / variances[:, None]


def _evidence(variances: np.ndarray, projected: np.ndarray, outside: float, total: float, n: int) -> float:
    """Log evidence at its maximum over the prior precision alpha and the noise precision beta."""
    alpha, beta = 1.0, n / max(total, _TINY)
    for _ in range(_STEPS):
        spread = alpha + beta * variances
        gamma = float((beta * variances / spread).sum())  # well-determined directions
        weights = float((beta**2 * variances * projected / spread**2).sum())
        residual = float((alpha**2 * projected / spread**2).sum()) + outside
        alpha, before = gamma / max(weights, _TINY), alpha / beta
        beta = max(n - gamma, _TINY) / max(residual, _TINY)
        alpha = min(max(alpha, _TINY), beta / _TINY)
        if abs(alpha / beta - before) <= _TOLERANCE * before:
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
    """Variance between classes in units of the embedding's own; the higher the better.

    Parameters
    ----------
    features : array-like of shape (n, d)
    y : array-like of shape (n,)
        Classes of any kind.

    Returns
    -------
    float
        From 0 to the number of classes less one. Rises with the width d, and with d >= n - 1 it is
        at its upper end for any labels: then use `shrunk_h_score` or `logme`.

    Raises
    ------
    ValueError
        When the arrays do not fit, are not finite, or there is one class only.

    Notes
    -----
    Bao, Li, Huang, Zhang, Zheng, Zamir and Guibas 2019, "An information-theoretic approach to
    transferability in task transfer learning", ICIP: trace(cov(f)^-1 cov(E[f|y])), with the
    pseudo-inverse where the covariance is singular.

    Examples
    --------
    >>> round(h_score([[0.0], [0.0], [1.0], [1.0]], ["a", "a", "b", "b"]), 6)
    1.0
    """
    F, codes, _ = _checked(features, y)
    # with f = U S V^T the trace is the sum over classes of |U^T 1_c|^2 / n_c
    members = np.eye(int(codes.max()) + 1)[codes]
    _, projected = _spectrum(F - F.mean(axis=0), members)
    return float((projected.sum(axis=0) / members.sum(axis=0)).sum())


def shrunk_h_score(features: Any, y: Any) -> float:
    """H-score with a shrunk covariance, for embeddings that are wide for their rows; the higher the better.

    Parameters
    ----------
    features : array-like of shape (n, d)
    y : array-like of shape (n,)
        Classes of any kind.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `h_score`.

    Notes
    -----
    Ibrahim, Ponomareva and Mazumder 2021, "Newer is not always better: Rethinking transferability
    metrics, their peculiarities, stability and performance": the covariance is shrunk to its mean
    variance by the amount of Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices", and that of the class means by as much.

    Examples
    --------
    >>> y = np.repeat([0, 1], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 200))
    >>> shrunk_h_score(noise + (y == 1)[:, None], y) > 2 * shrunk_h_score(noise, y)
    True
    """
    F, codes, _ = _checked(features, y)
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
    # in the eigenvectors of the covariance, so that the same lines serve both shapes
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
    """Score embeddings by a named method; the higher the better.

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
        When there is no such method or task.
    ValueError
        When the method does not take numbers as targets, or the arrays do not fit.

    Examples
    --------
    >>> transferability([[0.0], [0.0], [1.0], [1.0]], [3, 3, 7, 7], "hscore")
    1.0
    """
    if method not in METHODS:
        raise UnknownNameError.of("transferability method", method, METHODS)
    if task == "regression" and method != "logme":
        raise ValueError(f"The method {method!r} compares classes; for numbers use method='logme'.")
    return METHODS[method](features, y, task)


def _checked(features: Any, y: Any, task: str = "classification") -> tuple[np.ndarray, np.ndarray, int]:
    """Embeddings as float64, and labels as numbers from 0 or as float64 targets."""
    if task not in ("classification", "regression"):
        raise UnknownNameError.of("task", task, ("classification", "regression"))
    F = np.asarray(features, dtype=np.float64)
    labels = np.asarray(y if hasattr(y, "__array__") else list(y))
    if F.ndim != 2 or labels.shape != F.shape[:1] or len(F) < 2:
        raise ValueError(
            f"Got features of shape {F.shape} and labels of shape {labels.shape}; expected (n, d) and (n,), n >= 2."
        )
    if not np.isfinite(F).all():
        raise ValueError(f"{(~np.isfinite(F).all(axis=1)).sum()} rows of features are not finite; drop them.")
    if task == "regression":
        labels = labels.astype(np.float64)
        if not np.isfinite(labels).all():
            raise ValueError("Some targets are not finite; drop their rows.")
        if np.ptp(labels) == 0:
            raise ValueError("All targets are equal; there is nothing to predict.")
        return F, labels - labels.mean(), 0
    names, codes = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"All labels are {names.tolist()[0]!r}; expected two classes or more.")
    return F, codes.reshape(-1), len(names)
