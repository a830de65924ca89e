"""Fused layers: ``BlockScaler``, ``MeanRBFKernel``, and candidates that combine all standard taps."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold, ParameterGrid, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, EmbeddingStore, FeatureSearchCV, select
from tlfeatures.heads import BlockScaler, MeanRBFKernel, head_grid, list_heads, make_head
from tlfeatures.networks import NETWORKS
from tlfeatures.report import write_report
from tlfeatures.selection import _fold_data, _head_grids, _matrices
from tlfeatures.transferability import transferability

TAPS = list(NETWORKS["tiny"].taps)
FUSED = {
    "models": "tiny",
    "image_sizes": [32],
    "layers": "fused",
    "poolings": "avg",
    "resize": "stretch",
    "cv": 3,
}
TASKS = [(name, task) for task in ("classification", "regression") for name in list_heads(task)]


@pytest.fixture(scope="module")
def data():
    """Return stripes in three directions, and the directions, a third of which are wrong: scores vary."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:32, :32]
    kinds = np.arange(36) % 3
    waves = np.stack([u, v, u + v])[kinds] + rng.integers(0, 12, (36, 1, 1))
    pixels = (
        128 + 60 * np.sign(np.sin(waves * 2 * np.pi / 8))[..., None] + rng.normal(0, 200, (36, 32, 32, 3))
    )
    kinds[::3] = rng.integers(0, 3, 12)
    return pixels.clip(0, 255).astype(np.uint8), np.array(["across", "along", "slant"])[kinds]


@pytest.fixture(scope="module")
def store(tmp_path_factory, data):
    store = EmbeddingStore(tmp_path_factory.mktemp("fused") / "store")
    CNNFeatures("tiny", image_size=32, layer=TAPS, cache=store).fit_transform(data[0])
    return store


@pytest.fixture(scope="module")
def embeddings(data, store):
    cnn = CNNFeatures("tiny", image_size=32, layer=TAPS, cache=store)
    return cnn.fit_transform(data[0]), tuple(recipe["width"] for recipe in cnn.recipes_)


def search(data, store, **options):
    options = FUSED | {"cache": store} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FeatureSearchCV(**options).fit(*data)


def fold_scores(fitted, candidate):
    return [fitted.cv_results_[f"split{i}_test_score"][candidate] for i in range(fitted.n_splits_)]


# -- the transformer and the kernel --------------------------------------------------------------


def test_blocks_have_the_same_total_variance():
    X = np.random.default_rng(0).normal(3, [1, 10, 0.1, 5, 5, 5, 2, 2, 2, 2], size=(40, 10))
    scaled = BlockScaler([1, 3, 6]).fit_transform(X)
    variances = scaled.var(axis=0)
    np.testing.assert_allclose([variances[:1].sum(), variances[1:4].sum(), variances[4:].sum()], 10 / 3)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)


def test_one_block_is_a_standard_scaler():
    X = np.random.default_rng(0).normal(3, 2, size=(20, 4)).astype("float32")
    X[:, 1] = 7  # a constant column
    for scaler in (BlockScaler(), BlockScaler([4])):
        np.testing.assert_allclose(scaler.fit_transform(X), StandardScaler().fit_transform(X), atol=1e-6)
        assert scaler.transform(X).dtype == np.float32


def test_block_scaler_names_columns_and_pickles():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 3)), columns=["a", "b", "c"])
    scaler = BlockScaler([1, 2]).set_output(transform="pandas").fit(frame)
    assert scaler.get_feature_names_out().tolist() == ["a", "b", "c"]
    pd.testing.assert_frame_equal(
        pickle.loads(pickle.dumps(scaler)).transform(frame), scaler.transform(frame)
    )


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1, 3], r"`widths` must add up to the 3 columns of X; got \[1, 3\] with the sum 4\. Pass the width"),
        ([3, 0], r"`widths` must be a list of positive integers, .*; got \[3, 0\]"),
        ([1.5, 1.5], r"`widths` must be a list of positive integers, .*; got \[1\.5, 1\.5\]"),
        (3, r"`widths` must be a list of positive integers, .*; got 3\."),
        ([], r"`widths` must be a list of positive integers, .*; got \[\]"),
    ],
)
def test_invalid_widths(widths, message):
    with pytest.raises(ValueError, match=message):
        BlockScaler(widths).fit(np.eye(3))
    with pytest.raises(ValueError, match=message):
        MeanRBFKernel(widths)(np.eye(3), np.eye(3))


def test_mean_kernel_is_the_mean_of_scikit_learns_rbf_kernels():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20, 7)), rng.normal(size=(5, 7))
    train[:, :2] = test[:, :2] = 4.0  # a block of constant columns: all its similarities are 1
    blocks = [slice(0, 2), slice(2, 3), slice(3, 7)]
    gammas = [1.0, 1 / train[:, 2].var(), 1 / 4 / train[:, 3:].var()]
    expected = [rbf_kernel(test[:, b], train[:, b], gamma) for b, gamma in zip(blocks, gammas, strict=True)]
    np.testing.assert_allclose(MeanRBFKernel((2, 1, 4))(test, train), np.mean(expected, axis=0))


