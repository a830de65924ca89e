"""``suggest``: the images to label next, uncertain and unlike each other, without duplicates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas
from sklearn.base import clone, is_classifier
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from tlfeatures._inputs import is_missing
from tlfeatures._params import check_parameter, describe_value, integer
from tlfeatures._warnings import warn
from tlfeatures.calibration import compute_logits
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_labels, check_seed, find_duplicates, infer_task
from tlfeatures.features import embed
from tlfeatures.fingerprints import array_key
from tlfeatures.heads import blas_threads, make_head
from tlfeatures.images import Images
from tlfeatures.results import Suggestions
from tlfeatures.trust._audit_files import make_thumbnails
from tlfeatures.trust._embedded import DUPLICATE_THRESHOLD, check_rows, split_head

__all__ = ["suggest"]

_CANDIDATES = 3  # minimum number of candidates for each image to suggest


def suggest(X: Any, y: Any, n: int = 10, *, estimator: Any = None, random_state: Any = 0) -> Suggestions:
    """Choose images to label next: uncertain, unlike each other, and no duplicates.

    A classifier is fitted on the labelled images. The candidates are the unlabelled images with the smallest margin
    between the two most likely classes. Their share of the unlabelled images is the cross-validated error rate of the
    classifier to the power of 1.5, so that there are more candidates while it makes many errors; there are at least
    ``3 * n``. The candidates are divided into ``n`` clusters by k-means, and the image nearest to each center is chosen
    (Zhdanov 2019, "Diverse mini-batch active learning").

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features), or images
        All images, labelled or not.
    y : array-like of shape (n_samples,)
        Classes; None, NaN or "" where an image has no label.
    n : int, default=10
        Number of images to choose.
    estimator : classifier, optional
        A classifier for embeddings, by default ``make_head("svm")``; or a pipeline that begins with
        :class:`~tlfeatures.CNNFeatures`, which is required if X contains images.
    random_state : int, RandomState or None, default=0
        Seed of the clusters and folds.

    Returns
    -------
    Suggestions
        Fewer than ``n`` images, with a warning, if there are not enough.

    Raises
    ------
    ValueError
        If no image can be suggested, or the labels are not classes.

    Notes
    -----
    If fewer than two classes have labels, the images are chosen by k-means of all unlabelled images, with a warning.
    Unreadable images are never suggested. ``python benchmarks/suggest.py`` compares this function with random choice:
    the same accuracy needs fewer labels.

    Examples
    --------
    >>> import numpy as np
    >>> from tlfeatures import suggest
    >>> X = np.random.default_rng(0).normal(size=(50, 20))
    >>> y = np.full(50, None)
    >>> y[:20] = np.where(X[:20, 0] > 0, "cat", "dog")
    >>> suggestions = suggest(X, y, n=5)
    >>> len(suggestions.rows), bool(suggestions.rows.min() >= 20)
    (5, True)
    """
    check_parameter("n", n, [integer(minimum=1)])
    rng = np.random.RandomState(check_seed(random_state))
    head, features, keys, images, errors = _read(X, estimator)
    labels, labelled = _read_labels(y, len(features))
    readable = np.isfinite(features).all(axis=1)
    labelled &= readable
    pool, duplicates = _skip_duplicates(features, keys, labelled, readable)
    if not len(pool):
        raise InvalidParameterError(
            f"`y` must leave images without a label; of {len(features)} images, {int(labelled.sum())} have one, "
            f"{int(duplicates['skipped'].sum())} are duplicates, and {int((~readable).sum())} are unreadable. "
            "Add other images.",
            "y",
        )
    if len(pool) < n:
        left = "1 image is" if len(pool) == 1 else f"{len(pool)} images are"
        warn(f"only {left} left to label; {n} were requested.")
    y_labelled = np.array(labels[labelled].tolist())
    accuracy = predictions = alternatives = margins = None
    if _has_classes(y_labelled):
        y_labelled, _ = check_labels(y_labelled, len(y_labelled), "classification")
        with blas_threads(*features.shape):
            accuracy = _measure_accuracy(head, features[labelled], y_labelled, rng)
            predictions, alternatives, margins = _predict(
                head, features[labelled], y_labelled, features[pool]
            )
    chosen = _choose(features[pool], margins, min(n, len(pool)), accuracy, rng)
    if predictions is not None:
        chosen = chosen[np.argsort(margins[chosen], kind="stable")]
        predictions, alternatives, margins = predictions[chosen], alternatives[chosen], margins[chosen]
    names = range(len(features)) if images is None else [images.name(row) for row in range(len(images))]
    result = Suggestions(
        pool[chosen],
        predictions,
        alternatives,
        margins,
        accuracy,
        _count_classes(y_labelled),
        _describe_duplicates(duplicates, labels, names),
        names,
        errors,
    )
    if images is None:
        return result
    shown = sorted({row for table in result.select_shown().values() for row in table["row"].tolist()})
    return replace(result, thumbnails=make_thumbnails(images, shown, split_head(estimator)[0]))


def _read(X: Any, estimator: Any) -> tuple[Any, np.ndarray, np.ndarray, Images | None, dict[int, str]]:
    """Return the head, the embeddings, their digests, the images if X contains images, and the unreadable ones."""
    estimator = make_head("svm") if estimator is None else estimator
    cnn, head = split_head(estimator)
    if not is_classifier(head):
        raise InvalidParameterError(
            f"`estimator` must be a classifier, or a pipeline of CNNFeatures and a classifier; got "
            f"{describe_value(estimator)}.",
            "estimator",
        )
    if cnn is not None:
        images = Images.of(X)
        extracted = embed(clone(cnn).fit(images), images, on_error="nan")
        return head, extracted.features, extracted.keys, images, extracted.errors
    features = np.asarray(X)
    if features.ndim != 2 or features.dtype.kind not in "biuf":
        raise InvalidParameterError(
            f"`X` must be embeddings of shape (n, d); got {describe_value(X)}. For images, pass an `estimator` that "
            "begins with CNNFeatures.",
            "X",
        )
    features = features.astype(float) if features.dtype.kind != "f" else features
    check_rows(features)
    keys = np.frombuffer(b"".join(map(array_key, features)), np.uint8).reshape(len(features), 16)
    return head, features, keys, None, {}


def _read_labels(y: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels as objects, None for images without a label, and a mask of the labelled rows."""
    values = [] if y is None else y.tolist() if hasattr(y, "tolist") else list(y)
    if len(values) != n:
        raise InvalidParameterError(
            f"`y` must have one label, or None, for each of the {n} images; got {len(values)}.", "y"
        )
    labels = np.empty(n, object)
    labels[:] = [None if is_missing(value) or value == "" else value for value in values]
    labelled = np.array([label is not None for label in labels], bool)
    present = labels[labelled].tolist()
    if present and infer_task(present) == "regression":
        raise InvalidParameterError(
            f"`y` must be classes; got numbers such as {present[0]!r}. For classes that are numbers, convert them to "
            "text.",
            "y",
        )
    return labels, labelled


