"""Conversion of heads: linear models to standard operators of ONNX, support vector machines and others by skl2onnx."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
)
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, NuSVR

from tlfeatures.calibration import CalibratedHead
from tlfeatures.errors import InvalidParameterError
from tlfeatures.export._graph import GraphEditor, make_graph
from tlfeatures.export._packages import OPSETS, import_package
from tlfeatures.finetune import FineTunedModel
from tlfeatures.heads import BlockScaler
from tlfeatures.skip_unreadable import SkipUnreadable
from tlfeatures.trust import ConformalClassifier, ConformalRegressor

_NEIGHBORS = (
    KNeighborsClassifier,
    KNeighborsRegressor,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)
_LINEAR = (
    LinearRegression,
    LinearSVC,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
)

__all__ = ["WORKING_HEADS", "HeadParts", "convert_finetuned_head", "convert_head", "split_head"]

WORKING_HEADS = (
    "Heads that can be exported: logreg, linear_svm, svm and ridge for classes, ridge, svr and linear for numbers "
    "(`tlfeatures fit --head NAME`), their calibration, and most scikit-learn pipelines of scalers and linear models"
)


@dataclass
class HeadParts:
    """A head without its meta-estimators.

    Attributes
    ----------
    transformers : list of transformer
    estimator : estimator
        Fitted classifier or regressor of scikit-learn.
    inverse_temperature : float or None
        Factor by which decision values are multiplied before the softmax; None without calibration.
    mean, scale : float
        The predicted number is the value of the estimator times ``scale`` plus ``mean``.
    omitted : list of str
        Outputs of the meta-estimators that the file does not contain, such as "prediction sets".
    """

    transformers: list[Any] = field(default_factory=list)
    estimator: Any = None
    inverse_temperature: float | None = None
    mean: float = 0.0
    scale: float = 1.0
    omitted: list[str] = field(default_factory=list)


def split_head(head: Any) -> HeadParts:
    """Split a fitted head into transformers, an estimator and its calibration.

    Raises
    ------
    InvalidParameterError
        If a part cannot be exported.
    """
    parts = HeadParts()
    while True:
        if isinstance(head, Pipeline):
            steps = [step for _, step in head.steps if step is not None and step != "passthrough"]
            parts.transformers += map(_convert_transformer, steps[:-1])
            head = steps[-1]
        elif isinstance(head, CalibratedHead):
            parts.inverse_temperature, head = head.inverse_temperature_, head.estimator_
        elif isinstance(head, (ConformalClassifier, ConformalRegressor)):
            kind = "sets" if isinstance(head, ConformalClassifier) else "intervals"
            parts.omitted += [f"prediction {kind}"] + ["outlier flags"] * (head.outlier_detector_ is not None)
            head = head.estimator_
        elif isinstance(head, SkipUnreadable):
            head = head.estimator_
        elif isinstance(head, TransformedTargetRegressor):
            parts.mean, parts.scale = _read_target_scaler(head.transformer_)
            head = head.regressor_
        elif hasattr(head, "best_estimator_"):
            head = head.best_estimator_
        else:
            parts.estimator = head
            break
    # skl2onnx computes other weights of the neighbors, which a comparison on few images may not show
    if isinstance(head, _NEIGHBORS):
        raise _make_refusal(f"{type(head).__name__}, whose predictions differ in ONNX")
    if isinstance(head, (SVC, NuSVC, SVR, NuSVR)) and callable(head.kernel):
        raise _make_refusal(
            f"{type(head).__name__} with the kernel {head.kernel!r}, which is not one of scikit-learn's"
        )
    return parts


def _convert_transformer(step: Any) -> Any:
    if isinstance(step, FunctionTransformer) and step.func is not None:
        raise _make_refusal(f"FunctionTransformer, which runs the Python function {step.func!r}")
    if isinstance(step, Nystroem):
        raise _make_refusal(
            f"{type(step).__name__}, which approximates a kernel for many images. Fit the head logreg, ridge or "
            "linear_svm instead, or svm without `n_images`"
        )
    if not isinstance(step, BlockScaler):
        return step
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = step.mean_, step.scale_, step.scale_**2
    scaler.n_features_in_ = step.n_features_in_
    return scaler


def _read_target_scaler(transformer: Any) -> tuple[float, float]:
    if not isinstance(transformer, StandardScaler):
        raise _make_refusal(
            f"TransformedTargetRegressor with {type(transformer).__name__}; only StandardScaler can be exported"
        )
    mean = float(transformer.mean_[0]) if transformer.with_mean else 0.0
    return mean, 1.0 if transformer.scale_ is None else float(transformer.scale_[0])


def convert_head(head: Any, width: int) -> Any:
    """Convert a fitted head.

    Parameters
    ----------
    head : estimator
    width : int
        Number of features.

    Returns
    -------
    onnx.ModelProto
        With the input "embedding", float32 of shape (n, width), and the outputs "label" and "probabilities" or
        "scores", or "prediction".

    Raises
    ------
    InvalidParameterError
        If the head cannot be exported.
    """
    parts = split_head(head)
    if _is_linear(parts):
        editor = GraphEditor(make_graph("embedding", width))
        outputs = _add_linear(editor, parts)
    else:
        editor = GraphEditor(_convert_estimator(parts, width))
        outputs = [output.name for output in editor.model.graph.output]
    if not hasattr(parts.estimator, "classes_"):
        _add_prediction(editor, outputs[0], parts.mean, parts.scale)
        return editor.model
    label, scores = outputs
    scores = editor.apply("Cast", scores, to=editor.onnx.TensorProto.FLOAT)
    name = "probabilities" if _returns_probabilities(parts) else "scores"
    if parts.inverse_temperature is not None:
        name = "probabilities"
        if _returns_probabilities(parts):
            scores = editor.apply("Log", editor.apply("Max", scores, editor.constant(np.float32(1e-6))))
        scores = editor.apply("Mul", scores, editor.constant(np.float32(parts.inverse_temperature)))
        scores = editor.apply("Softmax", scores, axis=1)
    _set_class_outputs(editor, label, name, scores, np.array(parts.estimator.classes_.tolist()))
    return editor.model


def convert_finetuned_head(finetuned: FineTunedModel, width: int) -> Any:
    """Convert the outputs of a fine-tuned network to those of :func:`convert_head`."""
    editor = GraphEditor(make_graph("embedding", width))
    if finetuned.classes is None:
        _add_prediction(editor, "embedding", finetuned.mean, finetuned.scale)
        return editor.model
    classes = np.array(finetuned.classes.tolist())
    scores = editor.apply("Softmax", "embedding", axis=1)
    _set_class_outputs(editor, _add_label(editor, scores, classes), "probabilities", scores, classes)
    return editor.model


def _is_linear(parts: HeadParts) -> bool:
    """Return whether a head has only scalers and a linear model, not one-vs-rest for more than two classes."""
    if not all(type(step) is StandardScaler for step in parts.transformers):
        return False
    is_one_vs_rest = getattr(parts.estimator, "solver", None) == "liblinear" or (
        getattr(parts.estimator, "multi_class", None) == "ovr"
    )
    return isinstance(parts.estimator, _LINEAR) and (not is_one_vs_rest or len(parts.estimator.classes_) == 2)


def _add_linear(editor: GraphEditor, parts: HeadParts) -> list[str]:
    """Add scalers and a linear model in standard operators; return the label and the scores, or the predicted value."""
    values, estimator = "embedding", parts.estimator
    for scaler in parts.transformers:
        if scaler.with_mean:
            values = editor.apply("Sub", values, editor.constant(scaler.mean_.astype(np.float32)))
        if scaler.with_std:
            values = editor.apply("Div", values, editor.constant(scaler.scale_.astype(np.float32)))
    weights = np.atleast_2d(estimator.coef_).T.astype(np.float32)
    bias = np.broadcast_to(np.asarray(estimator.intercept_, np.float32), weights.shape[1:])
    values = editor.apply("Gemm", values, editor.constant(weights), editor.constant(bias))
    if not hasattr(estimator, "classes_"):
        return [values]
    if len(estimator.classes_) == 2:
        values = editor.apply("Concat", editor.apply("Neg", values), values, axis=1)
    label = _add_label(editor, values, np.array(estimator.classes_.tolist()))
    if _returns_probabilities(parts):
        if len(estimator.classes_) == 2:  # the logistic function of the decision value
            values = editor.apply("Mul", values, editor.constant(np.float32(0.5)))
        values = editor.apply("Softmax", values, axis=1)
    return [label, values]


def _add_label(editor: GraphEditor, scores: str, classes: np.ndarray) -> str:
    """Add operators that return the class with the largest score."""
    names = classes.astype(object) if classes.dtype.kind == "U" else classes.astype(np.int64)
    return editor.apply("Gather", editor.constant(names), editor.apply("ArgMax", scores, axis=1, keepdims=0))


def _add_prediction(editor: GraphEditor, value: str, mean: float, scale: float) -> None:
    value = editor.apply("Reshape", value, editor.constant(np.array([-1])))
    if (mean, scale) != (0.0, 1.0):
        value = editor.apply("Mul", value, editor.constant(np.float32(scale)))
        value = editor.apply("Add", value, editor.constant(np.float32(mean)))
    editor.set_outputs({"prediction": (value, editor.onnx.TensorProto.FLOAT, ["n"])})


def _set_class_outputs(editor: GraphEditor, label: str, name: str, scores: str, classes: np.ndarray) -> None:
    types = editor.onnx.TensorProto
    label_type = types.STRING if classes.dtype.kind == "U" else types.INT64
    shape = ["n", len(classes)]
    editor.set_outputs({"label": (label, label_type, ["n"]), name: (scores, types.FLOAT, shape)})


def _returns_probabilities(parts: HeadParts) -> bool:
    """Return whether the converted estimator returns probabilities; calibration prefers decision values."""
    has_values = hasattr(parts.estimator, "decision_function")
    return (
        not has_values if parts.inverse_temperature is not None else hasattr(parts.estimator, "predict_proba")
    )


def _convert_estimator(parts: HeadParts, width: int) -> Any:
    skl2onnx = import_package("skl2onnx")
    types = import_package("skl2onnx.common.data_types")
    pipeline = Pipeline(
        [*((f"step{i}", step) for i, step in enumerate(parts.transformers)), ("last", parts.estimator)]
    )
    options = {}
    if hasattr(parts.estimator, "classes_"):
        options = {"zipmap": False} | ({} if _returns_probabilities(parts) else {"raw_scores": True})
    if isinstance(parts.estimator, LinearSVC):  # its converter does not have this option
        options.pop("zipmap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated functions
        try:
            model = skl2onnx.convert_sklearn(
                pipeline,
                name="head",
                initial_types=[("embedding", types.FloatTensorType([None, width]))],
                options={id(parts.estimator): options} if options else None,
                target_opset=OPSETS,
            )
            return import_package("onnx.compose").add_prefix(model, "head/")
        except Exception as error:  # skl2onnx raises errors of many types
            reason = " ".join(str(error).split())[:200]
            names = ", ".join(type(step).__name__ for _, step in pipeline.steps)
            raise _make_refusal(
                f"{names}, which skl2onnx cannot convert ({type(error).__name__}: {reason})"
            ) from error


def _make_refusal(what: str) -> InvalidParameterError:
    return InvalidParameterError(f"The head contains {what}. {WORKING_HEADS}.", "model")
