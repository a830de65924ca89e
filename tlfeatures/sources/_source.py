"""`Source`: images with labels, groups and splits."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np

from tlfeatures._objects import redact
from tlfeatures.errors import SourceError

SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Source:
    """Images with their labels, groups and splits; row i of every field belongs to image i.

    Parameters
    ----------
    images : list of str, or ArrayOnDisk
        Paths, or an image array that is read row by row.
    y : ndarray or None
        Labels: strings from class folders; numbers or strings from a manifest or a dataset. If only some splits have
        labels, an object array with None for the others.
    groups : ndarray or None
        Group of each image, such as a patient; cross-validation keeps each group in one fold.
    split : ndarray of str or None
        "train", "val", "test", or another name from a manifest, in lower case.
    names : list of str
        Paths relative to the source, or positions in an array, such as ``"train_set_x[12]"``.
    kind : str
        "class folders", "flat folder", "split folders", "manifest", "hdf5" or "file".
    ignored : list of str
        Files of a folder, relative to it, that are hidden or not images.
    columns : list of str
        Columns of a manifest, or datasets of an HDF5 file.
    """

    images: Any
    y: np.ndarray | None
    groups: np.ndarray | None
    split: np.ndarray | None
    names: list[str]
    kind: str
    ignored: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[str]:
        """Path of each image, relative to the current folder, or its name in an array; URIs without passwords."""
        return list(map(redact, self.images)) if isinstance(self.images, list) else self.names

    def get_labels(self) -> np.ndarray:
        """Return the labels of all images.

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        SourceError
            If any image has no label; the message says where labels are expected.
        """
        if self.y is None:
            kind = "array" if self.kind == "hdf5" else self.kind
            fix = {
                "manifest": f"Name their column with `target`. Columns: {quote_names(self.columns)}.",
                "hdf5": f"Name their dataset with `target`. Datasets: {quote_names(self.columns)}.",
                "flat folder": "Put the images of each class into a folder of its own, or write a manifest.",
            }.get(self.kind, "Expected class folders, or a manifest with a column of labels.")
            raise SourceError(f"This {kind} has no labels. {fix}")
        missing = [row for row, label in enumerate(self.y.tolist()) if label is None]
        if missing:
            raise SourceError(
                f"{len(missing)} of {len(self):,} images have no label, such as {self.names[missing[0]]!r}. Choose a "
                "`split` that has labels."
            )
        return self.y

    def subset(self, split: str) -> Source:
        """Return the rows of one split, under any of its usual names ("val" or "validation").

        Parameters
        ----------
        split : str
            "train", "val", "test" or another name of a split.

        Returns
        -------
        Source
            Its rows keep their order.

        Raises
        ------
        SourceError
            If there are none; the message names the splits that exist.
        """
        if self.split is None:
            raise SourceError(
                f"No split {split!r}: these images have no splits. Expected folders such as train/ and "
                "test/, or a manifest with a split column."
            )
        rows = np.flatnonzero(self.split == normalize_split(split))
        if not len(rows):
            raise SourceError(
                f"No split {split!r}. Splits: {quote_names(dict.fromkeys(self.split.tolist()))}."
            )
        return self.take(rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> Source:
        """Return some rows, in that order.

        Parameters
        ----------
        rows : sequence of int or of bool
            Positions of images, which may repeat, or a mask.

        Returns
        -------
        Source
            The rows in the order of ``rows``.
        """
        rows = np.asarray(rows)
        rows = np.arange(len(self))[rows if rows.size else rows.astype(int)]
        return replace(
            self,
            images=self.images.take(rows)
            if isinstance(self.images, ArrayOnDisk)
            else [self.images[i] for i in rows],
            y=simplify_labels(None if self.y is None else self.y[rows]),
            groups=None if self.groups is None else self.groups[rows],
            split=None if self.split is None else self.split[rows],
            names=[self.names[i] for i in rows],
        )


class ArrayOnDisk:
    """A dataset of an HDF5 file, read row by row; only path, name and rows are pickled.

    Parameters
    ----------
    path : str
        The HDF5 file.
    name : str
        The dataset.
    rows : ndarray of int, optional
        Rows of the dataset; None is all.
    """

    def __init__(self, path: str, name: str, rows: np.ndarray | None = None) -> None:
        self.path, self.name = os.path.abspath(path), name
        self._dataset: Any = None
        data = self._open()
        self.rows = np.arange(data.shape[0]) if rows is None else rows
        self.shape, self.dtype = (len(self.rows), *data.shape[1:]), data.dtype

    def _open(self) -> Any:
        if self._dataset is None:
            import h5py

            self._dataset = h5py.File(self.path, "r")[self.name]
        return self._dataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> np.ndarray | ArrayOnDisk:
        """Read one row, or return some rows without reading them."""
        i = i[0] if isinstance(i, tuple) else i  # scikit-learn indexes with (rows, ...)
        return self._open()[int(self.rows[i])] if isinstance(i, Integral) else self.take(i)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}

    def take(self, rows: np.ndarray) -> ArrayOnDisk:
        """Return some rows, in that order."""
        return ArrayOnDisk(self.path, self.name, self.rows[rows])


def simplify_labels(y: np.ndarray | None) -> np.ndarray | None:
    """Return None if there are no labels, and a plain array of labels if all images have one."""
    if y is None or y.dtype != object:
        return y
    if all(v is None for v in y.tolist()):
        return None
    return y if any(v is None for v in y.tolist()) else np.array(y.tolist())


def normalize_split(name: Any) -> str:
    """Return the usual name of a split ("Training" is "train"), or other names in lower case."""
    text = str(name).strip().lower()
    return SPLITS.get(text, text)


def list_siblings(path: str) -> list[str]:
    """List the names of the files in the folder of ``path``."""
    try:
        return os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return []


def suggest_names(name: str, names: Iterable[str]) -> str:
    """Return "Did you mean ...?" with the nearest names, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def quote_names(names: Iterable[Any]) -> str:
    """Return the first twelve names in quotes, separated by commas."""
    names = list(names)
    return ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
