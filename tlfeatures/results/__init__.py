"""Results of a feature search, an audit and suggestions, which can be used without the objects that made them."""

from tlfeatures.results._audit import AuditResult
from tlfeatures.results._prediction_sets import PredictionIntervals, PredictionSets
from tlfeatures.results._search import (
    EmbeddingSample,
    LearningCurve,
    Regime,
    Score,
    SearchResult,
    score_bounds,
)
from tlfeatures.results._suggestions import Suggestions

__all__ = [
    "AuditResult",
    "EmbeddingSample",
    "LearningCurve",
    "PredictionIntervals",
    "PredictionSets",
    "Regime",
    "Score",
    "SearchResult",
    "Suggestions",
    "score_bounds",
]
