"""Tables of an audit, made from embeddings, digests and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures._inputs import is_missing, to_array
from tlfeatures.evaluation import Duplicates, Neighbors, find_duplicates, find_neighbors
from tlfeatures.images import Images
from tlfeatures.trust._audit_labels import predict_out_of_fold, score_labels

__all__ = [
    "AuditData",
    "Labels",
    "class_table",
    "duplicate_table",
    "encode_labels",
    "label_table",
    "outlier_table",
]

_OUTLIER_SCORE = 3.0  # robust standard deviations
_LEAST_ROWS = 10  # with fewer rows, a typical distance cannot be estimated
_RARE = 10  # images of a class


@dataclass(frozen=True)
class Labels:
    """Classes of the rows, as codes.

    Attributes
    ----------
    classes : ndarray of shape (k,)
        Sorted.
    codes : ndarray of int, shape (n,)
        -1 for rows without a label.
    """

    classes: np.ndarray
    codes: np.ndarray


@dataclass
class AuditData:
    """Embeddings, digests and descriptions of the rows that could be read.

    Attributes
    ----------
    features : ndarray of shape (n, d)
        Finite values.
    keys : ndarray of uint8, shape (n, 16)
    about : DataFrame of n rows
        ``row``, ``image`` and, if available, ``label``, ``group`` and ``split``.
    labels : Labels or None
    notes : list of str
        A message is appended for each check that was not possible.
    """

    features: np.ndarray
    keys: np.ndarray
    about: pandas.DataFrame
    labels: Labels | None
    notes: list[str]

    def find_neighbors(self, k: int) -> Neighbors | None:
        """Find the nearest neighbors of all rows; None, with a note, if the embeddings do not differ."""
        if len(self.features) < 2:
            self.notes.append(
                "There is only one image, so near-duplicates, outliers and label errors were not searched."
            )
            return None
        if not np.ptp(self.features, axis=0).any():
            self.notes.append(
                "The embeddings of all images are equal, so near-duplicates, outliers and label errors were not "
                "searched. Check that the images differ, and choose another layer if they do."
            )
            return None
        return find_neighbors(self.features, k)

    def find_duplicates(self, threshold: float, neighbors: Neighbors | None) -> Duplicates:
        """Find exact duplicates and, among the neighbors, near-duplicates."""
        if neighbors is None:
            n = len(self.keys)
            neighbors = Neighbors(np.empty((n, 0), np.int32), np.empty((n, 0), np.float32))
        return find_duplicates(self.keys, self.features, threshold, neighbors=neighbors)


def encode_labels(y: np.ndarray, classes: np.ndarray | None = None) -> Labels:
    """Encode labels; an object array may contain None or NaN for rows without a label.

    ``classes`` are all classes, sorted; by default those of the labels.
    """
    missing = np.array([is_missing(value) for value in y.tolist()])
    labels, codes = np.array(y[~missing].tolist()), np.full(len(y), -1)
    classes = np.unique(labels) if classes is None else classes
    codes[~missing] = np.searchsorted(classes, labels)
    return Labels(classes, codes)


def label_table(
    data: AuditData,
    neighbors: Neighbors | None,
    groups: np.ndarray,
    cv: int,
    random_state: int,
    probabilities: np.ndarray | None = None,
) -> pandas.DataFrame:
    """Score all labels, the most suspicious first; ``probabilities`` of shape (n, k) are computed if not passed."""
    columns = ["row", "image", "label", "suggestion", "score", "probability", "neighbors", "suspected"]
    labels = data.labels
    if labels is None or neighbors is None or len(labels.classes) < 2:
        if labels is not None and len(labels.classes) == 1:
            data.notes.append(
                f"All labels are one class, {str(labels.classes[0])!r}, so label errors were not searched; expected "
                "two or more classes."
            )
        return pandas.DataFrame(columns=columns).astype({"suspected": bool, "score": float})
    if probabilities is None:
        probabilities = np.full((len(labels.codes), len(labels.classes)), np.nan)
        rows = np.flatnonzero(labels.codes >= 0)
        probabilities[rows] = predict_out_of_fold(
            data.features[rows], labels.codes[rows], groups[rows], cv, random_state
        )
    scores = score_labels(labels.codes, probabilities, neighbors)
    checked = np.flatnonzero(~np.isnan(scores.score))
    _note_unchecked(data, labels, checked)
    order = checked[np.argsort(-scores.score[checked], kind="stable")]
    table = data.about.iloc[order][["row", "image", "label"]].reset_index(drop=True)
    return table.assign(
        suggestion=labels.classes[scores.suggestion[order]],
        score=scores.score[order],
        probability=scores.probability[order],
        neighbors=scores.neighbors[order],
        suspected=scores.score[order] > 0.5,
    )


def _note_unchecked(data: AuditData, labels: Labels, checked: np.ndarray) -> None:
    skipped = np.setdiff1d(np.flatnonzero(labels.codes >= 0), checked)
    if len(skipped):
        names = ", ".join(repr(str(name)) for name in labels.classes[np.unique(labels.codes[skipped])][:5])
        count = "1 label was" if len(skipped) == 1 else f"{len(skipped):,} labels were"
        data.notes.append(
            f"{count} not checked, because all images of their class are in one group or the class has a single "
            f"image: {names}."
        )


def duplicate_table(data: AuditData, duplicates: Duplicates) -> pandas.DataFrame:
    """List the images of all duplicate groups, groups across splits and classes first."""
    n = len(data.keys)
    nearest, exact = np.full(n, -np.inf), np.zeros(n, bool)
    for side in duplicates.pairs.T:
        np.maximum.at(nearest, side, duplicates.cosine)
        np.logical_or.at(exact, side, duplicates.exact)
    rows = np.flatnonzero(np.isfinite(nearest))
    table = data.about.iloc[rows].drop(columns="group", errors="ignore").reset_index(drop=True)
    table.insert(0, "group", duplicates.groups[rows])
    table["kind"] = np.where(exact[rows], "exact", "near")
    table["cosine"] = np.clip(nearest[rows], -1.0, 1.0)
    by_group = table.groupby("group")
    for name, column in (("across_classes", "label"), ("across_splits", "split")):
        differs = by_group[column].transform("nunique") > 1 if column in table else False
        table[name] = np.full(len(table), False) if differs is False else differs.to_numpy(bool)
    table["largest"] = by_group["cosine"].transform("max")
    table = table.sort_values(
        ["across_splits", "across_classes", "largest", "group", "row"],
        ascending=[False, False, False, True, True],
        ignore_index=True,
    ).drop(columns="largest")
    table["group"] = pandas.factorize(table["group"])[0]
    return table


def outlier_table(data: AuditData, neighbors: Neighbors | None) -> pandas.DataFrame:
    """List the images whose nearest images are unusually far, the farthest first."""
    columns = [name for name in ("row", "image", "label") if name in data.about]
    table = data.about.iloc[:0][columns].assign(distance=0.0, score=0.0)
    if neighbors is None or len(data.features) < _LEAST_ROWS:
        return table
    distance, score = score_outliers(data.features, neighbors)
    rows = np.flatnonzero(score > _OUTLIER_SCORE)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    table = data.about.iloc[rows][columns].reset_index(drop=True)
    return table.assign(distance=distance[rows], score=score[rows])


def score_outliers(features: np.ndarray, neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row to its last neighbor, and how many robust deviations it is above the median."""
    distance = _measure_distance(features, neighbors)
    log_distance = np.log(np.maximum(distance, 1e-6))
    center = np.median(log_distance)
    deviation = 1.4826 * np.median(np.abs(log_distance - center))
    return distance, (log_distance - center) / max(deviation, 1e-6)


