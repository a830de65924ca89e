"""``FeatureSearchCV``: cross-validated search over networks, image sizes, layers, poolings and heads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.metadata_routing import MetadataRouter

from tlfeatures._image_estimator import ImageInputMixin
from tlfeatures._params import check_parameters
from tlfeatures.evaluation import check_groups, check_labels, check_seed, find_label_conflicts
from tlfeatures.images import Images
from tlfeatures.selection._candidates import EmbeddingGrid, plan_passes
from tlfeatures.selection._constraints import (
    SEARCH_CONSTRAINTS,
    check_cv,
    check_single_candidate,
    splits_any_rows,
)
from tlfeatures.selection._fitted_images import FittedImages, worst_predictions
from tlfeatures.selection._fitted_search import FittedSearchMixin
from tlfeatures.selection._head_grids import make_head_grids
from tlfeatures.selection._image_problems import find_readable_rows, list_problems
from tlfeatures.selection._matrices import EmbeddingMatrices
from tlfeatures.selection._metadata_routing import Metadata, check_sample_weight, make_router
from tlfeatures.selection._progress import show_progress
from tlfeatures.selection._runner import SearchRunner
from tlfeatures.selection._scorer import make_scorer
from tlfeatures.selection._training_data import TrainingData
from tlfeatures.store import EmbeddingStore

__all__ = ["FeatureSearchCV"]


@dataclass(kw_only=True, eq=False, repr=False)
class FeatureSearchCV(FittedSearchMixin, MetaEstimatorMixin, ImageInputMixin, BaseEstimator, EmbeddingGrid):
    """Search for the best network, image size, layer, pooling and head by cross-validation.

    Each image passes through each network once for each image size and resize mode. All layers, poolings and
    heads share these passes, and later searches read the embeddings from the store.

    Parameters
    ----------
    models : str, path, or list of them, default="mobilenet"
        Networks, as in :class:`~tlfeatures.CNNFeatures`; equal names are numbered in tables and figures.
    layers : "auto", "standard", "fused", None, list, or dict of model to these, default="auto"
        "standard" tries each of the network's standard taps, and the last two and the last three concatenated.
        "fused" tries all standard taps together, each scaled to the same total variance by
        :class:`~tlfeatures.heads.BlockScaler`, and with the mean of the layers' kernels in support vector
        machines (:class:`~tlfeatures.heads.MeanRBFKernel`, up to 6,000 images). "auto" is "standard". Pass
        ``["standard", "fused"]`` to try both. None means the last feature map. A list contains these words, layer
        names, or lists of layer names to concatenate.
    poolings : list of str, default=("avg", "max")
    image_sizes : "auto", None, or list, default="auto"
        "auto" tries the network's default size and about half of it. None is the default size.
    resize : list of str, default=("stretch", "crop")
        Resize modes that give equal embeddings, as for square images, are tried once.
    heads : str, list of str, dict, or None, default=None
        Names of :func:`~tlfeatures.heads.list_heads`, with their default grids, or a dict from name to

        - a parameter grid for the named head, or None for its default grid;
        - a scikit-learn estimator, under a new name;
        - ``(estimator, grid)``.

        For example ``{"ridge": None, "svm": {"C": [1, 10]}, "rf": RandomForestClassifier(),
        "mlp": (MLPClassifier(), {"alpha": [1e-4, 1e-2]})}``. Embeddings are standardized before they reach an
        estimator, unless it is a `Pipeline`. If ``random_state`` of an estimator is None, the search sets it. The
        default is logreg, ridge and, up to 100 classes, svm; for regression ridge and svr.
    cv : int, splitter, or list of (train, test), default=5
        An int gives that many shuffled folds, stratified by class, with each group in one of them. 0 fits a
        single candidate without cross-validation; attributes that contain scores do not exist then.
    scoring : str, callable or None, default=None
        As in scikit-learn. The default is accuracy, or R2 for regression.
    rule : {"best", "1se"}, default="best"
        "best" chooses the highest mean score; "1se" chooses, among the candidates within one standard error of
        it, the cheapest network, then the smallest embedding.
    search : {"auto", "exhaustive", "halving"}, default="auto"
        "exhaustive" scores every candidate on all images. "halving" compares all candidates on a subset of the
        images first; the best quarter of them, at least four, is kept and compared on a subset four times as large,
        and so on, and the remaining ones are scored on all images (see Notes). "auto" is "exhaustive" for up to 2,000
        images and with ``nested``, and "halving" for more.
    first_subset : int, default=1000
        Number of images of the first subset. It has at least ten images of each class, or all images of a smaller
        class. If the data set has fewer than twice this number of images, the search is exhaustive.
    nested : bool, default=False
        Also score the selection procedure itself by nested cross-validation. This costs as much as ``cv`` further
        searches, but needs no further pass through a network.
    learning_curve : bool, default=True
        Whether to score the best candidate on parts of the training images too, up to twice the cost of its folds.
    prescreen : int or None, default=None
        Number of embeddings to cross-validate, chosen by ``prescreen_method``. None is all of them.
    prescreen_method : {"logme", "hscore", "shrunk_hscore"}, default="logme"
        See :mod:`tlfeatures.transferability`.
    dedupe_groups : bool, default=False
        Keep duplicate and near-duplicate images in one fold.
    duplicate_threshold : float, default=0.95
        Cosine similarity of centered embeddings from which images are near-duplicates.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" calls :func:`~tlfeatures.evaluation.infer_task`.
    weights, interpolation, decode, max_value, window, normalization, views, precision, runtime, batch_size, cache
        As in :class:`~tlfeatures.CNNFeatures`.
    on_error : {"raise", "nan"}, default="raise"
        Whether an unreadable image raises an error, or is left out with a warning.
    n_jobs : int or None, default=None
        Number of processes for the folds. They do not import Keras.
    random_state : int, RandomState or None, default=0
        Seed for shuffling the folds, for the learning curve, and for estimators in ``heads``.
    verbose : int, default=0
        If above 0, show progress on standard error.

    Attributes
    ----------
    best_estimator_ : Pipeline
        Steps "cnn", "scale" (unless the head is a `Pipeline`), "nystroem" if the kernel is approximated, and the head's
        name, fitted on all images.
    best_params_, best_score_, best_index_
        Parameters, mean score and row in ``cv_results_`` of the best candidate. Only fused candidates have the
        parameter ``fused``, which is True; their ``layer`` lists the layers.
    fold_scores_ : ndarray of shape (folds,)
        Scores of the best candidate.
    cv_results_ : dict of arrays
        scikit-learn's columns, one row per candidate. Also ``ci_low_test_score`` and ``ci_high_test_score`` (95%,
        Nadeau and Bengio 2003), ``width``, ``macs`` (multiply-accumulate operations per image), ``prescreen``,
        and for regression ``mean_test_mae`` and ``std_test_mae``. After a search by halving also ``n_images``,
        the number of images that a candidate was last scored on, ``eliminated``, ``subset0_test_score`` and so on, the
        mean scores on each subset, and ``last_subset_test_score``, the score with which a candidate was eliminated. All
        other scores of eliminated candidates are NaN; ``mean_fit_time`` and ``mean_score_time`` are those on the last
        subset.
    halving_ : pandas.DataFrame
        One row for each subset and one for all images: the numbers of ``images``, of ``candidates`` that were scored,
        and of those that were ``eliminated``, and a ``note`` if they could not be compared. Empty after an exhaustive
        search.
    classes_ : ndarray
        Sorted class labels, for classification.
    nested_scores_ : ndarray of shape (folds,)
        Scores of nested cross-validation if ``nested=True``; ``nested_params_`` are the parameters of the candidate
        that was chosen for each fold.
    prescreen_ : pandas.DataFrame
        One row per embedding: its prescreen score, its best cross-validated score (after a search by halving, that on
        the first subset), and whether it was kept.
        ``prescreen_correlation_`` is the rank correlation of the two scores.
    grouped_score_ : :class:`~tlfeatures.results.Score` or None
        Score of the best candidate with duplicates kept in one fold, if the folds split some;
        ``grouped_fold_scores_`` are its scores on these folds.
    image_problems_ : pandas.DataFrame
        ``row``, ``image``, ``problem`` ("error" or "warning") and ``reason`` of images that could not be
        read, which were left out, and of images that carry almost no information. The latter are reported only if
        this fit decoded them: images whose embeddings are in the store are not decoded.
    duplicates_ : :class:`~tlfeatures.evaluation.Duplicates`
    label_conflicts_ : ndarray of int, shape (p, 2)
        Rows of X of identical images with different labels; see :func:`~tlfeatures.evaluation.find_label_conflicts`.
    learning_curve_ : :class:`~tlfeatures.results.LearningCurve`
    regime_ : :class:`~tlfeatures.results.Regime`
    oof_ : pandas.DataFrame
        Out-of-fold predictions of the best candidate, one row per image: ``row`` (in X), ``image``, ``fold``,
        ``true``, ``predicted``.
    oof_proba_, oof_decision_ : ndarray or None
        Out-of-fold probabilities and decision values, if the head has them.
    metrics_ : dict of str to float
        Accuracy, balanced accuracy and macro F1, or R2, mean absolute error and root mean squared error, of
        ``oof_``.
    rows_ : ndarray of int
        Rows of X that were used. ``unreadable_`` maps the other rows to the reason.
    timings_ : pandas.DataFrame
        Seconds of each step, and number of images that each pass computed.
    n_splits_, folds_, groups_, sample_weight_, scorer_, task_, refit_time_

    Raises
    ------
    ValueError
        If labels, groups, folds, heads or the score cannot be used, such as a class with fewer images than folds.
        It is raised before anything is computed.
    ImageReadError, ImageInputError, WeightsError, UnknownNameError
        As in `CNNFeatures`.

    Notes
    -----
    A search that is interrupted resumes from the store: completed passes are not repeated.

    A fitted search keeps no images, except for small thumbnails of the worst predictions if the images were
    passed as arrays.

    In a search by halving, each subset contains the previous one, groups and duplicates are not split, and each
    class has nearly the same share in all subsets. The folds of a subset are the folds of all images, restricted to
    it. Candidates are eliminated by their mean score over the folds on which all have one; equal scores are ordered by
    computing cost and width. At most two grid points of one embedding and head are kept if there are enough other
    candidates. With ``rule="1se"`` the best grid point of each embedding and head within one standard error of the best
    candidate is kept too. A subset is skipped if a head cannot be fitted or scored on it, or if fewer than two folds
    have scores of all candidates. The prescreen is computed on the first subset. The remaining candidates, and
    so the best one, are scored as in an exhaustive search [1]_.

    For more than 6,000 images, support vector machines with the default kernel are fitted by
    ``make_head(name, n_images=...)``, which approximates the kernel; see :func:`~tlfeatures.heads.make_head`.

    The prescreen uses the labels of all images, so pruning with it biases the scores slightly; with ``nested`` it
    is repeated within each fold's training rows. A callable ``scoring`` receives the test rows as the estimator takes
    them, for example as rows of a kernel matrix, and may only pass them on to the estimator.

    With ``sklearn.set_config(enable_metadata_routing=True)`` a search takes part in scikit-learn's metadata
    routing as a consumer of ``groups`` (requested by default) and ``sample_weight``, and
    as a router to the estimators in ``heads`` and to a scorer in ``scoring``.

    References
    ----------
    .. [1] Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
       2016.

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

    heads: Any = None
    cv: Any = 5
    scoring: Any = None
    rule: Literal["best", "1se"] = "best"
    search: Literal["auto", "exhaustive", "halving"] = "auto"
    first_subset: int = 1000
    nested: bool = False
    learning_curve: bool = True
    prescreen: int | None = None
    prescreen_method: Literal["logme", "hscore", "shrunk_hscore"] = "logme"
    dedupe_groups: bool = False
    duplicate_threshold: float = 0.95
    task: Literal["auto", "classification", "regression"] = "auto"
    batch_size: int = 32
    cache: str | os.PathLike[str] | EmbeddingStore | None = "auto"
    on_error: Literal["raise", "nan"] = "raise"
    n_jobs: int | None = None
    random_state: Any = 0
    verbose: int = 0

    # groups are requested by default, as by scikit-learn's group splitters
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = SEARCH_CONSTRAINTS

    def fit(
        self, X: Any, y: Any, groups: Any = None, *, sample_weight: Any = None, **params: Any
    ) -> FeatureSearchCV:
        """Search, and fit the best pipeline on all images.

        Parameters
        ----------
        X : images
            As :class:`~tlfeatures.CNNFeatures` takes them.
        y : array-like of shape (n,)
            Class labels, or targets for regression.
        groups : array-like of shape (n,), optional
            Group of each image, such as a patient; images of one group are kept in one fold.
        sample_weight : array-like of shape (n,), optional
            Weights for fitting the heads. A warning names the heads that do not accept weights, such as knn.
            Standardization and the prescreen are unweighted, and so are scores, unless ``scoring`` is a scorer
            that requests weights through scikit-learn's metadata routing.
        **params : array-like of shape (n,)
            Further metadata that estimators in ``heads`` or the scorer request through scikit-learn's metadata
            routing.

        Returns
        -------
        FeatureSearchCV
        """
        check_parameters(self)
        check_cv(self)
        for name in [name for name in vars(self) if name.endswith("_")]:  # attributes of an earlier fit
            delattr(self, name)
        images = Images.of(X)
        y, task = check_labels(y, len(images), self.task)
        groups = check_groups(groups, len(images))
        sample_weight = check_sample_weight(sample_weight, len(images))
        cv = list(self.cv) if isinstance(self.cv, Iterator) else self.cv
        data = TrainingData(y, task, groups, Metadata(), cv, check_seed(self.random_state))
        # errors in folds, heads and score are raised before anything is computed
        heads = make_head_grids(self.heads, task, y, data.seed)
        self.scorer_ = make_scorer(self.scoring, heads, y)
        folds = data.make_folds()
        if self.nested:
            data.make_inner_folds(folds)
        data = replace(data, metadata=Metadata.route(self, heads, len(images), sample_weight, params))
        store = EmbeddingStore.resolve(self.cache)
        passes = plan_passes(self, store)
        if not folds:
            check_single_candidate(passes, heads)
        with show_progress(self.verbose) as steps:
            matrices = EmbeddingMatrices(
                images, passes, store, steps, batch_size=self.batch_size, on_error=self.on_error
            )
            self.unreadable_ = dict(sorted(matrices.errors.items()))
            self.image_problems_ = list_problems(images, matrices)
            self.rows_ = rows = find_readable_rows(images, matrices, not splits_any_rows(self.cv))
            images, data = images.take(rows), data.take(rows)
            self._groups = data.groups  # without duplicates, which dedupe_groups=True adds to groups_
            named_rows = [(row, images.name(i)) for i, row in enumerate(rows.tolist())]
            embeddings = [embedding for planned in passes for embedding in planned.embeddings]
            runner = SearchRunner(self, named_rows, data, matrices, embeddings, heads, self.scorer_, steps)
            self.__dict__.update(runner.run(images))
        self.task_, self.seed_ = task, data.seed
        self.sample_weight_ = None if sample_weight is None else sample_weight[rows]
        if task == "classification":
            self.classes_ = self.best_estimator_.classes_
        self.timings_ = pandas.DataFrame(runner.timings)
        self.refit_time_ = runner.timings[-1]["seconds"]
        shown = self._list_worst_rows() if folds else []
        features = runner.load_matrix(runner.best[0])
        decoding = {"max_value": self.max_value, "window": self.window}
        self.fitted_images_ = FittedImages.of(images, matrices.keys[rows], shown, store, features, **decoding)
        self.label_conflicts_ = rows[find_label_conflicts(self.fitted_images_.keys, data.y)]
        return self

    def _list_worst_rows(self) -> list[int]:
        """Return the indices into ``rows_`` of the worst predictions."""
        classes = getattr(self, "classes_", None)
        worst = worst_predictions(self.oof_, self.oof_proba_, self.oof_decision_, classes)
        return np.searchsorted(self.rows_, worst["row"]).tolist()

    def get_metadata_routing(self) -> MetadataRouter:
        """Get the metadata routing of the search, of the estimators in ``heads`` and of the scorer.

        The search itself takes ``groups`` (requested by default) and ``sample_weight`` (to be requested with
        ``set_fit_request(sample_weight=True)``).

        Returns
        -------
        MetadataRouter
        """
        return make_router(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if getattr(self, "task_", self.task) == "regression":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        else:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        return tags
