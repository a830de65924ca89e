"""Result of an audit of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas

from tlfeatures._text import count

__all__ = ["AuditResult"]

_SHOWN = {"label_errors": 36, "outliers": 18, "faults": 18}  # largest number of images that a report shows
_SHOWN_GROUPS, _SHOWN_DUPLICATES = 15, 6


@dataclass(frozen=True)
class AuditResult:
    """Everything that an audit found; it changes and deletes no image.

    :func:`tlfeatures.audit` returns it. ``images`` is in the order of ``X``, and ``classes`` begins with the smallest
    class. In all other tables, the most suspicious row comes first. ``row`` is the position of an image in ``X``.

    Attributes
    ----------
    images : pandas.DataFrame
        One row for each image: ``row``, ``image`` (path or position in ``X``) and, if available, ``label``, ``group``
        and ``split``.
    label_errors : pandas.DataFrame
        One row for each image whose label was checked: ``row``, ``image``, ``label``; ``suggestion``, the most probable
        other class; ``score``, from 0 (the label is certainly right) to 1 (certainly wrong); ``probability``, the
        out-of-fold probability of the label; ``neighbors``, the share of the nearest images that have this label;
        ``suspected``, whether the suggestion is more probable than the label (a score above 0.5).
    duplicates : pandas.DataFrame
        One row for each image that has a duplicate: ``group`` (number of the duplicate group), ``row``, ``image``,
        ``label``, ``split``; ``kind``, "exact" (same digest as another image of the group) or "near"; ``cosine`` of the
        centered embeddings of the image and the nearest image of the group; ``across_classes`` and
        ``across_splits``, whether the group contains images of several classes or splits. Groups across splits come
        first, then groups across classes.
    outliers : pandas.DataFrame
        Images unlike all others: ``row``, ``image``, ``label``; ``distance``, one minus the least cosine similarity of
        the embedding with those of the nearest images; ``score``, how many robust standard deviations the logarithm of
        this distance is above its median.
    faults : pandas.DataFrame
        Images that cannot be read or are probably unusable: ``row``, ``image``, ``fault`` and ``reason``.
    confounders : pandas.DataFrame
        How well the label can be predicted without the image: ``predictor`` (such as "group" or "file size"),
        cross-validated ``balanced_accuracy``, ``chance``, ``p_value`` (one-sided, of the balanced accuracy if predictor
        and label are independent), and ``warning``, whether it is clearly above chance.
    classes : pandas.DataFrame
        ``class``, number of ``images``, ``share`` of the labelled images, and number of ``suspected`` labels.
    notes : list of str
        What was not checked and why, and properties of the data set as a whole.
    thumbnails : mapping of int to bytes
        JPEG previews of the rows that the report shows.
    """

    images: pandas.DataFrame
    label_errors: pandas.DataFrame
    duplicates: pandas.DataFrame
    outliers: pandas.DataFrame
    faults: pandas.DataFrame
    confounders: pandas.DataFrame
    classes: pandas.DataFrame
    notes: list[str] = field(default_factory=list)
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def suspected(self) -> pandas.DataFrame:
        """Rows of ``label_errors`` whose label is probably wrong."""
        return self.label_errors[self.label_errors["suspected"]]

    def select_shown(self) -> dict[str, pandas.DataFrame]:
        """Select the rows of each table whose images a report shows.

        Returns
        -------
        dict of str to DataFrame
            The first suspected rows of ``label_errors``, the first rows of ``outliers`` and ``faults``, and the first
            images of the first groups of ``duplicates``.
        """
        tables = {"label_errors": self.suspected, "outliers": self.outliers, "faults": self.faults}
        first = {name: table.head(_SHOWN[name]) for name, table in tables.items()}
        groups = self.duplicates[self.duplicates["group"] < _SHOWN_GROUPS]
        return {**first, "duplicates": groups.groupby("group", sort=False).head(_SHOWN_DUPLICATES)}

    def summary(self) -> dict[str, Any]:
        """Return the counts of all findings, and the notes.

        Returns
        -------
        dict
        """
        duplicates = self.duplicates.drop_duplicates("group")
        return {
            "images": len(self.images),
            "labels_checked": len(self.label_errors),
            "suspected_labels": len(self.suspected),
            "duplicate_groups": len(duplicates),
            "duplicate_images": len(self.duplicates),
            "duplicate_groups_across_classes": int(duplicates["across_classes"].sum()),
            "duplicate_groups_across_splits": int(duplicates["across_splits"].sum()),
            "outliers": len(self.outliers),
            "faults": self.faults["fault"].value_counts().sort_index().to_dict(),
            "confounders": self.confounders.loc[self.confounders["warning"], "predictor"].tolist(),
            "notes": list(self.notes),
        }

    def describe(self) -> list[str]:
        """Describe the findings: suspected labels, duplicates and outliers, and faults if there are any.

        Returns
        -------
        list of str
            Sentences.
        """
        summary = self.summary()
        crossing = {name: summary[f"duplicate_groups_across_{name}"] for name in ("splits", "classes")}
        across = ", ".join(f"{n:,} across {name}" for name, n in crossing.items() if n)
        sentences = [
            f"{count(summary['suspected_labels'], 'suspected label error')} among "
            f"{count(summary['labels_checked'], 'label')}; "
            f"{count(summary['duplicate_groups'], 'group')} of duplicates{f' ({across})' if across else ''}; "
            f"{count(summary['outliers'], 'outlier')}."
        ]
        if faults := summary["faults"]:
            sentences.append("Faults: " + ", ".join(f"{name} {n:,}" for name, n in faults.items()) + ".")
        return sentences

    def describe_confounders(self) -> list[str]:
        """Describe what predicts the label without the image clearly better than chance.

        Returns
        -------
        list of str
            One text for each confounder.
        """
        return [
            f"the {row.predictor} alone predicts the label with a balanced accuracy of {row.balanced_accuracy:.2f}; "
            f"chance is {row.chance:.2f}. A classifier may learn the {row.predictor} instead of what the images show."
            for row in self.confounders[self.confounders["warning"]].itertuples()
        ]

    def manifest(self) -> pandas.DataFrame:
        """Return all images with their issues, to be reviewed and cleaned.

        Returns
        -------
        pandas.DataFrame
            One row for each image, in the order of ``X``: ``path``, ``label``, ``group`` and ``split`` if available,
            and the columns ``issue`` (names separated by "; ", empty if there is none), ``score`` (of the label error,
            from 0 to 1; empty if the label was not checked) and ``suggestion`` (what to do, such as another label).
        """
        issues: list[list[str]] = [[] for _ in range(len(self.images))]
        suggestions: list[list[str]] = [[] for _ in range(len(self.images))]
        position = {row: i for i, row in enumerate(self.images["row"].tolist())}

        def add(row: int, issue: str, suggestion: str) -> None:
            issues[position[row]].append(issue)
            suggestions[position[row]].append(suggestion)

        for row, fault in zip(self.faults["row"].tolist(), self.faults["fault"], strict=True):
            add(row, fault, "remove or replace" if fault == "unreadable" else "review")
        for row, label in zip(self.suspected["row"].tolist(), self.suspected["suggestion"], strict=True):
            add(row, "label error", f"label: {label}")
        for _, group in self.duplicates.groupby("group"):
            first = group.sort_values("row").iloc[0]
            keep = "keep in one split" if first["across_splits"] else "keep"
            for row, kind in zip(group["row"].tolist(), group["kind"], strict=True):
                fix = keep if row == first["row"] else f"remove, duplicate of {first['image']}"
                add(row, f"{kind} duplicate", fix)
        for row in self.outliers["row"].tolist():
            add(row, "outlier", "review")
        table = self.images.drop(columns="row").rename(columns={"image": "path"})
        scores = self.label_errors.set_index("row")["score"].reindex(self.images["row"])
        table["issue"] = ["; ".join(names) for names in issues]
        table["score"] = [None if np.isnan(score) else round(float(score), 4) for score in scores]
        fixes = ["; ".join(dict.fromkeys(names)) for names in suggestions]
        table["suggestion"] = pandas.Series(fixes, table.index, dtype=object)  # contains names of files
        return table