# -- candidates of a search ----------------------------------------------------------------------


def make_plain_head(name, task, widths, params):
    """Make the pipeline of a named head on fused layers with scikit-learn alone."""
    kernel = {"svm": {"kernel": MeanRBFKernel(widths)}, "svr": {"regressor__kernel": MeanRBFKernel(widths)}}
    head = make_head(name, task).set_params(**params)[-1]
    return make_pipeline(BlockScaler(widths), head.set_params(**kernel.get(name, {})))


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_scores_equal_cross_val_score_of_the_plain_pipeline(data, store, embeddings, name, task):
    X, y = data
    if task == "regression":
        y = np.linspace(0, 5, len(y)) + np.unique(y, return_inverse=True)[1]
    fitted = search((X, y), store, heads=name, task=task)
    features, widths = embeddings
    points = list(ParameterGrid(head_grid(name, task)))
    assert len(fitted.cv_results_["params"]) == len(points)
    for i, point in enumerate(points):
        plain = make_plain_head(name, task, widths, point)
        expected = cross_val_score(plain, features.astype(float), y, cv=fitted.folds_)
        # logistic regression stops within its tolerance of the optimum: one of the 12 test rows may flip
        atol = 0.09 if name == "logreg" else 1e-5
        np.testing.assert_allclose(fold_scores(fitted, i), expected, atol=atol)
        assert {**point, "fused": True, "layer": TAPS}.items() <= fitted.cv_results_["params"][i].items()
    assert np.ptp([fold_scores(fitted, i) for i in range(len(points))]) > 0.02
    # the best pipeline is an ordinary one, from images to predictions
    steps = [type(step).__name__ for step in fitted.best_estimator_.named_steps.values()]
    assert steps[:2] == ["CNNFeatures", "BlockScaler"]
    expected = cross_val_score(clone(fitted.best_estimator_), X, y, cv=fitted.folds_)
    np.testing.assert_allclose(fold_scores(fitted, fitted.best_index_), expected, atol=atol)
    assert fitted.best_estimator_["cnn"].layer == TAPS
    assert fitted.best_estimator_["scale"].widths == widths


@pytest.mark.parametrize("own", [GaussianNB(), make_pipeline(StandardScaler(with_std=False), SVC())])
def test_user_estimators_are_fitted_on_the_scaled_layers(data, store, embeddings, own):
    fitted = search(data, store, heads={"own": own})
    features, widths = embeddings
    plain = make_pipeline(BlockScaler(widths), own)
    expected = cross_val_score(plain, features.astype(float), data[1], cv=fitted.folds_)
    np.testing.assert_allclose(fold_scores(fitted, 0), expected)


def test_a_grid_over_gamma_keeps_the_rbf_kernel_of_scikit_learn(data, store, embeddings):
    fitted = search(data, store, heads={"svm": {"gamma": [0.001, "scale"]}})
    features, widths = embeddings
    for i, gamma in enumerate((0.001, "scale")):
        plain = make_pipeline(BlockScaler(widths), SVC(C=10, gamma=gamma))
        expected = cross_val_score(plain, features.astype(float), data[1], cv=fitted.folds_)
        np.testing.assert_allclose(fold_scores(fitted, i), expected)


def test_many_images_use_the_rbf_kernel_of_all_layers(monkeypatch, data, store, embeddings):
    for module in (_head_grids, _fold_data):
        monkeypatch.setattr(module, "MAX_KERNEL_ROWS", 20)
    fitted = search(data, store, heads={"svm": {"C": [10]}})
    assert fitted.best_estimator_["svm"].kernel == "rbf"
    features, widths = embeddings
    plain = make_pipeline(BlockScaler(widths), SVC(C=10))
    expected = cross_val_score(plain, features.astype(float), data[1], cv=fitted.folds_)
    np.testing.assert_allclose(fold_scores(fitted, 0), expected)


@pytest.mark.parametrize("pooling", ["avgmax", "gem"])
def test_other_poolings(data, store, pooling):
    fitted = search(data, store, heads="ridge", poolings=pooling)
    expected = cross_val_score(clone(fitted.best_estimator_), *data, cv=fitted.folds_)
    np.testing.assert_allclose(fold_scores(fitted, 0), expected)


def test_layers_switch_fused_candidates_on_and_off(data, store):
    def count_fused(layers):
        layer = search(data, store, heads="ridge", layers=layers).table()["layer"].tolist()
        return layer.count("fused"), len(layer)

    singles = len(TAPS) + 2  # and the last two and the last three concatenated
    assert count_fused("standard") == (0, singles)
    assert count_fused("auto") == count_fused("standard")
    assert count_fused(["standard", "fused"]) == (1, singles + 1)
    assert count_fused({"tiny": ["fused", TAPS[0]]}) == (1, 2)
    assert count_fused("fused") == (1, 1)


