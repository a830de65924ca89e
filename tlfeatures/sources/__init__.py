"""Sources of images: class folders, flat folders, splits, manifests and HDF5 arrays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tlfeatures._inputs import URL_HINT, is_url, split_frame
from tlfeatures._objects import is_object, redact, stat_object
from tlfeatures._params import check_parameter
from tlfeatures.errors import SourceError
from tlfeatures.sources._dicom_groups import PREFIX, read_dicom_groups
from tlfeatures.sources._folders import read_folder
from tlfeatures.sources._formats import FILES, NOUNS, accepts_file, accepts_name, is_image_file
from tlfeatures.sources._hdf5 import HDF5, read_hdf5
from tlfeatures.sources._items import read_items
from tlfeatures.sources._manifests import PARQUET, TABLES, read_manifest
from tlfeatures.sources._merge_labels import merge_labels
from tlfeatures.sources._source import ArrayOnDisk, Source, list_siblings, quote_names, suggest_names
from tlfeatures.sources._splits import read_splits
from tlfeatures.sources._stl10 import read_stl10

__all__ = [
    "ArrayOnDisk",
    "Source",
    "is_image_file",
    "list_siblings",
    "merge_labels",
    "quote_names",
    "read_dicom_groups",
    "read_items",
    "read_source",
    "read_splits",
    "read_stl10",
    "suggest_names",
]


def read_source(
    source: str | os.PathLike[str],
    *,
    path_column: str | None = None,
    target: str | None = None,
    groups: str | None = None,
    split: str | None = None,
    labels: bool = True,
    files: Literal["images", "audio"] = "images",
) -> Source:
    """List the images of a folder, a manifest, an HDF5 array or a single file, without opening them.

    Parameters
    ----------
    source : str or path
        A folder of class folders, of train/, val/ and test/, or of images; a CSV, TSV or Parquet manifest with URIs, or
        paths relative to its own folder; ``"file.h5::dataset"``; or one image. All but HDF5 files may be URIs in object
        storage, such as ``"s3://bucket/pets"``; web servers (https://) have no folders.
    path_column, target, groups, split : str, optional
        Columns of a manifest, or datasets of the HDF5 file (except `path_column`). By default these are the
        columns "path" (or a similar name: "file", "image", ...), "label" (or "target", "class") and "split", if the
        manifest has them, and the dataset ``train_set_y`` for the array ``train_set_x``. `groups` may also be
        "dicom:" with the keyword of a DICOM attribute, such as "dicom:PatientID": see `read_dicom_groups`.
    labels : bool
        Whether to read labels. If False, folders are not classes, and all images at any depth are listed, except for
        those next to train/, val/ and test/.
    files : {"images", "audio"}, default="images"
        What a folder contains: images, or WAV and FLAC files for :class:`~tlfeatures.audio.LogMelSpectrogram`.

    Returns
    -------
    Source
        The images, with labels, groups and splits if the source has them.

    Raises
    ------
    SourceError
        If the source does not exist, has no images, or lacks a column or dataset that was passed.
    MissingDependencyError
        If pyarrow, which reads Parquet, or obstore, which reads URIs, is not installed; the message has the install
        command.
    ObjectStorageError
        If object storage denies access, or there is no such bucket.
    TransientReadError
        If object storage fails repeatedly.

    Notes
    -----
    Broken images are listed too; they are reported when they are decoded. In a folder, files are images if they have
    an image suffix in any case, or if their first bytes are those of an image. Other files are ignored with a warning
    that counts them, except for hidden files. Images next to class folders have no class and are left out with a
    warning, as are images next to train/, val/ and test/. Other folders with images next to these raise an error.

    If all labels of a CSV or TSV manifest are numbers, ``y`` is an array of numbers, in which 1.0 is 1. If two of them
    are different texts of one integer, such as "1" and "01", they stay text and are two classes. Groups stay text
    unless all of them are integers without leading zeros, so "1.1" and "1.10" are two groups.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     _ = (root / name / "1.png").write_bytes(b"")
    >>> source = read_source(root)
    >>> source.kind, source.y.tolist(), source.names[0]
    ('class folders', ['cat', 'dog'], 'cat/1.png')
    """
    check_parameter("files", files, list(NOUNS))
    columns = {"path_column": path_column, "target": target, "groups": groups, "split": split}
    if groups is None or not groups.startswith(PREFIX):
        return _read_source(os.fspath(source), columns, labels, files)
    images = _read_source(os.fspath(source), {**columns, "groups": None}, labels, files)
    if not isinstance(images.images, list):
        raise SourceError(
            f"`groups` must name a dataset of {os.fspath(source)!r}; got {groups!r}, for DICOM files."
        )
    return replace(images, groups=read_dicom_groups(images.images, groups.removeprefix(PREFIX)))


def _read_source(text: str, columns: dict[str, str | None], labels: bool, files: str) -> Source:
    if is_object(text):
        return _read_objects(text, columns, labels, files)
    if is_url(text):
        raise SourceError(f"{text!r} is a URL of an unknown kind; {URL_HINT}.")
    file, separator, dataset = text.rpartition("::")
    if separator and not os.path.exists(text):
        return read_hdf5(file, dataset, columns, labels)
    path = split_frame(text)[0]
    if not os.path.exists(path):
        raise SourceError(
            f"No such file or folder: {text!r}.{suggest_names(Path(text).name, list_siblings(text))}"
        )
    suffix = Path(path).suffix.lower()
    if not os.path.isdir(text):
        if suffix in HDF5:
            return read_hdf5(text, "", columns, labels)
        if suffix in PARQUET or suffix in TABLES:
            return read_manifest(text, columns, labels)
    _refuse_columns(columns, text, "folder" if os.path.isdir(text) else "file")
    if os.path.isdir(text):
        return read_folder(text, labels, files)
    if not accepts_file(path, files):
        expected = "an image" if files == "images" else f"a {FILES[files]}"
        raise SourceError(
            f"{text!r} is neither {expected} nor a manifest (.csv, .tsv, .parquet) nor an HDF5 file (.h5)."
        )
    return Source([text], None, None, None, [Path(text).name], "file")


def _read_objects(uri: str, columns: dict[str, str | None], labels: bool, files: str) -> Source:
    """List the images of a manifest or folder in object storage, or one image."""
    path, name = split_frame(uri)[0], redact(uri)
    suffix = Path(path.partition("?")[0] if path.startswith("http") else path).suffix.lower()
    if suffix in HDF5 or "::" in name.rpartition("/")[2]:
        raise SourceError(f"{name!r}: HDF5 files are not read from object storage. Download the file first.")
    if suffix in PARQUET or suffix in TABLES:
        return read_manifest(uri, columns, labels)
    is_page = path.lower().startswith("http") and not path.endswith("/")
    is_file = is_page or bool(suffix and accepts_name(f"x{suffix}", files))
    _refuse_columns(columns, name, "file" if is_file else "folder")
    if not is_file:
        return read_folder(uri, labels, files)
    try:
        stat_object(path)
    except FileNotFoundError:
        raise SourceError(f"No such object: {name!r}.") from None
    return Source([uri], None, None, None, [name.rpartition("/")[2]], "file")


def _refuse_columns(columns: dict[str, str | None], source: str, kind: str) -> None:
    unused = [name for name, value in columns.items() if value is not None]
    if unused:
        raise SourceError(
            f"{unused[0]}={columns[unused[0]]!r} names a column of a manifest or a dataset of an HDF5 file; "
            f"{source!r} is a {kind}. Leave it out."
        )
