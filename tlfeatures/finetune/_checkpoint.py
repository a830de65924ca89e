"""Checkpoints of a training, written atomically, from which only an identical training resumes."""

from __future__ import annotations

import io
import json
import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._files import TEMPORARY_PREFIX, atomic_write
from tlfeatures._warnings import warn
from tlfeatures.errors import StoreWarning

__all__ = ["ABOUT", "Checkpoints", "read_arrays", "write_arrays"]

ABOUT = "about.json"  # the first member of every file

_ABANDONED = 600  # seconds; another process may still be writing a newer temporary file


def write_arrays(path: str | os.PathLike[str], about: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a JSON object and arrays to a zip file, which replaces ``path`` when it is complete and on the disk.

    Raises
    ------
    OSError
        If the disk is full or the folder is not writable; an existing file at ``path`` is unchanged.
    """
    with (
        atomic_write(os.path.realpath(path)) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about))  # no time: equal content has equal bytes
        for i, array in enumerate(arrays):
            with archive.open(zipfile.ZipInfo(f"{i:05}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a file of :func:`write_arrays`; checksums are verified, and no code of the file is run.

    Raises
    ------
    ValueError
        If the file is damaged or has another format.
    OSError
        If the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.filename)
                # compressed members could be much larger than the file
                if (
                    any(m.compress_type != zipfile.ZIP_STORED for m in members)
                    or sum(m.file_size for m in members) > os.fstat(file.fileno()).st_size
                ):
                    raise ValueError("its members are compressed or larger than the file")
                about = json.loads(archive.read(ABOUT))
                arrays = [_parse_array(archive.read(m)) for m in members if m.filename.endswith(".npy")]
            if not isinstance(about, dict):
                raise ValueError("about.json is not a JSON object")
            return about, arrays
        except Exception as error:  # damaged files raise many kinds of errors
            raise ValueError(f"{os.fspath(path)!r} is damaged or has another format: {error}") from error


def _parse_array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(
            f"an array with the shape {shape} and the dtype {dtype} cannot have {len(data)} bytes"
        )
    array = np.frombuffer(data, dtype, offset=file.tell()) if math.prod(shape) else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


class Checkpoints:
    """Checkpoints of one training, in a folder named by the digest of everything that determines the result.

    Parameters
    ----------
    root : path
        Folder for the checkpoints of all trainings.
    digest : str

    Raises
    ------
    OSError
        If the folder cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str], digest: str) -> None:
        self.folder = Path(os.path.expanduser(root)) / digest
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot make the folder for checkpoints: {error.strerror or error}. Pass another checkpoint_dir, "
                "or None for no checkpoints",
                str(self.folder),
            ) from error

    def save(self, stage: str, about: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Save the state after an epoch, in place of the previous checkpoint.

        Raises
        ------
        OSError
            If the file cannot be written; the previous checkpoint is unchanged.
        """
        path = self.folder / f"{stage}.checkpoint"
        try:
            for old in self.folder.glob(f"{TEMPORARY_PREFIX}*"):  # left by a process that was killed
                if time.time() - old.stat().st_mtime > _ABANDONED:
                    old.unlink(missing_ok=True)
            write_arrays(path, about, arrays)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot write the checkpoint of epoch {about['epoch']}: {error.strerror or error}. The previous one "
                "is unchanged: free disk space and fit again to resume from it, or pass checkpoint_dir=None",
                str(path),
            ) from error

    def load(self, stage: str) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """Return the state after the last saved epoch; None if there is no undamaged checkpoint."""
        path = self.folder / f"{stage}.checkpoint"
        if not path.is_file():
            return None
        try:
            return read_arrays(path)
        except ValueError as error:
            warn(f"{error}. This stage starts from its first epoch.", StoreWarning)
            return None