def _has_classes(labels: np.ndarray) -> bool:
    """Whether there are two classes or more; if not, warn of the consequence."""
    if len(np.unique(labels)) > 1:
        return True
    reason = f"all labels are {labels.tolist()[0]!r}" if len(labels) else "no image has a label"
    warn(
        f"{reason}, so the suggested images are chosen without a classifier: they are unlike each other, but not "
        "uncertain."
    )
    return False


def _count_classes(labels: np.ndarray) -> pandas.DataFrame:
    names, counts = np.unique(labels, return_counts=True)
    return pandas.DataFrame({"class": names, "images": counts})


def _skip_duplicates(
    features: np.ndarray, keys: np.ndarray, labelled: np.ndarray, readable: np.ndarray
) -> tuple[np.ndarray, pandas.DataFrame]:
    """Return one row of each duplicate group without a label, and the rows of groups in which rows are skipped.

    The columns of the table are "group", "row" and "skipped".
    """
    rows = np.flatnonzero(readable)
    if not len(rows):
        return rows, pandas.DataFrame({"group": [], "row": [], "skipped": []})
    groups = find_duplicates(keys[rows], features[rows], DUPLICATE_THRESHOLD).groups
    table = pandas.DataFrame({"group": groups, "row": rows, "labelled": labelled[rows]})
    table = table.sort_values(["labelled", "row"], ascending=[False, True])  # labelled images are kept
    table["skipped"] = ~table.pop("labelled") & table.duplicated("group")
    pool = np.setdiff1d(rows, np.r_[rows[labelled[rows]], table.loc[table["skipped"], "row"]])
    table = table[table.groupby("group")["skipped"].transform("any")]
    return pool, table.assign(group=pandas.factorize(table["group"])[0]).sort_values("group", kind="stable")


