"""Temperature scaling: decision values of classifiers, and the factor that turns them into probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.pipeline import Pipeline

__all__ = ["calibrate_logits", "compute_logits", "fit_inverse_temperature", "to_logits"]


def compute_logits(head: Any, X: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return decision values, or logarithms of probabilities, with one column for each class.

    Parameters
    ----------
    head : classifier
        A fitted classifier with ``decision_function`` or ``predict_proba``.
    X : array-like of shape (n, d)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of float64, shape (n, n_classes)
        For two classes with one decision value, its negative and itself.

    Raises
    ------
    ValueError
        If the decision function does not have one column for each class.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> head = SVC().fit([[0.0], [1.0]], ["cat", "dog"])
    >>> compute_logits(head, [[0.5]], head.classes_).shape
    (1, 2)
    """
    decisions = head.decision_function(X) if hasattr(head, "decision_function") else None
    z = to_logits(decisions, head.predict_proba(X) if decisions is None else None)
    last = head[-1] if isinstance(head, Pipeline) else head
    has_pairs = getattr(last, "decision_function_shape", None) == "ovo" and len(classes) == 3
    if has_pairs or z.shape[1] != len(classes):
        columns = "one column for each pair of the" if has_pairs else f"{z.shape[1]} columns for"
        raise ValueError(
            f"The decision function of `estimator` has {columns} {len(classes)} classes; expected one per class: for "
            "SVC use decision_function_shape='ovr'."
        )
    return z


def to_logits(decision_values: Any, probabilities: Any) -> np.ndarray:
    """Return decision values or, if they are None, logarithms of probabilities.

    Parameters
    ----------
    decision_values : array-like of shape (n,) or (n, n_columns), or None
    probabilities : array-like of shape (n, n_classes), or None

    Returns
    -------
    ndarray of float64, shape (n, n_columns)
        For two classes with one decision value, its negative and itself.

    Examples
    --------
    >>> to_logits([0.5], None).tolist()
    [[-0.5, 0.5]]
    """
    if decision_values is None:
        return np.log(np.maximum(probabilities, 1e-6))  # nearest neighbors return probabilities of exactly 0
    z = np.asarray(decision_values, float)
    return np.stack([-z, z], axis=1) if z.ndim == 1 else z


def calibrate_logits(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Convert out-of-fold decision values, or logarithms of probabilities, to calibrated probabilities.

    Parameters
    ----------
    logits : ndarray of shape (n, k)
        One column per class; -inf for a class that cannot be predicted, which gets the probability 0.
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1 of the rows.

    Returns
    -------
    ndarray of float64, shape (n, k)
        Softmax of the values times one number, as in :class:`CalibratedHead`.

    Examples
    --------
    >>> logits = np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    >>> calibrate_logits(logits, np.array([0, 1, 1, 1])).round(1)[0].tolist()
    [0.7, 0.3]
    """
    return softmax(fit_inverse_temperature(logits, codes) * logits, axis=1)


def fit_inverse_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Find the factor with the smallest log loss of the softmax; targets are smoothed as in Platt (1999).

    Parameters
    ----------
    logits : ndarray of shape (n, k)
        One column per class; -inf for a class that cannot be predicted.
    codes : ndarray of int, shape (n,)
        Classes 0 to k - 1 of the rows.

    Returns
    -------
    float

    Examples
    --------
    >>> logits = np.array([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    >>> round(fit_inverse_temperature(logits, np.array([0, 1, 1, 1])), 2)
    0.35
    """
    n, k = logits.shape
    targets = np.full((n, k), 1 / (n + 2) / (k - 1))
    targets[np.arange(n), codes] = (n + 1) / (n + 2)

    possible = np.isfinite(logits)

    def loss(log_factor: float) -> float:
        return -(targets * log_softmax(np.exp(log_factor) * logits, axis=1))[possible].sum()

    return float(np.exp(minimize_scalar(loss, bounds=(-10, 10), method="bounded").x))
