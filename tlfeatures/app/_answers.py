"""Results of a model as dicts, in the form in which the service answers them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlfeatures.app._problems import Problem
from tlfeatures.predictions import Predictions
from tlfeatures.trust import Explanations

__all__ = ["describe_map", "describe_predictions"]


def describe_predictions(predictions: Predictions) -> list[Any]:
    """Return one dict for each image that could be read, and a `Problem` for the others.

    Parameters
    ----------
    predictions : Predictions

    Returns
    -------
    list of dict or Problem
        In the order of the images.
    """
    extracted = predictions.extracted
    results: list[Any] = [
        Problem.unreadable(extracted.errors.get(row, "")) for row in range(len(extracted.keys))
    ]
    names = [] if predictions.classes is None else [str(c) for c in predictions.classes.tolist()]
    for i, row in enumerate(predictions.rows.tolist()):
        results[row] = _describe_row(predictions, i, names)
        if row in extracted.low_contrast:
            results[row]["warning"] = extracted.low_contrast[row]
    return results


def _describe_row(predictions: Predictions, i: int, names: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"prediction": _to_plain(predictions.values[i])}
    if predictions.probabilities is not None:
        order = np.argsort(-predictions.probabilities[i], kind="stable")
        result["probabilities"] = {names[j]: float(predictions.probabilities[i, j]) for j in order}
    elif predictions.decision is not None:
        result["decision"] = float(predictions.decision[i])
    conformal = predictions.conformal
    if conformal is not None:
        if conformal.sets is not None:
            result["set"] = [name for name, is_in in zip(names, conformal.sets[i], strict=True) if is_in]
            result["p_value"] = float(conformal.p_values[i])
        if conformal.intervals is not None:
            result["interval"] = conformal.intervals[i].tolist()
        if conformal.unusual is not None:
            result["unusual"] = bool(conformal.unusual[i])
    return result


def describe_map(result: Explanations) -> dict[str, Any]:
    """Return the map of the first image: values, place in the image, and the prediction that it explains."""
    width, height = result.images.size(0)
    left, top, right, bottom = result.decoder.find_box((width, height))
    return {
        "prediction": _to_plain(result.predictions[0]),
        "label": None if result.labels is None else _to_plain(result.labels[0]),
        "value": float(result.values[0]),
        "value_name": result.value,
        "constant": float(result.constants[0]),
        "method": result.method,
        "box": [left / width, top / height, right / width, bottom / height],
        "map": result.maps[0].tolist(),
    }


def _to_plain(value: Any) -> Any:
    """Return a Python object for an element of an array."""
    return value.item() if hasattr(value, "item") else value
