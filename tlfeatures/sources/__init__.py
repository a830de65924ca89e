"""Where images come from: class folders, flat folders, splits, manifests and HDF5 arrays."""

from __future__ import annotations

import os
from pathlib import Path

from tlfeatures._inputs import URL_HINT, is_url
from tlfeatures.errors import SourceError
from tlfeatures.sources._folders import is_image_file, read_folder
from tlfeatures.sources._hdf5 import read_hdf5
from tlfeatures.sources._manifests import PARQUET, read_manifest
from tlfeatures.sources._source import ArrayOnDisk, Source, listed, near_text, siblings

__all__ = ["ArrayOnDisk", "Source", "is_image_file", "listed", "near_text", "read_source", "siblings"]

_HDF5 = (".h5", ".hdf5", ".hdf")
_CSV = (".csv", ".tsv", ".txt")


def read_source(
    source: str | os.PathLike[str],
    *,
    path_column: str | None = None,
    target: str | None = None,
    groups: str | None = None,
    split: str | None = None,
    labels: bool = True,
) -> Source:
    """List the images of a folder, a manifest, an HDF5 array or a single file; none is opened.

    Parameters
    ----------
    source : str or path
        A folder of class folders, of train/, val/ and test/, or of images; a CSV, TSV or Parquet
        manifest, whose paths are relative to its own folder; ``"file.h5::dataset"``; or one image.
    path_column, target, groups, split : str, optional
        Columns of a manifest, or datasets beside the image array (except `path_column`). By default
        the columns "path" (or "file", "image" and the like), "label" (or "target", "class") and
        "split" are used where present; for the array ``train_set_x`` the dataset ``train_set_y``.
    labels : bool
        False reads no labels: folders are then not classes, and every image below the source counts.

    Raises
    ------
    SourceError
        When the source does not exist, holds no images, or lacks what was asked of it.
    MissingDependencyError
        For Parquet without pyarrow; the message holds the install line.

    Notes
    -----
    Broken images are listed too: the extraction reports them. In folders, files with an image suffix in any case are
    images, and so are others if they begin as an image does. Other files are ignored with a warning that counts them,
    hidden files without. Images beside class folders have no class: they are left out with a warning.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     _ = (root / name / "1.png").write_bytes(b"")
    >>> found = read_source(root)
    >>> found.kind, found.y.tolist(), found.names[0]
    ('class folders', ['cat', 'dog'], 'cat/1.png')
    """
    text = os.fspath(source)
    columns = {"path_column": path_column, "target": target, "groups": groups, "split": split}
    if is_url(text):
        raise SourceError(
            f"{text!r} is a URL; expected a local folder or file: {URL_HINT}, for a bucket with `aws s3 sync`, "
            "`gcloud storage cp -r` or rclone."
        )
    file, separator, dataset = text.rpartition("::")
    if separator and not os.path.exists(text):
        return read_hdf5(file, dataset, columns, labels)
    if not os.path.exists(text):
        raise SourceError(f"No such file or folder: {text!r}.{near_text(Path(text).name, siblings(text))}")
    suffix = Path(text).suffix.lower()
    if not os.path.isdir(text):
        if suffix in _HDF5:
            return read_hdf5(text, "", columns, labels)
        if suffix in PARQUET or suffix in _CSV:
            return read_manifest(text, columns, labels)
    asked = [name for name, value in columns.items() if value is not None]
    if asked:
        raise SourceError(
            f"{asked[0]}={columns[asked[0]]!r} names a column of a manifest or a dataset of an HDF5 file; "
            f"{text!r} is a {'folder' if os.path.isdir(text) else 'file'}. Leave it out."
        )
    if os.path.isdir(text):
        return read_folder(text, labels)
    if not is_image_file(text):
        raise SourceError(
            f"{text!r} is neither an image nor a manifest (.csv, .tsv, .parquet) nor an HDF5 file (.h5)."
        )
    return Source([text], None, None, None, [Path(text).name], "file")
