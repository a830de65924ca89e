"""FeatureSearchCV: one pass per network, folds, and shared fits that agree with scikit-learn."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import randint, spearmanr
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import accuracy_score, check_scoring, make_scorer, mean_absolute_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    LeaveOneGroupOut,
    ParameterGrid,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures import CNNFeatures, EmbeddingStore, FeatureSearchCV, select
from tlfeatures.errors import (
    DuplicateImagesWarning,
    ImageReadError,
    InvalidParameterError,
    LowContrastImagesWarning,
    RandomWeightsWarning,
    RecipeMismatchError,
    UnknownNameError,
    UnreadableImagesWarning,
)
from tlfeatures.evaluation import keep_groups_together, make_folds
from tlfeatures.heads import head_grid, list_heads, make_head
from tlfeatures.images import Decoder, Images
from tlfeatures.selection import _layer_costs, _runner
from tlfeatures.selection._candidates import EmbeddingGrid, plan_passes
from tlfeatures.selection._fits import evaluate, predict_fold
from tlfeatures.selection._fold_data import FoldData
from tlfeatures.selection._head_grids import Head, make_head_grids
from tlfeatures.selection._metadata_routing import Metadata
from tlfeatures.selection._ridge_path import fit_ridge_path
from tlfeatures.selection._rules import choose, choose_nested
from tlfeatures.selection.advice import LearningCurve, advise

pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.RandomWeightsWarning")
LAYERS = ["conv_pw_1_relu", "conv_pw_5_relu", "conv_pw_11_relu"]
SMALL = {
    "models": "mobilenet_0.25", "weights": None, "image_sizes": [32], "layers": LAYERS, "resize": "stretch",
    "heads": ["svm", "ridge"], "cv": 3,
}  # fmt: skip


def textures(n=36, side=32, noise=60, seed=0):
    """Make images of three classes that differ in the direction of their stripes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    kinds = np.arange(n) % 3
    waves = np.stack([x, y, x + y])[kinds] + rng.integers(0, 12, size=(n, 1, 1))
    pixels = (
        128
        + 60 * np.sign(np.sin(waves * 2 * np.pi / 8))[..., None]
        + rng.normal(0, noise, (n, side, side, 3))
    )
    return pixels.clip(0, 255).astype(np.uint8), np.array(["across", "along", "slant"])[kinds]


@pytest.fixture(scope="module")
def data():
    return textures()


