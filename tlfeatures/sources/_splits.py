"""Training and test images: split folders, manifests with splits, and pairs of HDF5 arrays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlfeatures.errors import SourceError
from tlfeatures.sources._hdf5 import HDF5, decode_text, read_hdf5
from tlfeatures.sources._source import SPLITS, Source, list_siblings, suggest_names

_LAYOUTS = (
    "Expected a folder with train/ and test/; a manifest with a split column, or a folder that holds one; an HDF5 "
    "file with train_set_x, train_set_y, test_set_x, test_set_y; or a folder with such a file for each split."
)


def read_splits(source: str | os.PathLike[str]) -> tuple[Source, Source]:
    """List the training and the test images of a source with splits.

    Parameters
    ----------
    source : str or path
        A folder that holds train/ and test/, each with a folder for each class; a manifest with a split column, or a
        folder whose only CSV file is one; an HDF5 file with the arrays ``train_set_x``, ``train_set_y``, ``test_set_x``
        and ``test_set_y``; or a folder that holds two such files, ``*train*.h5`` and ``*test*.h5``. If HDF5 files have
        ``list_classes``, the labels become these names.

    Returns
    -------
    train, test : Source

    Raises
    ------
    SourceError
        If the source has none of these layouts, or images have no labels.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import h5py
    >>> from tlfeatures.sources import read_splits
    >>> path = pathlib.Path(tempfile.mkdtemp(), "signs.h5")
    >>> with h5py.File(path, "w") as file:
    ...     for split, n in (("train", 4), ("test", 2)):
    ...         file[f"{split}_set_x"] = np.zeros((n, 8, 8, 3), "uint8")
    ...         file[f"{split}_set_y"] = np.arange(n) % 2
    ...     file["list_classes"] = [b"fist", b"palm"]
    >>> train, test = read_splits(path)
    >>> len(train), test.y.tolist()
    (4, ['fist', 'palm'])
    """
    path = Path(source)
    if not path.exists():
        siblings = suggest_names(path.name, list_siblings(str(path)))
        raise SourceError(f"No such file or folder: {str(path)!r}.{siblings} {_LAYOUTS}")
    if path.suffix.lower() in HDF5:
        parts = _read_arrays(path, path)
    elif path.is_dir() and (files := _find_pair(path)):
        parts = _read_arrays(*files)
    else:
        whole = _read_whole(path)
        if whole.split is None:
            raise SourceError(f"The images in {str(path)!r} have no splits. {_LAYOUTS}")
        parts = whole.subset("train"), whole.subset("test")
    for part in parts:
        if part.y is None or (part.y.dtype == object and any(label is None for label in part.y)):
            raise SourceError(f"Images in {str(path)!r} have no labels. {_LAYOUTS}")
    return parts


def _read_whole(path: Path) -> Source:
    """Read a manifest, the only CSV file of a folder, or the folder; train/ may be beside a CSV file of other data."""
    from tlfeatures.sources import read_source

    manifests = list(path.glob("*.csv")) if path.is_dir() else []
    if len(manifests) != 1:
        return read_source(path)
    has_split_folders = any(child.name.lower() in SPLITS for child in path.iterdir() if child.is_dir())
    try:
        whole = read_source(manifests[0])
    except SourceError:
        if not has_split_folders:
            raise
    else:
        if whole.split is not None or not has_split_folders:
            return whole
    return read_source(path)


def _find_pair(folder: Path) -> list[Path]:
    pair = []
    for split in ("train", "test"):
        files = [file for file in sorted(folder.glob(f"*{split}*")) if file.suffix.lower() in HDF5]
        pair += files if len(files) == 1 else []
    return pair if len(pair) == 2 else []


def _read_arrays(train: Path, test: Path) -> tuple[Source, Source]:
    columns = dict.fromkeys(("path_column", "target", "groups", "split"))
    parts = []
    for file, split in ((train, "train"), (test, "test")):
        part = read_hdf5(str(file), f"{split}_set_x", columns, labels=True)
        parts.append(replace(part, y=_name_classes(file, part.y), split=np.full(len(part), split)))
    return parts[0], parts[1]


def _name_classes(file: Path, y: np.ndarray | None) -> np.ndarray | None:
    """Map the labels of an HDF5 file to the names in ``list_classes``, if it has them."""
    import h5py

    with h5py.File(file, "r") as h5:
        names = h5["list_classes"][()].ravel().tolist() if "list_classes" in h5 else None
    if y is None or names is None:
        return y
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(names):
        raise SourceError(
            f"The labels in {str(file)!r} run from {y.min()} to {y.max()}; `list_classes` has {len(names)} names, for "
            f"labels from 0 to {len(names) - 1}. Correct the labels, or remove `list_classes`."
        )
    return np.array([decode_text(str(file), "list_classes", name) for name in names])[y]
