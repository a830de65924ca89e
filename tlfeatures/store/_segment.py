"""Segments: rows of one recipe as the bytes of an HDF5 file, encoded and decoded in memory only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5o, h5p, h5s, h5t

from tlfeatures.fingerprints import KEY_BYTES, bytes_key

__all__ = [
    "MAX_FILE_BYTES", "TARGET_BYTES", "Segment", "check_keys", "check_rows", "check_width", "decode",
    "encode", "rows_per_segment",
]  # fmt: skip

TARGET_BYTES = 32 << 20  # rows of one segment at most, or a single longer row
MAX_FILE_BYTES = 256 << 20  # larger files are refused unread
_MAX_WIDTH = MAX_FILE_BYTES // 4 - (1 << 20)  # so that a single row always fits
_METADATA_BYTES = 64 << 10  # HDF5's own part of a file; 2 KiB at present
_ACCEPTED = 1000
_accepted: dict[
    int, tuple[bytes, dict[bytes, tuple[int, int, int]]]
] = {}  # by size: metadata and its meaning
_LAYOUT = {b"features": h5t.IEEE_F32LE, b"keys": h5t.STD_U8LE, b"recipe": h5t.STD_U8LE}


@dataclass(frozen=True)
class Segment:
    """Rows of one file, as read-only views of its verified bytes."""

    keys: np.ndarray  # uint8 (n, 16)
    features: np.ndarray  # float32 (n, d)
    recipe: bytes  # canonical JSON
    nbytes: int


def check_width(recipe: Mapping[str, Any]) -> int:
    """Length of a recipe's rows; ValueError when it has none."""
    width = recipe.get("width")
    if recipe.get("dtype") != "float32" or not isinstance(width, int) or not 0 < width <= _MAX_WIDTH:
        raise ValueError(
            f"the recipe has dtype={recipe.get('dtype')!r} and width={width!r}; "
            f"expected 'float32' and a whole number from 1 to {_MAX_WIDTH}"
        )
    return width


def check_keys(keys: np.ndarray) -> np.ndarray:
    """Contiguous keys; ValueError when they are not uint8 (n, 16)."""
    keys = np.asarray(keys)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype} {keys.shape}; expected uint8 (n, {KEY_BYTES})")
    return np.ascontiguousarray(keys)


