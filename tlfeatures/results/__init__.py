"""Result objects of a feature search and of an audit, which can be used without the objects that made them."""

from tlfeatures.results._audit import AuditResult
from tlfeatures.results._prediction_sets import PredictionSets
from tlfeatures.results._search import (
    EmbeddingSample,
    LearningCurve,
    Regime,
    Score,
    SearchResult,
    score_bounds,
)

__all__ = [
    "AuditResult",
    "EmbeddingSample",
    "LearningCurve",
    "PredictionSets",
    "Regime",
    "Score",
    "SearchResult",
    "score_bounds",
]
