"""Estimator checks of scikit-learn, for subclasses that convert rows of numbers to images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from tlfeatures import CNNFeatures, FeatureSearchCV, FineTuneClassifier, FineTuneRegressor
from tlfeatures.heads import BlockScaler


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
    def predict(self, X):
        return super().predict(self._images(X))

    def predict_proba(self, X):
        return super().predict_proba(self._images(X))


class TabularRegressor(Tabular, FineTuneRegressor):
    def predict(self, X):
        return super().predict(self._images(X))


SEARCH = {
    "models": "tiny",
    "image_sizes": 32,
    "resize": "stretch",
    "layers": ["block10_pw_relu"],
    "poolings": "avg",
}
TRAINING = {"model": "tiny", "image_size": 32, "start": "linear", "epochs": 0, "validation_fraction": 0}


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
@parametrize_with_checks(
    [
        TabularCNNFeatures("tiny", image_size=32),
        TabularSearch(task="classification", heads=["ridge"], cv=2, **SEARCH),
        TabularSearch(task="regression", heads=["ridge"], cv=2, **SEARCH),
        TabularClassifier(**TRAINING, random_state=0),
        TabularRegressor(**TRAINING, random_state=0),
        BlockScaler(),
    ]
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)
