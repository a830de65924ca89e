"""Checkpoints of a training, written atomically, from which only an identical training resumes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._archive import read_arrays, write_arrays
from tlfeatures._files import TEMPORARY_PREFIX
from tlfeatures._warnings import warn
from tlfeatures.errors import StoreWarning

__all__ = ["Checkpoints"]

_ABANDONED = 600  # seconds; another process may still be writing a newer temporary file


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
                with contextlib.suppress(FileNotFoundError):  # another process may remove it too
                    if time.time() - old.stat().st_mtime > _ABANDONED:
                        old.unlink()
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
