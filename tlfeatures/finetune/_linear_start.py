"""Linear models from which the output layer starts: converted from pipelines, or fitted on embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LinearStart", "check_start", "fit_linear", "linear_start"]


@dataclass(frozen=True, eq=False)
class LinearStart:
    """A linear model on embeddings: ``outputs = X @ coef.T + intercept``.

    Attributes
    ----------
    coef : ndarray of float64, shape (k, d)
        One row per class, of the logits; one row for regression.
    intercept : ndarray of float64, shape (k,)
    classes : ndarray of shape (k,), or None for regression
    """

    coef: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"LinearStart({self.coef.shape[0]} outputs, {self.coef.shape[1]} features)"


def linear_start(steps: Sequence[Any]) -> LinearStart | None:
    """Combine fitted scikit-learn steps, scalers and a linear model, into one linear map.

    Returns
    -------
    LinearStart or None
        None unless the steps are any number of ``StandardScaler`` and `BlockScaler`, and then
        ``LogisticRegression(CV)``, ``LinearRegression``, ``Ridge(CV)``, ``Lasso(CV)`` or ``ElasticNet(CV)``.
    """
    from sklearn import linear_model as linear
    from sklearn.preprocessing import StandardScaler

    from tlfeatures.heads import BlockScaler

    flat: list[Any] = []
    for step in steps:
        flat += [inner for _, inner in step.steps] if hasattr(step, "steps") else [step]
    *scalers, last = [step for step in flat if step not in (None, "passthrough")]
    logistic = (linear.LogisticRegression, linear.LogisticRegressionCV)
    regressors = (linear.LinearRegression, linear.Ridge, linear.RidgeCV, linear.Lasso, linear.LassoCV,
                  linear.ElasticNet, linear.ElasticNetCV)  # fmt: skip
    if type(last) not in logistic + regressors or not {type(s) for s in scalers} <= {
        StandardScaler,
        BlockScaler,
    }:
        return None
    coef = np.atleast_2d(np.asarray(last.coef_, np.float64))
    intercept = np.broadcast_to(np.asarray(last.intercept_, np.float64), (len(coef),)).copy()
    for scaler in reversed(scalers):
        scale = np.ones(coef.shape[1]) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float64)
        coef = coef / scale
        if getattr(scaler, "with_mean", True):
            intercept = intercept - coef @ scaler.mean_
    classes = getattr(last, "classes_", None)
    if classes is not None and len(coef) == 1:  # two classes: the softmax of (0, z) is the sigmoid of z
        coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    return LinearStart(coef, intercept, classes)


def check_start(start: LinearStart, classes: np.ndarray | None, width: int) -> None:
    """Check that a linear model has the same classes, or one number, and was fitted on embeddings of the same width.

    Raises
    ------
    ValueError
        If not.
    """
    if (start.classes is None) != (classes is None) or (
        start.classes is not None and not np.array_equal(start.classes, classes)
    ):
        fitted_on = "numbers" if start.classes is None else start.classes.tolist()
        raise ValueError(
            f"The pipeline was fitted on {fitted_on}, and y contains "
            f"{'numbers' if classes is None else classes.tolist()}; pass the same labels."
        )
    if classes is None and len(start.coef) > 1:
        raise ValueError(
            f"The pipeline predicts {len(start.coef)} numbers for each image; fine-tuning trains for one. Fit a "
            "pipeline for each column of y."
        )
    if start.coef.shape[1] != width:
        raise ValueError(
            f"The head of the pipeline expects {start.coef.shape[1]} features; got {width} from this "
            "network. Pass the model, layer, pooling and image_size that the pipeline was fitted with."
        )


def fit_linear(X: np.ndarray, y: np.ndarray, weight: np.ndarray, is_classification: bool) -> Any:
    """Fit a pipeline of a scaler and a linear model on embeddings."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(max_iter=2000) if is_classification else RidgeCV(np.logspace(0, 6, 13))
    pipeline = make_pipeline(StandardScaler(), model)
    weights = {f"{name}__sample_weight": weight for name, _ in pipeline.steps}
    return pipeline.fit(X.astype(np.float64), y, **weights)