def _measure_distance(features: np.ndarray, neighbors: Neighbors) -> np.ndarray:
    """Return one minus the least cosine of each row with its neighbors, without centering.

    With the mean, outliers that are like each other would not be listed, even if there are fewer than neighbors.
    Centering makes outliers harder to find: images of a class far from the mean become near each other, and all other
    images far from each other.
    """
    lengths = np.linalg.norm(features, axis=1)
    unit = features / np.where(lengths > 0, lengths, 1)[:, None]
    cosines = [np.einsum("ij,ij->i", unit, unit[column], dtype=np.float64) for column in neighbors.rows.T]
    return np.maximum(1 - np.min(cosines, axis=0), 0)


def class_table(data: AuditData, label_errors: pandas.DataFrame) -> pandas.DataFrame:
    """Count images and suspected labels of each class, with notes on small classes."""
    if data.labels is None:
        return pandas.DataFrame({"class": [], "images": [], "share": [], "suspected": []})
    classes = data.labels.classes
    counts = np.bincount(data.labels.codes[data.labels.codes >= 0], minlength=len(classes))
    classes, counts = classes[counts > 0], counts[counts > 0]
    suspected = label_errors.loc[label_errors["suspected"], "label"].value_counts()
    if (few := int((counts < _RARE).sum())) and len(classes) > 1:
        smallest = classes[counts.argmin()]
        data.notes.append(
            f"{few} of {len(classes)} classes have fewer than {_RARE} images; the smallest is {str(smallest)!r} "
            f"with {counts.min()}. The scores of their labels are unreliable."
        )
    elif counts.max() >= 10 * counts.min():
        data.notes.append(
            f"The classes are unbalanced: {str(classes[counts.argmax()])!r} has {counts.max():,} images, "
            f"{str(classes[counts.argmin()])!r} {counts.min():,}. `class_weight='balanced'` weights them equally."
        )
    return pandas.DataFrame(
        {
            "class": classes,
            "images": counts,
            "share": counts / counts.sum(),
            "suspected": suspected.reindex(classes, fill_value=0).to_numpy(int),
        }
    ).sort_values("images", kind="stable", ignore_index=True)


def describe_rows(images: Images | None, n: int, labels: Any, groups: Any, split: Any) -> pandas.DataFrame:
    """Make the table of all images: ``row``, ``image`` and, if available, ``label``, ``group`` and ``split``."""
    names = [f"X[{row}]" for row in range(n)] if images is None else [images.name(row) for row in range(n)]
    if groups is not None:
        groups = to_array(groups)
    columns = {"label": labels, "group": groups, "split": split}
    table = pandas.DataFrame({"row": np.arange(n), "image": pandas.Series(names, dtype=object)})
    return table.assign(**{name: values for name, values in columns.items() if values is not None})
