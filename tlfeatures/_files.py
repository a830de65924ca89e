"""Atomic writes of files, reads with retries, and stamps that show whether a file has changed."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from tlfeatures.errors import TLFeaturesError, TransientReadError

__all__ = [
    "TEMPORARY_PREFIX",
    "absolute_folder",
    "atomic_write",
    "file_stamp",
    "read_with_retries",
    "replace_file",
    "stamp",
    "sync_folder",
    "write_file",
]

TEMPORARY_PREFIX = ".tmp-"  # followed by 24 hexadecimal digits
# O_RDWR and not O_WRONLY, because HDF5 reads back parts of the file while writing it
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL
_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# bytes per call of os.write: Linux writes at most 2 GiB per call, and Ctrl-C takes effect only between calls
_WRITE_BYTES = 16 << 20

_RETRY_SECONDS = (0.2, 1.0, 5.0)  # pauses before further attempts
_TRANSIENT = {
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EIO", "EMFILE",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE", "ENOLINK", "ENOTCONN", "EREMOTEIO", "ESHUTDOWN", "ESTALE",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
}  # fmt: skip

Stamp = tuple[int, int, int, int]
T = TypeVar("T")


def stamp(status: os.stat_result) -> Stamp:
    """Return inode, size and times (ns) of a file; equal stamps of one path mean unchanged content.

    The exception is the resolution of the file system's clock: a file that changes twice in one tick keeps its stamp.
    """
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def file_stamp(path: str | os.PathLike[str]) -> tuple[str, int, int, int, int]:
    """Return the real path of a file and its `stamp`, without reading the file.

    Raises
    ------
    OSError
        When the file is absent.
    """
    return os.path.realpath(path), *stamp(os.stat(path))


def absolute_folder(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of an existing folder; return any other value unchanged as a string.

    An absolute path cannot be mistaken for the name of a network, such as "tiny".
    """
    return os.path.abspath(path) if os.path.isdir(path) else os.fspath(path)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, sync: bool = True, mode: int = 0o666
) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an exception.

    Parameters
    ----------
    path : path
        The file to write. Resolve a symbolic link first to write to its target.
    sync : bool, default=True
        Whether to sync content and name to the disk before the block ends, so that they survive power loss.
    mode : int, default=0o666
        Permissions, reduced by the process's umask.

    Yields
    ------
    binary file

    Raises
    ------
    OSError
        When a system call fails; the temporary file is removed.
    """
    with _temporary_descriptor(path, sync, mode) as fd, open(fd, "wb", closefd=False) as file:
        yield file


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """As `atomic_write`, but if ``path`` is a symbolic link, its target is replaced.

    Raises
    ------
    OSError
        If the file cannot be written; the error names ``path``, not the temporary file. Errors of this package,
        errors that name another file, and errors without an error number are raised unchanged.
    """
    target = os.path.realpath(path)
    try:
        with atomic_write(target) as file:
            yield file
    except TLFeaturesError:  # raised in the block
        raise
    except OSError as error:
        names_other_file = error.filename not in (None, target) and not _is_temporary(error.filename)
        if error.errno is None or names_other_file:
            raise
        raise OSError(error.errno, f"Cannot write: {error.strerror or error}", target) from error


def write_file(path: str | os.PathLike[str], content: bytes, *, sync: bool = True, mode: int = 0o666) -> None:
    """Write ``content`` to ``path`` as `atomic_write` does."""
    with _temporary_descriptor(path, sync, mode) as fd:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view[:_WRITE_BYTES]) :]


@contextlib.contextmanager
def _temporary_descriptor(path: str | os.PathLike[str], sync: bool, mode: int) -> Iterator[int]:
    folder = os.path.dirname(os.fspath(path))
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{os.urandom(12).hex()}")
    try:
        fd = _create(temporary, path, mode)
        try:
            yield fd
            if sync:
                _sync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(folder or os.curdir)


def _create(temporary: str, path: str | os.PathLike[str], mode: int) -> int:
    """Create the temporary file of ``path`` and return its descriptor; an error names ``path``."""
    try:
        return os.open(temporary, _FLAGS, mode)
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def _is_temporary(path: object) -> bool:
    return os.path.basename(str(path)).startswith(TEMPORARY_PREFIX)


def _sync(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone leaves the data in the drive's cache
    else:
        os.fsync(fd)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush the entries of a folder to the disk, so that new file names survive a power loss.

    Nothing happens if the file system does not support it.

    Raises
    ------
    OSError
        When a system call fails.
    """
    if os.name == "nt":  # Windows cannot open folders
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # unsupported by the file system
            raise
    finally:
        os.close(fd)


def read_with_retries(read: Callable[[], T], path: str | os.PathLike[str]) -> T:
    """Return ``read()``, and retry after a pause if the storage of ``path`` fails.

    Raises
    ------
    TransientReadError
        If it fails four times with errors that are not caused by the file, such as time-outs.
    OSError
        Any other error, at once.
    """
    for pause in (*_RETRY_SECONDS, None):
        try:
            return read()
        except OSError as error:
            if error.errno not in _TRANSIENT or isinstance(error, TransientReadError):
                raise
            if pause is None:
                attempts = len(_RETRY_SECONDS) + 1
                raise TransientReadError(
                    error.errno,
                    f"{(error.strerror or 'the storage failed').lower()}, in {attempts} attempts. The storage may be "
                    "temporarily unavailable, so this does not count as an unreadable file. Repeat the command "
                    "or function call later: embeddings that are already stored are not computed again",
                    os.fspath(path),
                ) from error
            time.sleep(pause)
    raise AssertionError("unreachable")
