"""Best-effort file locks, which the kernel releases when their process ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tlfeatures.store._disk import make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["close_lock", "fcntl", "flock", "open_lock"]

_locked: set[int] = set()


@contextlib.contextmanager
def flock(path: str, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on ``path``; yield False when another process has it and ``wait`` is false.

    If locks are unsupported or the folder is read-only, the block runs without a lock.
    """
    fd = open_lock(path)
    try:
        yield fd is None or _lock(fd, wait)
    finally:
        if fd is not None:
            close_lock(fd)


def open_lock(path: str) -> int | None:
    """Open a lock file and return its descriptor; None if that is impossible, or locks are unsupported."""
    if fcntl is None:
        return None
    try:
        make_folder(os.path.dirname(path))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    _locked.add(fd)
    return fd


def close_lock(fd: int) -> None:
    """Close a lock file, which releases its locks; in a forked child they are closed already."""
    if fd in _locked:
        _locked.discard(fd)
        os.close(fd)


def _lock(fd: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _release_in_child() -> None:
    """Close the locks in a forked child, which would otherwise keep them after its parent ends."""
    for fd in _locked:
        with contextlib.suppress(OSError):
            os.close(fd)
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
