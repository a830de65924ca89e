"""Check the data and the predictions of a classifier on embeddings."""

from __future__ import annotations

from tlfeatures.results import AuditResult
from tlfeatures.trust._audit import audit
from tlfeatures.trust._explain import Explanations, explain

__all__ = ["AuditResult", "Explanations", "audit", "explain"]
