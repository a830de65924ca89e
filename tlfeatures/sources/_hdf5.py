"""Image arrays in HDF5 files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures.errors import SourceError
from tlfeatures.sources._source import ArrayOnDisk, Source, listed, near_text, siblings, split_name


def read_hdf5(path: str, name: str, columns: dict[str, str | None], labels: bool) -> Source:
    """Images of one dataset; `columns` holds the keywords of `read_source`."""
    import h5py

    if columns["path_column"] is not None:
        raise SourceError(f"path_column is for manifests; name the image array as '{path}::dataset'.")
    if not os.path.isfile(path):
        raise SourceError(f"No such HDF5 file: {path!r}.{near_text(Path(path).name, siblings(path))}")
    try:
        with h5py.File(path, "r") as file:
            shapes = _datasets(file)
            name = _image_dataset(path, name.strip("/"), shapes)
            n = shapes[name][0]
            target = columns["target"] or (_label_dataset(name, shapes, n) if labels else None)
            y = _read_dataset(path, file, target, shapes, n)
            groups = _read_dataset(path, file, columns["groups"], shapes, n)
            split = _read_dataset(path, file, columns["split"], shapes, n)
    except OSError as e:
        raise SourceError(f"Cannot read {path!r} as HDF5: {e}") from e
    split = None if split is None else np.array([split_name(s) for s in split.tolist()])
    names = [f"{name}[{i}]" for i in range(n)]
    return Source(ArrayOnDisk(path, name), y, groups, split, names, "hdf5", columns=list(shapes))


def _datasets(file: Any) -> dict[str, tuple[int, ...]]:
    """Shape by name of every dataset; of texts the length alone, so that they pass for no images."""
    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, item: Any) -> None:
        if getattr(item, "shape", None):  # neither groups nor scalars
            found[name] = item.shape if item.dtype.kind in "biuf" else (item.size,)

    file.visititems(visit)
    return found


def _image_dataset(path: str, name: str, shapes: dict[str, tuple[int, ...]]) -> str:
    like = {key: shape for key, shape in shapes.items() if len(shape) in (3, 4)}
    listing = ", ".join(f"{key!r} {shape}" for key, shape in like.items()) or "none"
    four = [key for key, shape in like.items() if len(shape) == 4]
    if name in like:
        return name
    if not name and len(four) == 1:
        return four[0]
    if not name:
        raise SourceError(f"Which array of {path!r}? Name it, '{path}::dataset'. Image arrays: {listing}.")
    if name in shapes:
        raise SourceError(
            f"{name!r} in {path!r} has shape {shapes[name]}: no images. Image arrays: {listing}."
        )
    raise SourceError(f"No array {name!r} in {path!r}.{near_text(name, shapes)} Image arrays: {listing}.")


def _label_dataset(name: str, shapes: dict[str, tuple[int, ...]], n: int) -> str | None:
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
            f"No dataset {name!r} in {path!r}.{near_text(name, shapes)} Datasets: {listed(shapes)}."
        )
    if shapes[name] not in ((n,), (n, 1), (1, n)):
        raise SourceError(
            f"{name!r} in {path!r} has shape {shapes[name]}; expected one value an image, ({n},)."
        )
    values = file[name][()].ravel()
    if values.dtype.kind in "OS":
        values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise SourceError(
            f"{len(bad)} values of {name!r} in {path!r} are missing, the first in row {bad[0]}."
        )
    return values
