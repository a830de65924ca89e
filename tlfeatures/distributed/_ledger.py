"""The ledger of a job: which work units are stored, with the digest and the stamp of each image."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tlfeatures.fingerprints import KEY_BYTES, bytes_key
from tlfeatures.store import EmbeddingStore
from tlfeatures.store._disk import list_names, make_folder, open_file

__all__ = ["Ledger", "Place", "UnitRecord"]

_HEADER = struct.Struct("<4sII16s16s")  # magic, rows, bytes of the errors, unit, digest of what follows
_MAGIC = b"TLU1"
_ROW_BYTES = KEY_BYTES + 16
_MAX_BYTES = 256 << 20  # largest size of a record; larger ones are not read
_LEDGER_NAME = re.compile(r"[0-9a-f]{32}\.part")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
_WRITE |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

Place = tuple[str, int]  # name of the file and position of the record


class UnitRecord(NamedTuple):
    """What the ledger knows of a stored unit.

    Attributes
    ----------
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images; zeros where unreadable.
    stamps : ndarray of int64, shape (n, 2)
        See `tlfeatures.distributed.read_stamps`.
    errors : dict
        {position in the unit: reason} of the unreadable images.
    """

    keys: np.ndarray
    stamps: np.ndarray
    errors: dict[int, str]


class Ledger:
    """Records of stored units, in files beside the store: each process appends to a file of its own.

    A record is appended after the rows of its unit are stored, so what it says holds also after a kill or a loss of
    power. A record with a damaged body is ignored. After a damaged header or an incomplete record, the rest of the file
    is ignored. The images of units without a record are read again.

    Parameters
    ----------
    store : EmbeddingStore
    recipe : dict
        The first recipe of the job.

    Notes
    -----
    A record has 44 bytes, and 32 for each image. Only the position of each record is kept in memory.
    """

    def __init__(self, store: EmbeddingStore, recipe: dict) -> None:
        self.folder = store.units_folder(recipe)
        self._places: dict[bytes, list[Place]] = {}
        self._ends: dict[str, int] = {}  # how far each file has been read
        self._own: tuple[str, int] | None = None  # name and descriptor
        self.refresh()

    def __contains__(self, unit: str) -> bool:
        return bytes.fromhex(unit) in self._places

    def refresh(self) -> None:
        """Read the records that other processes have appended."""
        with contextlib.suppress(OSError):
            for name in sorted(list_names(self.folder, _LEDGER_NAME)):
                if self._own is None or name != self._own[0]:
                    with contextlib.suppress(OSError, ValueError):
                        self._scan(name)

    def find(self, unit: str, stamps: np.ndarray) -> tuple[Place, UnitRecord, np.ndarray] | None:
        """Find the record of a unit that fits the files best.

        Parameters
        ----------
        unit : str
            The id of the unit.
        stamps : ndarray of int64, shape (n, 2)
            The present stamps of its files.

        Returns
        -------
        (place, record, is_current) or None
            ``is_current``, bool (n,), is False where a file has changed or its stamp is unknown. None if there is no
            record.
        """
        best = None
        for place in reversed(self._places.get(bytes.fromhex(unit), ())):
            record = self.read(place)
            if record is not None and len(record.keys) == len(stamps):
                is_current = (record.stamps == stamps).all(axis=1) & (stamps[:, 0] != -1)
                if best is None or is_current.sum() > best[2].sum():
                    best = place, record, is_current
                if is_current.all():
                    break
        return best

    def read(self, place: Place) -> UnitRecord | None:
        """Read a record; None if it is damaged or deleted."""
        name, start = place
        try:
            fd = open_file(os.path.join(self.folder, name))
        except (OSError, ValueError):
            return None
        try:
            magic, n, n_errors, _, digest = _HEADER.unpack(_read(fd, _HEADER.size, start))
            body = _read(fd, n * _ROW_BYTES + n_errors, start + _HEADER.size)
            if magic != _MAGIC or bytes_key(body) != digest:
                return None
            errors = {
                int(i): str(reason) for i, reason in json.loads(body[n * _ROW_BYTES :] or b"{}").items()
            }
        except (OSError, ValueError, struct.error, AttributeError):
            return None
        finally:
            os.close(fd)
        keys = np.frombuffer(body, np.uint8, n * KEY_BYTES).reshape(n, KEY_BYTES)
        stamps = np.frombuffer(body, "<i8", 2 * n, n * KEY_BYTES).reshape(n, 2)
        return UnitRecord(keys, stamps, errors)

    def append(self, records: Iterable[tuple[str, UnitRecord]]) -> list[Place]:
        """Append records, durably, and return their places.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        if self._own is None:
            make_folder(self.folder)
            name = f"{os.urandom(16).hex()}.part"
            self._own = name, os.open(os.path.join(self.folder, name), _WRITE, 0o600)
        name, fd = self._own
        places, content, start = [], bytearray(), os.fstat(fd).st_size
        for unit, record in records:
            errors = json.dumps(record.errors).encode() if record.errors else b""
            body = record.keys.tobytes() + record.stamps.astype("<i8").tobytes() + errors
            place = name, start + len(content)
            header = (_MAGIC, len(record.keys), len(errors), bytes.fromhex(unit), bytes_key(body))
            content += _HEADER.pack(*header) + body
            self._places.setdefault(header[3], []).append(place)
            places.append(place)
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
        return places

    def close(self) -> None:
        """Close the file that this process appends to."""
        if self._own is not None:
            os.close(self._own[1])
            self._own = None

    def _scan(self, name: str) -> None:
        """Read the headers of the records that were appended to a file."""
        fd = open_file(os.path.join(self.folder, name))
        try:
            status = os.fstat(fd)
            start = self._ends.get(name, 0)
            while stat.S_ISREG(status.st_mode) and start + _HEADER.size <= status.st_size:
                magic, n, n_errors, unit, _ = _HEADER.unpack(_read(fd, _HEADER.size, start))
                end = start + _HEADER.size + n * _ROW_BYTES + n_errors
                if magic != _MAGIC or end > status.st_size or end - start > _MAX_BYTES:
                    break  # damaged or incomplete: its process is writing it, or was killed
                self._places.setdefault(unit, []).append((name, start))
                self._ends[name] = start = end
        finally:
            os.close(fd)


def _read(fd: int, size: int, start: int) -> bytes:
    os.lseek(fd, start, os.SEEK_SET)
    content = os.read(fd, size)
    while 0 < len(content) < size and (more := os.read(fd, size - len(content))):
        content += more
    if len(content) != size:
        raise ValueError("the file is shorter than its records")
    return content
