"""A journal of changed labels: a file to which each change is appended before it takes effect."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from tlfeatures.errors import TLFeaturesError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["Journal", "JournalError"]


class JournalError(TLFeaturesError, OSError):
    """The journal cannot be used: another process uses it, or it is damaged."""


class Journal:
    """A file with one line of JSON for each change, which is on the disk when `append` returns.

    A line that was cut off by a kill or a power failure is removed when the file is opened again; the lines before it
    are complete.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    entries : list of dict
        The changes in the file when it was opened.

    Raises
    ------
    JournalError
        If the file cannot be opened, another process uses it, a line other than the last is damaged, or it is not a
        journal. The file is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal(folder + "/labels.jsonl") as journal:
    ...         journal.append({"label": "cat"})
    ...     Journal(folder + "/labels.jsonl").entries
    [{'label': 'cat'}]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        flags = (
            os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        )
        try:
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            reason = (
                "it is a symbolic link"
                if error.errno == errno.ELOOP
                else (error.strerror or "failed").lower()
            )
            raise JournalError(
                f"Cannot open the journal of labels {self.path!r} ({reason}). Pass another --journal."
            ) from None
        try:
            self._lock()
            self.entries = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def append(self, entry: dict[str, Any]) -> None:
        """Write a change to the disk.

        Parameters
        ----------
        entry : dict
            The change; it must consist of JSON types.

        Raises
        ------
        OSError
            If it cannot be written; the file is then unchanged.
        """
        line = json.dumps(entry).encode() + b"\n"
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) < len(line):
                raise OSError(errno.ENOSPC, "The disk is full", self.path)
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        """Close the file, which releases its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"Another process uses the journal of labels {self.path!r}. Stop it, or pass another --journal."
            ) from None

    def _read(self) -> list[dict[str, Any]]:
        content = Path(self.path).read_bytes()
        end = content.rfind(b"\n") + 1
        entries = []
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError
            except ValueError:
                raise self.make_error(number) from None
            entries.append(entry)
        if end < len(content):
            # the beginning of a change, or zeros that a file system leaves after a power failure
            if content[end : end + 1] not in (b"{", b"\0"):
                raise self.make_error(len(entries) + 1)
            os.ftruncate(self._fd, end)
        return entries

    def make_error(self, number: int) -> JournalError:
        """Make the error of a line that is not a change of labels.

        Parameters
        ----------
        number : int
            Number of the line, from 1.

        Returns
        -------
        JournalError
            The error, which is not raised here.
        """
        return JournalError(
            f"Line {number} of the journal of labels {self.path!r} is not a change of labels. If it is damaged, remove "
            "the line; if this is another file, pass another --journal."
        )
