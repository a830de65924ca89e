"""Recognition of the network that a weights file belongs to: by its digest, its name or the shapes of its arrays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlfeatures.errors import WeightsError
from tlfeatures.networks._file_digests import hash_file
from tlfeatures.networks._weights_files import WeightsFile

__all__ = ["recognize"]

_OWN_WEIGHTS = "Weights that you trained yourself are used by `weights='path/to/file'`."
_MD5, _SHA256 = "0" * 32, "0" * 64  # any digest of this kind


def recognize(path: Path, files: Sequence[WeightsFile]) -> tuple[WeightsFile, str]:
    """Find the one of ``files`` whose content a file has.

    Returns
    -------
    file : WeightsFile
    state : str
        "digest matches" or "loads".

    Raises
    ------
    WeightsError
        If it is none of them, or damaged.
    """
    digests = hash_file(path, _MD5), hash_file(path, _SHA256)
    for file in files:
        if file.digest and any(digest.startswith(file.digest) for digest in digests):
            return file, "digest matches"
    named = [f for f in files if path.name in (f.name, f.spec.weights_url(**f.variant).rsplit("/", 1)[1])]
    if named and named[0].digest:
        named[0].check_digest(path)
    if not named:
        named = _match_shapes(path, [f for f in files if not f.digest])
    named[0].check_loads(path)
    return named[0], "loads"


def _match_shapes(path: Path, files: Sequence[WeightsFile]) -> list[WeightsFile]:
    """Return the one file whose network has the shapes of the arrays of ``path``, in a list."""
    shapes = _read_shapes(path)
    matches: list[WeightsFile] = []
    for file in files:
        if file.top != ((1000,) in shapes) or (matches and file.spec is not matches[0].spec):
            continue
        if matches or _network_shapes(file.build()) == shapes:  # all sizes have the same shapes
            matches.append(file)
    if len(matches) == 1:
        return matches
    if matches:
        names = " or ".join(f"{file.name} ({file.side})" for file in matches)
        raise WeightsError(
            f"The arrays of {os.fspath(path)!r} have the shapes of {matches[0].spec.name!r}, but so have its weights "
            f"for other image sizes. Pass `image_size`, or give the file its original name: {names}."
        )
    raise WeightsError(
        f"{os.fspath(path)!r} is not a weights file that Keras publishes: its digest is not a published one, and "
        "neither its name nor the shapes of its arrays are those of a network without published digests. Download it "
        f"again. {_OWN_WEIGHTS}"
    )


def _read_shapes(path: Path) -> Counter[tuple[int, ...]]:
    """Count the shapes of the numeric arrays of an HDF5 file."""
    import h5py

    shapes: Counter[tuple[int, ...]] = Counter()

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            shapes[item.shape] += 1

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{os.fspath(path)!r} is not a weights file that Keras publishes: its digest is not a published one, and "
            f"it cannot be read as HDF5 ({error}). It may be incomplete: copy or download it again."
        ) from error
    return shapes


def _network_shapes(model: Any) -> Counter[tuple[int, ...]]:
    return Counter(tuple(v.shape) for v in model.weights if "float" in str(v.dtype))
