"""``audit``: label errors, duplicates, outliers, faulty images and confounders of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
from sklearn.base import clone

from tlfeatures._inputs import as_labels, is_missing
from tlfeatures._params import check_parameter, instance_of, integer, number
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import Duplicates, check_groups, check_seed, infer_task
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.fingerprints import array_key
from tlfeatures.images import Images
from tlfeatures.results import AuditResult
from tlfeatures.trust._audit_confounders import find_confounders
from tlfeatures.trust._audit_tables import (
    AuditData,
    class_table,
    describe_rows,
    duplicate_table,
    encode_labels,
    label_table,
    outlier_table,
)

__all__ = ["audit"]


def audit(
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    split: Any = None,
    features: Any = None,
    cv: int = 5,
    n_neighbors: int = 10,
    duplicate_threshold: float = 0.95,
    random_state: Any = 0,
    n_jobs: int | None = None,
) -> AuditResult:
    """Find label errors, duplicates, outliers, faulty images and confounders of a data set.

    Each image passes through the network at most once; everything else works on the embeddings. Nothing is changed
    or deleted: the tables are rankings for a person to review.

    Parameters
    ----------
    X : images, or array-like of shape (n, d)
        Images in any form that :class:`~tlfeatures.CNNFeatures` takes, or their embeddings.
    y : array-like of shape (n,), optional
        Class labels; None or NaN for images without a label. Without labels, or with continuous ones, only what
        does not need classes is checked.
    groups : array-like of shape (n,), optional
        Group of each image, such as a patient. Images of one group are in one fold, and it is checked how well
        the group alone predicts the label.
    split : array-like of shape (n,), optional
        Name of the split of each image, such as "train" or "test"; duplicates across splits are reported first.
    features : CNNFeatures or array-like of shape (n, d), optional
        Transformer, fitted or not, that computes the embeddings of the images, or the embeddings themselves. The
        default is ``CNNFeatures()``.
    cv : int, default=5
        Number of folds of the predictions that label errors are searched with.
    n_neighbors : int, default=10
        Number of nearest images whose labels are compared.
    duplicate_threshold : float, default=0.95
        Cosine similarity of centered embeddings from which images are near-duplicates.
    random_state : int, RandomState or None, default=0
        Seed for shuffling the folds.
    n_jobs : int or None, default=None
        Number of decoding threads; None or -1 means one per core, at most 8.

    Returns
    -------
    AuditResult
        See :class:`tlfeatures.results.AuditResult`.

    Raises
    ------
    ValueError
        If no image can be read, or labels, groups and splits do not have one entry for each image.
    ImageInputError, WeightsError, UnknownNameError
        As in `CNNFeatures`.

    Notes
    -----
    Rows with NaN and images that cannot be read are left out and listed in ``faults``. Label errors are ranked by the
    margin of calibrated out-of-fold class probabilities and of the labels of the nearest images (Northcutt et al. 2021,
    "Confident learning"); near-duplicates are searched among the nearest images, and outliers are images whose
    ``n_neighbors``-th nearest image is unusually far (Ramaswamy et al. 2000). The largest array beside the embeddings
    has 16 million values; there is no matrix of shape (n, n).

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures import audit
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(0, 1, (50, 8)), rng.normal(4, 1, (50, 8))])
    >>> y = np.repeat(["cat", "dog"], 50)
    >>> y[3] = "dog"
    >>> audit(X, y).suspected[["row", "label", "suggestion"]]
       row label suggestion
    0    3   dog        cat
    """
    check_parameter("cv", cv, [integer(minimum=2)])
    check_parameter("n_neighbors", n_neighbors, [integer(minimum=1)])
    check_parameter("duplicate_threshold", duplicate_threshold, [number(above=0, maximum=1)])
    check_parameter("n_jobs", n_jobs, [None, -1, integer(minimum=1)])
    seed = check_seed(random_state)
    images, embeddings = _recognize(X, features)
    n = len(embeddings if images is None else images)
    labels, notes = _check_classes(y, n)
    group_codes, split_names = check_groups(groups, n), _check_split(split, n)
    values, keys, errors = _embed(images, embeddings, features, n_jobs)
    names = [f"X[{row}]" for row in range(n)] if images is None else [images.name(row) for row in range(n)]
    about = describe_rows(
        names,
        label=labels,
        group=None
        if groups is None
        else np.asarray(groups if hasattr(groups, "__array__") else list(groups)),
        split=split_names,
    )
    rows = np.setdiff1d(np.arange(n), list(errors))
    if not len(rows):
        raise ValueError(
            f"None of the {n:,} images could be read, or all embeddings contain NaN, so there is nothing to audit. The "
            f"first: {next(iter(errors.values()))}. check_images(X) gives all reasons."
        )
    data = AuditData(
        values[rows],
        keys[rows],
        about.iloc[rows].reset_index(drop=True),
        None if labels is None else encode_labels(labels[rows]),
        notes,
    )
    predictors = {} if groups is None else {"group": about[["group"]].astype(str)}
    faults = pandas.DataFrame(
        [(row, names[row], "unreadable", reason) for row, reason in errors.items()],
        columns=["row", "image", "fault", "reason"],
    )
    tables = examine(
        data,
        groups=None if group_codes is None else group_codes[rows],
        predictors={name: frame.iloc[rows].reset_index(drop=True) for name, frame in predictors.items()},
        cv=cv,
        n_neighbors=n_neighbors,
        duplicate_threshold=duplicate_threshold,
        random_state=seed,
    )
    return AuditResult(images=about, faults=faults, notes=notes, **tables)


def examine(
    data: AuditData,
    *,
    groups: np.ndarray | None,
    predictors: dict[str, pandas.DataFrame],
    cv: int,
    n_neighbors: int,
    duplicate_threshold: float,
    random_state: int,
    probabilities: np.ndarray | None = None,
) -> dict[str, pandas.DataFrame]:
    """Make the tables of an audit that need only embeddings; ``probabilities`` of shape (n, k) are computed if None."""
    neighbors = data.find_neighbors(n_neighbors)
    duplicates = data.find_duplicates(duplicate_threshold, neighbors)
    fold_groups = _choose_fold_groups(duplicates, groups, cv)
    label_errors = label_table(data, neighbors, fold_groups, cv, random_state, probabilities)
    codes = np.full(len(data.keys), -1) if data.labels is None else data.labels.codes
    labelled = np.flatnonzero(codes >= 0)
    confounders = find_confounders(
        codes[labelled], {name: frame.iloc[labelled] for name, frame in predictors.items()}, random_state
    )
    return {
        "label_errors": label_errors,
        "duplicates": duplicate_table(data, duplicates),
        "outliers": outlier_table(data, neighbors),
        "confounders": confounders,
        "classes": class_table(data, label_errors),
    }


def _choose_fold_groups(duplicates: Duplicates, groups: np.ndarray | None, cv: int) -> np.ndarray:
    """Return groups that keep duplicates in one fold, unless a duplicate group is larger than a fold."""
    n = len(duplicates.groups)
    if duplicates.largest <= n / cv:
        return duplicates.groups if groups is None else duplicates.merge(groups)
    return np.arange(n) if groups is None else groups


def _recognize(X: Any, features: Any) -> tuple[Images | None, np.ndarray | None]:
    """Return the images, or None, and the embeddings, or None if a network must compute them."""
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


def _check_classes(y: Any, n: int) -> tuple[np.ndarray | None, list[str]]:
    """Return the labels with None where they are missing, or None if there are no classes, and notes."""
    if y is None:
        return None, ["There are no labels, so label errors and class balance were not checked."]
    y = as_labels(y)
    values = np.asarray(y if hasattr(y, "__array__") else list(y))
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


def _check_split(split: Any, n: int) -> np.ndarray | None:
    if split is None:
        return None
    names = np.asarray(split if hasattr(split, "__array__") else list(split))
    if names.shape != (n,):
        raise InvalidParameterError(
            f"`split` must hold one name for each of the {n} images; got an array of shape {names.shape}.",
            "split",
        )
    return names.astype(str)


def _embed(
    images: Images | None, embeddings: np.ndarray | None, cnn: Any, n_jobs: int | None
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Return embeddings, digests, and the reasons for rows that cannot be used."""
    if embeddings is None:
        cnn = CNNFeatures(n_jobs=n_jobs) if cnn is None else cnn
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
