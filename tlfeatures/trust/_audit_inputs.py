"""Inputs of an audit: images or embeddings, labels, splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
from sklearn.base import clone

from tlfeatures._inputs import as_labels, is_missing, to_array
from tlfeatures._params import check_parameter, instance_of
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import infer_task
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.fingerprints import array_key
from tlfeatures.images import Images

__all__ = ["check_classes", "check_split", "embed_all", "recognize"]


def recognize(X: Any, features: Any) -> tuple[Images | None, np.ndarray | None]:
    """Return (images or None, embeddings or None); the embeddings are None if a network must compute them."""
    if isinstance(features, CNNFeatures) or features is None:
        if _is_matrix(X):
            if features is not None:
                raise InvalidParameterError(
                    f"`features` must be None if X is an array of embeddings; got {type(features).__name__} and X of "
                    f"shape {np.shape(X)}. Pass images as X, or leave out `features`.",
                    "features",
                )
            return None, _check_matrix("X", X)
        return Images.of(X), None
    if not _is_matrix(features):
        check_parameter("features", features, [None, instance_of(CNNFeatures)])
    images, embeddings = Images.of(X), _check_matrix("features", features)
    if len(images) != len(embeddings):
        raise InvalidParameterError(
            f"`features` must have one row for each of the {len(images)} images; got {len(embeddings)} rows.",
            "features",
        )
    return images, embeddings


def _is_matrix(X: Any) -> bool:
    """Whether X is a numeric array of shape (n, d)."""
    if isinstance(X, list) and X and isinstance(X[0], (list, tuple)):
        X = np.asarray(X)
    dtype = X.to_numpy().dtype if isinstance(X, pandas.DataFrame) else getattr(X, "dtype", None)
    return getattr(X, "ndim", 0) == 2 and getattr(dtype, "kind", "") in "fiub"


def _check_matrix(name: str, X: Any) -> np.ndarray:
    values = np.asarray(X, np.float32)
    if not values.size:
        raise InvalidParameterError(
            f"`{name}` must not be empty; got an array of shape {values.shape}.", name
        )
    return values


def check_classes(y: Any, n: int) -> tuple[np.ndarray | None, list[str]]:
    """Return (labels or None, notes); labels are None if there are no classes, missing labels are None."""
    if y is None:
        return None, ["There are no labels, so label errors and class balance were not checked."]
    values = to_array(as_labels(y))
    values = values.ravel() if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim == 1 and len(values) != n:
        raise ValueError(f"Got {n} images but {len(values)} labels; give one label for each image.")
    if values.ndim != 1:
        infer_task(values)  # raises the error that names the shape
    missing = np.array([is_missing(value) for value in values.tolist()])
    if missing.all():
        return None, ["All labels are missing, so label errors and class balance were not checked."]
    notes = []
    if infer_task(values[~missing].tolist()) == "regression":
        return None, [
            "The labels are continuous numbers, so label errors and class balance were not checked. Convert them to "
            "text if they are names of classes."
        ]
    if missing.any():
        notes.append(f"{missing.sum():,} of {n:,} images have no label; their labels were not checked.")
    labels = values.astype(object)
    labels[missing] = None
    return labels if missing.any() else values, notes


def check_split(split: Any, n: int) -> np.ndarray | None:
    """Return the names of the splits as text."""
    if split is None:
        return None
    names = to_array(split)
    if names.shape != (n,):
        raise InvalidParameterError(
            f"`split` must have one name for each of the {n} images; got an array of shape {names.shape}.",
            "split",
        )
    if count := sum(map(is_missing, names.tolist())):
        raise InvalidParameterError(
            f"`split` must not have missing names; {count} of {n} are missing. Fill them in or drop their images.",
            "split",
        )
    return names.astype(str)


def embed_all(
    images: Images | None, embeddings: np.ndarray | None, cnn: Any, n_jobs: int | None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return embeddings, digests, and the reasons for rows that cannot be used."""
    if embeddings is None:
        if not hasattr(cnn, "recipes_"):
            cnn = clone(cnn).fit(images)
        extracted = embed(cnn, images, on_error="nan")
        return extracted.features, extracted.keys, dict(extracted.errors)
    if images is None:
        keys = np.frombuffer(b"".join(map(array_key, embeddings)), np.uint8).reshape(len(embeddings), -1)
        errors: dict[int, str] = {}
    else:
        keys, errors = images.keys(n_jobs)
    unusable = np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist()
    errors |= {row: "the embedding contains NaN or infinity" for row in unusable if row not in errors}
    return embeddings, keys, dict(sorted(errors.items()))
