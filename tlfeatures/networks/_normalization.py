"""Conversion of uint8 pixels to the input of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlfeatures._keras import keras
from tlfeatures._warnings import warn
from tlfeatures.networks._custom import find_preprocessing
from tlfeatures.networks._modules import preprocessing_module
from tlfeatures.networks._registry import NetworkSpec

__all__ = ["RAW", "normalizer", "own_normalization"]

RAW = "raw"  # RGB pixels from 0 to 255, unchanged


def own_normalization(spec: NetworkSpec | None, model: Any) -> str:
    """Return the normalization that "auto" means for a network, as in its recipe.

    Returns
    -------
    str
        "raw", or the module of ``keras.applications`` whose ``preprocess_input`` applies.
    """
    module = spec.module if spec else find_preprocessing(model)
    if module is None:
        warn(
            f"The model {model.name!r} neither starts with a Rescaling or Normalization layer nor is one of "
            "keras.applications, so it gets RGB pixels from 0 to 255. If it was trained on other values, pass "
            "normalization=(mean, std)."
        )
    return module or RAW


def normalizer(normalization: Any) -> Callable[[Any], Any]:
    """Return the function from uint8 pixels to a network's input for a normalization of a recipe."""
    ops = keras().ops
    if isinstance(normalization, str):
        if normalization == RAW:
            return lambda x: ops.cast(x, "float32")
        module = preprocessing_module(normalization)
        return lambda x: module.preprocess_input(ops.cast(x, "float32"))
    mean, std = (np.asarray(triple, np.float32) for triple in normalization)
    return lambda x: (ops.cast(x, "float32") / 255.0 - mean) / std
