"""Downloads of files: complete and checked, or absent. An interrupted download is resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tlfeatures._files import sync_folder, write_file
from tlfeatures._progress import show_bytes
from tlfeatures._warnings import warn
from tlfeatures.networks._file_digests import describe_digest, hasher

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["download"]

_ATTEMPTS = 10  # as long as each receives data
_BLOCK_BYTES = 1 << 18
_SAVE_BYTES = 32 << 20  # received between two saves of the state
_MIN_RATE = 1000  # bytes per second, over the time limit
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)

Progress = Callable[[int, int | None], None]


def download(
    url: str,
    target: Path,
    digest: str = "",
    check: Callable[[Path], None] | None = None,
    timeout: float = 30.0,
) -> None:
    """Download ``url`` to ``target``, which is replaced at once when the file is complete and checked.

    What is received is kept in ``.part-NAME`` beside the target, with its source and digest in ``.part-NAME.json``. The
    next call resumes from there if the server still has the same file, by its ETag or date.

    Parameters
    ----------
    url : str
        http, https or file. Proxies are read from ``http_proxy``, ``https_proxy`` and ``no_proxy``.
    target : Path
    digest : str, default=""
        MD5 (32 digits), or SHA-256 or its start, in hexadecimal digits.
    check : callable, optional
        Function of the path of the complete file; called before it replaces ``target``. If it raises an error, the file
        is deleted.
    timeout : float, default=30.0
        Seconds without data, or with less than 1 kB/s, after which the download fails.

    Raises
    ------
    OSError
        If the download fails; ``target`` is unchanged.
    """
    part = target.with_name(f".part-{target.name}")
    before = _stamp(target)
    with _locked(part.with_name(f"{part.name}.lock"), target.name), _open_part(part) as file:
        if _stamp(target) != before:  # by the process that had the lock
            return
        state = _PartialFile(file, part, hasher(digest))
        state.resume(url)
        with show_bytes(target.name) as on_progress:
            _receive_all(url, state, timeout, on_progress)
        try:
            if digest and not state.hash.hexdigest().startswith(digest):
                raise OSError(
                    f"its {describe_digest(digest, state.hash.hexdigest())}: the server or a proxy sent another file, "
                    "which was deleted"
                )
            os.fsync(file.fileno())
            if check is not None:
                check(part)
        except Exception:
            state.discard()
            raise
        os.replace(part, target)
        sync_folder(target.parent)
        state.path.unlink(missing_ok=True)


class _RestartError(OSError):
    """The part that was received is not a part of the file that the server has now."""


class _PartialFile:
    """The part of a file that was received, with its source and digest."""

    def __init__(self, file: IO[bytes], part: Path, hash: Any) -> None:
        self.file, self.part, self.path = file, part, part.with_name(f"{part.name}.json")
        self.empty_hash = hash
        self.size, self.total, self.validator, self.url, self.hash = 0, None, "", "", hash.copy()
        self._unsaved = 0

    def resume(self, url: str) -> None:
        """Take over the part of an earlier download of ``url`` if it is undamaged; otherwise delete it."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads(self.path.read_text("utf-8"))
            size, total, validator = int(state["size"]), state["total"], str(state["validator"])
            if state["url"] == url and validator and (total is None or 0 < size <= int(total)):
                self.file.seek(0)
                remaining = size
                while remaining and (block := self.file.read(min(remaining, _BLOCK_BYTES))):
                    self.hash.update(block)
                    remaining -= len(block)
                if not remaining and self.hash.hexdigest() == state["digest"]:
                    self.file.truncate(size)
                    self.size, self.total, self.validator, self.url = size, total, validator, url
                    return
        self.start(url, None, "")

    def start(self, url: str, total: int | None, validator: str) -> None:
        """Delete what was received, for a new file."""
        self.path.unlink(missing_ok=True)
        self.file.seek(0)
        self.file.truncate(0)
        self.url, self.total, self.validator, self.size = url, total, validator, 0
        self.hash = self.empty_hash.copy()

    def write(self, block: bytes) -> None:
        self.file.seek(self.size)
        view = memoryview(block)
        while view:
            view = view[self.file.write(view) :]
        self.hash.update(block)
        self.size += len(block)
        self._unsaved += len(block)
        if self._unsaved >= _SAVE_BYTES and self.validator:
            self.save()

    def save(self) -> None:
        """Write the state to the disk, so that what was received can be resumed; delete it if it never can be."""
        self._unsaved = 0
        if not self.size or not self.validator:
            return self.start(self.url, None, "")
        os.fsync(self.file.fileno())
        state = {"url": self.url, "validator": self.validator, "total": self.total, "size": self.size}
        write_file(self.path, json.dumps(state | {"digest": self.hash.hexdigest()}).encode())

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def describe(self) -> str:
        """Return how much was received, and whether it can be resumed, for messages."""
        text = f"{self.size:,}" if self.total is None else f"{self.size:,} of {self.total:,}"
        kept = "; they are kept, and the next attempt resumes" if self.size and self.validator else ""
        return f"{text} bytes{kept}"


