"""Claims: locks on work units, so that several processes share the units of one source."""

from __future__ import annotations

import contextlib
import os

from tlfeatures.distributed._units import WorkUnit
from tlfeatures.store._disk import unlink_quietly
from tlfeatures.store._lock import flock

__all__ = ["Claims"]


class Claims:
    """Locks on the units that this process computes; the kernel releases them when the process ends.

    If the file system has no locks, every claim succeeds. Units may then be computed twice, with the same result.

    Parameters
    ----------
    folder : str
        The folder of the lock files, one for each unit that is being computed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._locks: dict[str, contextlib.ExitStack] = {}

    def take(self, unit: WorkUnit) -> bool:
        """Claim a unit; return False if another process has claimed it."""
        stack = contextlib.ExitStack()
        if stack.enter_context(flock(self._path(unit), wait=False)):
            self._locks[unit.id] = stack
            return True
        stack.close()
        return False

    def release(self, unit: WorkUnit, is_stored: bool = False) -> None:
        """Release a unit; once it is in the ledger, its lock file is deleted."""
        stack = self._locks.pop(unit.id, None)
        if stack is not None:
            with stack:
                if is_stored:  # a process that waits for this file finds the unit in the ledger
                    unlink_quietly(self._path(unit))

    def release_all(self) -> None:
        """Release the units that are not stored."""
        for stack in self._locks.values():
            stack.close()
        self._locks.clear()

    def remove(self, unit: WorkUnit) -> None:
        """Delete the lock file of a unit in the ledger, which a waiting or killed process may have left."""
        unlink_quietly(self._path(unit))

    def wait(self, unit: WorkUnit) -> None:
        """Wait until no other process has claimed a unit.

        Release all claims first; otherwise two processes can wait for each other.
        """
        with flock(self._path(unit)):
            pass

    def _path(self, unit: WorkUnit) -> str:
        return os.path.join(self.folder, f"{unit.id}.claim")
