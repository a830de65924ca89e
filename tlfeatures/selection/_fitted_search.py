"""Methods of a fitted search: predictions, tables, images and the report."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from sklearn import config_context
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tlfeatures.calibration import fit_calibrated_head, fit_calibrated_pipeline
from tlfeatures.evaluation import DEFAULT_SCORING, Duplicates, Fold
from tlfeatures.extract import ImageCounts
from tlfeatures.results import Regime, Score, SearchResult
from tlfeatures.selection._cv_results import Candidate, format_label, make_table
from tlfeatures.selection._fitted_images import FittedImages
from tlfeatures.selection._metadata_routing import routing_enabled
from tlfeatures.selection._result import build_result
from tlfeatures.selection._summary import describe, summarize
from tlfeatures.trust import fit_conformal_head

__all__ = ["FittedSearchMixin"]


def _best_head_has(method: str) -> Any:
    def check(search: Any) -> bool:
        check_is_fitted(search, "best_estimator_")
        getattr(search.best_estimator_[-1], method)
        return True

    return check


class FittedSearchMixin:
    """Methods of :class:`~tlfeatures.FeatureSearchCV` after ``fit``."""

    scoring: Any
    scorer_: Any
    best_estimator_: Pipeline
    candidates_: list[Candidate]
    best_index_: int
    folds_: list[Fold]
    rows_: np.ndarray
    duplicates_: Duplicates
    cv_results_: dict[str, Any]
    fitted_images_: FittedImages
    timings_: pandas.DataFrame
    unreadable_: dict[int, str]
    task_: str
    n_splits_: int
    best_params_: dict[str, Any]
    best_score_: float
    grouped_score_: Score | None
    grouped_fold_scores_: np.ndarray | None
    fold_scores_: np.ndarray
    metrics_: dict[str, float]
    prescreen_correlation_: float | None
    regime_: Regime
    halving_: pandas.DataFrame

    def predict(self, X: Any) -> np.ndarray:
        """Predict classes or targets with the best pipeline.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.predict(X)

    @available_if(_best_head_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities with the best pipeline, if its head has them.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return self.best_estimator_.predict_proba(X)

    @available_if(_best_head_has("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Compute decision values with the best pipeline, if its head has them.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
        """
        return self.best_estimator_.decision_function(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score the best pipeline by ``scoring``.

        Parameters
        ----------
        X : images
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        float
        """
        check_is_fitted(self, "best_estimator_")
        if sample_weight is None:
            return float(self.scorer_(self.best_estimator_, X, y))
        # the scorer of a named score was made by this search, so no metadata request is needed
        routing = routing_enabled() and callable(self.scoring)
        with config_context(enable_metadata_routing=routing):
            return float(self.scorer_(self.best_estimator_, X, y, sample_weight=sample_weight))

    def table(self) -> pandas.DataFrame:
        """Return all candidates as a table, the best first.

        Returns
        -------
        pandas.DataFrame
            One row per candidate with its parameters, ``score``, ``se``, ``ci_low``, ``ci_high``, ``width``,
            ``macs``, ``prescreen`` and the score of each fold. ``candidate`` is the row in ``cv_results_``;
            ``depth`` is the index of the deepest layer. After a search by halving also ``n_images``, ``eliminated`` and
            the scores on the subsets; ``score`` is NaN for eliminated candidates, which follow the others.
        """
        check_is_fitted(self, "best_estimator_")
        if not self.folds_:
            raise ValueError("There are no scores, because `cv` is 0. Fit the search with a number of folds.")
        return make_table(self.candidates_, self.cv_results_)

    def summary(self) -> dict[str, Any]:
        """Summarize the search in one dict.

        Returns
        -------
        dict
            Numbers of images, unreadable images, candidates and folds; "halving", the table of the subsets on which
            candidates were eliminated; "best" with parameters, score, 95% interval
            and scores of the folds; "metrics"; scores of nested cross-validation; "duplicates" with the numbers of
            pairs and the score of grouped cross-validation; coverage and size of prediction sets or intervals; the
            recommendation; and tables of the timings and of the ten best candidates.
        """
        return summarize(self)

    def image_counts(self) -> ImageCounts:
        """Count the images by the source of their embeddings.

        Returns
        -------
        :class:`~tlfeatures.extract.ImageCounts`
            If the search needed several passes, the counts of the one that computed the most images.
        """
        check_is_fitted(self, "best_estimator_")
        run = self.timings_.loc[self.timings_["computed"].fillna(-1).idxmax()]
        n_unreadable = len(self.unreadable_)
        return ImageCounts.of(self.fitted_images_.keys, n_unreadable, int(run["computed"]), run["seconds"])

    def describe_best(self) -> str:
        """Describe the best candidate in one line: network, pixels, resize mode, layer, pooling, and head.

        Returns
        -------
        str
        """
        check_is_fitted(self, "best_estimator_")
        return format_label(self.candidates_[self.best_index_])

    def describe(self) -> list[str]:
        """Describe the best candidate, its score, and the evidence for the recommendation.

        Returns
        -------
        list of str
            The best candidate; then, if there are folds, its cross-validated score with the 95% interval, the score of
            nested cross-validation if there is one, and the evidence.
        """
        return describe(self)

    def embeddings(self) -> np.ndarray:
        """Load the best candidate's embeddings of the images that the search was fitted on.

        They come from the store or, if they are no longer in it, from the files and the network. Without a store
        (``cache=None``) a search keeps these embeddings in memory.

        Returns
        -------
        ndarray of float32, shape (n_rows, d)

        Raises
        ------
        ValueError
            If the images were passed as arrays and their embeddings are no longer in the store.
        RecipeMismatchError
            If the weights file or a parameter of the best candidate has changed since `fit`.
        """
        check_is_fitted(self, "best_estimator_")
        return self.fitted_images_.load_embeddings(self.best_estimator_["cnn"])

    def calibrated_pipeline(
        self, y: Any, *, conformal: float | None = None, per_class: bool = False
    ) -> Pipeline:
        """Fit the best pipeline on all images again, with calibrated class probabilities.

        Parameters
        ----------
        y : array-like of shape (n,)
            Labels that the search was fitted on.
        conformal : float, optional
            Error rate of prediction sets or intervals, such as 0.1: the step "head" is then a
            :class:`~tlfeatures.ConformalClassifier` or :class:`~tlfeatures.ConformalRegressor`.
        per_class : bool, default=False
            Whether the error rate holds for each class.

        Returns
        -------
        Pipeline
            Steps "cnn" and "head"; see :func:`~tlfeatures.calibration.fit_calibrated_pipeline`. It also has the
            attribute ``cv_scores_``. Duplicates are kept in
            one fold of the calibration. Sample weights are not used.
        """
        cnn, embeddings = self.best_estimator_[0], self.embeddings()
        y, images = np.asarray(y)[self.rows_], self.fitted_images_
        groups, fit_head = self.duplicates_.groups, fit_calibrated_head
        if conformal is not None:
            fit_head = functools.partial(fit_conformal_head, error_rate=conformal, per_class=per_class)
        head = self.best_estimator_[1:]
        pipeline = fit_calibrated_pipeline(cnn, head, embeddings, y, images.keys, groups, fit_head)
        if self.cv_scores_ is not None:
            pipeline.cv_scores_ = self.cv_scores_
        return pipeline

    @property
    def cv_scores_(self) -> dict[str, Any] | None:
        """Cross-validated score of the best pipeline with its 95% interval, for model cards; None without folds."""
        check_is_fitted(self, "best_estimator_")
        if not self.folds_:
            return None
        grouped, results, best = self.grouped_score_, self.cv_results_, self.best_index_
        scores = self.fold_scores_ if grouped is None else self.grouped_fold_scores_
        interval = (results["ci_low_test_score"][best], results["ci_high_test_score"][best])
        low, high = interval if grouped is None else (grouped.low, grouped.high)
        name = self.scoring or DEFAULT_SCORING[self.task_]
        return {
            "scoring": name if isinstance(name, str) else "score",
            "folds": self.n_splits_,
            "mean": float(np.mean(scores)),
            "low": float(low),
            "high": float(high),
            "scores": [float(score) for score in scores],
        }

    @property
    def training_digests_(self) -> np.ndarray:
        """Digests of the images that the search was fitted on, shape (n, 16)."""
        check_is_fitted(self, "best_estimator_")
        return np.unique(self.fitted_images_.keys, axis=0)

    def thumbnail(self, i: int, side: int = 160) -> np.ndarray:
        """Make a thumbnail of one of the images that the search was fitted on.

        Files are read again. The search does not keep arrays; it keeps thumbnails, 160 pixels wide, of the images
        with the twelve worst out-of-fold predictions.

        Parameters
        ----------
        i : int
            Index into ``rows_``.
        side : int, default=160
            Width and height in pixels; the image is padded with black.

        Returns
        -------
        ndarray of uint8, shape (side, side, 3)

        Raises
        ------
        ImageReadError
            If the file no longer exists.
        ValueError
            If the image was passed as an array and its thumbnail was not kept.
        """
        check_is_fitted(self, "best_estimator_")
        return self.fitted_images_.thumbnail(int(i), side)

    def result(self) -> SearchResult:
        """Collect everything that the search measured in one object, from which the report is made.

        Returns
        -------
        :class:`~tlfeatures.results.SearchResult`
            Contains no network. Previews of the worst predictions are read from the image files.
        """
        check_is_fitted(self, "best_estimator_")
        return build_result(self)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write an HTML report with its figures and tables; see :func:`tlfeatures.report.write_report`.

        Parameters
        ----------
        folder : path
            Created if it does not exist.

        Returns
        -------
        Path
            Path of the HTML page.
        """
        from tlfeatures.report import write_report

        return write_report(self.result(), folder)
