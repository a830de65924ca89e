"""Check the data and the predictions of a classifier on embeddings."""

from __future__ import annotations

from tlfeatures.results import AuditResult, Suggestions
from tlfeatures.trust._audit import audit, audit_search_rows
from tlfeatures.trust._conformal_classifier import ConformalClassifier
from tlfeatures.trust._conformal_head import (
    ConformalPredictions,
    describe_coverage,
    fit_conformal_head,
    predict_conformal,
)
from tlfeatures.trust._conformal_regressor import ConformalRegressor
from tlfeatures.trust._explain import explain
from tlfeatures.trust._explain_result import Explanations
from tlfeatures.trust._outliers import OutlierDetector
from tlfeatures.trust._set_quality import measure_prediction_intervals, measure_prediction_sets
from tlfeatures.trust._suggest import suggest

__all__ = [
    "AuditResult",
    "ConformalClassifier",
    "ConformalPredictions",
    "ConformalRegressor",
    "Explanations",
    "OutlierDetector",
    "Suggestions",
    "audit",
    "audit_search_rows",
    "describe_coverage",
    "explain",
    "fit_conformal_head",
    "measure_prediction_intervals",
    "measure_prediction_sets",
    "predict_conformal",
    "suggest",
]