@pytest.fixture(scope="module")
def warm(tmp_path_factory, data):
    """Return a store that has the embeddings of the small search, and that search."""
    store = EmbeddingStore(tmp_path_factory.mktemp("search") / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return store, FeatureSearchCV(**SMALL, cache=store).fit(*data)


# -- fits that share work ------------------------------------------------------------------------

TASKS = [
    *((h, "classification") for h in list_heads()),
    *((h, "regression") for h in list_heads("regression")),
]


def make_embeddings(n, d, task, seed=0):
    """Make random embeddings and labels of four classes, or targets."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    X = np.maximum(rng.normal(size=(4, d))[y] * 0.4 + rng.normal(size=(n, d)), 0).astype("float32")
    X[:, ::4] = 0.25  # constant features
    return X, (y if task == "classification" else y + X[:, 1:6].sum(axis=1) * 0.5 + 10)


@pytest.mark.parametrize("shape", [(120, 200), (150, 40)], ids=["wide", "tall"])
@pytest.mark.parametrize(("name", "task"), TASKS)
def test_shared_fits_agree_with_scikit_learn(name, task, shape):
    X, y = make_embeddings(*shape, task)
    folds = list((StratifiedKFold if task == "classification" else KFold)(3).split(X, y))
    grid = head_grid(name, task)
    head = Head(name, task, tuple(ParameterGrid({k.removeprefix(f"{name}__"): v for k, v in grid.items()})))
    ours = evaluate(X, y, folds, [head], check_scoring(make_head(name, task)))[0].test
    search = GridSearchCV(make_head(name, task), grid, cv=folds, refit=False).fit(X.astype(float), y)
    assert [head.params(i) for i in range(len(ours))] == search.cv_results_["params"]
    theirs = np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(3)], axis=1)
    # logistic regression stops within its tolerance of the optimum: a row in fifty may flip
    np.testing.assert_allclose(ours, theirs, atol=0.021 if name == "logreg" else 1e-6)
    assert np.ptp(theirs) > 0


@pytest.mark.parametrize("shape", [(90, 200), (150, 40)], ids=["wide", "tall"])
@pytest.mark.parametrize("classes", [2, 4, 0])
def test_ridge_path_agrees_with_scikit_learn(shape, classes):
    X, y = make_embeddings(*shape, "classification" if classes else "regression")
    y = y % classes if classes else y
    train, test = np.arange(0, shape[0], 2), np.arange(1, shape[0], 2)
    head = Head("ridge", "classification" if classes else "regression", ({},))
    fold = FoldData(X, y, (train, test), head, Metadata())
    ours = fit_ridge_path(fold, head)
    scaler = StandardScaler().fit(X[train])
    alphas = make_head("ridge", head.task)[-1].alphas
    theirs = (RidgeClassifierCV if classes else RidgeCV)(alphas).fit(
        scaler.transform(X[train]).astype(float), y[train]
    )
    rows = scaler.transform(X[test]).astype(float)
    assert ours.alpha == theirs.alpha_
    values = ours.decision_function(fold.svd[2]) if classes else ours.predict(fold.svd[2])
    np.testing.assert_allclose(
        values, theirs.decision_function(rows) if classes else theirs.predict(rows), atol=1e-5
    )


def test_grids_over_kernel_parameters_agree_with_scikit_learn():
    X, y = make_embeddings(60, 30, "classification")
    folds = list(StratifiedKFold(3).split(X, y))
    head = Head("svm", "classification", ({"gamma": 0.01, "C": 3.0}, {"kernel": "poly"}))
    ours = evaluate(X, y, folds, [head], check_scoring(SVC(), scoring="balanced_accuracy"))[0].test
    for i, params in enumerate(({"svm__gamma": 0.01, "svm__C": 3.0}, {"svm__kernel": "poly"})):
        pipe = make_head("svm").set_params(**params)
        expected = cross_val_score(pipe, X.astype(float), y, cv=folds, scoring="balanced_accuracy")
        np.testing.assert_allclose(ours[i], expected)


# -- the search ----------------------------------------------------------------------------------


@parametrize_with_checks([FeatureSearchCV(**SMALL | {"heads": ["ridge"], "layers": LAYERS[:1]}, cache=None)])
def test_scikit_learn_checks_with_its_own_tags(estimator, check):
    check(estimator)


def test_attributes_have_the_names_of_scikit_learn(warm, data):
    _, search = warm
    results = search.cv_results_
    count = len(LAYERS) * 2 * (4 + 1)
    assert {len(column) for column in results.values()} == {count}
    plain = GridSearchCV(make_head("svm"), {"svm__C": [1]}, cv=3).fit(np.eye(9), np.arange(9) % 3).cv_results_
    assert set(plain) - set(results) == set()
    splits = np.stack([results[f"split{i}_test_score"] for i in range(3)], axis=1)
    np.testing.assert_allclose(results["mean_test_score"], splits.mean(axis=1))
    np.testing.assert_allclose(results["std_test_score"], splits.std(axis=1))
    assert (
        search.best_score_
        == results["mean_test_score"][search.best_index_]
        == results["mean_test_score"].max()
    )
    assert results["rank_test_score"][search.best_index_] == 1
    assert search.best_params_ == results["params"][search.best_index_]
    assert results["param_svm__C"].mask.sum() == len(LAYERS) * 2  # ridge has none
    assert list(search.classes_) == ["across", "along", "slant"] and search.n_splits_ == 3


def test_best_estimator_equals_the_pipeline_written_by_hand(warm, data):
    store, search = warm
    X, y = data
    best = search.best_params_
    pipe = Pipeline(
        [
            ("cnn", CNNFeatures(
                "mobilenet_0.25", weights=None, image_size=32, layer=best["layer"], pooling=best["pooling"], cache=store
            )),
            *make_head(best["head"]).set_params(**{k: v for k, v in best.items() if "__" in k}).steps,
        ]
    )  # fmt: skip
    scores = cross_val_score(pipe, X, y, cv=search.folds_)
    expected = [search.cv_results_[f"split{i}_test_score"][search.best_index_] for i in range(3)]
    np.testing.assert_allclose(scores, expected)
    fresh, _ = textures(n=9, seed=1)
    np.testing.assert_array_equal(search.predict(fresh), pipe.fit(X, y).predict(fresh))
    assert [name for name, _ in search.best_estimator_.steps] == ["cnn", "scale", best["head"]]
    assert search.score(X, y) == np.mean(search.predict(X) == y)
    np.testing.assert_array_equal(search.embeddings(), pipe["cnn"].transform(X))


def test_predict_proba_exists_only_if_the_head_has_probabilities(warm, data):
    store, _ = warm
    X, y = data
    search = FeatureSearchCV(**SMALL | {"heads": ["svm"], "layers": LAYERS[:1]}, cache=store).fit(X, y)
    assert not hasattr(search, "predict_proba") and search.decision_function(X).shape == (36, 3)
    assert search.oof_proba_ is None and search.oof_decision_.shape == (36, 3)
    search.set_params(heads={"logreg": {"C": [1.0]}}, scoring="neg_log_loss").fit(X, y)
    assert search.predict_proba(X).shape == search.oof_proba_.shape == (36, 3)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() < 0
    with pytest.raises(ValueError, match=r"head 'svm' cannot be scored.*predict_proba"):
        search.set_params(heads=["logreg", "svm"]).fit(X, y)


def test_scores_that_raise_or_return_nan_raise_value_error(warm, data):
    def no_slant(estimator, X, y):
        raise ValueError("no slant")

    with pytest.raises(ValueError, match=r"head 'svm' cannot be scored on fold 0: no slant\. Leave it out"):
        FeatureSearchCV(**SMALL, cache=warm[0], scoring=no_slant).fit(*data)
    with pytest.raises(ValueError, match="every candidate is NaN on at least one fold"):
        FeatureSearchCV(**SMALL, cache=warm[0], scoring=lambda estimator, X, y: None).fit(*data)


def test_numpy_integers_are_accepted_as_parameters(warm, data):
    counts = {"cv": np.int64(3), "prescreen": np.int64(2), "nested": True}
    search = FeatureSearchCV(**SMALL | counts | {"image_sizes": np.array([32])}, cache=warm[0]).fit(*data)
    assert type(search.best_params_["image_size"]) is int and search.prescreen_["kept"].sum() == 2


def test_class_weights_with_numpy_keys_are_in_the_table(warm, data):
    codes = np.unique(data[1], return_inverse=True)[1]
    weights = dict(zip(np.unique(codes), np.array([1.0, 2.0, 1.5]), strict=True))
    heads = {"svm": {"class_weight": [weights]}}
    search = FeatureSearchCV(**SMALL | {"heads": heads}, cache=warm[0]).fit(data[0], codes)
    assert set(search.table()["settings"]) == {'{"class_weight": {"0": 1.0, "1": 2.0, "2": 1.5}}'}
    assert search.describe_best().endswith("svm(class_weight={'0': 1.0, '1': 2.0, '2': 1.5})")


def test_grids_of_named_heads_are_expanded(data):
    def points(heads):
        return [(head.name, head.points) for head in make_head_grids(heads, "classification", data[1], 0)]

    default = [{"C": c} for c in (0.1, 1.0, 10.0, 100.0)]
    assert points({"svm": None}) == points(["svm"]) == [("svm", tuple(default))]
    assert points({"svm": {}, "ridge": {}}) == [("svm", ({"C": 10.0},)), ("ridge", ({},))]
    assert points(["svm", "ridge", "svm"]) == points(["svm", "ridge"])
    assert points({"svm": [{"C": [1]}, {"svm__gamma": ["auto"]}]}) == [("svm", ({"C": 1}, {"gamma": "auto"}))]


@pytest.mark.parametrize("head", ["logreg", "svm", "ridge"])
@pytest.mark.parametrize("classes", [3, 4])
def test_folds_without_a_class_keep_its_column(head, classes):
    """Shuffled splits may leave a rare class out of training and test."""
    X, y = make_embeddings(60, 20, "classification")
    y = np.where(y >= classes, 0, y)
    rare, rest = np.flatnonzero(y == 1), np.flatnonzero(y != 1)
    folds = [(rest[::2], rest[1::2]), (np.r_[rare[::2], rest[1::2]], np.r_[rare[1::2], rest[::2]])]
    estimator = Head(head, "classification", ({},))
    for train, test in folds:
        part = predict_fold(X, y, (train, test), estimator)
        assert part.rows is test
        values = part.probabilities if head == "logreg" else part.decision_values
        assert values.shape == (len(test), classes)
        # an SVC predicts by pairwise votes, which nearly always agree with the largest decision value
        assert np.mean(np.unique(y)[np.nanargmax(values, axis=1)] == part.predicted) > 0.8
        if 1 not in y[train]:
            assert (values[:, 1] == 0).all() if head == "logreg" else np.isnan(values[:, 1]).all()


# -- estimators passed by the user as heads ---------------------------------------------------------------------------


def test_user_estimators_as_heads_agree_with_scikit_learn(warm, data):
    store, _ = warm
    X, y = data
    forest = RandomForestClassifier(10, random_state=3)
    lda = make_pipeline(PCA(5, random_state=0), LinearDiscriminantAnalysis())
    heads = {"rf": (forest, {"max_depth": [1, None]}), "lda": lda, "ridge": None, "svm": SVC(C=0.5)}
    search = FeatureSearchCV(
        **SMALL | {"layers": LAYERS[1:2], "poolings": "avg", "heads": heads}, cache=store
    )
    search.fit(X, y)
    features = CNNFeatures(
        "mobilenet_0.25", weights=None, image_size=32, layer=LAYERS[1], cache=store
    ).fit_transform(X)
    table = search.table().sort_values("candidate")
    assert table["head"].tolist() == ["rf", "rf", "lda", "ridge", "svm"]
    assert table["settings"].tolist() == ['{"max_depth": 1}', '{"max_depth": null}', "{}", "{}", "{}"]
    expected = [
        make_pipeline(StandardScaler(), clone(forest).set_params(max_depth=1)),
        make_pipeline(StandardScaler(), forest),
        lda,  # a pipeline is fitted on the raw embedding
        make_head("ridge"),
        make_pipeline(StandardScaler(), SVC(C=0.5)),  # in place of the named head
    ]
    for score, pipe in zip(table["score"], expected, strict=True):
        assert score == pytest.approx(
            cross_val_score(pipe, features.astype(float), y, cv=search.folds_).mean()
        )
    assert not hasattr(forest, "estimators_")  # the user's object is not fitted


@pytest.mark.parametrize(
    "head",
    [
        (RandomForestClassifier(5, max_features=0.5), {"max_depth": [2]}),
        Pipeline([("pca", PCA(n_components=3)), ("clf", make_pipeline(StandardScaler(), SVC(C=3)))]),
    ],
)
def test_the_code_of_a_report_reproduces_a_user_estimator(warm, data, head, tmp_path):
    options = SMALL | {"layers": LAYERS[1:2], "poolings": "avg", "heads": {"custom": head}}
    search = FeatureSearchCV(**options, cache=warm[0]).fit(*data)
    search.report(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["best_command"] is None
    code = json.loads((tmp_path / "report.json").read_text("utf-8"))["best_code"]
    names = dict(zip("Xy", data, strict=True))
    exec(compile(code, "code", "exec"), names)
    assert names["search"].best_score_ == search.best_score_
    np.testing.assert_array_equal(names["search"].predict(data[0]), search.predict(data[0]))


@pytest.mark.parametrize("standardized", [True, False])
def test_user_estimator_can_be_the_best_head(warm, data, standardized):
    store, _ = warm
    X, y = data
    head = GaussianNB() if standardized else make_pipeline(PCA(3, random_state=0), GaussianNB())
    options = SMALL | {"layers": LAYERS[1:2], "poolings": "avg", "heads": {"bayes": head}}
    search = FeatureSearchCV(**options, cache=store).fit(X, y)
    steps = ["cnn", "scale", "bayes"] if standardized else ["cnn", "bayes"]
    assert [name for name, _ in search.best_estimator_.steps] == steps
    assert search.best_params_["head"] == "bayes"
    assert search.predict_proba(X).shape == search.oof_proba_.shape == (36, 3)
    scores = cross_val_score(clone(search.best_estimator_), X, y, cv=search.folds_)
    assert scores.mean() == pytest.approx(search.best_score_)


def test_random_state_is_set_in_user_estimators(warm, data):
    store, _ = warm
    heads = {"rf": RandomForestClassifier(5), "pca": make_pipeline(PCA(3, svd_solver="randomized"), SVC())}
    options = SMALL | {"layers": LAYERS[1:2], "heads": heads}
    one, two = (FeatureSearchCV(**options, random_state=7, cache=store).fit(*data) for _ in range(2))
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    forest, pipe = (make_head_grids(heads, "classification", data[1], 7)[i].estimator(0) for i in range(2))
    assert forest.random_state == pipe["pca"].random_state == 7
    assert heads["rf"].random_state is None
    fixed = make_head_grids({"rf": RandomForestClassifier(random_state=1)}, "classification", data[1], 7)
    assert fixed[0].estimator(0).random_state == 1


def test_user_regressor_as_head(store):
    X, _ = textures(n=40)
    y = X.mean(axis=(1, 2, 3)) / 255
    heads = {"tree": (DecisionTreeRegressor(), {"max_depth": [2, 3]})}
    search = FeatureSearchCV(**SMALL | {"heads": heads, "layers": LAYERS[:1]}, cache=store).fit(X, y)
    assert search.task_ == "regression" and len(search.table()) == 4
    assert search.best_estimator_[-1].random_state == 0


def test_error_names_a_user_estimator_that_cannot_be_fitted(warm, data):
    options = SMALL | {
        "layers": LAYERS[:1],
        "poolings": "avg",
        "heads": {"pca": make_pipeline(PCA(500), SVC())},
    }
    with pytest.raises(
        ValueError, match=r"head 'pca' cannot be fitted on 24 images with 16 features: n_components"
    ):
        FeatureSearchCV(**options, cache=warm[0]).fit(*data)


# -- sample weights and metadata routing -----------------------------------------------------------

WEIGHTS = np.random.default_rng(5).uniform(0.1, 3, 36)
ONE = SMALL | {"layers": LAYERS[1:2], "poolings": "avg"}


def test_prediction_sets_are_those_of_the_out_of_fold_values(warm):
    search = warm[1]
    result, oof = search.result().prediction_sets, search.oof_
    z = search.oof_decision_
    codes = np.searchsorted(search.classes_, oof["true"])
    groups = search.duplicates_.groups
    own = [max(np.delete(row, code)) - row[code] for row, code in zip(z, codes, strict=True)]
    covered = [
        sum(own[j] >= own[i] for j in range(36) if groups[j] != groups[i]) + 1 > 0.1 * 36
        or oof["predicted"][i] == oof["true"][i]
        for i in range(36)
    ]
    assert len(np.unique(groups)) == 36  # each image counts once
    assert result.images == 36 and result.note == ""
    assert result.error_rates["coverage"][1] == pytest.approx(np.mean(covered))
    assert result.classes["class"].tolist() == search.classes_.tolist()
    assert result.classes["images"].tolist() == [12, 12, 12]
    assert search.summary()["prediction_sets"] == result.summary()
    assert search.summary()["prediction_intervals"] is None
    assert json.loads(json.dumps(result.summary()))["error_rates"][1]["coverage"] == pytest.approx(
        np.mean(covered)
    )


class VoteOnly(ClassifierMixin, BaseEstimator):
    """A classifier without decision values and probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.repeat(self.classes_[:1], len(X))


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
def test_prediction_sets_from_probabilities(warm, data):
    search = FeatureSearchCV(**ONE | {"heads": {"knn": {}}}, cache=warm[0]).fit(*data)
    sets = search.result().prediction_sets
    assert search.oof_decision_ is None and sets.images == 36
    assert sets.error_rates["coverage"][1] >= search.metrics_["accuracy"]
    assert sets.error_rates.notna().all(axis=None) and sets.error_rates["mean_size"].between(1, 3).all()


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.DuplicateImagesWarning")
def test_prediction_sets_need_decision_values(warm, data):
    store, _ = warm
    options = ONE | {"heads": {"vote": VoteOnly()}}
    sets = FeatureSearchCV(**options, cache=store).fit(*data).result().prediction_sets
    assert sets.error_rates.empty and sets.note == "the head has neither decision values nor probabilities."
    pairs = ONE | {"heads": {"pairs": SVC(decision_function_shape="ovo")}}
    X, y = data
    sets = FeatureSearchCV(**pairs, cache=store).fit(X, np.where(np.arange(36) % 4, y, "other")).result()
    assert "6 decision values for 4 classes" in sets.prediction_sets.note
    search = FeatureSearchCV(**pairs, cache=store).fit(X, y)  # three classes have three pairs
    assert search.oof_decision_ is None


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize(("name", "task"), [pair for pair in TASKS if pair[0] != "knn"])
def test_weighted_fits_agree_with_scikit_learn(warm, data, name, task):
    store, _ = warm
    X, y = data
    y = y if task == "classification" else np.linspace(-1, 1, 36) + X.mean(axis=(1, 2, 3)) / 9
    options = ONE | {"heads": {name: {}}}
    search = FeatureSearchCV(**options, cache=store).fit(X, y, sample_weight=WEIGHTS)
    features = search.embeddings().astype(float)
    for i, (train, test) in enumerate(search.folds_):
        pipe = make_head(name, task)
        pipe.fit(features[train], y[train], **{f"{name}__sample_weight": WEIGHTS[train]})
        score = search.cv_results_[f"split{i}_test_score"][0]
        assert score == pytest.approx(pipe.score(features[test], y[test]), abs=1e-3)
    pipe = make_head(name, task).fit(features, y, **{f"{name}__sample_weight": WEIGHTS})
    ours, theirs = search.predict(X), pipe.predict(features)
    np.testing.assert_allclose(
        ours, theirs, atol=1e-3
    ) if task == "regression" else np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(search.sample_weight_, WEIGHTS)


def test_sample_weights_reach_user_estimators(warm, data):
    store, _ = warm
    X, y = data
    weights = np.where(y == "slant", 1e-6, 1.0)
    heads = {"nb": GaussianNB(), "pipe": make_pipeline(PCA(3, random_state=0), GaussianNB()), "logreg": {}}
    search = FeatureSearchCV(**ONE | {"heads": heads}, cache=store).fit(X, y, sample_weight=weights)
    plain = FeatureSearchCV(**ONE | {"heads": heads}, cache=store).fit(X, y)
    assert (search.cv_results_["mean_test_score"] < plain.cv_results_["mean_test_score"]).all()
    assert plain.sample_weight_ is None


def test_warning_names_heads_that_ignore_sample_weights(warm, data):
    with pytest.warns(UserWarning, match=r"`sample_weight` has no effect on the head\(s\) 'knn', 'lda'"):
        heads = {"knn": {}, "lda": LinearDiscriminantAnalysis(), "svm": {}}
        FeatureSearchCV(**ONE | {"heads": heads}, cache=warm[0]).fit(*data, sample_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[1:], r"must have the shape \(36,\), one weight per image; got \(35,\)"),
        (WEIGHTS[:, None], r"got \(36, 1\)"),
        (["a"] * 36, "must be numeric"),
        (np.where(np.arange(36) == 3, np.nan, 1), "must be finite and non-negative, .*; got weights from"),
        (np.where(np.arange(36) == 3, -1, 1), "must be finite and non-negative, .*; got weights from"),
        (np.zeros(36), "at least one positive weight; got weights from 0 to 0"),
    ],
)
def test_invalid_sample_weights_raise_before_any_pass(data, network_calls, weights, message):
    with pytest.raises(ValueError, match=message):
        FeatureSearchCV(**ONE, cache=None).fit(*data, sample_weight=weights)
    assert network_calls == []


