"""The methods of a store that inspect, clean and copy its files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlfeatures.store import _maintenance
from tlfeatures.store._disk import store_error
from tlfeatures.store._transfer import OnProgress, copy_store, open_side

__all__ = ["StoreMaintenance"]


def _parse_bytes(text: str) -> int:
    """Return a number of bytes.

    >>> _parse_bytes("500MB"), _parse_bytes("2 GiB"), _parse_bytes("1e3")
    (500000000, 2147483648, 1000)
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*(?:([kmgt]?)(i?)b?)", text.strip().lower())
    try:
        if match is None:
            raise ValueError
        number, prefix, binary = match.groups()
        return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(prefix) if prefix else 0))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size; expected bytes, such as 500MB, 2GB or 1000000.") from None


class StoreMaintenance:
    """Methods of `EmbeddingStore` that inspect, clean and copy its files."""

    root: Path

    def info(self) -> dict[str, Any]:
        """Describe the contents of the store.

        Returns
        -------
        dict
            ``root``, ``bytes`` and ``recipes``, a list of a dict for each recipe with ``digest``, ``recipe``, ``rows``,
            ``unique_rows``, ``bytes``, ``segments``, ``quarantined`` and ``last_used`` (seconds since 1970).
        """
        with self._errors("read"):
            return _maintenance.info(self._v1, str(self.root))

    def verify(self) -> list[dict[str, str]]:
        """Read and verify every file; nothing is changed.

        Returns
        -------
        list of dict
            ``path`` and ``reason`` of each damaged file.
        """
        with self._errors("read"):
            return _maintenance.verify(self._v1)

    def compact(self) -> dict[str, int]:
        """Merge small segments and drop duplicate rows; other processes may read and write meanwhile.

        Returns
        -------
        dict
            Counts ``segments_before``, ``segments_after``, ``bytes_before`` and ``bytes_after``.

        Raises
        ------
        StoreError
            When a write fails; no row is lost.
        """
        with self._errors("write to"):
            return _maintenance.compact(self._v1)

    def push(self, url: str | os.PathLike[str], on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Copy the segments, recipes and sidecars that another store lacks into it.

        Parameters
        ----------
        url : str or path
            The other store: a URI such as ``"s3://bucket/embeddings"``, or a folder.
        on_progress : callable, optional
            Called after each file with the number of bytes that are finished and of all bytes to copy.

        Returns
        -------
        dict
            ``segments``, ``files`` (which include segments) and ``bytes`` that were copied; ``skipped_files`` and
            ``skipped_bytes``, which the other store has already; and ``damaged``, a list of {"path", "reason"} of the
            files that were not copied because their content is not that of their names.

        Raises
        ------
        InvalidParameterError
            If ``url`` is a URL of another kind, such as "https://...".
        ObjectStorageError
            If access is denied, or there is no such bucket.
        TransientReadError
            If the storage fails repeatedly. What was copied stays: the next call copies the rest.
        StoreError
            If a file cannot be written.

        Notes
        -----
        A file is verified before it is written, and it is written at once or not at all. A file of the other store with
        the same name and size is not read. Index files are not copied: each store makes its own. Any number of
        processes may read and write both stores meanwhile.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from tlfeatures import EmbeddingStore
        >>> here, there = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> recipe = {"network": "toy", "width": 2, "dtype": "float32"}
        >>> EmbeddingStore(here).publish(recipe, np.zeros((1, 16), "uint8"), np.ones((1, 2), "float32"))
        >>> EmbeddingStore(here).push(there)["segments"]
        1
        """
        return copy_store(open_side(str(self.root)), open_side(os.fspath(url)), on_progress)

    def pull(self, url: str | os.PathLike[str], on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Copy the segments, recipes and sidecars of another store that this store lacks; see `push`.

        Parameters
        ----------
        url : str or path
            URI in object storage, or folder, of the other store.
        on_progress : callable, optional
            As in `push`.

        Returns
        -------
        dict
            As that of `push`, for the files that were copied into this store.

        Raises
        ------
        StoreError
            Also if there is no store at ``url``, or it is empty.
        """
        return copy_store(open_side(os.fspath(url)), open_side(str(self.root)), on_progress, must_exist=True)

    def prune(self, max_bytes: int | str) -> dict[str, int]:
        """Delete the least recently used recipes until at most ``max_bytes`` remain.

        Parameters
        ----------
        max_bytes : int or str
            Largest size of the store, such as 2_000_000_000 or "2GB".

        Returns
        -------
        dict
            Numbers ``removed_recipes``, ``removed_bytes`` and ``bytes``, which is what remains.
        """
        if isinstance(max_bytes, str):
            max_bytes = _parse_bytes(max_bytes)
        if max_bytes < 0:
            raise ValueError(f"`max_bytes` must be 0 or more; got {max_bytes}.")
        with self._errors("write to"):
            return _maintenance.prune(self._v1, max_bytes)

    def clear(self) -> dict[str, int]:
        """Delete the files of this library and no others.

        Returns
        -------
        dict
            Numbers ``removed_files`` and ``removed_bytes``.
        """
        with self._errors("write to"):
            return _maintenance.clear(self._v1)

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(error, action, str(self.root)) from error

    @property
    def _v1(self) -> str:
        """Path of the folder that contains all files of version 1 of the format."""
        return os.path.join(self.root, "v1")
