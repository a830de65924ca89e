"""The binary files of STL-10."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tlfeatures.errors import SourceError

__all__ = ["read_stl10"]

_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE


def read_stl10(folder: str | os.PathLike[str]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Read the binary files of STL-10 (Coates, Lee and Ng 2011).

    Parameters
    ----------
    folder : str or path
        Holds ``train_X.bin``, ``train_y.bin``, ``test_X.bin`` and ``test_y.bin``: images as bytes by channel, column
        and row (column-major), 3x96x96, and labels as bytes from 1 to 10. With ``class_names.txt``, one name in each
        line, labels are names.

    Returns
    -------
    train, test : tuple
        Images, uint8 of shape (n, 96, 96, 3), and labels, int or str of shape (n,).

    Raises
    ------
    SourceError
        If a file is missing, or its size or its labels are not those of the format.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from tlfeatures.sources import read_stl10
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> image = np.zeros((1, 3, 96, 96), "uint8")  # channel, column, row
    >>> image[0, 0, 5, 7] = 255
    >>> for split in ("train", "test"):
    ...     _ = (folder / f"{split}_X.bin").write_bytes(image.tobytes())
    ...     _ = (folder / f"{split}_y.bin").write_bytes(bytes([10]))
    >>> (X, y), test = read_stl10(folder)
    >>> X.shape, int(X[0, 7, 5, 0]), y.tolist()
    ((1, 96, 96, 3), 255, [10])
    """
    path = Path(folder)
    if not path.is_dir():
        raise SourceError(f"No such folder: {str(path)!r}. Expected the folder of STL-10's train_X.bin.")
    names_file = path / "class_names.txt"
    names = np.array(names_file.read_text("utf-8").split()) if names_file.is_file() else None
    return tuple(_read_split(path, split, names) for split in ("train", "test"))


def _read_split(folder: Path, split: str, names: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    files = [folder / f"{split}_X.bin", folder / f"{split}_y.bin"]
    for file in files:
        if not file.is_file():
            raise SourceError(
                f"No file {file.name!r} in {str(folder)!r}. Expected train_X.bin, train_y.bin, test_X.bin and "
                "test_y.bin of STL-10."
            )
    pixels, labels = (np.fromfile(file, np.uint8) for file in files)
    if len(pixels) != len(labels) * _BYTES or not len(labels):
        raise SourceError(
            f"{files[0].name!r} has {len(pixels):,} bytes and {files[1].name!r} has {len(labels):,} labels; expected "
            f"{_BYTES:,} bytes for each label. Download or copy the files again."
        )
    if labels.min() < 1 or labels.max() > 10:
        raise SourceError(
            f"The labels in {files[1].name!r} run from {labels.min()} to {labels.max()}; expected labels from 1 to 10, "
            "as in STL-10."
        )
    X = np.ascontiguousarray(pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 3, 2, 1))
    y = labels.astype(int)
    return X, y if names is None or len(names) < labels.max() else names[y - 1]
