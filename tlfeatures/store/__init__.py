"""The embedding store: rows by recipe and image content, in immutable HDF5 segments."""

from tlfeatures.store._row_locks import RowLocks
from tlfeatures.store._store import EmbeddingStore
from tlfeatures.store._writer import StoreWriter

__all__ = ["EmbeddingStore", "RowLocks", "StoreWriter"]
