"""Image arrays in HDF5 files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures.errors import SourceError
from tlfeatures.sources._source import (
    ArrayOnDisk,
    Source,
    list_siblings,
    normalize_split,
    quote_names,
    suggest_names,
)

HDF5 = (".h5", ".hdf5", ".hdf")


def read_hdf5(path: str, name: str, columns: dict[str, str | None], labels: bool) -> Source:
    """List the images of one dataset; ``columns`` are the keyword arguments of `read_source`."""
    import h5py

    if columns["path_column"] is not None:
        raise SourceError(f"`path_column` is for manifests; pass the image array as '{path}::dataset'.")
    if not os.path.isfile(path):
        raise SourceError(
            f"No such HDF5 file: {path!r}.{suggest_names(Path(path).name, list_siblings(path))}"
        )
    try:
        with h5py.File(path, "r") as file:
            shapes = _list_datasets(file)
            name = _find_image_dataset(path, name.strip("/"), shapes)
            n = shapes[name][0]
            target = columns["target"] or (_find_label_dataset(name, shapes, n) if labels else None)
            y = _read_dataset(path, file, target, shapes, n)
            groups = _read_dataset(path, file, columns["groups"], shapes, n)
            split = _read_dataset(path, file, columns["split"], shapes, n)
    except SourceError:
        raise
    except Exception as e:  # damaged files raise many kinds of errors
        raise SourceError(f"Cannot read {path!r} as HDF5: {e}") from e
    split = None if split is None else np.array([normalize_split(s) for s in split.tolist()])
    names = [f"{name}[{i}]" for i in range(n)]
    return Source(ArrayOnDisk(path, name), y, groups, split, names, "hdf5", columns=list(shapes))


def decode_text(path: str, name: str, value: Any) -> str:
    """Return an element of a dataset of texts.

    Raises
    ------
    SourceError
        If it is not UTF-8.
    """
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{name!r} in {path!r} has the value {value!r}, which is not UTF-8 text: write it as UTF-8."
        ) from e


def _list_datasets(file: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every dataset; for text only the length, so that it is not mistaken for images."""
    shapes: dict[str, tuple[int, ...]] = {}

    def visit(name: str, item: Any) -> None:
        if getattr(item, "shape", None):  # not a group or a scalar
            shapes[name] = item.shape if item.dtype.kind in "biuf" else (item.size,)

    file.visititems(visit)
    return shapes


def _find_image_dataset(path: str, name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    image_like = {key: shape for key, shape in shapes.items() if len(shape) in (3, 4)}
    listing = ", ".join(f"{key!r} {shape}" for key, shape in image_like.items()) or "none"
    image_batches = [key for key, shape in image_like.items() if len(shape) == 4]
    if name in image_like:
        return name
    if not name and len(image_batches) == 1:
        return image_batches[0]
    if not name:
        raise SourceError(
            f"{path!r} needs the name of an image array, as in '{path}::dataset'. Image arrays: {listing}."
        )
    if name in shapes:
        raise SourceError(
            f"{name!r} in {path!r} has shape {shapes[name]}, which is not that of images. Image arrays: {listing}."
        )
    raise SourceError(f"No array {name!r} in {path!r}.{suggest_names(name, shapes)} Image arrays: {listing}.")


def _find_label_dataset(name: str, shapes: dict[str, tuple[int, ...]], n: int) -> str | None:
    folder, slash, last = name.rpartition("/")
    for x, y in (("x", "y"), ("X", "y"), ("images", "labels")):
        if last == x or last.endswith("_" + x):
            guess = folder + slash + last[: -len(x)] + y
            if guess in shapes and n in shapes[guess]:
                return guess
    return None


def _read_dataset(path: str, file: Any, name: str | None, shapes: dict, n: int) -> np.ndarray | None:
    if name is None:
        return None
    name = name.strip("/")
    if name not in shapes:
        raise SourceError(
            f"No dataset {name!r} in {path!r}.{suggest_names(name, shapes)} Datasets: {quote_names(shapes)}."
        )
    if shapes[name] not in ((n,), (n, 1), (1, n)):
        raise SourceError(
            f"{name!r} in {path!r} has shape {shapes[name]}; expected one value for each image, ({n},)."
        )
    values = file[name][()].ravel()
    if values.dtype.kind in "OS":
        values = np.array([decode_text(path, name, v) for v in values.tolist()])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise SourceError(
            f"{len(bad)} values of {name!r} in {path!r} are missing, the first in row {bad[0]}."
        )
    return values
