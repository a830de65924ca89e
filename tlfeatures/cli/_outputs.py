"""Write output files: atomically, and without overwriting files of other programs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tlfeatures import __version__
from tlfeatures._files import TEMPORARY_PREFIX, atomic_write
from tlfeatures.cli._session import BadArgument
from tlfeatures.errors import MissingDependencyError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["check_output", "manifest_path", "replacing", "write_csv", "write_features"]

_MANIFEST = "path,digest,label,error"
_MARK = "tlfeatures"  # attribute or metadata key of files that a command wrote


def check_output(path: str, suffixes: Sequence[str], force: bool = False, option: str = "-o") -> None:
    """Raise an error if an output file cannot or must not be written.

    Raises
    ------
    BadArgument
        If the suffix is unknown, the folder is missing, or the file exists and another program wrote it.
    OSError
        If the folder is not writable.
    MissingDependencyError
        If a Parquet file is to be written and pyarrow is not installed.
    """
    suffix, folder = Path(path).suffix.lower(), os.path.dirname(os.path.realpath(path))
    if suffix not in suffixes:
        raise BadArgument(f"{option} {path!r} must end in {' or '.join(suffixes)}.")
    if not os.path.isdir(folder):
        raise BadArgument(f"{option} {path!r}: the folder {folder!r} does not exist; make it first.")
    if os.path.isdir(path):
        raise BadArgument(f"{option} {path!r} is a folder; name a file in it.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, f"No permission to write into the folder of {option}", folder)
    if suffix == ".parquet":
        _pyarrow(path)
    for file in (path, manifest_path(path)) if suffix == ".npy" else (path,):
        if os.path.exists(file) and not force and not _is_ours(file):
            raise BadArgument(
                f"{file!r} exists and was not written by this command. Name another file, or pass --force."
            )


def manifest_path(path: str) -> str:
    """Return the path of the manifest of a .npy file."""
    return f"{os.path.splitext(path)[0]}.manifest.csv"


@contextlib.contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` when it is complete; errors name ``path``."""
    path = os.path.realpath(path)
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        name = os.path.basename(os.fsdecode(error.filename or ""))
        if name and not name.startswith(TEMPORARY_PREFIX):
            raise
        raise OSError(error.errno, f"Cannot write: {error.strerror or error}", path) from error


def write_csv(file: IO[bytes], columns: dict[str, Sequence[Any]]) -> None:
    """Write a CSV table in UTF-8; undecodable bytes of file names are kept."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    text.detach()


def write_features(
    path: str,
    manifest: dict[str, list[Any]],
    features: np.ndarray,
    names: Sequence[str],
    recipe: dict[str, Any],
) -> None:
    """Write features and their manifest in the format of the suffix.

    Parameters
    ----------
    path : str
        Path that ends in .h5, .parquet or .npy.
    manifest : dict of str to list
        Columns with one value per row.
    features : ndarray of float32, shape (n, d)
    names : sequence of str
        Names of the d features.
    recipe : dict
        Recipe of the features, a JSON object.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        import numpy

        with replacing(path) as file, replacing(manifest_path(path)) as manifest_file:
            write_csv(manifest_file, {name: [_text(v) for v in values] for name, values in manifest.items()})
            numpy.save(file, features)
        return
    write = _write_parquet if suffix == ".parquet" else _write_hdf5
    with replacing(path) as file:
        write(file, manifest, features, names, json.dumps(recipe))


def _write_hdf5(
    file: IO[bytes], manifest: dict[str, list[Any]], features: np.ndarray, names: Sequence[str], recipe: str
) -> None:
    import h5py

    text = h5py.string_dtype()
    # in memory, because HDF5 crashes if the disk is full; file images of newer formats lose their checksum
    with h5py.File.in_memory(libver=("earliest", "v108")) as h5:
        h5.attrs[_MARK], h5.attrs["recipe"] = __version__, recipe
        h5["features"] = features
        h5.create_dataset("feature_names", data=[_bytes(name) for name in names], dtype=text)
        for name, values in manifest.items():
            if _is_number(values):
                h5[name] = values
            else:
                h5.create_dataset(name, data=[_bytes(v) for v in values], dtype=text)
        h5.flush()
        file.write(h5.id.get_file_image())


def _write_parquet(
    file: IO[bytes], manifest: dict[str, list[Any]], features: np.ndarray, names: Sequence[str], recipe: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        name: values
        if _is_number(values)
        else [None if v is None else _bytes(v).decode("utf-8", "replace") for v in values]
        for name, values in manifest.items()
    }
    columns |= dict(zip(names, features.T.copy(), strict=True))
    table = pyarrow.table(columns).replace_schema_metadata({_MARK: __version__, "recipe": recipe})
    pyarrow.parquet.write_table(table, file)


def _is_number(values: list[Any]) -> bool:
    return all(isinstance(v, (int, float)) for v in values)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _bytes(value: Any) -> bytes:
    return _text(value).encode("utf-8", "surrogateescape")


def _pyarrow(path: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(
            f"Writing {path!r} needs pyarrow: pip install pyarrow. Or name a .h5 or .npy file."
        ) from None
    return pyarrow.parquet


def _is_ours(path: str) -> bool:
    """Return whether a command wrote the file, so that it may be overwritten."""
    suffix = Path(path).suffix.lower()
    with contextlib.suppress(Exception):  # files of other programs can raise any exception
        if suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as file:
                return _MARK in file.attrs
        if suffix == ".parquet":
            return _MARK.encode() in (_pyarrow(path).read_schema(path).metadata or {})
        with open(path, "rb") as file:
            start = file.read(4096)
        if suffix == ".csv":
            return start.startswith((_MANIFEST.encode(), b"path,prediction"))
        if suffix == ".npy":
            return start.startswith(b"\x93NUMPY") and _is_ours(manifest_path(path))
        if start.startswith(b"PK"):  # a bundle of `finetune`
            with zipfile.ZipFile(path) as file:
                return json.loads(file.read("about.json"))["format"].startswith(f"{_MARK}.")
        # a pickle of a pipeline with CNNFeatures
        return start.startswith(b"\x80") and _MARK.encode() in start
    return False