def test_weights_of_unreadable_images_are_dropped(files, store):
    paths, y = files
    with pytest.warns(UnreadableImagesWarning):
        search = FeatureSearchCV(**ONE, cache=store, on_error="nan").fit(paths, y, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(search.sample_weight_, np.delete(WEIGHTS, 4))


def test_sample_weights_without_metadata_routing_reach_a_search_in_a_pipeline_or_grid_search(warm, data):
    store, _ = warm
    X, y = data
    search = FeatureSearchCV(**ONE, cache=store).fit(X, y, sample_weight=WEIGHTS)
    pipe = Pipeline([("search", FeatureSearchCV(**ONE, cache=store))]).fit(
        X, y, search__sample_weight=WEIGHTS
    )
    assert pipe["search"].best_score_ == search.best_score_
    grid = GridSearchCV(FeatureSearchCV(**ONE, cache=store), {"rule": ["best", "1se"]}, cv=search.folds_)
    grid.fit(X, y, sample_weight=WEIGHTS)
    np.testing.assert_array_equal(grid.best_estimator_.sample_weight_, WEIGHTS)
    assert search.score(X, y, sample_weight=np.eye(36)[0]) in (0, 1)
    with pytest.raises(ValueError, match=r"got the metadata age.*enable_metadata_routing=True"):
        FeatureSearchCV(**ONE, cache=store).fit(X, y, age=WEIGHTS)


@pytest.mark.usefixtures("routing")
class TestMetadataRouting:
    def test_pipeline(self, warm, data):
        store, _ = warm
        X, y = data
        with config_context(enable_metadata_routing=False):
            expected = FeatureSearchCV(**ONE, cache=store).fit(X, y, sample_weight=WEIGHTS)
        search = FeatureSearchCV(**ONE, cache=store).set_fit_request(sample_weight=True)
        pipe = Pipeline([("search", search)]).fit(X, y, sample_weight=WEIGHTS)
        assert pipe["search"].best_score_ == expected.best_score_
        np.testing.assert_array_equal(pipe["search"].sample_weight_, WEIGHTS)
        not_requested = FeatureSearchCV(**ONE, cache=store).set_fit_request(sample_weight=False)
        with pytest.raises(TypeError, match="not routed to any object"):
            Pipeline([("search", not_requested)]).fit(X, y, sample_weight=WEIGHTS)
        with pytest.raises(UnsetMetadataPassedError, match=r"set_fit_request"):
            Pipeline([("search", FeatureSearchCV(**ONE, cache=store))]).fit(X, y, sample_weight=WEIGHTS)

    def test_grid_search(self, warm, data):
        store, _ = warm
        X, y = data
        search = FeatureSearchCV(**ONE, cache=store).set_fit_request(sample_weight=True)
        search.set_score_request(sample_weight=True)
        groups = np.arange(36) // 2
        grid = GridSearchCV(search, {"rule": ["best", "1se"]}, cv=GroupKFold(3))
        grid.fit(X, y, sample_weight=WEIGHTS, groups=groups)
        np.testing.assert_array_equal(grid.best_estimator_.sample_weight_, WEIGHTS)
        np.testing.assert_array_equal(grid.best_estimator_.groups_, groups)  # requested by default
        train, test = next(GroupKFold(3).split(X, y, groups))
        fitted = clone(search).fit(X[train], y[train], groups[train], sample_weight=WEIGHTS[train])
        assert grid.cv_results_["split0_test_score"][0] == fitted.score(
            X[test], y[test], sample_weight=WEIGHTS[test]
        )

    def test_user_estimators_and_scorers_get_what_they_request(self, warm, data):
        store, _ = warm
        X, y = data
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        heads = {
            "yes": GaussianNB().set_fit_request(sample_weight=True),
            "no": GaussianNB().set_fit_request(sample_weight=False),
            "pipe": make_pipeline(PCA(3), GaussianNB().set_fit_request(sample_weight=True)),
            "svr": {"regressor__C": [1.0]},
        }
        search = FeatureSearchCV(**ONE | {"heads": {k: heads[k] for k in ("yes", "no", "pipe")}}, cache=store,
                                 scoring=scorer)  # fmt: skip
        search.fit(X, y, sample_weight=WEIGHTS)
        features = StandardScaler().fit_transform(search.embeddings())
        train, test = search.folds_[0]
        features = (
            StandardScaler().fit(search.embeddings()[train]).transform(search.embeddings()).astype(float)
        )
        for i, weights in enumerate((WEIGHTS[train], None)):
            model = GaussianNB().fit(features[train], y[train], sample_weight=weights)
            expected = accuracy_score(y[test], model.predict(features[test]), sample_weight=WEIGHTS[test])
            assert search.cv_results_["split0_test_score"][i] == pytest.approx(expected)
        assert search.score(X, y, sample_weight=WEIGHTS) == pytest.approx(
            accuracy_score(y, search.predict(X), sample_weight=WEIGHTS)
        )
        with pytest.raises(UnsetMetadataPassedError, match=r"GaussianNB.*set_fit_request"):
            FeatureSearchCV(**ONE | {"heads": {"nb": GaussianNB()}}, cache=store).fit(
                X, y, sample_weight=WEIGHTS
            )
        scorer = make_scorer(accuracy_score)
        if "sample_weight" in scorer.get_metadata_routing().score.requests:  # not in scikit-learn 1.6
            with pytest.raises(UnsetMetadataPassedError, match="set_score_request"):
                FeatureSearchCV(**ONE, scoring=scorer, cache=store).fit(X, y, sample_weight=WEIGHTS)
        numbers = np.linspace(0, 1, 36)
        FeatureSearchCV(**ONE | {"heads": {"svr": heads["svr"]}}, cache=store).fit(
            X, numbers, sample_weight=WEIGHTS
        )

    def test_user_estimators_get_other_metadata(self, warm, data):
        store, _ = warm
        X, y = data

        class Aged(GaussianNB):
            def fit(self, X, y, age=None):
                assert age is not None and len(age) == len(X)
                return super().fit(X, y)

        head = Aged().set_fit_request(age=True)
        search = FeatureSearchCV(**ONE | {"heads": {"aged": head}}, cache=store)
        search.fit(X, y, age=np.arange(36))
        assert search.get_metadata_routing().consumes("fit", ["age", "groups", "weight"]) == {"age", "groups"}
        with pytest.raises(TypeError, match="unexpected argument"):
            search.fit(X, y, weight=np.arange(36))
        with pytest.raises(ValueError, match="`age` must have one value for each of the 36 images"):
            search.fit(X, y, age=np.arange(35))

    @pytest.mark.slow
    def test_metadata_routing_works_with_n_jobs(self, warm, data):
        search = FeatureSearchCV(**ONE, cache=warm[0], n_jobs=2, scoring=make_scorer(accuracy_score).set_score_request(
            sample_weight=True))  # fmt: skip
        search.fit(*data, sample_weight=WEIGHTS)
        assert search.best_score_ > 0


def test_table_has_one_row_per_candidate(warm):
    _, search = warm
    table = search.table()
    assert len(table) == len(search.cv_results_["params"]) and table["rank"].is_monotonic_increasing
    assert set(table["candidate"]) == set(range(len(table)))
    assert table["score"][0] == search.best_score_
    assert dict(zip(table["layer"], table["depth"], strict=True)) == {
        LAYERS[0]: 0,
        LAYERS[1]: 1,
        LAYERS[2]: 2,
    }
    assert (table["ci_low"] <= table["score"]).all() and (table["score"] <= table["ci_high"]).all()
    by_layer = table.groupby("layer")["macs"].first()
    assert by_layer[LAYERS[0]] < by_layer[LAYERS[1]] < by_layer[LAYERS[2]]
    json.loads(table["settings"][0])


def test_count_of_multiply_accumulate_operations():
    (first_pass,) = planned("mobilenet_0.25", [LAYERS[0]], "avg", [32], "stretch")
    # 3x3 convolution to 8 channels at 16x16, 3x3 depthwise, 1x1 to 16 channels
    assert first_pass.embeddings[0].macs == 256 * (27 * 8 + 9 * 8 + 8 * 16)
    assert first_pass.embeddings[0].width == 16


def test_out_of_fold_predictions_agree_with_the_scores(warm, data):
    _, search = warm
    _, y = data
    oof = search.oof_
    np.testing.assert_array_equal(oof["row"], np.arange(36))
    np.testing.assert_array_equal(oof["true"], y)
    for i, (_, test) in enumerate(search.folds_):
        assert set(oof["row"][oof["fold"] == i]) == set(test)
        accuracy = (oof["true"] == oof["predicted"])[test].mean()
        assert accuracy == pytest.approx(search.cv_results_[f"split{i}_test_score"][search.best_index_])
    assert search.metrics_["accuracy"] == (oof["true"] == oof["predicted"]).mean()
    assert oof["image"][3] == "X[3]"


def test_search_can_be_cloned_and_pickled(warm, data):
    _, search = warm
    X, _ = data
    unfitted = clone(search)
    assert unfitted.get_params() == search.get_params() and not hasattr(unfitted, "best_estimator_")
    pickled = pickle.dumps(search)
    assert len(pickled) < 1_400_000  # with at most twelve thumbnails, 77 kB each
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert again.table().equals(search.table())
    np.testing.assert_array_equal(again.embeddings(), search.embeddings())
    assert is_classifier(search) and not is_regressor(search)


@pytest.mark.parametrize("kind", ["array", "list of arrays", "PIL images"])
def test_a_fitted_search_does_not_keep_the_images_alive(warm, data, kind):
    X, y = data[0].copy(), data[1]
    images = {"array": X, "list of arrays": list(X.copy()), "PIL images": list(map(Image.fromarray, X))}[kind]
    references = [weakref.ref(image) for image in (images if isinstance(images, list) else [images])]
    search = FeatureSearchCV(**SMALL, cache=warm[0]).fit(images, y)
    wrong = np.flatnonzero((search.oof_["true"] != search.oof_["predicted"]).to_numpy())
    del images
    X = None
    gc.collect()
    assert not any(reference() is not None for reference in references)
    np.testing.assert_array_equal(search.embeddings(), search.best_estimator_["cnn"].transform(data[0]))
    stored = [i for i in range(36) if i in search.fitted_images_.thumbnails]
    assert len(stored) == min(12, len(wrong)) and set(stored) <= set(wrong)
    for i in stored:
        expected = Images.of(data[0]).decode(i, Decoder((160, 160), "pad"))[1]
        np.testing.assert_array_equal(search.thumbnail(i), expected)
        assert search.thumbnail(i, side=20).shape == (20, 20, 3)
    with pytest.raises(
        ValueError, match=r"passed as an array, which the search does not keep.*X\[search.rows_"
    ):
        search.thumbnail(next(i for i in range(36) if i not in stored))


def test_embeddings_after_fit_without_a_store_or_from_a_store_that_was_emptied(data, tmp_path):
    search = FeatureSearchCV(**SMALL, cache=None).fit(*data)
    np.testing.assert_array_equal(search.embeddings(), search.best_estimator_["cnn"].transform(data[0]))
    search = FeatureSearchCV(**SMALL, cache=tmp_path / "store").fit(*data)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(
        ValueError, match=r"store no longer has the embeddings.*transform\(X\[search.rows_\]\)"
    ):
        search.embeddings()


def test_embeddings_of_another_recipe_than_that_of_fit_are_not_loaded(data, tmp_path):
    search = FeatureSearchCV(**SMALL, cache=tmp_path).fit(*data)
    cnn = search.best_estimator_["cnn"].set_params(pooling="avgmax")
    clone(cnn).fit_transform(data[0])  # its rows are in the store
    with pytest.raises(RecipeMismatchError, match="differs from that of fit"):
        search.embeddings()


def test_select_equals_fit(warm, data):
    store, search = warm
    assert select(*data, **SMALL, cache=store).best_params_ == search.best_params_


def test_results_do_not_depend_on_workers_or_repetition(warm, data):
    store, search = warm
    again = FeatureSearchCV(**SMALL, cache=store, n_jobs=2).fit(*data)
    for name, column in search.cv_results_.items():
        if "time" not in name:
            np.testing.assert_array_equal(
                np.asarray(again.cv_results_[name]), np.asarray(column), err_msg=name
            )
    assert not again.timings_.empty and again.timings_["computed"].sum() == 0


# -- passes --------------------------------------------------------------------------------------


def test_each_image_passes_once_through_each_network(data, store, network_calls):
    X, y = data
    options = SMALL | {"models": ["mobilenet_0.25", "mobilenet_0.5"], "heads": "ridge"}
    search = FeatureSearchCV(
        **options, poolings=("avg", "max", "avgmax"), cache=store, nested=True, prescreen=12
    ).fit(X, y)
    assert sum(map(len, network_calls)) == 2 * 64  # 36 images are two padded batches of 32
    assert search.timings_["computed"].sum() == 2 * 36
    assert len({p["model"] for p in search.cv_results_["params"]}) == 2
    network_calls.clear()
    FeatureSearchCV(**options | {"heads": "knn", "layers": [LAYERS[:2]]}, cache=store).fit(X, y)
    assert network_calls == []


def test_without_a_store_the_best_pipeline_needs_no_further_pass(data, network_calls):
    search = FeatureSearchCV(**SMALL, cache=None).fit(*data)
    assert sum(map(len, network_calls)) == 64
    assert search.best_estimator_["cnn"].cache is None


def test_embeddings_beyond_the_memory_limit_come_from_the_store(data, store, monkeypatch, warm):
    from tlfeatures.selection import _matrices

    monkeypatch.setattr(_matrices, "_MAX_BYTES_IN_MEMORY", 0)
    search = FeatureSearchCV(**SMALL, cache=store).fit(*data)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], warm[1].cv_results_["mean_test_score"]
    )


