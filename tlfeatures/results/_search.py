"""Result objects of a feature search, which can be used without the search itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlfeatures.results._audit import AuditResult
from tlfeatures.results._prediction_sets import PredictionIntervals, PredictionSets

if TYPE_CHECKING:
    import pandas

__all__ = ["EmbeddingSample", "LearningCurve", "Regime", "Score", "SearchResult", "score_bounds"]

_BETWEEN_0_AND_1 = (
    "accuracy", "balanced_accuracy", "top_k_accuracy", "average_precision", "f1", "roc_auc", "precision", "recall",
    "jaccard",
)  # fmt: skip
_AT_MOST_1 = ("r2", "explained_variance", "d2_", "matthews_corrcoef")


def score_bounds(scoring: str) -> tuple[float, float]:
    """Return the lowest and the highest value that a score can take.

    Parameters
    ----------
    scoring : str
        Name of one of scikit-learn's scorers. Other names have no bounds.

    Returns
    -------
    (low, high) : tuple of float

    Examples
    --------
    >>> score_bounds("accuracy"), score_bounds("R2"), score_bounds("neg_log_loss"), score_bounds("my_score")
    ((0.0, 1.0), (-inf, 1.0), (-inf, 0.0), (-inf, inf))
    """
    name = scoring.lower()
    if name.startswith(_BETWEEN_0_AND_1):
        return 0.0, 1.0
    if name.startswith(_AT_MOST_1):
        return (-1.0 if name.startswith("matthews") else -np.inf), 1.0
    return -np.inf, 0.0 if name.startswith("neg_") else np.inf


@dataclass(frozen=True)
class Score:
    """Mean of a score over the folds with its 95% confidence interval.

    Attributes
    ----------
    mean, low, high : float
        Mean and ends of the interval, clipped to the values that the score can take.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Scores of the best pipeline, fitted on part of the training images.

    Attributes
    ----------
    sizes : ndarray of int, shape (s,)
        Number of training images, the mean over the folds.
    scores : ndarray of shape (s, folds)
    """

    sizes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Regime:
    """Regime of transfer learning that the measurements indicate, and the recommendation.

    Attributes
    ----------
    domain : {"similar", "dissimilar"}
        "dissimilar" if an earlier layer is better than the last one by more than two standard errors. Smaller
        differences may be due to chance, because the earlier layer is the best of several.
    data : {"small", "large", "open"}
        "small" if the last doubling of the training images raised the score by more than two standard
        errors, "large" if it raised the score by less than 1% with the same confidence, else "open".
    recommendation : {"frozen features", "earlier layers", "fine-tune the top", "fine-tune all"}
    evidence : list of (sentence, measurements)
        Conclusions and the measurements that support them.
    """

    domain: str
    data: str
    recommendation: str
    evidence: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class EmbeddingSample:
    """Principal components of the best pipeline's embeddings, for a map of the images.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Positions in ``SearchResult.rows``; a random sample if there are more than 5,000 images.
    components : ndarray of float32, shape (m, k)
        Scores on the first k <= 50 principal components of the standardized embeddings.
    explained_variance : float
        Share of the variance that the first two components explain.
    """

    rows: np.ndarray
    components: np.ndarray
    explained_variance: float


@dataclass(frozen=True)
class SearchResult:
    """Everything that a feature search measured.

    :meth:`tlfeatures.FeatureSearchCV.result` returns it. It contains only data: no network, no fitted estimator and no
    images except small previews.

    Attributes
    ----------
    task : {"classification", "regression"}
    scoring : str
        Name of the score, such as "accuracy".
    classes : ndarray or None
        Sorted class labels; None for regression.
    rows : ndarray of int, shape (n,)
        Rows of ``X`` that were used.
    score : Score
        Score of the best pipeline. If duplicates were split between folds, this is the score with
        duplicates kept in one fold (grouped cross-validation), when such folds can be made.
    uncorrected_score : Score or None
        Score on the original folds, if it differs from ``score``.
    candidates : pandas.DataFrame
        One row per candidate, the best first, as :meth:`tlfeatures.FeatureSearchCV.table` returns.
    best : int
        Row of the chosen candidate in ``candidates``.
    best_params : dict
    options : dict or None
        Parameters of a search whose only candidate is the chosen one; None if they cannot be written as text.
    n_splits : int
    rule : {"best", "1se"}
    grouped_duplicates : bool
        Whether the folds kept duplicates together from the start.
    predictions : pandas.DataFrame
        Out-of-fold predictions, one row per image: ``row``, ``image``, ``fold``, ``true``, ``predicted``
        and, if there are groups, ``group``.
    probabilities, decision_values : ndarray or None
        Out-of-fold class probabilities and decision values, if the head has them.
    metrics : dict of str to float
    mistakes : pandas.DataFrame
        The worst predictions, the worst first, with their ``margin``.
    image_problems : pandas.DataFrame
        ``row``, ``image``, ``problem`` ("error" or "warning") and ``reason``; images with an error were
        left out.
    thumbnails : mapping of int to bytes
        JPEG previews of the rows in ``mistakes``, if the image can be read.
    embedding_sample : EmbeddingSample or None
    embedding_note : str
        Reason why ``embedding_sample`` is None; otherwise empty.
    regime : Regime
    learning_curve : LearningCurve
    duplicates : Duplicates
    nested_scores : ndarray of shape (folds,) or None
    prescreen : pandas.DataFrame
    prescreen_correlation : float or None
    prescreen_method : str
    timings : pandas.DataFrame
    recipes : list of dict
        Everything that determines the embeddings of the best pipeline.
    halving : pandas.DataFrame or None
        One row for each subset of the images on which candidates were eliminated, and one for all images: numbers of
        ``images``, ``candidates`` and ``eliminated``, and ``note``. None after an exhaustive search.
    audit : AuditResult or None
        Label errors, outliers and groups that predict the label, from the out-of-fold predictions of the best
        pipeline; None for regression, for more than 20,000 images, or if the embeddings are no longer in the store.
    prediction_sets : PredictionSets or None
        Coverage and size of prediction sets, from the out-of-fold predictions of the best pipeline; None for
        regression.
    prediction_intervals : PredictionIntervals or None
        Coverage and width of prediction intervals; None for classification.
    """

    task: Literal["classification", "regression"]
    scoring: str
    classes: np.ndarray | None
    rows: np.ndarray
    score: Score
    uncorrected_score: Score | None
    candidates: pandas.DataFrame
    best: int
    best_params: dict[str, Any]
    options: dict[str, Any] | None
    n_splits: int
    rule: str
    grouped_duplicates: bool
    predictions: pandas.DataFrame
    probabilities: np.ndarray | None
    decision_values: np.ndarray | None
    metrics: dict[str, float]
    mistakes: pandas.DataFrame
    image_problems: pandas.DataFrame
    thumbnails: Mapping[int, bytes]
    embedding_sample: EmbeddingSample | None
    embedding_note: str
    regime: Regime
    learning_curve: LearningCurve
    duplicates: Any
    nested_scores: np.ndarray | None
    prescreen: pandas.DataFrame
    prescreen_correlation: float | None
    prescreen_method: str
    timings: pandas.DataFrame
    recipes: list[dict[str, Any]]
    halving: pandas.DataFrame | None = None
    audit: AuditResult | None = None
    prediction_sets: PredictionSets | None = None
    prediction_intervals: PredictionIntervals | None = None

    @property
    def has_groups(self) -> bool:
        """Whether the folds kept groups of images together."""
        return "group" in self.predictions

    @property
    def from_files(self) -> bool:
        """Whether all images are files."""
        return not any(re.fullmatch(r"X\[\d+\]", str(name)) for name in self.predictions["image"])

    @property
    def reads_back(self) -> bool:
        """Whether ``predictions``, written as CSV, can be used as the manifest of the same search."""
        try:
            "".join(map(str, self.predictions["image"])).encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8
            return False
        return self.from_files and len(self.predictions) == len(self.rows)

    def format_options(self) -> tuple[list[str], list[str]]:
        """Return ``options`` as Python code: import statements and keyword arguments.

        Returns
        -------
        (imports, arguments) : tuple of list of str
        """
        options = self.options or {}
        imports = {line for value in _list_estimators(options.get("heads")) for line in _make_imports(value)}
        if hasattr(cv := options.get("cv"), "split"):
            imports.add(f"from sklearn.model_selection import {type(cv).__name__}")
        arguments = [f"{name}={_format_value(value)}" for name, value in options.items()]
        return [*sorted(imports), "from tlfeatures import select"], arguments


def _list_estimators(heads: Any) -> list[Any]:
    """Return the heads that are estimators; the others are names."""
    return (
        [value for value in heads.values() if hasattr(value, "get_params")] if isinstance(heads, dict) else []
    )


def _make_imports(estimator: Any) -> list[str]:
    """Return the import statements that the ``repr`` of an estimator needs."""
    parts = [estimator, *estimator.get_params(deep=True).values()]
    kinds = {type(part) for part in parts if hasattr(part, "get_params")}
    return [f"from {_find_public_module(kind)} import {kind.__name__}" for kind in kinds]


def _find_public_module(kind: type) -> str:
    """Return the package that exports a class of a private module, such as sklearn.svm for sklearn.svm._classes."""
    module = kind.__module__.split("._")[0]
    return module if getattr(import_module(module), kind.__name__, None) is kind else kind.__module__


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_format_value(item)}" for key, item in value.items()) + "}"
    # by default scikit-learn abbreviates a long repr
    return value.__repr__(N_CHAR_MAX=math.inf) if hasattr(value, "get_params") else repr(value)
