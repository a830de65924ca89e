"""Check the data and the predictions of a classifier on embeddings."""

from __future__ import annotations

__all__: list[str] = []
