"""``audit``: label errors, duplicates, outliers, faulty images and confounders of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas

from tlfeatures._params import check_parameter, integer, number
from tlfeatures.evaluation import Duplicates, check_groups, check_seed
from tlfeatures.features import CNNFeatures
from tlfeatures.results import AuditResult
from tlfeatures.trust._audit_confounders import find_confounders
from tlfeatures.trust._audit_files import examine_files, make_thumbnails
from tlfeatures.trust._audit_inputs import check_classes, check_split, embed_all, recognize
from tlfeatures.trust._audit_tables import (
    AuditData,
    class_table,
    describe_rows,
    duplicate_table,
    encode_labels,
    label_table,
    outlier_table,
)

__all__ = ["audit", "audit_search_rows"]


def audit(
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    split: Any = None,
    features: Any = None,
    cv: int = 5,
    n_neighbors: int = 10,
    duplicate_threshold: float = 0.85,
    random_state: Any = 0,
    n_jobs: int | None = None,
) -> AuditResult:
    """Find label errors, duplicates, outliers, faulty images and confounders of a data set.

    Each image passes through the network at most once; everything else is computed from the embeddings and the files.
    Nothing is changed or deleted: the tables are rankings for a person to review.

    Parameters
    ----------
    X : images, or array-like of shape (n, d)
        Images in any form that :class:`~tlfeatures.CNNFeatures` takes, or their embeddings.
    y : array-like of shape (n,), optional
        Class labels; None or NaN for images without a label. Without labels, or with continuous ones, label errors,
        confounders and classes are not checked.
    groups : array-like of shape (n,), optional
        Group of each image, such as a patient. Images of one group are in one fold, and ``confounders`` shows how
        well the group alone predicts the label.
    split : array-like of shape (n,), optional
        Name of the split of each image, such as "train" or "test"; duplicates across splits are reported first.
    features : CNNFeatures or array-like of shape (n, d), optional
        Transformer, fitted or not, that computes the embeddings of the images, or the embeddings themselves. The
        default is ``CNNFeatures()``.
    cv : int, default=5
        Number of folds for the out-of-fold predictions that show label errors.
    n_neighbors : int, default=10
        Number of nearest images whose labels are compared.
    duplicate_threshold : float, default=0.85
        Cosine similarity of centered embeddings from which images are near-duplicates. The default finds images that
        were saved again, resized, cropped slightly or mirrored, with the last layer of MobileNet; unrelated images
        have cosines of up to 0.7 there. Use 0.95 if too many similar images are reported.
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
    margin between the label and the most probable other class, with probabilities from calibrated out-of-fold
    predictions and the labels of the nearest images (Northcutt et al. 2021, "Confident learning"). Near-duplicates are
    searched among the nearest images. Outliers are images whose distance to their nearest images is unusually large, on
    a logarithmic scale (as in Ramaswamy et al. 2000). The largest array beside the embeddings has 16 million values;
    there is no matrix of shape (n, n).

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
    images, embeddings = recognize(X, features)
    n = len(embeddings if images is None else images)
    labels, notes = check_classes(y, n)
    groups = list(groups) if isinstance(groups, Iterator) else groups
    group_codes, split_names = check_groups(groups, n), check_split(split, n)
    cnn = CNNFeatures(n_jobs=n_jobs) if embeddings is None and features is None else features
    values, keys, errors = embed_all(images, embeddings, cnn, n_jobs)
    rows = _find_usable_rows(n, errors)
    about = describe_rows(images, n, labels, groups, split_names)
    data = AuditData(
        values[rows],
        keys[rows],
        about.iloc[rows].reset_index(drop=True),
        None if labels is None else encode_labels(labels[rows]),
        notes,
    )
    faults, predictors = examine_files(images, cnn, n_jobs, about["image"].tolist(), errors, notes)
    if groups is not None:
        predictors["group"] = about[["group"]].astype(str)
    tables = examine(
        data,
        groups=None if group_codes is None else group_codes[rows],
        predictors={name: frame.iloc[rows] for name, frame in predictors.items()},
        cv=cv,
        n_neighbors=n_neighbors,
        duplicate_threshold=duplicate_threshold,
        random_state=seed,
    )
    result = AuditResult(images=about, faults=faults, notes=notes, **tables)
    if images is None:
        return result
    shown = sorted({row for table in result.select_shown().values() for row in table["row"].tolist()})
    return replace(result, thumbnails=make_thumbnails(images, shown, cnn))


def _find_usable_rows(n: int, errors: dict[int, str]) -> np.ndarray:
    rows = np.setdiff1d(np.arange(n), list(errors)).astype(int)
    if not len(rows):
        raise ValueError(
            f"None of the {n:,} images could be read, or all embeddings contain NaN, so there is nothing to audit. The "
            f"first: {next(iter(errors.values()))}. check_images(X) gives all reasons."
        )
    return rows


def examine(
    data: AuditData,
    *,
    groups: np.ndarray | None,
    predictors: dict[str, pandas.DataFrame],
    cv: int,
    n_neighbors: int,
    duplicate_threshold: float,
    random_state: int,
    probabilities: np.ndarray | Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> dict[str, pandas.DataFrame]:
    """Make the tables of an audit except ``faults``; ``probabilities`` of shape (n, k) are computed if None."""
    neighbors = data.find_neighbors(n_neighbors)
    duplicates = data.find_duplicates(duplicate_threshold, neighbors)
    fold_groups = _choose_fold_groups(duplicates, groups, cv)
    if callable(probabilities):
        probabilities = probabilities(fold_groups)
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


def audit_search_rows(
    features: np.ndarray,
    keys: np.ndarray,
    about: pandas.DataFrame,
    probabilities: np.ndarray | Callable[[np.ndarray], np.ndarray | None],
    classes: np.ndarray | None = None,
) -> AuditResult:
    """Audit rows whose out-of-fold class probabilities have been computed already.

    Parameters
    ----------
    features : ndarray of shape (n, d)
        Finite values.
    keys : ndarray of uint8, shape (n, 16)
    about : DataFrame of n rows
        ``row``, ``image`` and, if available, ``label`` (missing without probabilities), ``group`` and ``split``.
    probabilities : ndarray of shape (n, k), or callable
        NaN for rows without a label; the columns are ``classes``. A callable gets the groups of the rows, int (n,),
        which unite duplicates, and returns the probabilities, or None if they are to be computed.
    classes : ndarray of shape (k,), optional
        Sorted; by default those of the labels.

    Returns
    -------
    AuditResult
        Without faults.
    """
    notes: list[str] = []
    labels = encode_labels(about["label"].to_numpy(object), classes) if "label" in about else None
    data = AuditData(features, keys, about, labels, notes)
    has_groups = "group" in about
    tables = examine(
        data,
        groups=None,
        predictors={"group": about[["group"]].astype(str)} if has_groups else {},
        cv=5,
        n_neighbors=10,
        duplicate_threshold=0.85,
        random_state=0,
        probabilities=probabilities,
    )
    faults = pandas.DataFrame(columns=["row", "image", "fault", "reason"])
    return AuditResult(images=about, faults=faults, notes=notes, **tables)
