"""Checks of loaded estimators whose predictions run compiled code that does not check the shapes of its input."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlfeatures.errors import SavedModelError

__all__ = ["check_state"]

_LIBSVM = {f"sklearn.svm.{name}" for name in ("SVC", "NuSVC", "SVR", "NuSVR")}


def check_state(name: str, estimator: Any) -> None:
    """Raise an error if the fitted attributes of an estimator do not belong together.

    Parameters
    ----------
    name : str
        Full name of the class.
    estimator : object

    Raises
    ------
    SavedModelError
        If the shapes of its arrays contradict each other.
    """
    if name in _LIBSVM and hasattr(estimator, "shape_fit_"):
        try:
            is_consistent = _is_consistent_svm(estimator)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise SavedModelError(f"the fitted attributes of {name} are damaged: {error}") from error
        if not is_consistent:
            raise SavedModelError(f"the shapes of the fitted attributes of {name} contradict each other")


def _is_consistent_svm(svm: Any) -> bool:
    """Return whether the support vectors and their coefficients have the shapes that libsvm reads without checks."""
    n_rows, n_features = (int(n) for n in svm.shape_fit_)
    support, n = np.asarray(svm.support_), len(svm.support_)
    classes = getattr(svm, "classes_", None)
    k = 2 if classes is None else len(classes)
    pairs = k * (k - 1) // 2
    counts = np.asarray(svm._n_support)
    expected_counts = (
        counts.tolist() == [n, n] if classes is None else (counts >= 0).all() and counts.sum() == n
    )
    computed = callable(svm.kernel)  # libsvm gets kernel values instead of rows
    rows = svm._BaseLibSVM__Xfit if computed else None
    vectors = (0, 0) if computed or svm.kernel == "precomputed" else (n, n_features)
    n_values = n_rows if computed or svm.kernel == "precomputed" else n_features
    probabilities = {(0,), (pairs if classes is not None else 1,)}
    return bool(
        svm._sparse is False
        and (n_features == n_values or computed)
        and (rows is None or rows.shape == (n_rows, n_features))
        and isinstance(svm.kernel, str) | computed
        and support.shape == (n,)
        and (n == 0 or 0 <= support.min() <= support.max() < n_rows)
        and counts.shape == (k,)
        and expected_counts
        and _shape(svm.support_vectors_, vectors)
        and all(_shape(a, (k - 1, n)) for a in (svm.dual_coef_, svm._dual_coef_))
        and all(_shape(a, (pairs,)) for a in (svm.intercept_, svm._intercept_))
        and np.shape(svm._probA) == np.shape(svm._probB)
        and np.shape(svm._probA) in probabilities
    )


def _shape(array: Any, expected: tuple[int, ...]) -> bool:
    empty = 0 in expected
    return isinstance(array, np.ndarray) and (array.shape == expected or (empty and array.size == 0))