def _describe_duplicates(
    table: pandas.DataFrame, labels: np.ndarray, names: Sequence[Any]
) -> pandas.DataFrame:
    """Return the columns of :attr:`Suggestions.duplicates`."""
    rows = table["row"].tolist()
    return pandas.DataFrame(
        {
            "group": table["group"].to_numpy(int),
            "row": rows,
            "image": pandas.Series([names[row] for row in rows], dtype=object),
            "label": pandas.Series(labels[rows], dtype=object),  # pandas would convert None to NaN
            "skipped": table["skipped"].to_numpy(bool),
        }
    )


def _measure_accuracy(head: Any, X: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> float:
    """Return the cross-validated accuracy; rows that cannot be predicted count as errors."""
    k = min(5, int(np.unique(y, return_counts=True)[1].max()))
    if k == 1:
        return 0.0
    correct = np.zeros(len(y), bool)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The least populated class"
        )  # which has fewer rows than there are folds
        folds = list(StratifiedKFold(k, shuffle=True, random_state=rng).split(X, y))
    for train, test in folds:
        if len(np.unique(y[train])) > 1:
            with suppress(ValueError):  # too few rows for the head, such as fewer rows than neighbors
                correct[test] = clone(head).fit(X[train], y[train]).predict(X[test]) == y[test]
    return float(correct.mean())


def _predict(
    head: Any, X_labelled: np.ndarray, y: np.ndarray, X: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first and second most likely classes, and the differences between their decision values."""
    try:
        head = clone(head).fit(X_labelled, y)
        logits, predicted = compute_logits(head, X, head.classes_), head.predict(X)
    except ValueError as error:
        raise InvalidParameterError(
            f"`estimator` cannot be used with {len(y)} labelled images: {str(error).rstrip('.')}. Label more images, "
            "or pass another estimator.",
            "estimator",
        ) from error
    two = np.partition(logits, -2, axis=1)[:, -2:]
    # SVC may predict a class other than the one with the largest decision value
    others = np.where(head.classes_ == predicted[:, None], -np.inf, logits)
    return predicted, head.classes_[others.argmax(axis=1)], two[:, 1] - two[:, 0]


def _choose(
    X: np.ndarray, margins: np.ndarray | None, n: int, accuracy: float | None, rng: np.random.RandomState
) -> np.ndarray:
    """Return the rows nearest to the centers of n clusters of the rows with the smallest margins."""
    order = np.arange(len(X)) if margins is None else np.argsort(margins, kind="stable")
    n_candidates = len(X)
    if accuracy is not None:
        n_candidates = min(len(X), max(_CANDIDATES * n, int((1 - accuracy) ** 1.5 * len(X))))
    candidates = order[:n_candidates]
    weights = np.ones(n_candidates) if margins is None else 1 - np.arange(n_candidates) / len(X)
    centered = X[candidates] - X.mean(axis=0)
    rows = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        clusters = KMeans(n, n_init=1, random_state=rng).fit(rows, sample_weight=weights)
    distances = clusters.transform(rows)
    distances[np.arange(n) != clusters.labels_[:, None]] = np.inf
    nearest = np.unique(distances.argmin(axis=0)[np.isfinite(distances).any(axis=0)])
    others = np.setdiff1d(np.arange(n_candidates), nearest)  # used if there are fewer clusters than n
    return candidates[np.r_[nearest, others[: n - len(nearest)]]]
