"""Predictions for a few rows that are saved with a model, so that a loaded model shows whether it predicts the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tlfeatures.model_files._parts import find_head

__all__ = ["compare_outputs", "make_self_test"]

_N_ROWS = 2
_METHODS = ("decision_function", "predict_proba", "p_values", "predict_interval", "predict", "transform")
_TOLERANCE = 1e-4  # relative to the largest value; versions of BLAS differ by less


def make_self_test(model: Any) -> dict[str, np.ndarray] | None:
    """Return rows like the training rows of the head and its predictions for them, by the name of the method.

    No embedding of a training image is used. The result is None for models without a fitted head.
    """
    head = find_head(model)
    try:
        n_features = int(head.n_features_in_)
    except (AttributeError, TypeError):
        return None
    pattern = np.cos(np.outer(np.arange(1, _N_ROWS + 1), np.arange(1, n_features + 1)))
    center, scale = _find_scale(head, n_features)
    rows = (center + scale * pattern).astype(np.float32)
    rows.view(np.uint32)[:] &= 0xFFFF0000  # shorter numbers, for a smaller file
    with contextlib.suppress(Exception):  # a head that does not accept such rows has no self-test
        return {"rows": rows, **_predict(head, rows, _list_methods(head))}
    return None


def compare_outputs(model: Any, self_test: dict[str, np.ndarray] | None) -> list[str]:
    """Return the names of the methods whose predictions differ from those in the file.

    Raises
    ------
    Exception
        Any kind, if the model is damaged.
    """
    if self_test is None:
        return []
    expected = {str(name): value for name, value in self_test.items() if name in _METHODS}
    outputs = _predict(find_head(model), self_test["rows"], expected)
    return [name for name, value in expected.items() if not _is_close(outputs[name], value)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # such as about rows without feature names
        yield


def _list_methods(head: Any) -> list[str]:
    """List the methods to compare; classes follow from their values, and could differ for equal ones."""
    names = [name for name in _METHODS if hasattr(head, name)]
    with_values = {"decision_function", "predict_proba"} & set(names)
    return [name for name in names if name not in ("predict", "transform")] if with_values else names


def _predict(head: Any, rows: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    with _quiet():
        return {name: np.asarray(getattr(head, name)(rows)) for name in names}


def _find_scale(head: Any, n_features: int) -> tuple[Any, Any]:
    """Return the means and standard deviations in the first scaler of a head; 0.5 and 0.5 if it has none."""
    steps = (
        [step for _, step in head.steps] if hasattr(head, "steps") else [getattr(head, "estimator_", None)]
    )
    for step in [head, *steps]:
        center, scale = getattr(step, "mean_", None), getattr(step, "scale_", None)
        if np.shape(center) == np.shape(scale) == (n_features,):
            return center, scale
    nested = [step for step in steps if step is not None]
    return _find_scale(nested[0], n_features) if nested else (0.5, 0.5)


def _is_close(actual: np.ndarray, expected: np.ndarray) -> bool:
    if actual.shape != expected.shape:
        return False
    if expected.dtype.kind not in "fiu":
        return bool((actual == expected).all())
    finite = expected[np.isfinite(expected)]
    limit = _TOLERANCE * float(np.abs(finite).max(initial=0.0))
    return bool(np.allclose(actual, expected, rtol=_TOLERANCE, atol=limit, equal_nan=True))
