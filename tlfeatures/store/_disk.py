"""Files of the store: verified reads, durable writes, and no access through symbolic links."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from pathlib import Path

from tlfeatures import _files
from tlfeatures._warnings import warn
from tlfeatures.errors import StoreError, StoreWarning
from tlfeatures.fingerprints import bytes_key
from tlfeatures.store._segment import MAX_FILE_BYTES, Segment, decode

__all__ = [
    "INDEX_NAME", "RECIPE_NAME", "SEGMENT_NAME", "TEMP_NAME", "default_root", "is_folder", "is_stale",
    "list_names", "load_segment", "make_folder", "open_file", "parse_segment", "publish_file", "quarantine",
    "read_file", "store_error", "unlink_quietly", "warn_once",
]  # fmt: skip

SEGMENT_NAME = re.compile(r"[0-9a-f]{32}\.h5")
INDEX_NAME = re.compile(r"[0-9a-f]{32}\.index")
RECIPE_NAME = re.compile(r"[0-9a-f]{32}")
TEMP_NAME = re.compile(r"\.tmp-[0-9a-f]{24}")
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_durable: dict[Path, int] = {}  # inodes of folders whose names, and those of all parents, are synced
_warned: set[str] = set()


def default_root() -> Path:
    """Return $TLFEATURES_CACHE, or else ``tlfeatures`` in the user's cache folder of this platform."""
    if folder := os.environ.get("TLFEATURES_CACHE"):
        return Path(folder)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base, "tlfeatures")


def warn_once(path: str, message: str) -> None:
    """Issue a `StoreWarning` once per process for each path."""
    if path not in _warned:
        _warned.add(path)
        warn(message, StoreWarning)


def store_error(error: OSError, action: str, root: str) -> StoreError:
    """Make a `StoreError` from an ``OSError``, with a hint on how to fix it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free space, run `tlfeatures cache prune`, or pass another folder as `cache`"
    else:
        hint = "pass a folder that you can write to as `cache`, or `cache=None` for no store"
    reason = error.strerror or str(error)
    return StoreError(error.errno or 0, f"cannot {action} the embedding store: {reason}; {hint}", root)


def is_folder(path: str) -> bool:
    """Whether ``path`` is a real folder; a symbolic link is not.

    Raises
    ------
    OSError
        When a system call fails.
    """
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def list_names(folder: str, pattern: re.Pattern[str]) -> frozenset[str]:
    """List the names in a folder that match a pattern; empty when the folder is absent or a link.

    Raises
    ------
    OSError
        When it cannot be read.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_folder(folder):
            return frozenset(n for n in os.listdir(folder) if pattern.fullmatch(n))
    return frozenset()


def open_file(path: str) -> int:
    """Open a file for reading and return its descriptor.

    Raises
    ------
    OSError
        When a system call fails.
    ValueError
        When it is a link; the message is the reason.
    """
    try:
        return os.open(path, _READ | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise ValueError("it is a symbolic link") from error
        raise


def read_file(path: str, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises
    ------
    OSError
        When a system call fails.
    ValueError
        When it is a link, another kind of file, or too large; the message is the reason.
    """
    fd = open_file(path)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"it has {status.st_size} bytes, more than the limit of {limit}")
        parts, remaining = [], status.st_size
        while remaining and (part := os.read(fd, remaining)):
            parts.append(part)
            remaining -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(fd)


def load_segment(path: str) -> Segment:
    """Read and verify one segment; its digest is checked before HDF5 parses it.

    Raises
    ------
    OSError, ValueError
        See `read_file` and `decode`.
    """
    folder, name = os.path.split(path)
    return parse_segment(read_file(path, MAX_FILE_BYTES), os.path.basename(folder), name)


def parse_segment(content: bytes, folder: str, name: str) -> Segment:
    """Verify the content of a segment against the names of its folder and file, and decode it.

    Raises
    ------
    ValueError
        When it is damaged; the message is the reason.
    """
    if bytes_key(content).hex() != name[:-3]:
        raise ValueError("the digest of its content does not match its file name")
    return decode(content, folder)


def quarantine(path: str) -> None:
    """Move a damaged file into the quarantine folder; if that fails, leave it in place."""
    folder, name = os.path.split(path)
    quarantine_folder = os.path.join(folder, "quarantine")
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            os.mkdir(quarantine_folder, 0o700)
        if is_folder(quarantine_folder):
            os.replace(path, os.path.join(quarantine_folder, name))


def publish_file(path: str, content: bytes) -> None:
    """Write a file atomically and durably, and create its folder.

    Raises
    ------
    OSError
        When a system call fails; no partial file is left.
    """
    for last in (False, False, True):
        try:
            _publish(path, content)
            return
        except FileNotFoundError:  # another process is clearing the store
            if last:
                raise


def unlink_quietly(path: str) -> bool:
    """Delete a file; return whether that succeeded."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def make_folder(folder: str) -> None:
    """Create a folder of the store and its parents, accessible to their owner only.

    Raises
    ------
    OSError
        When a system call fails, or when the folder or its parent is a link or a file.
    """
    parent = os.path.dirname(folder)
    for path in (parent, folder):
        if is_folder(path):
            continue
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            os.mkdir(path, 0o700)
        if os.path.lexists(path) and not is_folder(path):
            raise NotADirectoryError(errno.ENOTDIR, "expected a folder, but there is a file or a link", path)


def _publish(path: str, content: bytes) -> None:
    folder = os.path.dirname(path)
    make_folder(folder)
    _files.write_file(path, content, mode=0o600)
    for parent in (Path(folder), *Path(folder).parents):  # their creator may have died before it synced them
        inode = os.lstat(parent).st_ino
        if _durable.get(parent) == inode or parent == parent.parent:
            break
        with contextlib.suppress(PermissionError):  # owned by another user, so not created by this process
            _files.sync_folder(parent.parent)
        _durable[parent] = inode


def is_stale(path: str, age: float = 3600.0) -> bool:
    """Whether a temporary file is more than ``age`` seconds old, so that its writer has presumably died."""
    try:
        return time.time() - os.lstat(path).st_mtime > age
    except OSError:
        return False
