"""What is known of a network without loading it: kept by the process, and in the sidecars of a store.

There are two kinds. The metadata of one network file: its taps with shapes and digests, its default tap, size
and normalization. And the names of all layers, with and without the top, by which a wrong name is refused
before anything is built.
"""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import keras_version

__all__ = ["FORMAT", "forget", "load", "save"]

FORMAT = 4  # raised when what the sidecars hold gets another meaning
_in_memory: dict[str, dict[str, Any]] = {}


def load(key: dict[str, Any] | None, store: Any) -> dict[str, Any] | None:
    """The metadata under a key; None when absent, or when nothing lasting identifies the network."""
    if key is None:
        return None
    key = _full(key)
    metadata = store.get_sidecar(key) if store is not None else None
    if metadata is None and (metadata := _in_memory.get(str(key))) is not None and store is not None:
        store.put_sidecar(key, metadata)  # learned with another store
    return metadata


def save(key: dict[str, Any], metadata: dict[str, Any], store: Any) -> None:
    """Keep metadata under a key."""
    key = _full(key)
    _in_memory[str(key)] = metadata
    if store is not None:
        store.put_sidecar(key, metadata)


def forget() -> None:
    """Forget what this process knows."""
    _in_memory.clear()


def _full(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "keras": keras_version(), "format": FORMAT}
