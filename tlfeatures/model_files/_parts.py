"""Parts of a model: the transformer of images, and the head on its embeddings."""

from __future__ import annotations

from typing import Any

__all__ = ["describe_estimator", "find_cnn", "find_head"]


def _to_pipeline(model: Any) -> Any:
    """Return the fitted pipeline in a meta-estimator on images, and other estimators unchanged."""
    if hasattr(model, "cnn_"):  # ConformalClassifier or ConformalRegressor
        return model.to_pipeline()
    return getattr(model, "pipeline_", model)


def find_cnn(model: Any) -> Any:
    """Return the CNNFeatures with which a model begins; None for a head alone."""
    pipeline = _to_pipeline(model)
    steps = getattr(pipeline, "steps", None)
    return steps[0][1] if steps and type(steps[0][1]).__name__ == "CNNFeatures" else None


def find_head(model: Any) -> Any:
    """Return what follows CNNFeatures in a model."""
    pipeline = _to_pipeline(model)
    return pipeline if find_cnn(pipeline) is None else pipeline[1:]


def describe_estimator(estimator: Any) -> str:
    """Describe an estimator by the names of its classes.

    >>> from tlfeatures.calibration import CalibratedHead
    >>> from tlfeatures.heads import make_head
    >>> describe_estimator(CalibratedHead(make_head("svm")))
    'CalibratedHead(StandardScaler, SVC)'
    """
    if hasattr(estimator, "steps"):
        return ", ".join(describe_estimator(step) for _, step in estimator.steps)
    name, inner = type(estimator).__name__, getattr(estimator, "estimator", None)
    return f"{name}({describe_estimator(inner)})" if hasattr(inner, "get_params") else name
