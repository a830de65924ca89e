"""The dense head: built from widths or by a callable, with seeded weights or those of a linear model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from tlfeatures._keras import keras, seeded_random_state

__all__ = ["LinearStart", "build_head", "check_head", "linear_start"]


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
        None unless the steps are any number of ``StandardScaler``, and then
        ``LogisticRegression(CV)``, ``LinearRegression``, ``Ridge(CV)``, ``Lasso(CV)`` or ``ElasticNet(CV)``.
    """
    from sklearn import linear_model as linear
    from sklearn.preprocessing import StandardScaler

    flat: list[Any] = []
    for step in steps:
        flat += [inner for _, inner in step.steps] if hasattr(step, "steps") else [step]
    *scalers, last = [step for step in flat if step not in (None, "passthrough")]
    logistic = (linear.LogisticRegression, linear.LogisticRegressionCV)
    numbers = (linear.LinearRegression, linear.Ridge, linear.RidgeCV, linear.Lasso, linear.LassoCV,
               linear.ElasticNet, linear.ElasticNetCV)  # fmt: skip
    if type(last) not in logistic + numbers or any(type(scaler) is not StandardScaler for scaler in scalers):
        return None
    coef = np.atleast_2d(np.asarray(last.coef_, np.float64))
    intercept = np.broadcast_to(np.asarray(last.intercept_, np.float64), (len(coef),)).copy()
    for scaler in reversed(scalers):
        scale = np.ones(coef.shape[1]) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float64)
        coef = coef / scale
        if scaler.with_mean:
            intercept = intercept - coef @ scaler.mean_
    classes = getattr(last, "classes_", None)
    if classes is not None and len(coef) == 1:  # two classes: the softmax of (0, z) is the sigmoid of z
        coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
    return LinearStart(coef, intercept, classes)


def check_head(head: Any) -> tuple[float, ...] | None:
    """Return the widths and dropout rates of hidden layers; None for a callable.

    Raises
    ------
    ValueError
        If ``head`` is neither numbers nor a callable.
    """
    if callable(head):
        return None
    try:
        values = tuple(head)
        is_valid = all(
            isinstance(v, Real)
            and not isinstance(v, bool)
            and ((isinstance(v, Integral) and v >= 1) or 0 < v < 1)
            for v in values
        )
    except TypeError:
        is_valid = False
    if isinstance(head, str) or not is_valid:
        raise ValueError(
            f"head={head!r}; expected the widths of hidden layers such as [128], where a number below 1 is a dropout "
            "rate ([256, 0.5]); () for none; or a callable from a feature map to a vector."
        )
    return values


def build_head(
    head: Any, width: int, map_shape: tuple[int, ...], outputs: int, seed: int, start: LinearStart | None
) -> Any:
    """Build a ``keras.Model`` from an embedding to the logits, or to the standardized target.

    Parameters
    ----------
    head : sequence of numbers, or callable
        Hidden layers, as :func:`check_head` returns them; or a callable from a feature map to a vector.
    width : int
        Width of the embedding.
    map_shape : tuple of int
        Shape of the feature map that was flattened to the embedding; only for a callable.
    outputs : int
        Number of outputs.
    seed : int
    start : LinearStart or None
        Weights of the output layer, which is then the only layer.
    """
    layers = keras().layers
    with seeded_random_state(seed):
        x = vector = keras().Input((width,), name="embedding")
        if callable(head):
            x = _from_map(head, layers.Reshape(map_shape, name="head_map")(x))
        else:
            for i, value in enumerate(check_head(head), start=1):
                if value < 1:
                    x = layers.Dropout(float(value), name=f"head_{i}_dropout")(x)
                else:
                    x = layers.Dense(int(value), "relu", name=f"head_{i}", dtype="float32")(x)
        output = layers.Dense(outputs, name="head_output", dtype="float32")
        model = keras().Model(vector, output(x), name="head")
    if start is not None:
        output.set_weights([start.coef.T.astype(np.float32), start.intercept.astype(np.float32)])
    return model


def _from_map(build: Callable[[Any], Any], feature_map: Any) -> Any:
    y = build(feature_map)
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] is None:
        result = f"a {type(y).__name__}" if shape is None else f"the shape {tuple(shape)}"
        raise ValueError(
            f"The callable `head` returned {result} for a feature map {tuple(feature_map.shape)}; expected a Keras "
            "tensor of shape (None, width), to which the output layer is added, such as "
            "lambda x: keras.layers.Dense(256, 'relu')(keras.layers.Flatten()(x))."
        )
    return y
