"""``FeatureSearchCV``: cross-validated search over networks, sizes, layers, poolings and heads."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas
from sklearn import config_context
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tlfeatures._warnings import warn
from tlfeatures.errors import RandomWeightsWarning, UnknownNameError, UnreadableImagesWarning
from tlfeatures.evaluation import check_groups, check_labels, check_seed, make_folds, make_inner_folds
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Images, warn_of_low_contrast
from tlfeatures.results import SearchResult
from tlfeatures.selection import _cv_results
from tlfeatures.selection._candidates import plan_passes
from tlfeatures.selection._fits import try_scorer
from tlfeatures.selection._fitted_images import FittedImages, worst_predictions
from tlfeatures.selection._head_grids import Head, make_head_grids, own_estimators
from tlfeatures.selection._matrices import Matrices
from tlfeatures.selection._metadata import Metadata, check_sample_weight, fit_estimator, routing_enabled
from tlfeatures.selection._progress import progress
from tlfeatures.selection._result import build_result
from tlfeatures.selection._runner import SearchRunner
from tlfeatures.store import EmbeddingStore
from tlfeatures.transferability import METHODS

__all__ = ["FeatureSearchCV", "select"]


def _splits(cv: Any) -> bool:
    """Whether it can split any rows, as a list of rows cannot."""
    return isinstance(cv, Integral) or hasattr(cv, "split")


def _head_has(name: str) -> Any:
    def check(self: FeatureSearchCV) -> bool:
        check_is_fitted(self, "best_estimator_")
        getattr(self.best_estimator_[-1], name)
        return True

    return check


class FeatureSearchCV(MetaEstimatorMixin, BaseEstimator):
    """Find the network, image size, layer, pooling and head that suit labelled images, by cross-validation.

    Each image goes through each network once for each size and way to resize; all layers, poolings and
    heads then share these passes, and later searches read them from the store.

    Parameters
    ----------
    models : str, path, or list of them, default="mobilenet"
        Networks, as :class:`~tlfeatures.CNNFeatures` takes them.
    layers : "auto", None, list, or dict of model to list, default="auto"
        "auto": the network's standard taps, each alone, and the last two and the last three
        concatenated. None: the last convolutional output. A list has names, or lists of names to
        concatenate.
    poolings : list of str, default=("avg", "max")
    image_sizes : "auto", None, or list, default="auto"
        "auto": the network's default size and about half of it. None: the default size.
    resize : list of str, default=("stretch", "crop")
        Ways that make no difference, as for square images, are tried once.
    heads : str, list of str, dict, or None, default=None
        Names of :func:`~tlfeatures.heads.list_heads` with their default grids, or a dict. In a dict a named
        head has a grid, or None for its default grid, and a new name has an estimator of your own, or
        ``(estimator, grid)``: ``{"ridge": None, "svm": {"C": [1, 10]}, "rf": RandomForestClassifier(),
        "mlp": (MLPClassifier(), {"alpha": [1e-4, 1e-2]})}``. An own estimator gets standardized embeddings,
        as named heads do; an own `Pipeline` gets them as they are. Where its ``random_state`` is None, the
        search sets it from its own. The default is logreg, ridge and, up to 100 classes, svm; for
        regression ridge and svr.
    cv : int, splitter, or list of (train, test), default=5
        A number of folds: shuffled, stratified by class, with groups kept together.
    scoring : str, callable or None, default=None
        As in scikit-learn; None is accuracy, or R2 for numbers.
    rule : {"best", "1se"}, default="best"
        The highest mean score, or of those within one standard error of it the cheapest network, then
        the smallest embedding.
    nested : bool, default=False
        Also choose within each fold's training rows, so that ``nested_scores_`` tells how well the
        *choice* does. Costs as much as ``cv`` further searches, but no pass.
    prescreen : int or None, default=None
        Cross-validate only so many embeddings, the best by ``prescreen_method``.
    prescreen_method : {"logme", "hscore", "shrunk_hscore"}, default="logme"
        See :mod:`tlfeatures.transferability`.
    dedupe_groups : bool, default=False
        Keep copies and near-copies of images in one fold.
    duplicate_threshold : float, default=0.95
        Cosine, between centred embeddings, from which images count as near-copies.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" asks :func:`~tlfeatures.evaluation.infer_task`.
    weights, interpolation, decode, max_value, precision, batch_size, cache
        As in :class:`~tlfeatures.CNNFeatures`.
    on_error : {"raise", "nan"}, default="raise"
        What an unreadable image does before any fold starts: an error, or its row is left out of
        everything, with a warning that counts.
    n_jobs : int or None, default=None
        Processes for the folds. They never import Keras.
    random_state : int, RandomState or None, default=0
        Seed for shuffling the folds, for the learning curve, and for own heads.
    verbose : int, default=0
        Above 0, progress on standard error.

    Attributes
    ----------
    best_estimator_ : Pipeline
        Steps "cnn", "scale" and the head's name, fitted on all images.
    best_params_, best_score_, best_index_
        Of the chosen candidate; the score is the mean over folds.
    cv_results_ : dict of arrays
        scikit-learn's columns, one row a candidate; also ``ci_low_test_score`` and
        ``ci_high_test_score`` (95%, Nadeau and Bengio 2003), ``width``, ``macs`` (multiplications an
        image), ``prescreen``, and for numbers ``mean_test_mae`` and ``std_test_mae``.
    classes_ : ndarray
        For classes.
    nested_scores_ : ndarray of shape (folds,)
        With ``nested``; ``nested_params_`` are the choices.
    prescreen_ : pandas.DataFrame
        One row an embedding: its score before, the best score after, and whether it was kept.
        ``prescreen_correlation_`` is Spearman's between the two.
    grouped_score_ : :class:`~tlfeatures.results.Score` or None
        Score of the chosen candidate with duplicates kept in one fold, if the folds split some.
    image_problems_ : pandas.DataFrame
        ``row``, ``image``, ``problem`` ("error" or "warning") and ``reason`` of images that could not be
        read, which were left out, and of images that carry almost no information; the latter as far as this
        fit decoded them: images whose embeddings are in the store are not decoded.
    duplicates_ : :class:`~tlfeatures.evaluation.Duplicates`
    learning_curve_ : :class:`~tlfeatures.results.LearningCurve`
    regime_ : :class:`~tlfeatures.results.Regime`
    oof_ : pandas.DataFrame
        Of the chosen candidate, one row an image: ``row`` (in X), ``image``, ``fold``, ``true``,
        ``predicted``; predictions by models that were not trained on the image.
    oof_proba_, oof_decision_ : ndarray or None
        The same, where the head has them.
    metrics_ : dict of str to float
        From ``oof_``: accuracy, balanced accuracy and macro F1, or R2, MAE and root mean square error.
    rows_ : ndarray of int
        Rows of X that were used; ``unreadable_`` are the others, {row: reason}.
    timings_ : pandas.DataFrame
        Seconds of each step, and images computed by each pass.
    n_splits_, folds_, groups_, sample_weight_, scorer_, task_, refit_time_

    Raises
    ------
    ValueError
        When labels, groups or folds cannot work: a class with fewer images than folds, one class only,
        labels missing, groups that cannot be split. Nothing is computed before that is known.
    ImageReadError, ImageInputError, WeightsError, UnknownNameError
        As `CNNFeatures`.

    Notes
    -----
    Interrupted, a search has lost no pass that was made: the next one goes on from the store.
    The prescreen sees all labels. It only ranks, but when it prunes a little of that choice is in the
    scores; ``nested`` prunes within each fold's training rows.
    A callable ``scoring`` gets test rows in coordinates of the fit, and may only hand them to the estimator.

    Examples
    --------
    >>> from tlfeatures import FeatureSearchCV
    >>> X = np.random.default_rng(0).integers(0, 99, (24, 32, 32, 3), dtype="uint8")
    >>> y = np.repeat(["dark", "light"], 12)
    >>> X[12:] += 99
    >>> search = FeatureSearchCV("tiny", image_sizes=[32], layers=["block3_pw_relu"], poolings="avg",
    ...                          resize="stretch", heads=["ridge"], cv=2, cache=None).fit(X, y)
    >>> search.best_score_, search.best_params_["layer"]
    (1.0, 'block3_pw_relu')
    """

    # scikit-learn's way to request groups by default, as its group splitters do
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        models: Any = "mobilenet",
        *,
        layers: Any = "auto",
        poolings: Any = ("avg", "max"),
        image_sizes: Any = "auto",
        resize: Any = ("stretch", "crop"),
        heads: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        rule: Literal["best", "1se"] = "best",
        nested: bool = False,
        prescreen: int | None = None,
        prescreen_method: Literal["logme", "hscore", "shrunk_hscore"] = "logme",
        dedupe_groups: bool = False,
        duplicate_threshold: float = 0.95,
        task: Literal["auto", "classification", "regression"] = "auto",
        weights: str | os.PathLike[str] | None = "imagenet",
        interpolation: str = "bilinear",
        decode: Literal["scaled", "exact"] = "scaled",
        max_value: int | None = None,
        precision: str = "float32",
        batch_size: int = 32,
        cache: str | os.PathLike[str] | EmbeddingStore | None = "auto",
        on_error: Literal["raise", "nan"] = "raise",
        n_jobs: int | None = None,
        random_state: Any = 0,
        verbose: int = 0,
    ) -> None:
        self.models = models
        self.layers = layers
        self.poolings = poolings
        self.image_sizes = image_sizes
        self.resize = resize
        self.heads = heads
        self.cv = cv
        self.scoring = scoring
        self.rule = rule
        self.nested = nested
        self.prescreen = prescreen
        self.prescreen_method = prescreen_method
        self.dedupe_groups = dedupe_groups
        self.duplicate_threshold = duplicate_threshold
        self.task = task
        self.weights = weights
        self.interpolation = interpolation
        self.decode = decode
        self.max_value = max_value
        self.precision = precision
        self.batch_size = batch_size
        self.cache = cache
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # -- fitting -----------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, groups: Any = None, *, sample_weight: Any = None, **params: Any
    ) -> FeatureSearchCV:
        """Search, and fit the best pipeline on all images.

        Parameters
        ----------
        X : images
            As :class:`~tlfeatures.CNNFeatures` takes them.
        y : array-like of shape (n,)
            Classes or numbers.
        groups : array-like of shape (n,), optional
            Such as patients: images of one group are never split between folds.
        sample_weight : array-like of shape (n,), optional
            Weights for fitting the heads; those that do not take any, such as knn, are named in a warning.
            Standardization and the prescreen are unweighted, and so are scores, unless ``scoring`` is a scorer
            that requests weights by scikit-learn's metadata routing.
        **params : array-like of shape (n,)
            Further metadata that own heads or the scorer request by scikit-learn's metadata routing.

        Returns
        -------
        FeatureSearchCV
        """
        self._check_options()
        for name in [n for n in vars(self) if n.endswith("_")]:  # of an earlier fit
            delattr(self, name)
        images = Images.of(X)
        y, task = check_labels(y, len(images), self.task)
        groups = check_groups(groups, len(images))
        sample_weight = check_sample_weight(sample_weight, len(images))
        cv = list(self.cv) if isinstance(self.cv, Iterator) else self.cv
        seed = check_seed(self.random_state)
        # what cannot work must fail before anything is computed
        folds = make_folds(cv, y, groups, task, seed)
        if self.nested:
            make_inner_folds(cv, y, groups, task, seed, folds)
        heads = make_head_grids(self.heads, task, y, seed)
        self.scorer_ = self._scorer(heads, y)
        metadata = Metadata.route(self, heads, len(images), sample_weight, params)
        store = EmbeddingStore.resolve(self.cache)
        passes = plan_passes(
            self.models, self.layers, self.poolings, self.image_sizes, self.resize, store,
            weights=self.weights, precision=self.precision, interpolation=self.interpolation, decode=self.decode,
            max_value=self.max_value,
        )  # fmt: skip
        with progress(self.verbose) as steps:
            matrices = Matrices(
                images, passes, store, steps, batch_size=self.batch_size, on_error=self.on_error
            )
            rows = self._readable(images, matrices.errors, matrices.low_contrast, cv)
            self.task_, self.seed_, images = task, seed, images.take(rows)
            y, groups = y[rows], None if groups is None else groups[rows]
            metadata = metadata.take(rows)
            self.sample_weight_ = None if sample_weight is None else sample_weight[rows]
            embeddings = [e for one in passes for e in one.embeddings]
            names = [images.name(i) for i in range(len(images))]
            run = SearchRunner(
                self,
                matrices,
                embeddings,
                heads,
                rows,
                y,
                groups,
                metadata,
                task,
                cv,
                seed,
                self.scorer_,
                names,
                steps,
            )
            self.__dict__.update(run.execute())
            start = time.perf_counter()
            steps.begin("fit the best pipeline")
            self._refit(run, images, y)
            self.refit_time_ = time.perf_counter() - start
        self.timings_ = pandas.DataFrame(
            [*run.timings, {"step": "fit the best pipeline", "seconds": self.refit_time_}]
        )
        if task == "classification":
            self.classes_ = self.best_estimator_.classes_
        worst = worst_predictions(
            self.oof_, self.oof_proba_, self.oof_decision_, getattr(self, "classes_", None)
        )
        shown = np.searchsorted(rows, worst["row"])
        self.fitted_images_ = FittedImages.of(
            images, matrices.keys[rows], shown.tolist(), store, run.matrix(run.best[0])
        )
        return self

    def _scorer(self, heads: list[Head], y: np.ndarray) -> Any:
        if not (self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring)):
            raise ValueError(
                f"scoring={self.scoring!r}; expected None, the name of one score, or a callable."
            )
        scorer = check_scoring(Pipeline(heads[0].steps(0)), scoring=self.scoring)
        if isinstance(self.scoring, str):
            try_scorer(scorer, self.scoring, heads, y)
        return scorer

    def _refit(self, run: SearchRunner, images: Images, y: np.ndarray) -> None:
        """Fit the winner's head on the matrix at hand; the network does not run again."""
        embedding, head, point = run.best
        cnn = CNNFeatures(
            **embedding.params, weights=self.weights, interpolation=self.interpolation, decode=self.decode,
            max_value=self.max_value, precision=self.precision, batch_size=self.batch_size, cache=self.cache,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomWeightsWarning)  # given once, at the start
            cnn.fit(images)
        features, (*scale, (name, estimator)) = run.matrix(embedding), head.steps(point)
        for _, scaler in scale:
            features = scaler.fit_transform(features)
        fit_estimator(head, estimator, features, y, run.metadata.for_head(head, np.arange(len(y))))
        self.best_estimator_ = Pipeline([("cnn", cnn), *scale, (name, estimator)])

    def _check_options(self) -> None:
        for name, value, known in (
            ("rule", self.rule, ("best", "1se")),
            ("on_error", self.on_error, ("raise", "nan")),
            ("prescreen_method", self.prescreen_method, tuple(METHODS)),
        ):
            if value not in known:
                raise UnknownNameError.of(name, value, known)
        if self.prescreen is not None and (not isinstance(self.prescreen, Integral) or self.prescreen < 1):
            raise ValueError(
                f"prescreen={self.prescreen!r}; expected None or a number of embeddings, 1 or more."
            )
        if self.n_jobs is not None and (not isinstance(self.n_jobs, Integral) or self.n_jobs == 0):
            raise ValueError(
                f"n_jobs={self.n_jobs!r}; expected None, a number of processes, or -1 for all cores."
            )
        if not isinstance(self.duplicate_threshold, Real) or not self.duplicate_threshold > 0:
            raise ValueError(
                f"duplicate_threshold={self.duplicate_threshold!r}; expected a cosine, such as 0.95."
            )
        if self.nested and not _splits(self.cv):
            raise ValueError("nested=True splits training rows again; give cv as a number or a splitter.")
        if self.dedupe_groups and not _splits(self.cv):
            raise ValueError(
                "dedupe_groups=True makes folds by groups; give cv as a number or a group splitter."
            )

    def _readable(
        self, images: Images, errors: dict[int, str], low_contrast: dict[int, str], cv: Any
    ) -> np.ndarray:
        self.unreadable_ = dict(sorted(errors.items()))
        self.image_problems_ = pandas.DataFrame(
            [(row, images.name(row), "error", reason) for row, reason in self.unreadable_.items()]
            + [(row, images.name(row), "warning", reason) for row, reason in sorted(low_contrast.items())],
            columns=["row", "image", "problem", "reason"],
        )
        names = [images.name(row) for row in sorted(low_contrast)]
        warn_of_low_contrast(names, [low_contrast[row] for row in sorted(low_contrast)], len(images))
        self.rows_ = np.setdiff1d(np.arange(len(images)), list(errors))
        if errors:
            if not _splits(cv):
                raise ValueError(
                    f"{len(errors)} images could not be read, so cv's list of rows no longer fits: leave them out "
                    "beforehand; check_images(X) names them."
                )
            first = next(iter(self.unreadable_))
            warn(
                f"{len(errors)} of {len(images)} images could not be read and are left out. The first is "
                f"{images.name(first)!r}: {errors[first]}. See unreadable_ for all.",
                UnreadableImagesWarning,
            )
        if not len(self.rows_):
            raise ValueError("No image could be read; check_images(X) says why.")
        return self.rows_

    # -- using -------------------------------------------------------------------------------

    def predict(self, X: Any) -> np.ndarray:
        """Classes or numbers, by the winner.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.predict(X)

    @available_if(_head_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, by the winner, where its head has them.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n, len(classes_))
        """
        return self.best_estimator_.predict_proba(X)

    @available_if(_head_has("decision_function"))
    def decision_function(self, X: Any) -> np.ndarray:
        """Decision values, by the winner, where its head has them.

        Parameters
        ----------
        X : images

        Returns
        -------
        ndarray of shape (n,) or (n, len(classes_))
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
        # a named score is ours, and needs no request to be set
        routing = routing_enabled() and callable(self.scoring)
        with config_context(enable_metadata_routing=routing):
            return float(self.scorer_(self.best_estimator_, X, y, sample_weight=sample_weight))

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing of the search, of its own heads and of its scorer.

        The search itself takes ``groups`` (requested by default) and ``sample_weight`` (to be requested by
        ``set_fit_request(sample_weight=True)``).

        Returns
        -------
        MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        for name, estimator in own_estimators(self.heads).items():
            mapping = MethodMapping().add(caller="fit", callee="fit")
            router.add(method_mapping=mapping, **{f"head_{name}": estimator})
        if callable(self.scoring):
            mapping = MethodMapping().add(caller="fit", callee="score").add(caller="score", callee="score")
            router.add(scorer=self.scoring, method_mapping=mapping)
        return router

    def table(self) -> pandas.DataFrame:
        """All candidates, the best first.

        Returns
        -------
        pandas.DataFrame
            One row a candidate: what it is, ``score`` with ``se``, ``ci_low`` and ``ci_high``, its
            ``width``, its cost in ``macs``, its ``prescreen``, and the score of each fold. ``candidate``
            is its row in ``cv_results_``; ``depth`` the place of its deepest layer, from 0.
        """
        check_is_fitted(self, "best_estimator_")
        return _cv_results.table(self.candidates_, self.cv_results_)

    def embeddings(self) -> np.ndarray:
        """Load the best candidate's embeddings of the images that the search was fitted on.

        They come from the store, or, for files, from the network. Without a store (``cache=None``) a search
        that was fitted on arrays keeps these embeddings in memory.

        Returns
        -------
        ndarray of float32, shape (len(rows_), d)

        Raises
        ------
        ValueError
            When the images were arrays and the store has lost their embeddings.
        """
        check_is_fitted(self, "best_estimator_")
        return self.fitted_images_.load_embeddings(self.best_estimator_["cnn"])

    def thumbnail(self, i: int, side: int = 160) -> np.ndarray:
        """Make a thumbnail of one of the images that the search was fitted on.

        Files are read again. Of images that were passed as arrays only those with the twelve worst
        out-of-fold predictions are kept, 160 pixels wide: the search does not hold the caller's arrays.

        Parameters
        ----------
        i : int
            Place in ``rows_``.
        side : int, default=160
            Width and height in pixels; the image is padded with black.

        Returns
        -------
        ndarray of uint8, shape (side, side, 3)

        Raises
        ------
        ImageReadError
            When the file is no longer there.
        ValueError
            When the image was an array and its thumbnail was not kept.
        """
        check_is_fitted(self, "best_estimator_")
        return self.fitted_images_.thumbnail(int(i), side)

    def result(self) -> SearchResult:
        """Collect everything that the search measured in one object, which the report is made from.

        Returns
        -------
        :class:`~tlfeatures.results.SearchResult`
            Holds no network and no estimator. Previews of the worst predictions are read from the files.
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if getattr(self, "task_", self.task) == "regression":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        else:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True  # of paths
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def select(
    X: Any, y: Any, *, groups: Any = None, sample_weight: Any = None, **options: Any
) -> FeatureSearchCV:
    """Search and fit in one line: ``FeatureSearchCV(**options).fit(X, y)``.

    Parameters
    ----------
    X : images
    y : array-like of shape (n,)
    groups, sample_weight : array-like of shape (n,), optional
    **options
        Parameters of :class:`FeatureSearchCV`.

    Returns
    -------
    FeatureSearchCV
        Fitted.

    Examples
    --------
    >>> from tlfeatures import select
    >>> select(["a.jpg", "b.jpg"], ["cat", None])
    Traceback (most recent call last):
    ValueError: 1 of 2 labels are missing; fill them in or drop their images.
    """
    return FeatureSearchCV(**options).fit(X, y, groups, sample_weight=sample_weight)