def _receive_all(url: str, state: _PartialFile, timeout: float, on_progress: Progress | None) -> None:
    """Receive the rest of a file; after an error or Ctrl-C, keep what can be resumed and delete everything else."""
    try:
        _receive_in_parts(url, state, timeout, on_progress)
    except BaseException:
        try:
            state.save()
        except OSError:
            state.start(url, None, "")
        raise


def _receive_in_parts(url: str, state: _PartialFile, timeout: float, on_progress: Progress | None) -> None:
    """Receive the rest of a file; a lost connection is resumed at once as long as data arrive."""
    import http.client  # here, because a model that needs no download loads faster without it

    for attempt in range(_ATTEMPTS):
        offset = state.size
        if state.total is not None and state.size == state.total:
            return
        if not state.validator:  # the server cannot say whether it still has the same file
            state.start(url, None, "")
        try:
            return _receive(url, state, timeout, on_progress)
        except _RestartError as error:
            state.start(url, None, "")
            if not offset or attempt == _ATTEMPTS - 1:
                raise OSError(str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OSError(_describe_space(state)) from error
            if state.size <= offset or attempt == _ATTEMPTS - 1:
                raise


def _receive(url: str, state: _PartialFile, timeout: float, on_progress: Progress | None) -> None:
    import urllib.error
    import urllib.request

    from tlfeatures import __version__

    request = urllib.request.Request(url, headers={"User-Agent": f"tlfeatures/{__version__}"})
    if state.size:
        request.add_header("Range", f"bytes={state.size}-")
        request.add_header("If-Range", state.validator)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and state.size:
            raise _RestartError("the server does not have this part of the file") from error
        raise OSError(f"the server answered {error.code} {error.reason} for {url}") from error
    with response:
        visited = [*getattr(request, "redirect_dict", ()), getattr(response, "url", None) or url]
        if url.startswith("https:") and (
            plain := [each for each in visited if not each.startswith("https:")]
        ):
            raise OSError(f"the server redirects to {plain[0]}, which is not https")
        _accept(state, response)
        window, received = time.monotonic(), 0
        try:
            while block := response.read1(_BLOCK_BYTES):
                state.write(block)
                if on_progress is not None:
                    on_progress(state.size, state.total)
                received += len(block)
                if time.monotonic() - window > timeout:
                    if received < _MIN_RATE * timeout:
                        raise OSError(f"less than {_MIN_RATE / 1000:g} kB/s after {state.describe()}")
                    window, received = time.monotonic(), 0
        except TimeoutError as error:
            raise OSError(f"no data for {timeout:g} s after {state.describe()}") from error
    if state.total is not None and state.size < state.total:
        raise OSError(f"the connection ended after {state.describe()}")
    if state.total is not None and state.size > state.total:
        raise _RestartError(f"the server sent more than the {state.total:,} bytes that it announced")


def _accept(state: _PartialFile, response: Any) -> None:
    """Check the headers of a response, and set where its content belongs."""
    headers = response.headers
    if (headers.get("Content-Type") or "").startswith("text/html"):
        raise OSError("the server sent a web page, not a file, perhaps the sign-in page of a proxy")
    if getattr(response, "status", None) == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
        totals = ("*", str(state.total)) if state.total is not None else None
        if not match or int(match[1]) != state.size or (totals and match[2] not in totals):
            raise _RestartError("the server resumed at another position or with another file")
        if state.total is None and match[2] != "*":
            state.total = int(match[2])
    else:
        length = headers.get("Content-Length")
        etag = headers.get("ETag") or ""
        validator = (etag if not etag.startswith("W/") else "") or headers.get("Last-Modified") or ""
        state.start(state.url, int(length) if length else None, validator)
    if state.total is not None:
        free = shutil.disk_usage(state.part.parent).free
        if free < state.total - state.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _describe_space(state: _PartialFile) -> str:
    folder = state.part.parent
    needed = (state.total or state.size) - state.size
    return (
        f"the disk is full: {folder} needs {max(needed, 1) / 1e6:,.1f} MB more and has "
        f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB; free some space, or set KERAS_HOME to another disk"
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock file ``path``, so that other processes wait; the kernel releases it at the end of the process.

    The downloaded file itself is not locked, because HDF5 locks the files that it opens. If the file system has no
    locks, the block runs without one.
    """
    while True:
        fd = os.open(path, _FLAGS, 0o666)
        try:
            _lock(fd, name)
            if not _is_current(fd, path):  # deleted by the process that had the lock
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


def _lock(fd: int, name: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        warn(f"Another process is downloading {name}; waiting until it has finished.")
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:  # unsupported by the file system
        pass


def _is_current(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


@contextlib.contextmanager
def _open_part(path: Path) -> Iterator[IO[bytes]]:
    """Open a partial file; it is deleted if it is empty in the end."""
    with open(os.open(path, _FLAGS, 0o666), "r+b", buffering=0) as file:
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                path.unlink(missing_ok=True)
