"""Sources of several files, folders, manifests, arrays and patterns, in their order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import replace

from tlfeatures._inputs import split_frame
from tlfeatures._objects import is_object
from tlfeatures._warnings import warn
from tlfeatures.errors import SourceError
from tlfeatures.sources._formats import is_image_file
from tlfeatures.sources._manifests import PARQUET, TABLES
from tlfeatures.sources._source import Source

__all__ = ["read_items"]


def read_items(items: Iterable[str | os.PathLike[str]], path_column: str | None = None) -> list[Source]:
    """List the images of files, folders, manifests, arrays and patterns, without labels.

    Parameters
    ----------
    items : iterable of str or path
        Sources as :func:`~tlfeatures.sources.read_source` takes them, or patterns such as ``"photos/*.jpg"``.
    path_column : str, optional
        Column of manifests with the paths.

    Returns
    -------
    list of Source
        In the order of the items; consecutive paths are in one source.

    Raises
    ------
    SourceError
        If an item does not exist, or a pattern has no matches.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("1.png", "2.png", "3.jpg"):
    ...     _ = (root / name).write_bytes(b"")
    >>> [source.names for source in read_items([root / "3.jpg", f"{root}/*.png"])]
    [['3.jpg', '1.png', '2.png']]
    """
    merged: list[Source] = []
    for source in (source for item in items for source in _read_item(os.fspath(item), path_column)):
        last = merged[-1] if merged else None
        if last and isinstance(source.images, list) and isinstance(last.images, list):
            images, names = [*last.images, *source.images], [*last.names, *source.names]
            merged[-1] = Source(images, None, None, None, names, "file")
        else:
            merged.append(replace(source, y=None, groups=None, split=None))
    return merged


def _read_item(item: str, path_column: str | None) -> list[Source]:
    from tlfeatures.sources import read_source

    def read(path: str) -> Source:
        file = split_frame(path)[0]
        if is_object(path):
            is_manifest = file.lower().endswith((*TABLES, *PARQUET))
            return read_source(path, path_column=path_column if is_manifest else None, labels=False)
        column = path_column if os.path.isfile(file) and not is_image_file(file) else None
        return read_source(path, path_column=column, labels=False)

    if is_object(item) or os.path.exists(split_frame(item)[0]) or not glob.has_magic(item):
        return [read(item)]
    matches = sorted(glob.glob(item, recursive=True))
    if not matches:
        raise SourceError(f"No file matches the pattern {item!r}.")
    images = [path for path in matches if is_image_file(path)]
    if 0 < len(images) < len(matches):
        warn(
            f"{len(matches) - len(images):,} of {len(matches):,} matches of {item!r} are not images and are left out."
        )
    return [read(path) for path in images or matches]  # without images, matches are folders or manifests