def check_rows(
    recipe: Mapping[str, Any], keys: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Contiguous keys, and features; ValueError when they do not fit the recipe."""
    keys, features = check_keys(keys), np.asarray(features)
    expected = len(keys), check_width(recipe)
    if features.dtype != np.float32 or features.shape != expected:
        raise ValueError(f"features are {features.dtype} {features.shape}; expected float32 {expected}")
    return keys, features


def rows_per_segment(width: int) -> int:
    """Maximum number of rows of ``width`` values in one segment."""
    return max(1, TARGET_BYTES // (width * 4 + KEY_BYTES))


def encode(recipe: bytes, keys: np.ndarray, features: np.ndarray) -> bytes:
    """Encode a segment as the bytes of a file; equal content gives equal bytes."""
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
    with h5py.File.in_memory(libver=("earliest", "v108")) as file:  # newer images lose their checksum
        for name, array in arrays.items():
            space = h5s.create_simple(array.shape)
            h5d.create(file.id, name, _LAYOUT[name], space, plain).write(h5s.ALL, h5s.ALL, array)
        file.flush()
        return file.id.get_file_image()


def decode(image: bytes, folder: str) -> Segment:
    """Decode a verified file image; HDF5 parses the layout, never the rows.

    Parameters
    ----------
    image : bytes
        The whole file; the caller has verified its digest.
    folder : str
        Hexadecimal digest of the recipe that the segment must contain.

    Raises
    ------
    ValueError
        When the layout is not exactly that of `encode`; the message is the reason.
    """
    head, places = _accepted.get(len(image), (b"?", {}))
    if not image.startswith(head):
        places = _parsed(image)
        _remember(image, places)
    views = {
        name: np.frombuffer(image, _LAYOUT[name].dtype, rows * columns, offset).reshape(rows, columns)
        for name, (rows, columns, offset) in places.items()
    }
    keys, features, recipe = views[b"keys"], views[b"features"], views[b"recipe"].tobytes()
    if bytes_key(recipe).hex() != folder:
        raise ValueError("its recipe is not that of its folder")
    if keys.shape[1] != KEY_BYTES or len(keys) != len(features):
        raise ValueError(f"keys of shape {keys.shape} do not fit features of shape {features.shape}")
    if features.shape[1] != _recipe_width(recipe):
        raise ValueError(f"its rows have {features.shape[1]} values, not the width of the recipe")
    return Segment(keys, features, recipe, len(image))


def _recipe_width(text: bytes) -> Any:
    """The width that a recipe names; None where it names none, as only a crafted one does."""
    try:
        recipe = json.loads(text)
    except RecursionError as error:
        raise ValueError("its recipe is nested too deeply") from error
    return recipe.get("width") if isinstance(recipe, dict) else None


def _parsed(image: bytes) -> dict[bytes, tuple[int, int, int]]:
    if not image.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ValueError("not an HDF5 file")
    try:
        with h5py.File.in_memory(file_image=image) as file:
            return _places(file.id, len(image))
    except ValueError:
        raise
    except Exception as error:  # HDF5 may raise anything on a crafted file
        raise ValueError(f"HDF5 cannot read it: {error}") from error


def _remember(image: bytes, places: dict[bytes, tuple[int, int, int]]) -> None:
    """Skip HDF5 for files that have the size and the metadata of one that it has parsed.

    HDF5 copies the whole file, which costs more than its digest. Most segments have the same shape.
    """
    start = min(offset for _, _, offset in places.values())
    content = sum(rows * columns * _LAYOUT[name].get_size() for name, (rows, columns, _) in places.items())
    if start + content == len(image):  # all metadata is before the rows
        if len(_accepted) >= _ACCEPTED:
            _accepted.clear()
        _accepted[len(image)] = image[:start], places


def _places(file: h5f.FileID, size: int) -> dict[bytes, tuple[int, int, int]]:
    """(rows, columns, byte offset) of each dataset, if the layout is exactly that of `encode`."""
    root = h5o.open(file, b"/")
    if h5o.get_info(root).num_attrs or sorted(root) != sorted(_LAYOUT):
        raise ValueError("it must hold keys, features and recipe, and no attribute")
    places = {}
    for name, kind in _LAYOUT.items():
        text = name.decode()
        if root.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{text} is a link")
        info = h5o.get_info(root, name)
        if info.type != h5o.TYPE_DATASET or info.num_attrs:
            raise ValueError(f"{text} is not a bare dataset")
        dataset = h5d.open(root, name)
        made = dataset.get_create_plist()
        if made.get_layout() != h5d.CONTIGUOUS or made.get_external_count() or made.get_nfilters():
            raise ValueError(f"{text} is not stored plainly")
        if not dataset.get_type().equal(kind):
            raise ValueError(f"{text} has another dtype")
        space = dataset.get_space()
        shape = space.get_simple_extent_dims() if space.get_simple_extent_type() == h5s.SIMPLE else ()
        if len(shape) != 2 or space.get_simple_extent_dims(True) != shape:
            raise ValueError(f"{text} has {len(shape)} dimensions instead of 2 fixed ones")
        places[name] = (*shape, dataset.get_offset())
    ends = []
    for name, (rows, columns, offset) in places.items():
        end = (offset or 0) + rows * columns * _LAYOUT[name].get_size()
        if offset is None or end > size:
            raise ValueError(
                f"{name.decode()} declares shape ({rows}, {columns}), more than the file contains"
            )
        ends.append(end - offset)
    if places[b"recipe"][0] != 1 or size - sum(ends) > _METADATA_BYTES:
        raise ValueError("it contains more than keys, features and recipe")
    return places
