"""Whole models of Keras, from pixels to embeddings or to the outputs of a fine-tuned head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlfeatures.extract import FeatureSpec
from tlfeatures.finetune._trunk import Trunk, join

__all__ = ["FineTunedModel", "make_embedding_model", "make_finetuned_model"]


@dataclass(frozen=True)
class FineTunedModel:
    """A fine-tuned network as one Keras model, and the meaning of its outputs.

    Attributes
    ----------
    model : keras.Model
        From float32 RGB pixels in 0..255, shape (n, height, width, 3), to the logits of the classes, (n, n_classes), or
        to the standardized value, (n, 1).
    classes : ndarray of shape (n_classes,) or None
        None for regression.
    mean, scale : float
        The predicted number is the value of the model times ``scale`` plus ``mean``.
    """

    model: Any
    classes: np.ndarray | None
    mean: float = 0.0
    scale: float = 1.0


def make_finetuned_model(estimator: Any) -> FineTunedModel:
    """Return the network of a fitted :class:`FineTuneClassifier` or :class:`FineTuneRegressor` with its head.

    Parameters
    ----------
    estimator : FineTuneClassifier or FineTuneRegressor
        Fitted. The model shares its weights.

    Returns
    -------
    FineTunedModel
    """
    model, classes = estimator._live().model, getattr(estimator, "classes_", None)
    return (
        FineTunedModel(model, classes)
        if classes is not None
        else FineTunedModel(model, None, *estimator._target)
    )


def make_embedding_model(spec: FeatureSpec) -> Any:
    """Make a Keras model from float32 RGB pixels in 0..255 to the embedding of all columns of a specification.

    Parameters
    ----------
    spec : FeatureSpec

    Returns
    -------
    keras.Model
        A copy with its own weights, from (n, height, width, 3) to (n, d).
    """
    layers = [tap.layer for tap in spec.description.taps]
    columns = [(layers.index(column.tap.layer), column.part, column.tap.n_prefix) for column in spec.columns]
    return join(Trunk.of(spec).model, columns, lambda embedding: embedding)