def test_concatenated_and_fused_layers_are_different_candidates(data, store):
    table = search(data, store, heads="svm", layers=[TAPS, "fused"]).table()
    assert sorted(table["layer"].unique()) == sorted(["fused", "+".join(TAPS)])
    assert table.groupby("layer")["score"].max().nunique() == 2


def test_prescreen_scores_the_scaled_layers(data, store, embeddings):
    features, widths = embeddings
    expected = transferability(BlockScaler(widths).fit_transform(features), data[1])
    prescreen = search(data, store, heads="ridge").prescreen_
    np.testing.assert_allclose(prescreen["prescreen"], expected)
    assert abs(transferability(features, data[1]) - expected) > 1e-3


def test_groups_weights_prescreen_and_nested_scores(data, store):
    X, y = data
    groups, weights = np.repeat(np.arange(12), 3), np.where(np.arange(36) % 5, 1.0, 4.0)
    options = FUSED | {"layers": [TAPS[0], "fused"], "heads": "svm", "nested": True, "prescreen": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = FeatureSearchCV(**options, cache=store).fit(X, y, groups, sample_weight=weights)
    assert fitted.prescreen_["kept"].sum() == 1
    assert np.isfinite(fitted.prescreen_["prescreen"]).all()
    assert fitted.prescreen_["prescreen"].nunique() == 2
    assert len(fitted.nested_scores_) == 3
    for train, test in fitted.folds_:
        assert not set(groups[train]) & set(groups[test])
    only = FUSED | {"heads": {"svm": {"C": [1.0]}}, "cv": GroupKFold(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = FeatureSearchCV(**only, cache=store).fit(X, y, groups, sample_weight=weights)
    expected = cross_val_score(
        clone(fitted.best_estimator_),
        X,
        y,
        groups=groups,
        cv=GroupKFold(3),
        params={"svm__sample_weight": weights},
    )
    np.testing.assert_allclose(fold_scores(fitted, 0), expected)


def test_metadata_reaches_user_estimators(data, store, embeddings):
    X, y = data
    features, widths = embeddings
    weights = np.where(np.arange(36) % 5, 1.0, 50.0)
    with config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = GaussianNB().set_fit_request(sample_weight=True)
        fitted = FeatureSearchCV(**FUSED | {"heads": {"own": own}}, cache=store)
        fitted.set_fit_request(sample_weight=True).fit(X, y, sample_weight=weights)
    expected = []
    for train, test in fitted.folds_:
        plain = make_pipeline(BlockScaler(widths), GaussianNB())
        plain.fit(features[train].astype(float), y[train], gaussiannb__sample_weight=weights[train])
        expected.append(plain.score(features[test].astype(float), y[test]))
    np.testing.assert_allclose(fold_scores(fitted, 0), expected)
    shares = [weights[y == label].sum() / weights.sum() for label in np.unique(y)]
    np.testing.assert_allclose(fitted.best_estimator_["own"].class_prior_, shares)


def test_embeddings_that_exceed_the_memory_limit_are_read_from_the_store(monkeypatch, data, store):
    expected = search(data, store, heads="ridge").best_score_
    monkeypatch.setattr(_matrices, "_MAX_BYTES_IN_MEMORY", 0)
    assert search(data, store, heads="ridge").best_score_ == expected


def test_one_candidate_without_folds(data, store):
    fitted = search(data, store, heads={"svm": {"C": [10]}}, cv=0)
    expected = search(data, store, heads={"svm": {"C": [10]}})
    assert fitted.best_params_ == expected.best_params_
    assert repr(fitted.best_estimator_[1:]) == repr(expected.best_estimator_[1:])
    np.testing.assert_array_equal(fitted.decision_function(data[0]), expected.decision_function(data[0]))


def test_best_pipeline_predicts_from_paths_after_pickling(data, store, tmp_path):
    X, y = data
    paths = [str(tmp_path / f"{i:02}.png") for i in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    fitted = search((paths, y), store, heads="svm")
    again = pickle.loads(pickle.dumps(fitted.best_estimator_))
    np.testing.assert_array_equal(again.predict(paths), fitted.predict(paths))
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict(paths))
    assert fitted.embeddings().shape == (len(X), sum(fitted.best_estimator_["scale"].widths))


def test_report_names_the_fused_layers_and_its_code_reproduces_the_score(data, store, tmp_path):
    X, y = data
    fitted = search(data, store, heads=["svm"], layers=["fused"])
    result = fitted.result()
    assert result.options["layers"] == ["fused"]
    _, arguments = result.format_options()
    again = eval(f"select(X, y, cache=store, {', '.join(arguments)})", {"select": select, **locals()})
    assert again.best_score_ == fitted.best_score_
    assert again.best_params_ == fitted.best_params_
    page = write_report(
        search(data, store, heads="svm", layers=["standard", "fused"]).result(), tmp_path / "report"
    )
    layers = pd.read_csv(tmp_path / "report" / "tables" / "layers.csv")
    assert layers["layer"].tolist()[-1] == "fused"
    assert "Fused: all standard layers together" in page.read_text("utf-8")
