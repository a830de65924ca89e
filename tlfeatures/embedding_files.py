"""Files of embeddings: HDF5, Parquet, or NumPy with a CSV manifest."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tlfeatures import __version__
from tlfeatures._files import replace_file
from tlfeatures._params import join_alternatives
from tlfeatures.errors import InvalidParameterError, MissingDependencyError
from tlfeatures.extract import Extracted
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.images import Images
from tlfeatures.sources import Source

if TYPE_CHECKING:
    import pandas

__all__ = ["SUFFIXES", "is_embedding_file", "list_files", "write_embeddings"]

SUFFIXES = (".h5", ".parquet", ".npy")
_MARK = "tlfeatures"  # attribute of an HDF5 file, and key in the metadata of a Parquet file
_MANIFEST = ["path", "digest", "label", "error"]
_OPTIONAL = ["split", "group"]


def write_embeddings(
    path: str | os.PathLike[str], cnn: CNNFeatures, images: Any, **options: Any
) -> Extracted:
    """Compute the embeddings of images, or read them from the store, and write them into a file.

    Parameters
    ----------
    path : path
        The suffix chooses the format: .h5 (datasets "features" and "feature_names", and one for each column of the
        manifest), .parquet (one column for each feature), or .npy, beside which NAME.manifest.csv is written.
    cnn : CNNFeatures
        Need not be fitted.
    images : Source or images
        A source, as :func:`~tlfeatures.sources.read_source` returns it, or images as CNNFeatures takes them.
    **options
        Options of :func:`~tlfeatures.extract.extract`, such as ``on_failure="raise"``.

    Returns
    -------
    Extracted
        Embeddings, reasons of unreadable images, digests, and numbers of images.

    Raises
    ------
    InvalidParameterError
        If the suffix is not .h5, .parquet or .npy.
    MissingDependencyError
        If a Parquet file is to be written, and pyarrow is not installed.
    OSError
        If the file cannot be written.

    Notes
    -----
    The file has one row for each image, in their order, with the columns path, digest, label and error of the
    manifest, and split and group if the source has them. An unreadable image has a row of NaN, and the reason as its
    error. A file is replaced when the new one is complete.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "zeros.npy")
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=None)
    >>> print(write_embeddings(path, cnn, np.zeros((2, 32, 32, 3), "uint8")).counts.duplicates)
    1
    >>> np.load(path).shape, path.with_name("zeros.manifest.csv").read_text().splitlines()[0]
    ((2, 320), 'path,digest,label,error')
    """
    suffix = _check_suffix(path)
    source = images if isinstance(images, Source) else _make_source(images)
    cnn.fit(source.images)
    extracted = embed(cnn, source.images, on_error="nan", **options)
    manifest, names = _make_manifest(source, extracted), cnn.get_feature_names_out()
    recipe = json.dumps(_merge_recipes(cnn.recipes_))
    if suffix == ".npy":
        with replace_file(path) as file, replace_file(list_files(path)[1]) as manifest_file:
            manifest.to_csv(manifest_file, index=False, errors="surrogateescape")
            np.save(file, extracted.features)
    else:
        write = _write_parquet if suffix == ".parquet" else _write_hdf5
        with replace_file(path) as file:
            write(file, manifest, extracted.features, names, recipe)
    return extracted


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
    return [text, f"{os.path.splitext(text)[0]}.manifest.csv"] if _check_suffix(path) == ".npy" else [text]


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


def _check_suffix(path: str | os.PathLike[str]) -> str:
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


def _make_source(images: Any) -> Source:
    view = Images.of(images)
    return Source(view, None, None, None, [view.name(i) for i in range(len(view))], "array")


def _make_manifest(source: Source, extracted: Extracted) -> pandas.DataFrame:
    import pandas

    rows, errors = range(len(source)), extracted.errors
    columns: dict[str, Any] = {
        "path": source.paths,
        "digest": ["" if i in errors else extracted.keys[i].tobytes().hex() for i in rows],
        "label": [None] * len(source) if source.y is None else source.y.tolist(),
        "error": [errors.get(i, "") for i in rows],
    }
    for name, values in (("split", source.split), ("group", source.groups)):
        if values is not None:
            columns[name] = values.tolist()
    return pandas.DataFrame({name: pandas.Series(values, dtype=object) for name, values in columns.items()})


def _merge_recipes(recipes: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the recipes of several layers: the common fields, and under ``columns`` the fields of each layer."""
    first = recipes[0]
    common = {key: first[key] for key in first if all(r.get(key) == first[key] for r in recipes)}
    varying = ("layer", "pooling", "width", "digest")
    return {
        **{k: v for k, v in common.items() if k not in varying},
        "columns": [{k: r[k] for k in varying} for r in recipes],
    }


def _write_hdf5(
    file: IO[bytes], manifest: pandas.DataFrame, features: np.ndarray, names: np.ndarray, recipe: str
) -> None:
    import h5py

    text = h5py.string_dtype()
    # in memory, because HDF5 crashes if the disk is full; file images of newer formats lose their checksum
    with h5py.File.in_memory(libver=("earliest", "v108")) as h5:
        h5.attrs[_MARK], h5.attrs["recipe"] = __version__, recipe
        h5["features"] = features
        for name, values in {"feature_names": names, **manifest}.items():
            if _is_numeric(values):
                h5[name] = values.tolist()
            else:
                h5.create_dataset(name, data=[_encode(value) for value in values], dtype=text)
        h5.flush()
        file.write(h5.id.get_file_image())


def _write_parquet(
    file: IO[bytes], manifest: pandas.DataFrame, features: np.ndarray, names: np.ndarray, recipe: str
) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        name: values.tolist()
        if _is_numeric(values)
        else [None if value is None else _encode(value).decode("utf-8", "replace") for value in values]
        for name, values in manifest.items()
    }
    columns |= dict(zip(names, features.T.copy(), strict=True))
    table = pyarrow.table(columns).replace_schema_metadata({_MARK: __version__, "recipe": recipe})
    pyarrow.parquet.write_table(table, file)


def _is_numeric(values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values.tolist())


def _encode(value: Any) -> bytes:
    return b"" if value is None else str(value).encode("utf-8", "surrogateescape")


def _is_our_hdf5(path: str) -> bool:
    import h5py

    with h5py.File(path, "r") as file:
        return _MARK in file.attrs


def _is_our_parquet(path: str) -> bool:
    import pyarrow.parquet

    return _MARK.encode() in (pyarrow.parquet.read_schema(path).metadata or {})


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