def test_interrupted_search_resumes_from_the_store(data, store, network_calls):
    X, y = data
    search = FeatureSearchCV(**SMALL, batch_size=8, cache=store)
    network_calls.limit = 3
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, y)
    network_calls.limit = None
    search.fit(X, y)
    assert search.timings_["computed"].sum() == 36 - 3 * 8


def test_costs_are_in_every_store_although_the_process_remembers_them(monkeypatch, tmp_path):
    stores = [EmbeddingStore(tmp_path / name) for name in ("first", "second")]
    grid = EmbeddingGrid("tiny", image_sizes=[32])
    expected, _ = (plan_passes(grid, store)[0].embeddings[0].macs for store in stores)

    def fail(backbone):
        raise AssertionError("operations were counted again, which needs Keras")

    monkeypatch.setattr(_layer_costs, "_count", fail)
    for store in stores:
        monkeypatch.setattr(_layer_costs, "_in_memory", {})  # as in a new process
        assert plan_passes(grid, store)[0].embeddings[0].macs == expected


SCRIPT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from tlfeatures import FeatureSearchCV
PARENT = os.getpid()

def scorer(estimator, X, y):
    if os.getpid() != PARENT and ("keras" in sys.modules or "tensorflow" in sys.modules):
        raise SystemError("a worker imported keras")
    return float((estimator.predict(X) == y).mean())

