"""Comparison of estimators on the same folds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils.validation import _num_samples

from tlfeatures._params import check_parameter, integer, number
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation._comparison_result import Comparison
from tlfeatures.evaluation._estimator_run import EstimatorRun
from tlfeatures.evaluation._folds import Fold, make_folds
from tlfeatures.evaluation._labels import check_groups, check_labels, check_seed
from tlfeatures.evaluation._paired_tests import (
    BOOTSTRAP,
    MCNEMAR,
    T_TEST,
    PairedTest,
    Result,
    bootstrap_test,
    mcnemar_test,
    resampled_t_test,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["compare"]

_RESERVED = frozenset((  # columns of `predictions` and `to_frame`, and keys of `summary`
    "row", "repeat", "fold", "true", "n_train", "n_test", "scoring", "repeats", "pooled", "difference", "interval",
    "p_value", "test", "significant", "best",
))  # fmt: skip
_MIN_FITS = ((100, 10), (500, 5))  # number of images, and least number of fits of each estimator below it


def compare(
    estimators: Mapping[str, Any] | Sequence[Any],
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    n_repeats: int | None = None,
    groups: Any = None,
    scoring: Any = None,
    task: str = "auto",
    level: float = 0.95,
    attributes: Sequence[str] = (),
    random_state: Any = 0,
) -> Comparison:
    """Compare estimators on the same folds, and test whether they differ.

    Every estimator is cloned and fitted on the training rows of every fold, and predicts its test rows. The pooled
    out-of-fold predictions of the first estimator, the reference, are then compared with those of each other one:

    - accuracy, no groups, one prediction for each image: exact McNemar test [1]_;
    - all other scores of scikit-learn, groups, or repeated folds: paired bootstrap, which resamples images, or groups
      of images, with all of their predictions;
    - scores that are not functions of predictions (callables): corrected resampled t-test over the folds [2]_, which
      needs many folds to detect a difference.

    Parameters
    ----------
    estimators : dict of str to estimator, or sequence of estimators
        Two or more; the first is the reference. In a sequence, they are named by their classes.
    X : array-like or list of length n
        Input that the estimators accept, such as images or paths of images.
    y : array-like of shape (n,)
    cv : int, splitter or list of (train, test), default=5
        An int gives that many shuffled folds, stratified by class, with each group in one of them.
    n_repeats : int, optional
        Number of times that the folds are drawn, if ``cv`` is an int. By default once for 500 images or more, and
        otherwise often enough for at least 5 fits of each estimator, or 10 for fewer than 100 images.
    groups : array-like of shape (n,), optional
        Group of each image, such as a patient. Also passed to estimators whose ``fit`` takes groups.
    scoring : str or callable, optional
        As in scikit-learn; "accuracy" or "r2" by default.
    task : {"auto", "classification", "regression"}, default="auto"
    level : float, default=0.95
        Confidence level of intervals; a difference is significant if its p-value is below ``1 - level``.
    attributes : sequence of str, default=()
        Fitted attributes to keep from each fit, such as ``"history_"``. Attributes that an estimator lacks are skipped.
    random_state : int, RandomState or None, default=0
        Seed for drawing the folds and the bootstrap samples.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are fewer than two estimators, or the labels, groups or folds cannot be used, or a name is not text or
        is that of another column of the result, such as "fold".

    Notes
    -----
    The McNemar test and the bootstrap treat the fitted estimators as fixed: they account for the choice of test
    images, but not for the choice of training images or for random initial weights. More repeats average over these.

    References
    ----------
    .. [1] McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
       Psychometrika 12, 1947.
    .. [2] Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from tlfeatures import compare
    >>> X, y = load_iris(return_X_y=True)
    >>> result = compare({"dummy": DummyClassifier(), "logreg": LogisticRegression(max_iter=500)}, X, y, n_repeats=1)
    >>> result
    Comparison(accuracy: dummy=0.3333, logreg=0.96; difference=+0.6267, interval=..., p_value=1e-28,
    test='exact McNemar test', best='logreg')
    >>> result.to_frame().columns.tolist()
    ['repeat', 'fold', 'n_train', 'n_test', 'dummy', 'logreg']
    """
    named = _name_estimators(estimators)
    check_parameter("level", level, [number(above=0, below=1)])
    n = _num_samples(X)
    y, task = check_labels(y, n, task)
    groups, seed = check_groups(groups, n), check_seed(random_state)
    n_repeats = _count_repeats(cv, n_repeats, n)
    repeats = [make_folds(cv, y, groups, task, seed + i) for i in range(n_repeats)]
    folds = [fold for repeat in repeats for fold in repeat]
    if scoring is None:
        scoring = "accuracy" if task == "classification" else "r2"
    scorer = check_scoring(next(iter(named.values())), scoring=scoring)
    runs = {
        name: EstimatorRun.of(estimator, X, y, groups, folds, scorer, _is_from_sklearn(scoring), attributes)
        for name, estimator in named.items()
    }
    pooled, tests = _test_against_first(runs, y, groups, folds, scoring, scorer, level, seed)
    better = [test.name for test in tests if test.significant and test.difference > 0]
    return Comparison(
        scoring=scoring if isinstance(scoring, str) else getattr(scoring, "__name__", str(scoring)),
        scores={name: run.scores for name, run in runs.items()},
        pooled_scores=pooled,
        predictions=_tabulate_predictions(runs, y, folds, n_repeats),
        folds=folds,
        n_repeats=n_repeats,
        tests=tests,
        best=max(better, key=pooled.__getitem__) if better else next(iter(named)),
        attributes={name: run.attributes for name, run in runs.items()},
        level=level,
    )


def _name_estimators(estimators: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(estimators, Mapping):
        named = dict(estimators)
    else:
        named, counts = {}, Counter[str]()
        for estimator in estimators:
            kind = type(estimator).__name__
            counts[kind] += 1
            named[kind if counts[kind] == 1 else f"{kind} {counts[kind]}"] = estimator
    if len(named) < 2:
        raise InvalidParameterError(
            f"`estimators` must contain at least two estimators; got {len(named)}. To score a single one, use "
            "sklearn.model_selection.cross_val_score.",
            "estimators",
        )
    for name, estimator in named.items():
        if not isinstance(name, str) or name in _RESERVED:
            raise InvalidParameterError(
                "`estimators` must have names that are text and are not names of other columns of the result; got "
                f"{name!r}. Choose another name.",
                "estimators",
            )
        if isinstance(estimator, type) or not hasattr(estimator, "fit") or not hasattr(estimator, "predict"):
            raise InvalidParameterError(
                f"`estimators` must have the methods fit and predict; got {estimator!r} as {name!r}. "
                "Pass instances, such as LogisticRegression().",
                "estimators",
            )
    return named


def _count_repeats(cv: Any, n_repeats: int | None, n: int) -> int:
    if not isinstance(cv, Integral):
        if n_repeats not in (None, 1):
            raise InvalidParameterError(
                f"`n_repeats` must be None or 1 if `cv` is not a number of folds; got {n_repeats!r}. Pass a splitter "
                "that repeats, such as RepeatedStratifiedKFold.",
                "n_repeats",
            )
        return 1
    check_parameter("n_repeats", n_repeats, [None, integer(minimum=1)])
    if n_repeats is None:
        min_fits = next((fits for below, fits in _MIN_FITS if n < below), 1)
        return -(-min_fits // max(int(cv), 1))
    return int(n_repeats)


def _is_from_sklearn(scoring: Any) -> bool:
    """Whether a score depends only on the responses of the estimator, and not on ``X`` itself."""
    return isinstance(scoring, str) or type(scoring).__module__.startswith("sklearn.")


def _test_against_first(
    runs: Mapping[str, EstimatorRun],
    y: np.ndarray,
    groups: np.ndarray | None,
    folds: Sequence[Fold],
    scoring: Any,
    scorer: Any,
    level: float,
    seed: int,
) -> tuple[dict[str, float], tuple[PairedTest, ...]]:
    """Compute the pooled scores, and test every run against the first."""
    rows = np.concatenate([test for _, test in folds])
    true, units = y[rows], rows if groups is None else groups[rows]
    predicted_once = groups is None and len(np.unique(rows)) == len(rows)
    reference, *others = runs
    level = 1 - (1 - level) / len(others)

    def score(name: str, entries: np.ndarray) -> float:
        try:
            return float(scorer(runs[name].pooled, entries, true[entries]))
        except (
            AttributeError,
            ValueError,
        ):  # the score is undefined, such as ROC AUC without positive labels
            return np.nan

    def paired_test(name: str) -> tuple[str, Result]:
        if by_fold:
            return T_TEST, resampled_t_test(runs[name].scores - runs[reference].scores, folds, level)
        correct, reference_correct = (runs[each].predictions == true for each in (name, reference))
        if scoring == "accuracy" and predicted_once:
            return MCNEMAR, mcnemar_test(correct, reference_correct, level)
        difference: Any = lambda entries: score(name, entries) - score(reference, entries)  # noqa: E731
        if scoring == "accuracy":
            difference = correct.astype(float) - reference_correct
        unit = "image" if groups is None else "group"
        return f"{BOOTSTRAP} by {unit}", bootstrap_test(units, difference, level, seed)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scores may be undefined on some resamples
        pooled = (
            {name: score(name, np.arange(len(rows))) for name in runs} if _is_from_sklearn(scoring) else {}
        )
        by_fold = not pooled or not np.isfinite(list(pooled.values())).all()
        if by_fold:
            pooled = {name: float(run.scores.mean()) for name, run in runs.items()}
        tests = []
        for name in others:
            test, (difference, interval, p_value) = paired_test(name)
            significant = p_value < 1 - level
            corrected = min(1.0, p_value * len(others))
            tests.append(PairedTest(name, reference, difference, interval, corrected, significant, test))
    return pooled, tuple(tests)


def _tabulate_predictions(
    runs: Mapping[str, EstimatorRun], y: np.ndarray, folds: Sequence[Fold], n_repeats: int
) -> pandas.DataFrame:
    import pandas

    k, sizes = len(folds) // n_repeats, [len(test) for _, test in folds]
    rows, fold = np.concatenate([test for _, test in folds]), np.repeat(np.arange(len(folds)), sizes)
    frame = pandas.DataFrame({"row": rows, "repeat": fold // k, "fold": fold % k, "true": y[rows]})
    return frame.assign(**{name: run.predictions for name, run in runs.items()})
