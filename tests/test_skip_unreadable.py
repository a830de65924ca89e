"""Rows of unreadable images in cross-validation, grid search, probabilities and scores."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures import CNNFeatures, SkipUnreadable

NAN = float("nan")
X = np.array([[0.0, 1.0], [0.2, 1.0], [NAN, NAN], [0.8, 0.0], [1.0, 0.0], [0.1, NAN]])
y = np.array(["cat", "cat", "dog", "dog", "dog", "cat"])
READABLE = [0, 1, 3, 4]


@parametrize_with_checks(
    [
        SkipUnreadable(SVC()),
        SkipUnreadable(LogisticRegression()),
        SkipUnreadable(KNeighborsClassifier()),
        SkipUnreadable(Ridge()),
        SkipUnreadable(LinearRegression()),
    ],
    expected_failed_checks=lambda skip: (
        {
            "check_classifiers_one_label_sample_weights": "the message of SVC differs, also without SkipUnreadable"
        }
        if isinstance(skip.estimator, SVC)
        else {}
    ),
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


# -- with broken files, from paths to scores ---------------------------------------------------


@pytest.fixture(scope="module")
def broken(photos, tmp_path_factory):
    """Return paths and labels of 15 files; one is truncated, one is empty, and one contains text."""
    root = shutil.copytree(photos.root, tmp_path_factory.mktemp("broken") / "photos")
    data = min((root / "stripes").glob("*.jpg")).read_bytes()
    (root / "stripes" / "cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "discs" / "empty.jpg").write_bytes(b"")
    (root / "checks" / "text.jpg").write_text("not an image")
    paths = sorted(str(path) for path in root.rglob("*.*"))
    return paths, [path.split("/")[-2] for path in paths]


@pytest.fixture
def cnn(tmp_path_factory):
    """Return the tiny network at 32 pixels; unreadable images become rows of NaN."""
    return CNNFeatures("tiny", image_size=32, on_error="nan", cache=tmp_path_factory.getbasetemp() / "skip")


@pytest.mark.filterwarnings("error:The y_prob values")
@pytest.mark.filterwarnings("ignore::tlfeatures.errors.UnreadableImagesWarning")
class TestBrokenFiles:
    def test_pipeline_without_skip_unreadable_raises(self, broken, cnn):
        with pytest.raises(ValueError, match="NaN"):
            Pipeline([("cnn", cnn), ("svm", SVC())]).fit(*broken)

    def test_cross_val_score_counts_unreadable_images_as_wrong(self, broken, cnn):
        paths, labels = broken
        pipe = Pipeline([("cnn", cnn), ("svm", SkipUnreadable(SVC()))])
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_score(pipe, paths, labels, cv=folds, error_score="raise")
        predicted = cross_val_predict(pipe, paths, labels, cv=folds)
        assert (predicted == "unreadable").sum() == 3
        assert scores.mean() == pytest.approx(np.mean(predicted == labels)) == 12 / 15

    def test_grid_search_over_both_steps(self, broken, cnn):
        paths, labels = broken
        pipe = Pipeline([("cnn", cnn), ("svm", SkipUnreadable(SVC()))])
        grid = {"cnn__pooling": ["avg", "max"], "svm__estimator__C": [1, 10]}
        search = GridSearchCV(pipe, grid, cv=3, error_score="raise").fit(paths, labels)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert search.best_estimator_[-1].n_unreadable_ == 3
        assert search.predict(paths).tolist().count("unreadable") == 3
        assert search.classes_.tolist() == ["checks", "discs", "stripes"]

    @pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", "balanced_accuracy", "f1_weighted"])
    def test_other_scores_are_finite(self, broken, cnn, scoring):
        pipe = Pipeline([("cnn", cnn), ("lr", SkipUnreadable(LogisticRegression()))])
        scores = cross_val_score(pipe, *broken, cv=3, scoring=scoring, error_score="raise")
        assert np.isfinite(scores).all()

    def test_probabilities_of_unreadable_images_are_equal(self, broken, cnn):
        paths, labels = broken
        pipe = Pipeline([("cnn", cnn), ("lr", SkipUnreadable(LogisticRegression()))]).fit(paths, labels)
        proba = pipe.predict_proba(paths)
        unreadable = pipe.predict(paths) == "unreadable"
        np.testing.assert_allclose(proba[unreadable], 1 / 3)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        share = unreadable.mean()
        expected = share * np.log(3) + (1 - share) * log_loss(
            np.array(labels)[~unreadable], proba[~unreadable]
        )
        assert log_loss(labels, proba) == pytest.approx(expected)

    def test_regression_predicts_the_mean_of_the_training_targets(self, broken, cnn):
        paths, _ = broken
        target = np.arange(15) / 3
        pipe = Pipeline([("cnn", cnn), ("ridge", SkipUnreadable(Ridge()))])
        assert np.isfinite(cross_val_score(pipe, paths, target, cv=3, scoring="r2")).all()
        predicted = pipe.fit(paths, target).predict(paths)
        unreadable = np.isnan(pipe[0].transform(paths)).any(axis=1)
        np.testing.assert_allclose(predicted[unreadable], target[~unreadable].mean())

    def test_columns_of_pandas_keep_their_names(self, broken, cnn):
        pipe = Pipeline([("cnn", cnn), ("svm", SkipUnreadable(SVC()))]).set_output(transform="pandas")
        pipe.fit(*broken)
        names = pipe[0].get_feature_names_out().tolist()
        assert pipe[-1].feature_names_in_.tolist() == pipe[-1].estimator_.feature_names_in_.tolist() == names
        assert pipe.score(*broken) == 12 / 15


# -- rows of numbers ---------------------------------------------------------------------------


def test_fits_on_rows_without_nan_and_counts_the_others():
    skip = SkipUnreadable(LogisticRegression()).fit(X, y)
    estimator = LogisticRegression().fit(X[READABLE], y[READABLE])
    assert (skip.n_unreadable_, skip.n_features_in_, skip.unreadable_label_) == (2, 2, "unreadable")
    assert_array_equal(skip.estimator_.coef_, estimator.coef_)
    expected = y.astype("<U10")
    expected[[2, 5]] = "unreadable"
    assert_array_equal(skip.predict(X), expected)
    assert_array_equal(skip.predict(X[READABLE]), estimator.predict(X[READABLE]))
    assert_array_equal(skip.predict_proba(X)[READABLE], estimator.predict_proba(X[READABLE]))
    assert_array_equal(skip.predict_proba(X)[[2, 5]], 0.5)
    assert_array_equal(skip.predict_log_proba(X)[[2, 5]], np.log(0.5))
    assert_array_equal(skip.decision_function(X)[[2, 5]], 0)
    assert skip.score(X, y) == pytest.approx(4 / 6)
    assert skip.score(X, y, sample_weight=[1, 1, 0, 1, 1, 0]) == 1


def test_predictions_if_every_row_has_nan():
    skip = SkipUnreadable(LogisticRegression()).fit(X, y)
    all_nan = np.full((3, 2), np.nan)
    assert skip.predict(all_nan).tolist() == ["unreadable"] * 3
    assert skip.predict_proba(all_nan).shape == (3, 2)
    assert skip.decision_function(all_nan).shape == (3,)
    three_classes = SkipUnreadable(LogisticRegression()).fit(X, ["a", "b", "c", "c", "c", "a"])
    assert three_classes.decision_function(all_nan).shape == (3, 3)


def test_sample_weights_of_rows_with_nan_are_removed():
    weight = np.array([1.0, 2.0, 100.0, 3.0, 4.0, 100.0])
    skip = SkipUnreadable(LogisticRegression()).fit(X, y, sample_weight=weight)
    expected = LogisticRegression().fit(X[READABLE], y[READABLE], sample_weight=weight[READABLE])
    assert_array_equal(skip.estimator_.coef_, expected.coef_)
    pipe = Pipeline([("lr", SkipUnreadable(LogisticRegression()))]).fit(X, y, lr__sample_weight=weight)
    assert_array_equal(pipe[0].estimator_.coef_, expected.coef_)


def test_metadata_routing_through_a_pipeline_and_grid_search():
    weight = np.tile([1.0, 2.0, 100.0, 3.0, 4.0, 100.0], 3)
    tiled, labels = np.tile(X, (3, 1)), np.tile(y, 3)
    readable = ~np.isnan(tiled).any(axis=1)
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        inner = LogisticRegression().set_fit_request(sample_weight=True)
        skip = SkipUnreadable(inner).set_score_request(sample_weight=True)
        pipe = Pipeline([("lr", skip)])
        search = GridSearchCV(pipe, {"lr__estimator__C": [0.5]}, cv=3, scoring=scorer).fit(
            tiled, labels, sample_weight=weight
        )
        score = search.best_estimator_.score(tiled, labels, sample_weight=weight)
        not_requested = SkipUnreadable(LogisticRegression().set_fit_request(sample_weight=False))
        assert not_requested.fit(tiled, labels).n_unreadable_ == 6
    expected = LogisticRegression(C=0.5).fit(
        tiled[readable], labels[readable], sample_weight=weight[readable]
    )
    assert_array_equal(search.best_estimator_[-1].estimator_.coef_, expected.coef_)
    assert score == pytest.approx(10 / 210)  # the rows with NaN have most of the weight


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1, 1, 1, 0], -1),
        ([3, 3, 7, 7, 7, 3], 2),
        ([False, False, True, True, True, False], -1),
        (pd.Series(["cat", "cat", "dog", "dog", "dog", "cat"], dtype=object), "unreadable"),
        (["unreadable", "unreadable", "sharp", "sharp", "sharp", "unreadable"], "unreadable_"),
    ],
)
def test_the_default_label_is_not_a_class(labels, expected):
    skip = SkipUnreadable(SVC()).fit(X, labels)
    assert skip.predict(X).tolist()[2] == expected
    assert skip.score(X, labels) == pytest.approx(4 / 6)


def test_decision_values_of_pairs_of_classes():
    tiled = np.tile(X, (2, 1)) + np.arange(12)[:, None] * (1 + np.arange(X.shape[1]))
    labels = np.arange(12) % 4
    skip = SkipUnreadable(SVC(decision_function_shape="ovo")).fit(tiled, labels)
    values = skip.decision_function(tiled)
    assert values.shape == (12, 6) and (values[2] == 0).all() and (values[0] != 0).any()


def test_a_class_as_the_label_allows_scores_of_two_classes():
    labels = [0, 0, 1, 1, 1, 0] * 3
    tiled = np.tile(X, (3, 1))
    skip = SkipUnreadable(SVC(), unreadable_label=0)
    assert np.isfinite(cross_val_score(skip, tiled, labels, cv=3, scoring="f1", error_score="raise")).all()
    assert skip.fit(tiled, labels).predict(tiled)[2] == 0


def test_prediction_of_regressors_for_rows_with_nan():
    target = np.array([[0.0, 1.0], [1.0, 2.0], [9.0, 9.0], [2.0, 3.0], [3.0, 4.0], [9.0, 9.0]])
    assert SkipUnreadable(Ridge()).fit(X, target).predict(X)[2].tolist() == [1.5, 2.5]
    skip = SkipUnreadable(Ridge(), unreadable_label=NAN).fit(X, target[:, 0])
    assert np.isnan(skip.predict(X)).tolist() == [False, False, True, False, False, True]
    assert not hasattr(skip, "classes_")
    assert is_regressor(skip)
    assert is_classifier(SkipUnreadable(SVC()))


def test_methods_are_those_of_the_estimator():
    assert not hasattr(SkipUnreadable(SVC()), "predict_proba")
    assert hasattr(SkipUnreadable(SVC()), "decision_function")
    assert not hasattr(SkipUnreadable(KNeighborsClassifier()), "decision_function")
    assert not hasattr(SkipUnreadable(Ridge()), "predict_proba")


def test_clone_pickle_sparse_rows_and_data_frames():
    skip = SkipUnreadable(SVC(C=3), unreadable_label="?").fit(X, y)
    assert clone(skip).get_params()["estimator__C"] == 3
    assert_array_equal(pickle.loads(pickle.dumps(skip)).predict(X), skip.predict(X))
    sparse = SkipUnreadable(SVC(C=3), unreadable_label="?").fit(csr_array(X), y)
    assert_array_equal(sparse.predict(csr_array(X)), skip.predict(X))
    frame = pd.DataFrame(X, columns=["a", "b"])
    skip.fit(frame, y)
    with pytest.raises(ValueError, match="feature names"):
        skip.predict(frame.rename(columns={"a": "z"}))


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (lambda: SkipUnreadable(SVC()), None, "requires y to be passed"),
        (lambda: SkipUnreadable(SVC()), ["a", "b"], "X has 6 rows, but y has 2"),
        (
            lambda: SkipUnreadable(SVC(), unreadable_label=-1),
            y,
            "must have the type of the labels, which are text",
        ),
        (
            lambda: SkipUnreadable(SVC(), unreadable_label="?"),
            [0, 1] * 3,
            "which are numbers such as 0; got '\\?'",
        ),
        (
            lambda: SkipUnreadable(Ridge(), unreadable_label="?"),
            np.arange(6.0),
            "which are numbers such as 0.0; got '\\?'",
        ),
        (lambda: SkipUnreadable(SVC(), unreadable_label=None), [0, 1] * 3, "which are numbers.*; got None"),
    ],
)
def test_invalid_labels_raise(make, labels, message):
    with pytest.raises(ValueError, match=message):
        make().fit(X, labels)


def test_rows_without_any_readable_image_or_with_infinity_raise():
    with pytest.raises(ValueError, match=r"All 6 rows of X have NaN.*check_images"):
        SkipUnreadable(SVC()).fit(np.full((6, 2), np.nan), y)
    with pytest.raises(ValueError, match="infinity"):
        SkipUnreadable(SVC()).fit(np.where(np.isnan(X), np.inf, X), y)
