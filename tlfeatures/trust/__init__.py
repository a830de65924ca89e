"""Check the data and the predictions of a classifier on embeddings."""

from __future__ import annotations

from tlfeatures.trust._explain import Explanations, explain

__all__ = ["Explanations", "explain"]
