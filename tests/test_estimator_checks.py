"""Estimator checks of scikit-learn, for subclasses that convert rows of numbers to images."""

from __future__ import annotations

import inspect
import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures import (
    CNNFeatures,
    FeatureSearchCV,
    FineTuneClassifier,
    FineTuneRegressor,
    ImageNetClassifier,
    TrainOnViews,
)
from tlfeatures.heads import BlockScaler, StableNystroem


def images(rows: np.ndarray) -> np.ndarray:
    """Make grey images of shape (n, 8, n_features, 1): one column for each number, from -inf (black) to inf (white)."""
    grey = np.rint(127.5 * (np.tanh(rows) + 1)).astype("uint8")
    return np.repeat(grey[:, None, :, None], 8, axis=1)


class Tabular:
    """Mixin that accepts rows of numbers, as the checks pass them, and converts them to images."""

    def fit(self, X, y=None, **params):
        rows = validate_data(self, X)
        super().fit(images(rows), y, **params)
        self.n_features_in_ = rows.shape[1]  # FeatureSearchCV deletes attributes of an earlier fit
        return self

    def _images(self, X):
        check_is_fitted(self)
        return images(validate_data(self, X, reset=False))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


class TabularCNNFeatures(Tabular, CNNFeatures):
    def transform(self, X):
        return super().transform(self._images(X))

    def fit_transform(self, X, y=None):
        return super().fit_transform(images(validate_data(self, X)), y)


class TabularSearch(Tabular, FeatureSearchCV):
    def predict(self, X):
        return super().predict(self._images(X))

    def score(self, X, y):
        return super().score(self._images(X), y)

    @available_if(lambda self: hasattr(super(Tabular, self), "decision_function"))
    def decision_function(self, X):
        return super().decision_function(self._images(X))


class TabularClassifier(Tabular, FineTuneClassifier):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y, sample_weight=sample_weight)

    def predict(self, X):
        return super().predict(self._images(X))

    def predict_proba(self, X):
        return super().predict_proba(self._images(X))


class TabularRegressor(Tabular, FineTuneRegressor):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y, sample_weight=sample_weight)

    def predict(self, X):
        return super().predict(self._images(X))


class TabularTrainOnViews(Tabular, TrainOnViews):
    def predict(self, X):
        return super().predict(self._images(X))

    def decision_function(self, X):
        return super().decision_function(self._images(X))

    def score(self, X, y):
        return super().score(self._images(X), y)


SEARCH = {
    "models": "tiny",
    "image_sizes": 32,
    "resize": "stretch",
    "layers": ["block10_pw_relu"],
    "poolings": "avg",
}
TRAINING = {"model": "tiny", "image_size": 32, "start": "linear", "epochs": 0, "validation_fraction": 0}


def list_expected_failures(estimator):
    reason = "weights are scaled to a mean of 1, so a weight of 2 does not change the regularization as two rows do"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
@parametrize_with_checks(
    [
        TabularCNNFeatures("tiny", image_size=32),
        TabularSearch(task="classification", heads=["ridge"], cv=2, **SEARCH),
        TabularSearch(task="regression", heads=["ridge"], cv=2, **SEARCH),
        BlockScaler(),
        StableNystroem(random_state=0),
    ],
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [TabularClassifier(**TRAINING, random_state=0), TabularRegressor(**TRAINING, random_state=0)],
    expected_failed_checks=list_expected_failures,
)
def test_estimator_checks_of_fine_tuned_estimators(estimator, check):
    check(estimator)


# mirror images would exchange the features
VIEWS = make_pipeline(CNNFeatures("tiny", image_size=32, views="crops"), RidgeClassifier(alpha=10))


@pytest.mark.slow
@parametrize_with_checks([TabularTrainOnViews(VIEWS)])
def test_estimator_checks_with_views(estimator, check):
    check(estimator)


ESTIMATORS = [CNNFeatures, FeatureSearchCV, FineTuneClassifier, FineTuneRegressor, ImageNetClassifier]


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_constructors_have_explicit_parameters_and_only_assign(cls):
    first, *others = inspect.signature(cls).parameters.values()
    assert (first.name, first.kind) in [(name, first.POSITIONAL_OR_KEYWORD) for name in ("model", "models")]
    assert {parameter.kind for parameter in others} == {inspect.Parameter.KEYWORD_ONLY}
    values = {parameter.name: object() for parameter in others}
    estimator = cls("tiny", **values)
    assert vars(estimator) == {first.name: "tiny", **values} == estimator.get_params(deep=False)
    assert estimator != cls("tiny", **values) and hash(estimator) == hash(estimator)  # compared by identity


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_defaults_survive_clone_and_pickle_and_are_short_in_the_repr(cls):
    estimator = cls("tiny")
    for copy in (clone(estimator), pickle.loads(pickle.dumps(estimator))):
        assert copy.get_params() == estimator.get_params() and repr(copy) == repr(estimator)
    assert len(repr(estimator)) < len(cls.__name__) + 20


@pytest.mark.parametrize("cls", [cls for cls in ESTIMATORS if cls is not FineTuneRegressor])
def test_docstrings_describe_all_parameters(cls):
    section = re.search(r"\nParameters\n-+\n(.*?)\n\w+\n---", inspect.getdoc(cls), re.DOTALL).group(1)
    names = re.findall(r"\w+", " ".join(re.findall(r"^[^\s:]+[^:\n]*", section, re.MULTILINE)))
    assert inspect.signature(cls).parameters.keys() <= set(names)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_pickles_from_before_a_parameter_existed_have_its_default(cls):
    estimator = cls("tiny")
    del estimator.__dict__["window"]
    loaded = pickle.loads(pickle.dumps(estimator))
    assert "window" not in vars(loaded) and loaded.get_params()["window"] is None
