"""Segments: rows of one recipe as the bytes of an HDF5 file, encoded and decoded in memory only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlfeatures.fingerprints import KEY_BYTES, bytes_key

__all__ = [
    "MAX_FILE_BYTES", "TARGET_BYTES", "Segment", "check_keys", "check_rows", "check_width", "decode",
    "encode", "rows_per_segment",
]  # fmt: skip

TARGET_BYTES = 32 << 20  # maximum size of the rows of a segment, unless it has one longer row
MAX_FILE_BYTES = 256 << 20  # larger files are not read
_MAX_WIDTH = MAX_FILE_BYTES // 4 - (1 << 20)  # so that a single row always fits
_METADATA_BYTES = 64 << 10  # maximum size of HDF5's own part of a file; 2 KiB at present
_ACCEPTED = 1000
_accepted: dict[int, tuple[bytes, dict[bytes, tuple[int, int, int]]]] = {}  # file size -> metadata and layout
# type in h5py.h5t and in NumPy; h5py is imported by functions, because models are loaded faster without it
_LAYOUT: dict[bytes, tuple[str, np.dtype[Any]]] = {
    b"features": ("IEEE_F32LE", np.dtype("<f4")),
    b"keys": ("STD_U8LE", np.dtype("u1")),
    b"recipe": ("STD_U8LE", np.dtype("u1")),
}


@dataclass(frozen=True)
class Segment:
    """Rows of one file, as read-only views of its verified bytes."""

    keys: np.ndarray  # uint8 (n, 16)
    features: np.ndarray  # float32 (n, d)
    recipe: bytes  # canonical JSON
    nbytes: int
    keys_start: int  # byte of the file where the keys begin
    features_start: int


def check_width(recipe: Mapping[str, Any]) -> int:
    """Return the length of a recipe's rows; raise ``ValueError`` if it has none."""
    width = recipe.get("width")
    if recipe.get("dtype") != "float32" or not isinstance(width, int) or not 0 < width <= _MAX_WIDTH:
        raise ValueError(
            f"`recipe` must have dtype='float32' and an integer width from 1 to {_MAX_WIDTH}; "
            f"got dtype={recipe.get('dtype')!r} and width={width!r}."
        )
    return width


def check_keys(keys: np.ndarray) -> np.ndarray:
    """Return contiguous keys; raise ``ValueError`` if they are not uint8 (n, 16)."""
    keys = np.asarray(keys)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(
            f"`keys` must be uint8 of shape (n, {KEY_BYTES}); got {keys.dtype} of shape {keys.shape}."
        )
    return np.ascontiguousarray(keys)


