"""Labels, folds, groups, duplicate images and confidence intervals: what every fair evaluation needs."""

from tlfeatures.evaluation._duplicates import Duplicates, find_duplicates, keep_groups_together
from tlfeatures.evaluation._folds import Fold, make_folds, make_inner_folds, split_validation
from tlfeatures.evaluation._intervals import confidence_interval, standard_error
from tlfeatures.evaluation._labels import check_groups, check_labels, check_seed, infer_task

__all__ = [
    "Duplicates",
    "Fold",
    "check_groups",
    "check_labels",
    "check_seed",
    "confidence_interval",
    "find_duplicates",
    "infer_task",
    "keep_groups_together",
    "make_folds",
    "make_inner_folds",
    "split_validation",
    "standard_error",
]
