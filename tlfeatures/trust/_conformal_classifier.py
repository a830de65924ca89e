"""``ConformalClassifier``: sets of classes with a stated error rate."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tlfeatures._params import boolean, check_parameters
from tlfeatures.calibration import compute_logits
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_labels
from tlfeatures.trust._conformal import CONFORMAL_CONSTRAINTS, ConformalBase
from tlfeatures.trust._ranks import TOLERANCE, ScoreTable, row_weights, score_classes, to_p_values
from tlfeatures.trust._set_quality import measure_prediction_sets

__all__ = ["ConformalClassifier"]


def _estimator_has(method: str) -> Any:
    return available_if(lambda self: hasattr(getattr(self, "estimator_", self.estimator), method))


class ConformalClassifier(ClassifierMixin, ConformalBase):
    """A classifier that predicts sets of classes, which contain the true class with a stated probability.

    The classifier is fitted on all rows and, for calibration, on folds. The score of a class for a row is how far
    its decision value, or the logarithm of its probability, is below the largest of the other classes. The p-value of
    a class is the share of the training rows, the new row included, whose score for their own class is at least this
    score; the classifier that scores a training row was not trained on it. The set contains the classes with a p-value
    above the error rate (cross-conformal prediction; Vovk 2015).

    Parameters
    ----------
    estimator : classifier
        A classifier with ``decision_function`` or ``predict_proba`` for embeddings, or a pipeline that begins with
        :class:`~tlfeatures.CNNFeatures`. Only the steps after CNNFeatures are fitted on folds.
    error_rate : float, default=0.1
        Accepted share of sets without the true class.
    cv : int, default=10
        Number of folds. It is reduced if the smallest class has fewer rows, or if there are fewer groups. A fitted
        object contains one classifier for each fold.
    per_class : bool, default=False
        Whether the error rate holds for each class ("Mondrian"), not only on average. Sets become larger. A class
        needs at least ``1 / error_rate - 1`` rows (or groups); a smaller class is in every set.
    allow_empty : bool, default=False
        Whether a set may be empty. By default it always contains the predicted class, so an accurate classifier makes
        fewer errors than stated.
    false_alarm_rate : float or None, default=0.05
        Expected share of images like the training images for which `is_unusual` returns True. If None, no outlier
        detector is fitted.
    random_state : int, RandomState or None, default=0
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    estimator_ : classifier
        The classifier, or the steps of the pipeline after CNNFeatures, fitted on all rows.
    fold_estimators_ : list of classifier
        Classifiers, each fitted on all folds but one.
    outlier_detector_ : OutlierDetector or None
    cnn_ : CNNFeatures
        The fitted first step, if ``estimator`` is a pipeline that begins with it.
    out_of_fold_ : dict of str to float
        "coverage", the share of the training rows whose set contains their class, and "set_size", the mean number of
        classes in a set; each row is ranked among the rows of other groups, at the error rate of `fit`. Empty if there
        are fewer rows or groups than ``1 / error_rate``.
    n_calibration_ : ndarray of float, shape (1 + n_classes,)
        Number of rows, or of groups if there are any, from which p-values are computed: of all classes, and of each
        class.
    n_features_in_ : int
        Width of the embedding.

    Notes
    -----
    `error_rate`, `per_class` and `allow_empty` can be changed by ``set_params`` after `fit`.

    The probability holds for new rows that are drawn like the training rows. If rows come in groups, such as several
    images of each patient, new groups must be drawn like the training groups; pass ``groups``. Each group then has
    the weight of one row, and is kept in one fold (Lee, Barber and Willett 2023, "Distribution-free inference with
    hierarchical data"). For images, near-duplicates form groups too. With cross-validation, theory guarantees only that
    the error rate is at most about twice the stated one; in measurements, it is close to the stated one
    (``python benchmarks/conformal.py``).

    A :class:`~tlfeatures.calibration.CalibratedHead` is calibrated once, on all rows. The sets are computed from the
    uncalibrated head, because temperature scaling multiplies all scores by the same number, which changes no p-value.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.svm import SVC
    >>> from tlfeatures import ConformalClassifier
    >>> X = np.r_[np.linspace(0, 1, 20), np.linspace(0.8, 2, 20)][:, None]
    >>> conformal = ConformalClassifier(SVC(), error_rate=0.1).fit(X, ["cat"] * 20 + ["dog"] * 20)
    >>> conformal.predict_set([[0.2], [0.9], [1.8]]).tolist()
    [[True, False], [True, True], [False, True]]
    >>> conformal.predict_or_abstain([[0.2], [0.9], [1.8]], "unsure").tolist()
    ['cat', 'unsure', 'dog']
    """

    _parameter_constraints: ClassVar = {
        **CONFORMAL_CONSTRAINTS,
        "per_class": [boolean()],
        "allow_empty": [boolean()],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        error_rate: float = 0.1,
        cv: int = 10,
        per_class: bool = False,
        allow_empty: bool = False,
        false_alarm_rate: float | None = 0.05,
        random_state: Any = 0,
    ) -> None:
        self.estimator = estimator
        self.error_rate = error_rate
        self.cv = cv
        self.per_class = per_class
        self.allow_empty = allow_empty
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> ConformalClassifier:
        """Fit the classifier on all rows and on folds, and compute the scores of the rows left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        y : array-like of shape (n_samples,)
        groups : array-like of shape (n_samples,), optional
            Group of each row, such as a patient. Groups are kept in one fold, and each has the weight of one row.

        Returns
        -------
        ConformalClassifier

        Raises
        ------
        ValueError
            If there is one class only, a class has one row, the rows are all equal or contain NaN, or the groups
            cannot be split.
        """
        check_parameters(self)
        head, X, y, groups = self._fit_input(X, y, groups)
        labels, _ = check_labels(y, len(X), "classification")
        check_classification_targets(y)
        y = labels
        self.classes_, codes = np.unique(y, return_inverse=True)
        folds = self._fit_heads(head, X, y, groups, self._choose_folds(codes, groups), "classification")
        logits = np.empty((len(codes), len(self.classes_)))
        for estimator, test in zip(self.fold_estimators_, folds, strict=True):
            logits[test] = compute_logits(estimator, X[test], self.classes_)
        scores = score_classes(logits)[np.arange(len(codes)), codes]
        self._tables, totals = [[] for _ in folds], []
        for stratum in (
            None,
            *range(len(self.classes_)),
        ):  # None stands for all rows, a number for the rows of a class
            members = np.arange(len(codes)) if stratum is None else np.flatnonzero(codes == stratum)
            weights = np.zeros(len(codes))
            weights[members] = row_weights(None if groups is None else groups[members], len(members))
            totals.append(weights.sum())
            for tables, test in zip(self._tables, folds, strict=True):
                rows = test[weights[test] > 0]
                tables.append(ScoreTable(scores[rows], weights[rows]))
        self.n_calibration_ = np.round(totals, 6)
        self.out_of_fold_ = self._measure(logits, codes, groups)
        self._check_calibration(groups)
        return self

    def _measure(self, logits: np.ndarray, codes: np.ndarray, groups: np.ndarray | None) -> dict[str, float]:
        """Return ``out_of_fold_``."""
        groups = np.arange(len(codes)) if groups is None else groups
        table = measure_prediction_sets(
            logits, codes, logits.argmax(axis=1), self.classes_, groups,
            error_rates=[self.error_rate], per_class=self.per_class, allow_empty=self.allow_empty,
        ).error_rates  # fmt: skip
        if table.empty:
            return {}
        return {"coverage": float(table["coverage"][0]), "set_size": float(table["mean_size"][0])}

    def _choose_folds(self, codes: np.ndarray, groups: np.ndarray | None) -> int:
        """Return the number of folds that classes and groups allow."""
        counts = np.bincount(codes)
        if counts.min() < 2:
            raise ValueError(
                f"Class {self.classes_.tolist()[counts.argmin()]!r} has 1 row, which cannot be both trained on and "
                "calibrated on; expected 2 or more for each class. Add rows, or drop or merge the class."
            )
        return min(self.cv, int(counts.min()), self._count_units(len(codes), groups))

    def _check_calibration(self, groups: np.ndarray | None) -> None:
        """Warn if there are too few rows or groups for the error rate."""
        few = self._is_few(self.n_calibration_[1:] if self.per_class else self.n_calibration_[:1])
        if few.any() and self.per_class:
            names = ", ".join(map(str, self.classes_[few][:5].tolist())) + (", ..." if few.sum() > 5 else "")
            what = f"{int(few.sum())} of {len(few)} classes have fewer ({names}) and are in every set"
            self._warn_of_few(groups, what, " of each class")
        elif few.any():
            what = f"there are {self.n_calibration_[0]:.0f}, so every set contains all classes"
            self._warn_of_few(groups, what)

    def _score(self, estimator: Any, X: np.ndarray) -> np.ndarray:
        """Return how far each class is below the best of the others, shape (n, n_classes)."""
        return score_classes(compute_logits(estimator, X, self.classes_))

    def p_values(self, X: Any) -> np.ndarray:
        """Compute the p-value of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            (1 + number of training rows whose score for their own class is at least that of this class) /
            (1 + number of training rows). The scores are computed without training on these rows. Each group counts as
            one row; with ``per_class=True``, only the rows of this class count. Values are in (0, 1].
        """
        return self._p_values(self._embed(X))

    def _p_values(self, X: np.ndarray) -> np.ndarray:
        n_classes = len(self.classes_)
        indices = np.arange(1, n_classes + 1) if self.per_class else np.zeros(n_classes, int)
        weights = np.zeros((len(X), n_classes))
        for estimator, tables in zip(self.fold_estimators_, self._tables, strict=True):
            for i, column in enumerate(self._score(estimator, X).T):
                weights[:, i] += tables[indices[i]].weight_above(column)
        return to_p_values(weights, self.n_calibration_[indices])

    def predict_set(self, X: Any, error_rate: float | None = None) -> np.ndarray:
        """Predict the set of classes of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        error_rate : float, optional
            By default the error rate of the estimator.

        Returns
        -------
        ndarray of bool, shape (n_samples, n_classes)
            Whether each class, in the order of ``classes_``, is in the set.
        """
        return self.predict_set_and_p_values(X, error_rate)[0]

    def predict_set_and_p_values(
        self, X: Any, error_rate: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict the set of classes of each row, and the p-value of each class, in one pass.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        error_rate : float, optional
            By default the error rate of the estimator.

        Returns
        -------
        sets : ndarray of bool, shape (n_samples, n_classes)
        p_values : ndarray of float64, shape (n_samples, n_classes)
        """
        error_rate = self._choose_error_rate(error_rate)
        X = self._embed(X)
        p_values = self._p_values(X)
        sets = p_values > error_rate + TOLERANCE
        if not self.allow_empty:
            predicted = self.estimator_.predict(X)
            sets[np.arange(len(X)), np.searchsorted(self.classes_, predicted)] = True
        return sets, p_values

    def predict_or_abstain(self, X: Any, abstain_label: Any, error_rate: float | None = None) -> np.ndarray:
        """Predict the class of rows whose set has one class; abstain for the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
        abstain_label : str or int
            Label of the rows without a prediction: text if the classes are text, else a number.
        error_rate : float, optional
            By default the error rate of the estimator.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        text = self.classes_.dtype.kind == "U"
        number = isinstance(abstain_label, Real) and not isinstance(abstain_label, bool)
        if not (isinstance(abstain_label, str) if text else number):
            raise InvalidParameterError(
                f"`abstain_label` must be {'text' if text else 'a number'}, as the classes are; got "
                f"{abstain_label!r}.",
                "abstain_label",
            )
        sets = self.predict_set(X, error_rate)
        values = self.classes_[sets.argmax(axis=1)]
        return np.where(sets.sum(axis=1) == 1, values, np.asarray(abstain_label))

    @_estimator_has("predict_proba")
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities with the classifier that is fitted on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        X = self._embed(X)
        return self.estimator_.predict_proba(X)

    @_estimator_has("decision_function")
    def decision_function(self, X: Any) -> np.ndarray:
        """Compute decision values with the classifier that is fitted on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        X = self._embed(X)
        return self.estimator_.decision_function(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags
