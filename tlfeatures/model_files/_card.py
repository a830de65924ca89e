"""Model cards: what a model is, what it was trained on, and how well it predicts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tlfeatures._archive import MODEL_FORMAT, describe_training, is_archive, read_about
from tlfeatures._json import to_json
from tlfeatures.errors import SavedModelError
from tlfeatures.model_files._parts import describe_estimator, find_cnn, find_head

__all__ = ["make_card", "read_card"]

_TYPES: dict[str, tuple[type, ...]] = {
    "estimator": (str,),
    "task": (str,),
    "classes": (list,),
    "network": (str,),
    "weights_licence": (str,),
    "image_size": (list,),
    "layers": (list,),
    "pooling": (str,),
    "features": (int,),
    "head": (str,),
    "training_images": (int,),
    "training_digest": (str,),
    "scores": (dict,),
    "conformal": (dict,),
    "recipes": (list,),
}
_NUMBERS = ("mean", "low", "high", "error_rate", "calibration_rows", "coverage")


def make_card(model: Any) -> dict[str, Any]:
    """Describe a fitted model in types of JSON.

    Returns
    -------
    dict
        With the keys that :func:`read_card` documents, except for "file" and "versions".
    """
    from tlfeatures.networks import find_licence

    cnn, head = find_cnn(model), find_head(model)
    classes = getattr(head, "classes_", None)
    recipes = getattr(cnn, "recipes_", [])
    last = getattr(head, "steps", [(None, head)])[-1][1]
    conformal = None
    if hasattr(last, "error_rate"):
        conformal = {
            "error_rate": last.error_rate,
            "per_class": getattr(last, "per_class", False),
            "calibration_rows": np.ravel(last.n_calibration_)[0],
            **getattr(last, "out_of_fold_", {}),
        }
    card = {
        "estimator": type(model).__name__,
        "task": "classification"
        if classes is not None
        else "regression"
        if hasattr(head, "predict")
        else None,
        "classes": classes,
        "network": recipes[0]["network"] if recipes else None,
        "weights_licence": find_licence(cnn.model, cnn.weights) if cnn is not None else None,
        "image_size": recipes[0].get("image_size") if recipes else None,
        "layers": getattr(cnn, "layers_", None),
        "pooling": getattr(cnn, "pooling", None),
        "features": getattr(cnn, "n_features_out_", None),
        "head": describe_estimator(head),
        **describe_training(getattr(model, "training_digests_", None)),
        "scores": getattr(model, "cv_scores_", None),
        "conformal": conformal,
        "recipes": recipes,
    }
    return to_json(card)


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the model card of a file of :func:`tlfeatures.save` or of a fine-tuned estimator.

    The model is not loaded, so neither scikit-learn nor Keras is imported, and no code from the file runs.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        "file"; "estimator", its class; "task", "classification" or "regression"; "classes"; "network",
        "weights_licence", "image_size", "layers", "pooling" and "features", the width of the embedding; "head";
        "training_images" and "training_digest", the digest of all training images; "scores", those of
        cross-validation; "conformal", the calibration of prediction sets or intervals; "versions" of the libraries;
        and "recipes", everything that determines the embeddings. Unknown values are None.

    Raises
    ------
    SavedModelError
        If the file is damaged or has another format, such as that of joblib.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> import tlfeatures
    >>> tlfeatures.save(LogisticRegression().fit([[0.0], [1.0]], ["cat", "dog"]), "model.tlf")
    >>> read_card("model.tlf")["classes"]
    ['cat', 'dog']
    """
    name = os.fspath(path)
    if not is_archive(path):
        raise SavedModelError(
            f"{name!r} is damaged or has another format than .tlf, and only .tlf files have a model card. Save the "
            "model with the suffix .tlf."
        )
    about = read_about(path)
    try:
        card = about["card"] if about.get("format") == MODEL_FORMAT else _describe_bundle(about)
        return {"file": os.path.basename(name), **_check_card(card), "versions": about.get("versions")}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise SavedModelError(
            f"{name!r} is damaged or has another format: it has no valid model card."
        ) from error


def _check_card(card: dict[str, Any]) -> dict[str, Any]:
    """Return the known keys of a card, or raise an error if a value has another type."""
    checked = {key: card.get(key) for key in _TYPES}
    for key, value in checked.items():
        if value is not None and not isinstance(value, _TYPES[key]):
            raise TypeError(key)
    for part in (checked["scores"] or {}, checked["conformal"] or {}):
        if not all(part.get(key) is None or isinstance(part[key], (int, float)) for key in _NUMBERS):
            raise TypeError("number")
    return checked


def _describe_bundle(about: dict[str, Any]) -> dict[str, Any]:
    """Describe a fine-tuned estimator from the JSON object in its file."""
    fitted, estimator = about["fitted"], about["estimator"]
    classes = fitted["classes"]
    return {
        "estimator": estimator,
        "task": "regression" if classes is None else "classification",
        "classes": None if classes is None else classes["array"][1],
        "network": about["params"]["model"],
        "image_size": about["decoding"]["image_size"],
        "layers": fitted["layers"],
        "pooling": about["params"]["pooling"],
        "head": f"fine-tuned by Keras, best epoch {fitted['best_epoch']}",
        **about.get("card", {}),  # files of versions before 0.2 have none
    }