def check_rows(
    recipe: Mapping[str, Any], keys: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return contiguous keys, and features; raise ``ValueError`` if they do not fit the recipe."""
    keys, features = check_keys(keys), np.asarray(features)
    expected = len(keys), check_width(recipe)
    if features.dtype != np.float32 or features.shape != expected:
        raise ValueError(
            f"`features` must be float32 of shape {expected}; got {features.dtype} of shape {features.shape}."
        )
    return keys, features


def rows_per_segment(width: int) -> int:
    """Return the maximum number of rows of ``width`` values in one segment."""
    return max(1, TARGET_BYTES // (width * 4 + KEY_BYTES))


def encode(recipe: bytes, keys: np.ndarray, features: np.ndarray) -> bytes:
    """Encode a segment as the bytes of a file; equal content gives equal bytes."""
    import h5py
    from h5py import h5d, h5p, h5s, h5t

    plain = h5p.create(h5p.DATASET_CREATE)
    plain.set_layout(h5d.CONTIGUOUS)
    plain.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plain.set_fill_time(h5d.FILL_TIME_NEVER)
    plain.set_obj_track_times(False)
    arrays = {
        b"features": np.ascontiguousarray(features, "<f4"),  # first, so that its rows are aligned
        b"keys": np.ascontiguousarray(keys, "u1"),
        b"recipe": np.frombuffer(recipe, "u1")[None],
    }
    with h5py.File.in_memory(libver=("earliest", "v108")) as file:  # newer file images lose their checksum
        for name, array in arrays.items():
            space = h5s.create_simple(array.shape)
            kind = getattr(h5t, _LAYOUT[name][0])
            h5d.create(file.id, name, kind, space, plain).write(h5s.ALL, h5s.ALL, array)
        file.flush()
        return file.id.get_file_image()


def decode(content: bytes, folder: str) -> Segment:
    """Decode the verified content of a file; HDF5 parses the layout, never the rows.

    Parameters
    ----------
    content : bytes
        The whole file; the caller has verified its digest.
    folder : str
        Hexadecimal digest of the recipe that the segment must contain.

    Raises
    ------
    ValueError
        When the layout is not exactly that of `encode`; the message is the reason.
    """
    metadata, layout = _accepted.get(len(content), (b"?", {}))
    if not content.startswith(metadata):
        layout = _parse_layout(content)
        _accept_layout(content, layout)
    views = {
        name: np.frombuffer(content, _LAYOUT[name][1], rows * columns, offset).reshape(rows, columns)
        for name, (rows, columns, offset) in layout.items()
    }
    keys, features, recipe = views[b"keys"], views[b"features"], views[b"recipe"].tobytes()
    if bytes_key(recipe).hex() != folder:
        raise ValueError("its recipe is not that of its folder")
    if keys.shape[1] != KEY_BYTES or len(keys) != len(features):
        raise ValueError(f"keys of shape {keys.shape} do not fit features of shape {features.shape}")
    if features.shape[1] != _recipe_width(recipe):
        raise ValueError(f"its rows have {features.shape[1]} values, not the width of the recipe")
    return Segment(keys, features, recipe, len(content), layout[b"keys"][2], layout[b"features"][2])


def _recipe_width(text: bytes) -> Any:
    """Return the width in a recipe; None if it has none, which is possible in crafted files only."""
    try:
        recipe = json.loads(text)
    except RecursionError as error:
        raise ValueError("its recipe is nested too deeply") from error
    return recipe.get("width") if isinstance(recipe, dict) else None


def _parse_layout(content: bytes) -> dict[bytes, tuple[int, int, int]]:
    if not content.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ValueError("not an HDF5 file")
    import h5py

    try:
        with h5py.File.in_memory(file_image=content) as file:
            return _dataset_layout(file.id, len(content))
    except ValueError:
        raise
    except Exception as error:  # HDF5 may raise anything on a crafted file
        raise ValueError(f"HDF5 cannot read it: {error}") from error


def _accept_layout(content: bytes, layout: dict[bytes, tuple[int, int, int]]) -> None:
    """Remember a layout, so that files of the same size and metadata need not be parsed by HDF5.

    HDF5 copies the whole file, which takes longer than its digest. Most segments have the same shape.
    """
    start = min(offset for _, _, offset in layout.values())
    n_bytes = sum(rows * columns * _LAYOUT[name][1].itemsize for name, (rows, columns, _) in layout.items())
    if start + n_bytes == len(content):  # all metadata is before the rows
        if len(_accepted) >= _ACCEPTED:
            _accepted.clear()
        _accepted[len(content)] = content[:start], layout


def _dataset_layout(file: Any, size: int) -> dict[bytes, tuple[int, int, int]]:
    """Return (rows, columns, byte offset) of each dataset, if the layout is exactly that of `encode`."""
    from h5py import h5d, h5l, h5o, h5s, h5t

    root = h5o.open(file, b"/")
    if h5o.get_info(root).num_attrs or sorted(root) != sorted(_LAYOUT):
        raise ValueError("it must contain keys, features and recipe, and no attributes")
    layout = {}
    for name, (kind, _) in _LAYOUT.items():
        label = name.decode()
        if root.links.get_info(name).type != h5l.TYPE_HARD:
            raise ValueError(f"{label} is a link")
        info = h5o.get_info(root, name)
        if info.type != h5o.TYPE_DATASET or info.num_attrs:
            raise ValueError(f"{label} is not a dataset without attributes")
        dataset = h5d.open(root, name)
        creation = dataset.get_create_plist()
        if (
            creation.get_layout() != h5d.CONTIGUOUS
            or creation.get_external_count()
            or creation.get_nfilters()
        ):
            raise ValueError(f"{label} has chunks, filters or external storage")
        if not dataset.get_type().equal(getattr(h5t, kind)):
            raise ValueError(f"{label} has an unexpected dtype")
        space = dataset.get_space()
        shape = space.get_simple_extent_dims() if space.get_simple_extent_type() == h5s.SIMPLE else ()
        if len(shape) != 2 or space.get_simple_extent_dims(True) != shape:
            raise ValueError(f"{label} has {len(shape)} dimensions instead of 2 fixed ones")
        layout[name] = (*shape, dataset.get_offset())
    ends = []
    for name, (rows, columns, offset) in layout.items():
        end = (offset or 0) + rows * columns * _LAYOUT[name][1].itemsize
        if offset is None or end > size:
            raise ValueError(
                f"{name.decode()} declares shape ({rows}, {columns}), more than the file contains"
            )
        ends.append(end - offset)
    if layout[b"recipe"][0] != 1 or size - sum(ends) > _METADATA_BYTES:
        raise ValueError("it contains more than keys, features and recipe")
    return layout
