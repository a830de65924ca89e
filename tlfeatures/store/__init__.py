"""The embedding store: rows by (recipe, content of the image), in HDF5 segments that never change."""

from tlfeatures.store._store import EmbeddingStore
from tlfeatures.store._writer import StoreWriter

__all__ = ["EmbeddingStore", "StoreWriter"]
