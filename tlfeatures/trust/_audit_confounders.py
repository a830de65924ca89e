"""Measure how well groups or file metadata alone predict the label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas
from scipy.stats import norm
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import CategoricalNB
from sklearn.tree import DecisionTreeClassifier

__all__ = ["COLUMNS", "find_confounders"]

COLUMNS = ["predictor", "balanced_accuracy", "chance", "p_value", "warning"]
_ROWS = 20_000  # a larger sample would only show differences too small to matter
_LEAST_IMAGES = 5  # least number of images of a class
_LEAST_GAIN = 0.1  # least gain of balanced accuracy over chance, relative to the largest possible gain
_LARGEST_P = 1e-4


def find_confounders(
    codes: np.ndarray, predictors: Mapping[str, pandas.DataFrame], random_state: int
) -> pandas.DataFrame:
    """Cross-validate classifiers that see only a group or file metadata, and compare them with chance.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        Classes of the rows.
    predictors : mapping of str to DataFrame of n rows
        Columns of numbers are used by a small decision tree; a single column of text by naive Bayes, which predicts the
        class in which the value is most frequent. Constant predictors are left out, and so are missing values.
    random_state : int

    Returns
    -------
    DataFrame
        See :attr:`tlfeatures.results.AuditResult.confounders`; empty if fewer than two classes have five rows.

    Notes
    -----
    Up to 20,000 rows of classes with five rows or more are used, in two folds. If predictions are independent of the
    labels, the number of correct ones in the test rows of a class has a binomial distribution, whose probability is the
    share of the class among the predictions. The p-value of a fold is that of the mean recall, in the normal
    approximation. The smaller of the two p-values, times two (Bonferroni), is returned.
    """
    rng = np.random.default_rng(random_state)
    rows = (
        np.arange(len(codes))
        if len(codes) <= _ROWS
        else np.sort(rng.choice(len(codes), _ROWS, replace=False))
    )
    table = []
    for name, frame in predictors.items():
        used = rows[frame.iloc[rows].notna().all(axis=1).to_numpy()]
        used = used[np.bincount(codes[used])[codes[used]] >= _LEAST_IMAGES]
        columns = frame.iloc[used]
        if len(np.unique(codes[used])) > 1 and (columns.nunique() > 1).any():
            table.append((name, *_score(columns, codes[used], random_state)))
    result = pandas.DataFrame(table, columns=COLUMNS).astype({"warning": bool})
    return result.sort_values("balanced_accuracy", ascending=False, kind="stable", ignore_index=True)


def _score(
    columns: pandas.DataFrame, codes: np.ndarray, random_state: int
) -> tuple[float, float, float, bool]:
    """Return balanced accuracy, chance, p-value, and whether the score is clearly above chance."""
    estimator: Any
    if columns.shape[1] == 1 and columns.iloc[:, 0].dtype.kind not in "iuf":
        X = pandas.factorize(columns.iloc[:, 0])[0][:, None]
        estimator = CategoricalNB(alpha=1e-3, fit_prior=False, min_categories=int(X.max()) + 1)
    else:
        X = columns.to_numpy(float)
        leaf = max(3, len(X) // 100)
        estimator = DecisionTreeClassifier(
            max_depth=4, min_samples_leaf=leaf, class_weight="balanced", random_state=0
        )
    folds = StratifiedKFold(2, shuffle=True, random_state=random_state).split(X, codes)
    scores, p_values = zip(
        *(
            _test(estimator.fit(X[train], codes[train]).predict(X[test]), codes[test])
            for train, test in folds
        ),
        strict=True,
    )
    score, p_value = float(np.mean(scores)), min(1.0, 2 * min(p_values))
    chance = 1 / len(np.unique(codes))
    is_clear = p_value <= _LARGEST_P and score - chance >= _LEAST_GAIN * (1 - chance)
    return score, chance, p_value, bool(is_clear)


def _test(predicted: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Return the balanced accuracy, and its p-value if predictions were independent of the labels."""
    classes, counts = np.unique(codes, return_counts=True)
    recall = np.array([(predicted[codes == code] == code).mean() for code in classes])
    share = (predicted[:, None] == classes).mean(axis=0)
    deviation = np.sqrt((share * (1 - share) / counts).sum()) / len(classes)
    if deviation == 0:  # all predictions are one class
        return float(recall.mean()), 1.0
    return float(recall.mean()), float(norm.sf((recall.mean() - share.mean()) / deviation))