files, labels, options = json.loads(sys.argv[1])
search = FeatureSearchCV(**options, n_jobs=2, scoring=scorer).fit(files, labels)
print(json.dumps([search.best_score_, "keras" in sys.modules or "tensorflow" in sys.modules]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stored", [True, False])
def test_workers_never_import_keras_nor_does_a_search_on_stored_embeddings(data, tmp_path, stored):
    X, y = data
    files = []
    for i, pixels in enumerate(X):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(files[-1])
    options = {**SMALL, "cache": str(tmp_path / "store")}
    expected = FeatureSearchCV(**{**options, "cache": options["cache"] if stored else None}).fit(files, y)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([files, y.tolist(), options])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads(process.stdout) == [expected.best_score_, not stored]


# -- candidates ----------------------------------------------------------------------------------


def planned(models="mobilenet_0.25", layers="auto", poolings=("avg", "max"), sizes="auto", resize="stretch"):
    grid = EmbeddingGrid(
        models, layers=layers, poolings=poolings, image_sizes=sizes, resize=resize, weights=None
    )
    return plan_passes(grid, None)


def test_candidates_of_the_auto_options():
    full, half = planned()
    assert [p.plan.description.image_size for p in (full, half)] == [(224, 224), (112, 112)]
    taps = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
    layers = list(dict.fromkeys(e.layers for e in full.embeddings))
    assert layers == [*((tap,) for tap in taps), tuple(taps[-2:]), tuple(taps[-3:])]
    assert len(full.embeddings) == 8 * 2
    assert {e.params["image_size"] for e in half.embeddings} == {112}
    assert str(half) == "mobilenet_0.25 at 112 pixels, stretch"


def test_the_union_of_taps_is_planned_once():
    (joint_pass,) = planned(
        layers=[LAYERS, LAYERS[1], [LAYERS[1], LAYERS[0]]], poolings=("avg", "avgmax", "gem"), sizes=[32]
    )
    blocks = [(c.tap.layer, c.part) for c in joint_pass.plan.columns]
    assert len(blocks) == len(set(blocks)) == 3 * 3
    assert len(joint_pass.embeddings) == 9


def test_equal_embeddings_under_two_names_are_tried_once():
    (single_pass,) = planned(layers=["predictions"], sizes=[32])  # a vector has nothing to pool
    assert len(single_pass.embeddings) == 1
    assert len(planned(models=["mobilenet_0.25", "MobileNet_0.25"], sizes=[32])) == 1
    assert len(planned(sizes=[32, (32, 32)])) == 1


def test_resize_modes_with_equal_results_are_tried_once(data, store):
    X, y = data
    search = FeatureSearchCV(**SMALL | {"resize": ("stretch", "crop")}, cache=store).fit(X, y)
    assert set(search.table()["resize"]) == {"stretch"}
    wide = np.concatenate([X, X[:, :, :16]], axis=2)
    assert set(search.fit(wide, y).table()["resize"]) == {"stretch", "crop"}


def test_layers_can_be_given_by_model_and_options_as_single_values():
    passes = planned(
        ["mobilenet_0.25", "mobilenet_0.5"], {"mobilenet_0.25": LAYERS[:1], "MobileNet_0.5": None}, "max", 64
    )
    assert [[e.layers for e in p.embeddings] for p in passes] == [[(LAYERS[0],)], [("conv_pw_13_relu",)]]
    with pytest.raises(UnknownNameError, match=r"network in `layers` 'mobilenet_0.5'"):
        planned(["mobilenet_0.5"], {"mobilenet_0.25": LAYERS})


def test_search_over_a_user_keras_model(data, tmp_path, store):
    import keras

    inputs = keras.Input((24, 24, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="early")(
        keras.layers.Rescaling(1 / 255)(inputs)
    )
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="late")(x)
    path = str(tmp_path / "own.keras")
    keras.Model(inputs, x).save(path)
    search = FeatureSearchCV(path, poolings="avg", heads="ridge", cv=3, cache=store).fit(*data)
    assert {"early", "late"} <= set(search.table()["layer"])
    assert search.best_params_["model"] == path and search.table()["network"][0] == "own.keras"


def test_networks_of_the_same_name_are_numbered(tmp_path):
    import keras

    paths = [str(tmp_path / folder / "own.keras") for folder in "abc"]
    for path, channels in zip(paths, (4, 5, 6), strict=True):
        (tmp_path / path).parent.mkdir()
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(channels, 3, name="conv")]).save(path)
    passes = plan_passes(EmbeddingGrid(paths, layers=["conv"], poolings="avg", image_sizes=None), None)
    names = ["own.keras"] * 2 + ["own.keras (2)"] * 2 + ["own.keras (3)"] * 2  # two resize modes
    assert [planned.network for planned in passes] == names
    assert [embedding.network for planned in passes for embedding in planned.embeddings] == names


# -- choice --------------------------------------------------------------------------------------


def test_one_standard_error_rule():
    scores = np.array(
        [[0.90, 0.94, 0.98], [0.90, 0.92, 0.94], [0.91, 0.92, 0.93], [0.89, 0.90, 0.91], [1, np.nan, 1]]
    )
    costs, widths = np.array([9, 5, 5, 1, 1]), np.array([10, 30, 20, 5, 1])
    # the best has 0.94 with a standard error of 0.04 / sqrt(3) = 0.023, so scores of at least 0.917 are eligible
    assert choose(scores, costs, widths, "best") == 0
    assert choose(scores, costs, widths, "1se") == 2  # as cheap as candidate 1, and smaller
    assert choose(scores[[0, 0, 0]], np.array([3, 1, 1]), np.array([1, 9, 2]), "best") == 2


def test_choose_nested_uses_only_the_inner_scores():
    outer = np.array([[0.9, 0.1], [0.2, 0.8]])
    inner = [np.array([[0.5, 0.6], [0.7, 0.7]]), np.array([[0.9, 0.9], [0.1, 0.2]])]
    scores, choices = choose_nested(outer, inner, np.ones(2), np.ones(2), "best")
    assert choices == [1, 0] and scores.tolist() == [0.2, 0.1]


def test_nested_scores_are_those_of_a_search_within_each_fold(warm, data):
    store, _ = warm
    X, y = data
    options = SMALL | {"heads": ["ridge"], "layers": LAYERS[:2]}
    nested = FeatureSearchCV(**options, nested=True, prescreen=2, cache=store).fit(X, y)
    for i, (train, test) in enumerate(nested.folds_):
        inner = FeatureSearchCV(**options, prescreen=2, cache=store).fit(X[train], y[train])
        assert inner.best_params_ == nested.nested_params_[i]
        assert inner.score(X[test], y[test]) == pytest.approx(nested.nested_scores_[i])
    assert len(nested.cv_results_["params"]) == 2  # embeddings kept by the prescreen of all rows


def test_prescreen_ranks_and_prunes(warm, data):
    store, search = warm
    frame = search.prescreen_
    assert len(frame) == 6 and frame["kept"].all()
    rank = spearmanr(frame["prescreen"], frame["score"]).statistic
    assert search.prescreen_correlation_ == pytest.approx(rank)
    pruned = FeatureSearchCV(**SMALL, prescreen=2, cache=store).fit(*data)
    assert pruned.prescreen_["kept"].sum() == 2
    assert set(pruned.prescreen_["prescreen"][pruned.prescreen_["kept"]]) == set(
        frame["prescreen"].nlargest(2)
    )
    assert pruned.prescreen_["score"].notna().sum() == 2
    assert len(pruned.table()) == 2 * 5


# -- folds, groups, duplicates -----------------------------------------------------------------------


def test_groups_and_splitters_reach_the_search(warm, data):
    store, _ = warm
    X, y = data
    groups = [f"patient {i // 6}" for i in range(36)]
    search = FeatureSearchCV(**SMALL | {"cv": LeaveOneGroupOut(), "heads": "ridge"}, cache=store).fit(
        X, y, groups
    )
    assert search.n_splits_ == 6
    folds = [(np.arange(12, 36), np.arange(12)), (np.arange(24), np.arange(24, 36))]
    search.set_params(cv=folds).fit(X, y)
    assert search.n_splits_ == 2 and len(search.oof_) == 24


