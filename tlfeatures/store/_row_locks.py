"""Locks on rows by their keys, so that processes that run at the same time compute each image once."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from tlfeatures.store._lock import close_lock, fcntl, open_lock

__all__ = ["RowLocks"]

_HAS_BYTE_LOCKS = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi0q")  # the struct flock of Linux: type, whence, start, length, process


class RowLocks:
    """Locks on rows of one or several recipes; the kernel releases the locks of a process that ends.

    Locks only avoid duplicate work. If the file system does not support them, every call of `acquire` succeeds. If the
    system can lock only whole files, no other process acquires a row as long as any row is locked. Used as a context
    manager, the object releases all rows at the end of the block.

    Parameters
    ----------
    paths : sequence of str
        The lock file of each recipe; a row is locked in all of them.

    Notes
    -----
    The lock on a row is a lock on one byte of a file. Linux compares a new lock with all others on the same file, so
    lock at most a few thousand rows at a time.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        kind = _Bytes if _HAS_BYTE_LOCKS else _WholeFile
        # the same order in all processes, so that no two can wait for each other
        self._files = [kind(fd) for fd in map(open_lock, sorted(set(paths))) if fd is not None]

    def __enter__(self) -> RowLocks:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files:
            close_lock(file.fd)
        self._files = []

    def acquire(self, keys: np.ndarray) -> np.ndarray:
        """Lock the rows of keys, uint8 (n, 16), unless others have locked them; return which are locked, bool (n,)."""
        return np.array([self._acquire(start) for start in _to_offsets(keys)], bool)

    def release(self, keys: np.ndarray) -> None:
        """Release rows that were acquired, by their keys, uint8 (n, 16)."""
        for start in _to_offsets(keys):
            for file in self._files:
                file.release(start)

    def wait(self, key: np.ndarray) -> None:
        """Wait until no other process has locked the row of a key, uint8 (16,).

        Release all rows before the call; otherwise two processes can wait for each other.
        """
        (start,) = _to_offsets(key[None])
        for file in self._files:
            file.wait(start)

    def _acquire(self, start: int) -> bool:
        for i, file in enumerate(self._files):
            if not file.acquire(start):
                for other in self._files[:i]:
                    other.release(start)
                return False
        return True


class _Bytes:
    """Locks on single bytes of an open file; unlike those of ``fcntl.lockf``, they also exclude other threads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def acquire(self, start: int) -> bool:
        return self._lock(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, start)

    def release(self, start: int) -> None:
        self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start)

    def wait(self, start: int) -> None:
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, start)
        self.release(start)

    def _lock(self, command: int, kind: int, start: int) -> bool:
        try:
            fcntl.fcntl(self.fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass  # unsupported by the file system, or too many locks
        return True


class _WholeFile:
    """A lock on an open file, for systems whose locks on bytes do not exclude other threads."""

    def __init__(self, fd: int) -> None:
        self.fd, self._n_rows = fd, 0

    def acquire(self, start: int) -> bool:
        if not self._n_rows and not self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        self._n_rows += 1
        return True

    def release(self, start: int) -> None:
        self._n_rows -= 1
        if not self._n_rows:
            self._lock(fcntl.LOCK_UN)

    def wait(self, start: int) -> None:
        self._lock(fcntl.LOCK_EX)
        self._lock(fcntl.LOCK_UN)

    def _lock(self, operation: int) -> bool:
        try:
            fcntl.flock(self.fd, operation)
        except BlockingIOError:
            return False
        except OSError:
            pass  # unsupported by the file system
        return True


def _to_offsets(keys: np.ndarray) -> list[int]:
    """Return the position of the byte of each key in the lock files; it depends on 62 of the first 64 bits."""
    return (np.ascontiguousarray(keys[:, :8]).view("<u8")[:, 0] >> np.uint64(2)).tolist()
