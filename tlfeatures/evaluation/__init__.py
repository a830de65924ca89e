"""Labels, folds, groups, duplicate images, confidence intervals and the comparison of estimators."""

from tlfeatures.evaluation._comparison import compare
from tlfeatures.evaluation._comparison_result import Comparison
from tlfeatures.evaluation._duplicates import (
    Duplicates,
    find_duplicates,
    find_label_conflicts,
    group_folds,
    keep_groups_together,
)
from tlfeatures.evaluation._folds import Fold, make_folds, make_inner_folds, split_validation
from tlfeatures.evaluation._intervals import confidence_interval, standard_error
from tlfeatures.evaluation._labels import check_groups, check_labels, check_seed, infer_task
from tlfeatures.evaluation._neighbors import Neighbors, find_neighbors, normalize_embeddings
from tlfeatures.evaluation._paired_tests import PairedTest
from tlfeatures.evaluation._scores import (
    DEFAULT_SCORING,
    ClassificationScores,
    RegressionScores,
    check_scorer_name,
    match_labels,
    score_classes,
    score_numbers,
)

__all__ = [
    "DEFAULT_SCORING",
    "ClassificationScores",
    "Comparison",
    "Duplicates",
    "Fold",
    "Neighbors",
    "PairedTest",
    "RegressionScores",
    "check_groups",
    "check_labels",
    "check_scorer_name",
    "check_seed",
    "compare",
    "confidence_interval",
    "find_duplicates",
    "find_label_conflicts",
    "find_neighbors",
    "group_folds",
    "infer_task",
    "keep_groups_together",
    "make_folds",
    "make_inner_folds",
    "match_labels",
    "normalize_embeddings",
    "score_classes",
    "score_numbers",
    "split_validation",
    "standard_error",
]
