"""Recognition of the files that `write_embeddings` writes."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlfeatures._params import join_alternatives
from tlfeatures.errors import InvalidParameterError, MissingDependencyError

__all__ = ["MARK", "SUFFIXES", "check_suffix", "is_embedding_file", "list_files"]

SUFFIXES = (".h5", ".parquet", ".npy")
MARK = "tlfeatures"  # attribute of an HDF5 file, and key in the metadata of a Parquet file
_MANIFEST = ["path", "digest", "label", "error"]
_OPTIONAL = ["split", "group"]


def list_files(path: str | os.PathLike[str]) -> list[str]:
    """List the files that :func:`write_embeddings` writes for a path.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of str

    Examples
    --------
    >>> list_files("x.h5"), list_files("x.npy")
    (['x.h5'], ['x.npy', 'x.manifest.csv'])
    """
    text = os.fspath(path)
    return [text, f"{os.path.splitext(text)[0]}.manifest.csv"] if check_suffix(path) == ".npy" else [text]


def is_embedding_file(path: str | os.PathLike[str]) -> bool:
    """Return whether :func:`write_embeddings` wrote a file, or a manifest.

    Parameters
    ----------
    path : path

    Returns
    -------
    bool
        For .npy, whether the manifest beside it has one row for each of its rows.
    """
    text = os.fspath(path)
    with contextlib.suppress(Exception):  # files of other programs can raise any exception
        return _RECOGNIZERS[Path(text).suffix.lower()](text)
    return False


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a file of embeddings in lower case; raises the errors of `write_embeddings`."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidParameterError(
            f"`path` must end in {join_alternatives(SUFFIXES)}; got {os.fspath(path)!r}.", "path"
        )
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingDependencyError(
                f"Writing {os.fspath(path)!r} needs pyarrow: pip install pyarrow. Or name a .h5 or .npy file."
            ) from None
    return suffix


def _is_our_hdf5(path: str) -> bool:
    import h5py

    with h5py.File(path, "r") as file:
        return MARK in file.attrs


def _is_our_parquet(path: str) -> bool:
    import pyarrow.parquet

    return MARK.encode() in (pyarrow.parquet.read_schema(path).metadata or {})


def _is_our_array(path: str) -> bool:
    manifest = list_files(path)[1]
    with open(manifest, newline="", encoding="utf-8", errors="surrogateescape") as file:
        n_rows = sum(1 for _ in csv.reader(file)) - 1
    return _is_our_manifest(manifest) and np.load(path, mmap_mode="r").shape[0] == n_rows


def _is_our_manifest(path: str) -> bool:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        header = next(csv.reader(file))
    return header[:4] == _MANIFEST and set(header[4:]) <= set(_OPTIONAL)


_RECOGNIZERS: dict[str, Callable[[str], bool]] = {
    ".h5": _is_our_hdf5,
    ".parquet": _is_our_parquet,
    ".npy": _is_our_array,
    ".csv": _is_our_manifest,
}
