"""Checkpoints: complete or absent, found again only by the very same training."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import StoreWarning

__all__ = ["ABOUT", "Checkpoints", "read_arrays", "write_arrays"]

ABOUT = "about.json"  # the first member of every file

_ABANDONED = 600  # seconds: a younger file may be that of another process that writes it now


def write_arrays(path: str | os.PathLike[str], about: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Write a zip of one JSON text and arrays; ``path`` changes only when all of it is on the disk.

    Raises
    ------
    OSError
        The disk is full, or the folder cannot be written to; what was at ``path`` is still there.
    """
    path = os.path.realpath(path)
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as held:
                held.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about))  # without the time: same bytes
                for i, array in enumerate(arrays):
                    with held.open(zipfile.ZipInfo(f"{i:05}.npy"), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What :func:`write_arrays` wrote; checksums are verified and nothing is executed.

    Raises
    ------
    ValueError
        When the file is damaged or of another make.
    """
    with open(path, "rb") as file:  # what cannot be opened says so itself
        try:
            with zipfile.ZipFile(file) as held:
                members = sorted(held.infolist(), key=lambda member: member.filename)
                # nothing that grows when it is read
                if (
                    any(m.compress_type != zipfile.ZIP_STORED for m in members)
                    or sum(m.file_size for m in members) > os.fstat(file.fileno()).st_size
                ):
                    raise ValueError("its members are not stored as they are")
                about = json.loads(held.read(ABOUT))
                arrays = [_array(held.read(m)) for m in members if m.filename.endswith(".npy")]
            if not isinstance(about, dict):
                raise ValueError("about.json holds no object")
            return about, arrays
        except Exception as error:  # of many kinds, where bytes are not what they should be
            raise ValueError(f"{os.fspath(path)!r} is damaged or of another make: {error}") from error


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array says that it has the shape {shape} of {dtype} and has {len(data)} bytes")
    array = np.frombuffer(data, dtype, offset=file.tell()) if math.prod(shape) else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Checkpoints:
    """The checkpoints of one training, in a folder named by the digest of all that decides its outcome.

    Parameters
    ----------
    root : path
    digest : str

    Raises
    ------
    OSError
        When the folder cannot be made.
    """

    def __init__(self, root: str | os.PathLike[str], digest: str) -> None:
        self.folder = Path(os.path.expanduser(root)) / digest
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot make the folder for checkpoints: {error.strerror or error}. Name another one, or None for no "
                "checkpoints",
                str(self.folder),
            ) from error

    def save(self, stage: str, about: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Keep the state after an epoch; it takes the place of the one before.

        Raises
        ------
        OSError
            Says what to do; the checkpoint before is intact.
        """
        path = self.folder / f"{stage}.checkpoint"
        try:
            for old in self.folder.glob(f"{stage}.checkpoint.*.tmp"):  # of a process that was killed
                if time.time() - old.stat().st_mtime > _ABANDONED:
                    old.unlink(missing_ok=True)
            write_arrays(path, about, arrays)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot write the checkpoint of epoch {about['epoch']}: {error.strerror or error}. The one before it "
                "is intact; make room and fit again to go on from there, or pass checkpoint_dir=None",
                str(path),
            ) from error

    def load(self, stage: str) -> tuple[dict[str, Any], list[np.ndarray]] | None:
        """The state after the last epoch that was saved; None when there is none that is whole."""
        path = self.folder / f"{stage}.checkpoint"
        if not path.is_file():
            return None
        try:
            return read_arrays(path)
        except ValueError as error:
            warn(f"{error}. This stage starts anew.", StoreWarning)
            return None
