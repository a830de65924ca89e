"""Metadata that describe a network without loading it, in memory and in the sidecars of a store.

There are two kinds: the metadata of one network file (its taps with shapes and digests, its default tap, size
and normalization), and the names of all layers with and without the top, so that an unknown layer name raises
an error before anything is built.
"""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import keras_version

__all__ = ["FORMAT", "clear", "load", "save"]

FORMAT = 5  # increased when the meaning of the sidecars changes
_in_memory: dict[str, dict[str, Any]] = {}


def load(key: dict[str, Any] | None, store: Any) -> dict[str, Any] | None:
    """Return the metadata under a key; None if absent, or if the network has no identity outside this process."""
    if key is None:
        return None
    key = _full(key)
    metadata = store.get_sidecar(key) if store is not None else None
    if metadata is None and (metadata := _in_memory.get(str(key))) is not None and store is not None:
        store.put_sidecar(key, metadata)  # saved earlier, with another store
    return metadata


def save(key: dict[str, Any], metadata: dict[str, Any], store: Any) -> None:
    """Save metadata under a key, in memory and in the store."""
    key = _full(key)
    _in_memory[str(key)] = metadata
    if store is not None:
        store.put_sidecar(key, metadata)


def clear() -> None:
    """Delete the metadata in memory."""
    _in_memory.clear()


def _full(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "keras": keras_version(), "format": FORMAT}