def test_global_random_state_is_not_changed(warm, data):
    store, _ = warm
    state = np.random.get_state()[1].copy()
    FeatureSearchCV(**SMALL | {"heads": "ridge"}, cache=store, random_state=None).fit(*data)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_duplicates_in_different_folds_are_reported_with_the_grouped_score(store):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)  # noise without any signal
    y = np.arange(24) % 2
    X, y = np.concatenate([X, X]), np.concatenate([y, y])
    options = SMALL | {"heads": {"knn": {"n_neighbors": [1]}}, "layers": LAYERS[:1]}
    with pytest.warns(DuplicateImagesWarning, match=r"of 24 pair.* 24 exact.*dedupe_groups=True") as caught:
        search = FeatureSearchCV(**options, cache=store).fit(X, y)
    duplicates = search.duplicates_
    assert len(duplicates.pairs) == 24 and duplicates.exact.all() and duplicates.crossing > 10
    assert duplicates.score == search.best_score_ and duplicates.drop > 0.15
    message = f"in one fold, scores {duplicates.grouped_score:.4f} instead of {duplicates.score:.4f}."
    assert message in " ".join(str(w.message) for w in caught)
    best, score, *_ = search.describe()
    assert best == search.describe_best() and search.label_conflicts_.shape == (0, 2)
    assert f": {duplicates.grouped_score:.4f}, 95% interval" in score
    assert score.endswith(f"without this, the score is {search.best_score_:.4f}.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DuplicateImagesWarning)
        grouped = FeatureSearchCV(**options, dedupe_groups=True, cache=store).fit(X, y)
    assert grouped.best_score_ < search.best_score_ - 0.15
    for train, test in grouped.folds_:
        assert not set(train % 24) & set(test % 24)


def test_identical_images_with_different_labels_are_listed(data, store):
    X, y = data[0].copy(), data[1]
    first, last = 1, int(np.flatnonzero(y != y[1])[-1])
    X[last] = X[first]
    options = SMALL | {"layers": LAYERS[:1], "poolings": "avg", "heads": ["ridge"]}
    search = FeatureSearchCV(**options, dedupe_groups=True, cache=store).fit(X, y)
    assert search.label_conflicts_.tolist() == [[first, last]]


def test_grouped_score_differs_only_by_the_moved_duplicates(data, store):
    X, y = data[0].copy(), data[1]
    X[1::9] = np.random.default_rng(0).integers(
        0, 256, (4, 32, 32, 3)
    )  # a few images that are hard to classify
    X[35] = X[2]
    options = SMALL | {
        "layers": LAYERS[1:2],
        "poolings": "avg",
        "heads": ["ridge"],
        "duplicate_threshold": 0.999,
    }
    for seed in range(20):
        folds = make_folds(3, y, None, "classification", seed)
        if sum(2 in test and 35 in test for _, test in folds) == 0:
            break
    with pytest.warns(DuplicateImagesWarning, match="1 of 1 pair"):
        search = FeatureSearchCV(**options, cache=store, random_state=seed).fit(X, y)
    moved = keep_groups_together(folds, np.where(np.arange(36) == 35, 2, np.arange(36)))
    assert [len(set(a) ^ set(b)) for (_, a), (_, b) in zip(folds, moved, strict=True)].count(1) == 2
    expected = cross_val_score(search.best_estimator_, X, y, cv=moved).mean()
    assert search.duplicates_.grouped_score == pytest.approx(expected, abs=1e-9)


def test_grouped_score_is_none_if_it_is_not_defined_on_a_fold(data, store):
    X, y = data[0].copy(), np.where(np.arange(36) < 24, "many", "few")
    X[24:30], X[30:] = X[24], X[30]  # the second class is two groups of duplicates, for three folds
    options = SMALL | {"layers": LAYERS[:1], "poolings": "avg", "heads": ["ridge"], "scoring": "roc_auc"}
    with pytest.warns(DuplicateImagesWarning, match="Grouped cross-validation, .* is not possible"):
        search = FeatureSearchCV(**options, cache=store).fit(X, y)
    assert search.grouped_score_ is None and search.duplicates_.grouped_score is None
    assert search.cv_scores_["mean"] == search.result().score.mean == search.best_score_


def test_grouped_score_is_none_if_all_images_are_one_duplicate_group(data, store):
    X, y = data
    X = np.concatenate([X, X])
    y = np.tile(y, 2)
    groups = np.repeat([0, 1, 2, 3], 18)  # groups and duplicates together connect all images
    options = SMALL | {
        "layers": LAYERS[:1],
        "poolings": "avg",
        "heads": ["ridge"],
        "duplicate_threshold": 0.5,
    }
    with pytest.warns(
        DuplicateImagesWarning,
        match=r"largest group of duplicates, merged with `groups` .* 72 of 72 images.* higher `duplicate_threshold`",
    ):
        search = FeatureSearchCV(**options, cache=store).fit(X, y, groups)
    assert search.duplicates_.grouped_score is None
    with pytest.raises(
        ValueError,
        match=r"`dedupe_groups=True`: the largest group of duplicates, .* has 72 of 72 .* duplicate_threshold than 0.5",
    ):
        FeatureSearchCV(**options, cache=store, dedupe_groups=True).fit(X, y, groups)


def test_duplicates_are_searched_with_the_largest_network(data, store, monkeypatch):
    widths, find = [], _runner.find_duplicates
    monkeypatch.setattr(
        _runner, "find_duplicates", lambda keys, X, *args: widths.append(X.shape[1]) or find(keys, X, *args)
    )
    options = SMALL | {"models": ["mobilenet_0.25", "tiny"], "heads": ["ridge"]}
    layers = {"tiny": ["block9_add"], "mobilenet_0.25": LAYERS}
    FeatureSearchCV(**options | {"layers": layers}, cache=store).fit(*data)
    assert widths == [256]  # tiny has more multiplications at 32 pixels


# -- regression -------------------------------------------------------------------------------------


def test_search_for_regression(store):
    X, _ = textures(n=60)
    y = np.linspace(-1, 1, 60)[np.random.default_rng(0).permutation(60)]
    X = (X * 0.5 + 60 * (y[:, None, None, None] + 1)).clip(0, 255).astype(np.uint8)
    search = FeatureSearchCV(**SMALL | {"heads": ["ridge", "svr", "linear"]}, cache=store).fit(X, y)
    assert search.task_ == "regression" and not hasattr(search, "classes_") and is_regressor(search)
    assert search.best_score_ > 0.5 and search.score(X, y) > search.best_score_
    mae = [mean_absolute_error(y[t], search.oof_["predicted"][t]) for _, t in search.folds_]
    assert search.cv_results_["mean_test_mae"][search.best_index_] == pytest.approx(np.mean(mae))
    assert search.metrics_["mae"] == pytest.approx(mean_absolute_error(y, search.oof_["predicted"]))
    assert set(search.metrics_) == {"r2", "mae", "rmse"} and "mae" in search.table()
    result = search.result()
    assert result.prediction_sets is None and search.summary()["prediction_sets"] is None
    intervals = result.prediction_intervals
    assert search.summary()["prediction_intervals"] == intervals.summary()
    assert intervals.images == 60 and intervals.thirds["images"].tolist() == [20, 20, 20]
    errors = np.abs(search.oof_["true"] - search.oof_["predicted"])
    assert (errors <= intervals.error_rates["width"][1] / 2 + 1e-9).mean() == pytest.approx(0.9, abs=0.04)
    with pytest.raises(ValueError, match="`method` must be 'logme' for regression"):
        search.set_params(prescreen_method="hscore").fit(X, y)


def test_second_fit_removes_attributes_of_the_first(warm, data):
    X, y = data
    search = FeatureSearchCV(**SMALL | {"heads": "ridge"}, cache=warm[0], nested=True).fit(X, y)
    assert (
        set(search.metrics_) == {"accuracy", "balanced_accuracy", "f1_macro"}
        and len(search.nested_scores_) == 3
    )
    search.set_params(nested=False).fit(X, np.linspace(0, 1, 36))
    assert set(search.metrics_) == {"r2", "mae", "rmse"}
    assert not hasattr(search, "classes_") and not hasattr(search, "nested_scores_")


# -- advice --------------------------------------------------------------------------------------


def make_advice(early, curve, errors, late=0.8, best_possible=1.0):
    """Advise on an early and a late layer, and on a learning curve of two sizes."""
    pattern = np.array([-1.0, 0.0, 1.0]) * np.sqrt(3)  # standard error of the mean: 1
    scores = np.array([early + errors[0] * pattern, np.full(3, late)])
    sizes = np.array([100, 200])
    learning_curve = LearningCurve(sizes, np.array([np.full(3, curve[0]), curve[1] + errors[1] * pattern]))
    names = ["early", "late"]
    return advise(
        scores, np.array([False, True]), np.array([True, False]), learning_curve, names, best_possible
    )


@pytest.mark.parametrize(
    ("early", "curve", "expected"),
    [
        (0.9, [0.6, 0.7], ("dissimilar", "small", "earlier layers")),
        (0.7, [0.6, 0.7], ("similar", "small", "frozen features")),
        (0.9, [0.7, 0.7], ("dissimilar", "large", "fine-tune all")),
        (0.7, [0.7, 0.7], ("similar", "large", "fine-tune the top")),
    ],
)
def test_regimes_of_transfer_learning(early, curve, expected):
    regime = make_advice(early, curve, (0.002, 0.002))
    assert (regime.domain, regime.data, regime.recommendation) == expected
    assert len(regime.evidence) == 3 and f"{early:.4f} (early)" in regime.evidence[0][1]
    assert "with 200" in regime.evidence[1][1]
    first = regime.evidence[0][0]
    assert first.startswith("Earlier layers are better" if early > 0.8 else "Earlier layers are not better")


@pytest.mark.parametrize(("gain", "error"), [(0.020, 0.018), (0.0, 0.02), (-0.01, 0.02)])
def test_difference_within_two_standard_errors_is_reported_as_open(gain, error):
    regime = make_advice(0.8 + gain, [0.8, 0.8 + gain], (error, error))
    assert regime.evidence[0][0].startswith("Whether earlier layers are better is open")
    assert regime.evidence[1][0].startswith("Whether more images would help is open")
    assert (regime.domain, regime.data, regime.recommendation) == ("similar", "open", "frozen features")
    assert f"difference {gain:+.4f}, standard error {error:.4f}" in regime.evidence[1][1]


def test_recommendation_does_not_mention_a_kind_of_head():
    """The best head may be an RBF kernel: "linear head" would contradict it."""
    for early in (0.7, 0.9):
        regime = make_advice(early, [0.6, 0.7], (0.002, 0.002))
        assert "linear" not in " ".join([regime.recommendation, *map(" ".join, regime.evidence)])


def test_nearly_perfect_score_needs_no_fine_tuning():
    regime = make_advice(0.7, [0.99, 0.99], (0.0, 0.0), late=0.99)
    assert regime.evidence[2][0] == "Little is left to gain by fine-tuning."
    assert regime.recommendation == "frozen features"


def test_learning_curve_ends_at_the_cross_validated_score(warm):
    _, search = warm
    curve = search.learning_curve_
    assert curve.sizes[-1] == 24 and (np.diff(curve.sizes) > 0).all() and curve.scores.shape[1] == 3
    assert curve.scores[-1].mean() == pytest.approx(search.best_score_)
    assert search.regime_.evidence


@pytest.mark.parametrize(
    ("layers", "costs"),
    [
        (
            ["conv_pw_5_relu", "conv_pw_11_relu"],
            [0, 0],
        ),  # the deepest layer of the search is not the last of the network
        (["conv_pw_11_relu", "conv_pw_13_bn", "conv_pw_13_relu"], [0, 1, 1]),
        (["conv_pw_5_relu", "predictions"], [0, 2]),  # later than the last feature map
        (None, [1]),
        ("auto", [0, 0, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_relative_cost_tells_which_layer_is_the_last(layers, costs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RandomWeightsWarning)
        (single_pass,) = planned("mobilenet_0.25", layers, "avg", None, "stretch")
    assert [int(np.sign(e.relative_cost - 1)) + 1 for e in single_pass.embeddings] == costs


def test_last_layer_is_not_compared_if_it_was_not_tried(warm):
    assert "not compared with the last" in warm[1].regime_.evidence[0][0]  # LAYERS lacks the last one


def test_progress_names_the_steps(warm, data, capsys):
    store, _ = warm
    FeatureSearchCV(**SMALL, cache=store, verbose=1).fit(*data)
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("mobilenet_0.25 at 32", "prescreen", "cross-validation", "6/6", "fit the best pipeline"):
        assert text in shown.err


# -- invalid input -----------------------------------------------------------------------------------

EIGHT = np.zeros((8, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("y", "groups", "options", "message"),
    [
        ("aaaaaabb", None, {}, r"`cv=3` needs at least 3 images .* 1 of 2 classes .* smallest 'b' with 2\. Use `cv=2`"),
        ("aaaaaaab", None, {}, r"the smallest 'b' with 1\. Add images, or merge or drop"),
        ("aaaaaaaa", None, {}, r"All 8 labels are one class, 'a'"),
        ([1.5] * 8, None, {}, r"All 8 labels are one value, 1.5"),
        (["a", None] * 4, None, {}, r"4 of 8 labels are missing"),
        ("aaabbb", None, {}, r"8 images but 6 labels"),
        (None, None, {}, r"requires y to be passed"),
        ("aaaabbbb", "gggggggg", {}, r"`cv=3` needs at least 3 groups; the images are in 1 group\(s\)"),
        ("aaaabbbb", "gghhgghh", {}, r"in 2 group\(s\)\. Use `cv=2`"),
        ("aaaabbbb", "ghijkkkk", {}, r"all 4 images of class 'b' are in one group"),
        ("aaaabbbb", ["g", None] * 4, {}, r"4 of 8 groups are missing"),
        ("aaaabbbb", "ggg", {}, r"groups of shape \(3,\)"),
        ("aaaabbbb", None, {"cv": 1}, r"`cv` must be at least 2; got 1"),
        ("aaaabbbb", None, {"cv": False}, r"`cv` must be a number of folds, .*; got False"),
        ("aaaabbbb", None, {"cv": 9}, r"`cv=9` needs at least 9 images; got n_samples=8"),
        ("aaaabbbb", None, {"cv": "five"}, r"`cv` must be a number of folds, .*; got 'five'"),
        ("aaaabbbb", None, {"cv": [([0, 1, 2], [4])] * 2}, r"fold 0 has no training image of class 'b'"),
        ("aaaabbbb", None, {"cv": [([0, 4, 5], [0])] * 2}, r"fold 0 tests images that it is trained on"),
        ("aaaabbbb", None, {"cv": [([0, 4], [1, 8])] * 2}, r"rows from 0 to 7; fold 0 has other rows"),
        ("aaaabbbb", None, {"cv": [([0, 4, 7], [1, -1])] * 2}, r"fold 0 has other rows"),
        ("aaaabbbb", None, {"cv": [([0.0, 4.5], [1])] * 2}, r"fold 0 has other rows"),
        ("aaaabbbb", None, {"cv": LeaveOneGroupOut()}, r"cannot split these 8 images.*groups"),
        ("aaaabbbb", None, {"cv": [([0, 4], [1])] * 2, "nested": True}, r"`cv` must be a number .* if nested=True"),
        ("aaabbb" + "ab", None, {"cv": 4, "nested": True}, r"`nested=True` splits the training rows of fold 0"),
        ("aaaabbbb", None, {"heads": []}, r"`heads` must be names of heads \(logreg.*got \[\]"),
        ("aaaabbbb", None, {"heads": ["swm"]}, r"Did you mean 'svm'"),
        ("aaaabbbb", None, {"heads": {"svm": {"D": [1]}}}, r"Invalid parameter 'D'"),
        ("aaaabbbb", None, {"heads": {"svm": []}}, r"heads\['svm'\] must be an estimator .*; got \[\]\."),
        ("aaaabbbb", None, {"heads": {"svm": 3}}, r"heads\['svm'\] must be an estimator .*; got 3\."),
        ("aaaabbbb", None, {"heads": {"rf": object()}}, r"heads\['rf'\] must be an estimator .*; got .*object"),
        ("aaaabbbb", None, {"heads": {"svm": {"C": 3}}}, r"values of 'C' must be a list; got 3\. Write \{'C': \[3\]\}"),
        ("aaaabbbb", None, {"heads": SVC()}, r"must give each estimator a name; got SVC\(\)"),
        ("aaaabbbb", None, {"heads": ["svm", SVC()]}, r"must list names; got SVC\(\)\. Pass estimators in a dict"),
        ("aaaabbbb", None, {"heads": {"my": SVC}}, r"must be an instance; got the class SVC\. Pass SVC\(\)"),
        ("aaaabbbb", None, {"heads": {"my": StandardScaler()}}, r"got StandardScaler\(\) without predict"),
        ("aaaabbbb", None, {"heads": {"my": RidgeCV()}}, r"must be a classifier for these labels; got RidgeCV\(\)"),
        (np.arange(8) / 3, None, {"heads": {"my": SVC()}}, r"must be a regressor for these labels; got SVC\(\)"),
        ("aaaabbbb", None, {"heads": {"my": (SVC(), {"D": [1]})}}, r"Invalid parameter 'D'"),
        ("aaaabbbb", None, {"heads": {"my": (SVC(), {"C": [1]}, 3)}}, r"must be \(estimator, grid\); got a tuple of 3"),
        ("aaaabbbb", None, {"heads": {"my__svm": SVC()}}, r"cannot be 'my__svm'\. Choose another name"),
        ("aaaabbbb", None, {"heads": {"cnn": SVC()}}, r"cannot be 'cnn'"),
        ("aaaabbbb", None, {"heads": {"swm": {"C": [1]}}}, r"Did you mean 'svm'"),
        ("aaaabbbb", None, {"heads": {"my": SVC()}, "scoring": "roc_auc_ovr"}, r"'my' cannot be scored by"),
        ("aaaabbbb", None, {"n_jobs": 0}, r"`n_jobs` must be None or an integer other than 0; got 0\."),
        ("aaaabbbb", None, {"duplicate_threshold": "high"}, r"must be a number above 0; got 'high'"),
        ("aaabbbcc", None, {"scoring": "roc_auc", "cv": 2}, r"'svm' cannot be scored by 'roc_auc'.*multi_class"),
        ("aaaabbbb", None, {"scoring": "r2"}, r"'svm' cannot be scored by 'r2'"),
        (np.arange(8) / 3, None, {"scoring": "accuracy", "heads": "ridge"}, r"'ridge' cannot be scored by 'accuracy'"),
        ("aaaabbbb", None, {"rule": "2se"}, r"`rule` must be 'best' or '1se'; got '2se'"),
        ("aaaabbbb", None, {"prescreen": 0}, r"`prescreen` must be None or an integer of at least 1; got 0"),
        ("aaaabbbb", None, {"prescreen_method": "logm"}, r"Did you mean 'logme'"),
        ("aaaabbbb", None, {"task": "ranking"}, r"`task` must be 'auto', .* got 'ranking'"),
        ("aaaabbbb", None, {"task": "regression"}, r"`task='regression'` needs numeric labels; got labels such as 'a'"),
        ("aaaabbbb", None, {"models": []}, r"`models` must be one value or a non-empty list; got \[\]"),
        ("aaaabbbb", None, {"models": "mobilnet"}, r"Unknown network 'mobilnet'"),
        ("aaaabbbb", None, {"layers": ["conv_pw_99_relu"]}, r"Unknown layer"),
        ("aaaabbbb", None, {"layers": [[]]}, r"`layers` must be .*; got \[\[\]\]"),
        ("aaaabbbb", None, {"poolings": "mean"}, r"Unknown pooling 'mean'"),
        ("aaaabbbb", None, {"image_sizes": "half"}, r"`image_sizes` must be 'auto'.*; got 'half'"),
        ("aaaabbbb", None, {"scoring": "acuracy"}, r"acuracy"),
        ("aaaabbbb", None, {"scoring": ["accuracy"]}, r"`scoring` must be None.*; got \['accuracy'\]"),
        ("aaaabbbb", None, {"random_state": "x"}, r"`random_state` must be None, an integer or a RandomState; got 'x'"),
        ("aaaabbbb", None, {"random_state": -1}, r"`random_state` must be from 0 to 2\*\*32 - 1; got -1"),
    ],
)  # fmt: skip
def test_invalid_input_raises_before_any_pass(y, groups, options, message, network_calls):
    labels = list(y) if y is not None else None
    with pytest.raises(ValueError, match=message):
        FeatureSearchCV(**SMALL | options, cache=None).fit(
            EIGHT, labels, None if groups is None else list(groups)
        )
    assert network_calls == []


@pytest.fixture
def files(data, tmp_path):
    X, y = data
    paths = []
    for i, pixels in enumerate(X):
        paths.append(str(tmp_path / f"{i:02}.png"))
        Image.fromarray(pixels).save(paths[-1])
    (tmp_path / "04.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return paths, y


def test_unreadable_images_raise_or_are_left_out(files, store):
    paths, y = files
    with pytest.raises(ImageReadError, match=r"04\.png"):
        FeatureSearchCV(**SMALL, cache=store).fit(paths, y)
    with pytest.warns(
        UnreadableImagesWarning, match=r"1 of 36 images could not be read and are left out"
    ) as caught:
        search = FeatureSearchCV(**SMALL, cache=store, on_error="nan").fit(paths, y)
    assert sum(w.category is UnreadableImagesWarning for w in caught) == 1
    assert (
        list(search.unreadable_) == [4] and 4 not in search.oof_["row"].to_numpy() and len(search.rows_) == 35
    )
    assert search.oof_["image"][4] == paths[5]
    rest = [i for i in range(36) if i != 4]
    without = FeatureSearchCV(**SMALL, cache=store).fit([paths[i] for i in rest], y[rest])
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], without.cv_results_["mean_test_score"]
    )
    assert len(pickle.loads(pickle.dumps(search)).embeddings()) == 35  # paths are kept
    with (
        pytest.warns(UnreadableImagesWarning),
        pytest.raises(ValueError, match=r"classes have fewer, the smallest"),
    ):
        FeatureSearchCV(**SMALL | {"cv": 12}, cache=store, on_error="nan").fit(paths, y)


def test_search_with_a_thousand_classes(store):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (1000, 4, 4, 3))
    X = (np.repeat(colors, 2, axis=0) + rng.integers(-9, 9, (2000, 4, 4, 3))).clip(0, 255).astype(np.uint8)
    y = np.repeat([f"species {i}" for i in range(1000)], 2)
    options = SMALL | {
        "layers": LAYERS[:1],
        "poolings": "avg",
        "heads": {"ridge": None, "knn": {"n_neighbors": [1]}},
        "cv": 2,
    }
    search = FeatureSearchCV(**options, batch_size=256, cache=store, duplicate_threshold=1.1).fit(X, y)
    assert len(search.classes_) == 1000 and search.best_score_ > 0.05
    assert search.predict(X[:2]).tolist() == search.best_estimator_.predict(X[:2]).tolist()


def test_svm_is_not_a_default_head_for_many_classes():
    y = np.arange(303) % 101
    assert [h.name for h in make_head_grids(None, "classification", y, 0)] == ["logreg", "ridge"]
    assert [h.name for h in make_head_grids(None, "classification", y % 100, 0)] == ["logreg", "svm", "ridge"]
    assert [h.name for h in make_head_grids("svm", "classification", y, 0)] == ["svm"]


def test_random_weights_issue_one_warning(data, warm):
    with pytest.warns(RandomWeightsWarning) as caught:
        FeatureSearchCV(**SMALL | {"heads": "ridge"}, cache=warm[0]).fit(*data)
    assert sum(w.category is RandomWeightsWarning for w in caught) == 1


def test_one_warning_names_images_without_contrast(data):
    X, y = data[0].copy(), data[1]
    X[[4, 30]] = 7
    search = FeatureSearchCV(**SMALL | {"heads": "ridge", "resize": ["stretch", "pad"]}, cache=None)
    X = np.pad(X, ((0, 0), (0, 9), (0, 0), (0, 0)), mode="edge")  # so that there are two passes
    with pytest.warns(LowContrastImagesWarning, match=r"2 of 36 images .*'X\[4\]', 'X\[30\]'\.") as caught:
        search.fit(X, y)
    assert sum(w.category is LowContrastImagesWarning for w in caught) == 1
    reason = "all pixels have the color (7, 7, 7)"
    assert search.image_problems_.values.tolist() == [
        [4, "X[4]", "warning", reason],
        [30, "X[30]", "warning", reason],
    ]
    assert len([t for t in search.timings_["step"] if t.startswith("network")]) == 2


def test_12_bit_images_with_max_value(data):
    X, y = data[0], data[1].copy()
    y[:2] = y[1::-1]  # two wrong labels, so that there are thumbnails of mistakes
    twelve = ((X[..., 0].astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    options = SMALL | {"heads": ["ridge"], "layers": LAYERS[:1]}
    search = FeatureSearchCV(**options, cache=None, max_value=4095).fit(twelve, y)
    expected = FeatureSearchCV(**options, cache=None).fit(X[..., 0], y)
    assert search.best_score_ == expected.best_score_
    assert search.best_estimator_[0].max_value == 4095
    assert (search.predict(twelve) == expected.predict(X[..., 0])).all()
    shown = list(search.fitted_images_.thumbnails)
    assert shown and shown == list(expected.fitted_images_.thumbnails)
    for row in shown:
        np.testing.assert_array_equal(search.thumbnail(row), expected.thumbnail(row))


# -- scikit-learn's own searches -----------------------------------------------------------------

GRID = {
    "cnn__model": ["mobilenet_0.25", "mobilenet_0.5"],
    "cnn__layer": LAYERS[:2],
    "cnn__pooling": ["avg", "max"],
    "svm__C": [1.0, 10.0],
}


@pytest.fixture
def pipe(warm):
    store, _ = warm
    cnn = CNNFeatures(weights=None, image_size=32, cache=store)
    return Pipeline([("cnn", cnn), ("scale", StandardScaler()), ("svm", SVC())])


def test_search_agrees_with_grid_search_cv(pipe, data):
    X, y = data
    ours = FeatureSearchCV(
        GRID["cnn__model"], layers=LAYERS[:2], image_sizes=[32], resize="stretch", weights=None,
        heads={"svm": {"C": GRID["svm__C"]}}, cv=3, cache=pipe["cnn"].cache,
    ).fit(X, y)  # fmt: skip
    theirs = GridSearchCV(pipe, GRID, cv=ours.folds_).fit(X, y)

    def scores(results, names):
        return {
            tuple(p[n] for n in names): s
            for p, s in zip(results["params"], results["mean_test_score"], strict=True)
        }

    expected = scores(theirs.cv_results_, list(GRID))
    assert scores(ours.cv_results_, ["model", "layer", "pooling", "svm__C"]) == pytest.approx(expected)


def test_pipeline_works_in_halving_grid_search_cv(pipe, data):
    search = HalvingGridSearchCV(pipe, GRID, cv=2, min_resources=12, random_state=0).fit(*data)
    assert search.best_score_ > 0.5 and search.n_iterations_ > 1


def test_pipeline_works_in_randomized_search_cv(pipe, data):
    draws = GRID | {"svm__C": randint(1, 20)}
    search = RandomizedSearchCV(
        pipe, draws, n_iter=6, cv=ShuffleSplit(2, random_state=0), random_state=0
    ).fit(*data)
    assert search.best_score_ > 0.5 and len(search.cv_results_["params"]) == 6


# -- real images ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_early_layer_is_best_on_signs_at_64_pixels(shared, store):
    table = pd.read_csv(shared / "data" / "signs" / "signs.csv")
    table["path"] = [str(shared / "data" / "signs" / path) for path in table["path"]]
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    search = FeatureSearchCV(
        "mobilenet_0.75", image_sizes=[64], resize="stretch", poolings="avg", heads="svm", cache=store
    )
    with pytest.warns(DuplicateImagesWarning):  # SIGNS has 43 images twice
        search.fit(train["path"], train["label"])
    assert search.score(test["path"], test["label"]) >= 0.975
    assert search.best_params_["layer"] != "conv_pw_13_relu"
    assert search.regime_.domain == "dissimilar"
    assert search.duplicates_.exact.sum() == 43


# -- a single candidate -----------------------------------------------------------------------


def test_single_candidate_is_fitted_without_folds(data, warm):
    search = FeatureSearchCV(**ONE | {"heads": {"svm": {"C": [2.0]}}, "cv": 0}, cache=warm[0]).fit(*data)
    assert search.best_params_["svm__C"] == 2.0 and search.folds_ == []
    assert search.describe_best() == "mobilenet_0.25 32 stretch conv_pw_5_relu avg, svm(C=2.0)"
    assert not hasattr(search, "cv_results_") and not hasattr(search, "best_score_")
    pipeline = clone(search.best_estimator_).fit(*data)
    np.testing.assert_array_equal(search.predict(data[0]), pipeline.predict(data[0]))
    for method in (search.table, search.result):
        with pytest.raises(ValueError, match="There are no scores, because `cv` is 0"):
            method()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "`cv` must be at least 2 to choose one of 4 candidates; got 0"),
        (
            {"heads": {"svm": {"C": [2.0]}}, "nested": True},
            "`cv` must be at least 2 with `nested=True`; got 0",
        ),
    ],
)
def test_several_candidates_need_folds(data, options, text):
    with pytest.raises(InvalidParameterError, match=text):
        FeatureSearchCV(**ONE | {"heads": "svm", "cv": 0} | options, cache=None).fit(*data)


def test_learning_curve_is_optional(data, warm):
    with pytest.warns(RandomWeightsWarning):
        search = FeatureSearchCV(**ONE, learning_curve=False, cache=warm[0]).fit(*data)
    assert len(search.learning_curve_.sizes) == 0
    assert (
        "Whether more images would help is open.",
        "no learning curve was computed",
    ) in search.regime_.evidence
    np.testing.assert_array_equal(
        search.fold_scores_,
        [search.cv_results_[f"split{i}_test_score"][search.best_index_] for i in range(3)],
    )


def test_embeddings_are_kept_if_there_is_no_store(photos, monkeypatch):
    options = {"models": "tiny", "image_sizes": [32], "layers": None, "poolings": "avg", "resize": "stretch"}
    search = FeatureSearchCV(**options, heads={"svm": {}}, cv=0, cache=None).fit(photos.paths, photos.labels)
    monkeypatch.setattr(CNNFeatures, "transform", None)  # would run the network again
    pipeline = search.calibrated_pipeline(photos.labels)
    assert [name for name, _ in pipeline.steps] == ["cnn", "head"] and pipeline.training_digests_.shape == (
        12,
        16,
    )
    np.testing.assert_array_equal(pipeline["head"].predict(search.embeddings()), photos.labels)
