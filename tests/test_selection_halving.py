"""FeatureSearchCV on many images: candidates are eliminated on growing subsets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import check_scoring
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline

from tests.warning_helpers import warnings_as_errors
from tlfeatures import CNNFeatures, EmbeddingStore, FeatureSearchCV, select
from tlfeatures.cli import main
from tlfeatures.errors import ImageReadError, InvalidParameterError
from tlfeatures.evaluation import make_folds
from tlfeatures.export._heads import split_head
from tlfeatures.heads import StableNystroem, _named, blas_threads, head_grid, make_head
from tlfeatures.images import Images
from tlfeatures.model_files import load, save
from tlfeatures.report import write_report
from tlfeatures.selection import _fold_data, _head_grids, _matrices
from tlfeatures.selection._candidates import EmbeddingGrid, plan_passes
from tlfeatures.selection._fits import evaluate
from tlfeatures.selection._halving import choose_survivors
from tlfeatures.selection._head_grids import make_head_grids
from tlfeatures.selection._progress import ProgressSteps
from tlfeatures.selection._subsets import make_subsets

LAYERS = ["block3_pw_relu", "block7_add", "block10_pw_relu"]
GRID = {"models": "tiny", "image_sizes": [32], "layers": LAYERS, "poolings": "avg", "resize": "stretch"}
HEADS = {"ridge": None, "svm": {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}}
OPTIONS = GRID | {"heads": HEADS, "cv": 3, "search": "halving", "first_subset": 60, "learning_curve": False}


def make_data(store, n, classes=3, layers=LAYERS, separations=(0.02, 0.1, 0.05), seed=0):
    """Make images, labels and stored random embeddings whose classes are separated differently in each layer."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 255, (n, 8, 8), dtype=np.uint8)
    y = rng.permutation(np.arange(n) % classes)
    grid = EmbeddingGrid(**GRID | {"layers": layers})
    keys, (planned,) = Images.of(X).keys()[0], plan_passes(grid, store)
    for column, separation in zip(planned.plan.columns, separations, strict=False):
        centers = separation * rng.normal(size=(classes, column.width))
        rows = centers[y] + 0.3 * rng.normal(size=(n, column.width))
        store.publish(column.recipe, keys, rows.astype(np.float32))
    return X, y


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return EmbeddingStore(tmp_path_factory.mktemp("halving") / "store")


@pytest.fixture(scope="module")
def data(store):
    return make_data(store, 600)


@pytest.fixture(scope="module")
def halved(store, data):
    return FeatureSearchCV(**OPTIONS, cache=store).fit(*data)


@pytest.fixture(scope="module")
def exhaustive(store, data):
    return FeatureSearchCV(**OPTIONS | {"search": "exhaustive"}, cache=store).fit(*data)


def split_scores(search, folds=3):
    return np.stack([search.cv_results_[f"split{i}_test_score"] for i in range(folds)], axis=1)


def test_candidates_are_eliminated_on_growing_subsets(halved):
    assert halved.halving_["images"].tolist() == [60, 240, 600]
    assert halved.halving_["candidates"].tolist() == [18, 5, 4]
    assert halved.halving_["eliminated"].tolist() == [13, 1, 0]


def test_remaining_candidates_have_the_scores_of_an_exhaustive_search(halved, exhaustive):
    results, remaining = halved.cv_results_, ~halved.cv_results_["eliminated"]
    assert 4 == remaining.sum() < len(remaining) == len(exhaustive.cv_results_["params"])
    np.testing.assert_array_equal(split_scores(halved)[remaining], split_scores(exhaustive)[remaining])
    assert halved.best_params_ == exhaustive.best_params_
    assert halved.best_score_ == exhaustive.best_score_ == results["mean_test_score"][halved.best_index_]
    np.testing.assert_array_equal(results["n_images"][remaining], 600)


def test_eliminated_candidates_have_no_score_on_all_images(halved):
    results, out = halved.cv_results_, halved.cv_results_["eliminated"]
    for name in ("mean_test_score", "std_test_score", "ci_low_test_score", "split0_test_score"):
        assert np.isnan(results[name][out]).all() and np.isfinite(results[name][~out]).all(), name
    assert results["rank_test_score"][out].min() > results["rank_test_score"][~out].max()
    assert np.bincount(results["n_images"][out]).nonzero()[0].tolist() == [60, 240]
    assert np.isfinite(results["mean_fit_time"]).all()
    assert np.isnan(results["last_subset_test_score"][~out]).all()
    for i, images in enumerate((60, 240)):
        scores, here = results[f"subset{i}_test_score"], results["n_images"] == images
        np.testing.assert_array_equal(results["last_subset_test_score"][here], scores[here])
        grids = np.array([f"{c[0].layer_label} {c[1].name}" for c in halved.candidates_])
        after = results["n_images"] > images
        for better in np.flatnonzero(here & (scores > scores[after].min())):
            kept = after & (grids == grids[better])  # points of one grid
            assert kept.sum() == 2 or scores[better] in scores[kept]
    table = halved.table()
    assert not table["eliminated"][:4].any() and table["eliminated"][4:].all()


def test_scores_on_a_subset_are_those_of_scikit_learn(halved, store, data):
    X, y = data
    groups = halved.duplicates_.groups
    first = make_subsets(y, groups, halved.folds_, "classification", halved.seed_, 60)[0]
    i = halved.candidates_.index(next(c for c in halved.candidates_ if c[1].name == "ridge"))
    features = select(X, y, **GRID | {"layers": LAYERS[:1], "heads": ["ridge"], "cv": 3}, cache=store)
    features = features.embeddings()[first.rows].astype(float)
    expected = cross_val_score(make_head("ridge"), features, y[first.rows], cv=first.folds)
    assert halved.cv_results_["subset0_test_score"][i] == pytest.approx(expected.mean())


@pytest.mark.parametrize(("n", "images"), [(2000, []), (2001, [1000, 2001])])
def test_more_than_2000_images_are_searched_by_halving(tmp_path, n, images):
    store = EmbeddingStore(tmp_path)
    X, y = make_data(store, n, layers=LAYERS[:1])
    options = GRID | {"layers": LAYERS[:1], "heads": {"knn": None}, "cv": 2, "learning_curve": False}
    search = FeatureSearchCV(**options, cache=store).fit(X, y)
    assert search.halving_["images"].tolist() == images
    assert ("eliminated" in search.cv_results_) == bool(images)


@pytest.mark.slow
def test_the_search_is_reproducible_and_independent_of_processes(halved, store, data):
    again = FeatureSearchCV(**OPTIONS, cache=store, n_jobs=2).fit(*data)
    np.testing.assert_array_equal(split_scores(again), split_scores(halved))
    np.testing.assert_array_equal(
        again.cv_results_["subset0_test_score"], halved.cv_results_["subset0_test_score"]
    )
    other = FeatureSearchCV(**OPTIONS, cache=store, random_state=1).fit(*data)
    assert not np.array_equal(
        other.cv_results_["subset0_test_score"], halved.cv_results_["subset0_test_score"]
    )


def test_sample_weights_and_regression(store, data):
    X, y = data
    target = y + np.random.default_rng(0).normal(size=len(y))
    options = OPTIONS | {"heads": {"ridge": None, "svr": {"regressor__C": [1.0, 10.0]}}}
    weights = np.where(np.arange(len(y)) % 2, 1.0, 3.0)
    search = FeatureSearchCV(**options, cache=store).fit(X, target, sample_weight=weights)
    assert search.cv_results_["eliminated"].sum() == 5 and search.best_params_["layer"] == LAYERS[1]
    mae = search.cv_results_["mean_test_mae"]
    np.testing.assert_array_equal(np.isnan(mae), search.cv_results_["eliminated"])
    everything = FeatureSearchCV(**options | {"search": "exhaustive"}, cache=store)
    everything.fit(X, target, sample_weight=weights)
    kept = ~search.cv_results_["eliminated"]
    np.testing.assert_array_equal(split_scores(search)[kept], split_scores(everything)[kept])


def test_nested_searches_are_not_halved(store, data):
    with pytest.raises(
        InvalidParameterError, match=r'`search` must be "auto" or "exhaustive" with `nested=True`'
    ):
        FeatureSearchCV(**OPTIONS, nested=True, cache=store).fit(*data)


def test_only_candidates_with_scores_are_in_the_summary(halved):
    assert len(halved.summary()["top"]) == 4 and halved.summary()["top"]["score"].notna().all()


def test_few_candidates_are_prescreened_on_all_images(store, data):
    options = OPTIONS | {"heads": ["ridge"]}
    with pytest.warns(UserWarning, match='`search="halving"` had no effect') as record:
        search = FeatureSearchCV(**options, cache=store).fit(*data)
    assert len([w for w in record if "no effect" in str(w.message)]) == 1
    everything = FeatureSearchCV(**options | {"search": "exhaustive"}, cache=store).fit(*data)
    np.testing.assert_array_equal(search.prescreen_["prescreen"], everything.prescreen_["prescreen"])


# -- subsets on which candidates cannot be compared --------------------------------------------------


def test_every_fold_of_a_subset_has_a_rare_class(tmp_path):
    store = EmbeddingStore(tmp_path)
    X, _ = make_data(store, 600)
    y = np.random.default_rng(1).permutation(np.arange(600) < 12).astype(int)
    options = OPTIONS | {"cv": 6, "scoring": "roc_auc", "heads": {"ridge": None, "knn": None}}
    search = FeatureSearchCV(**options, cache=store).fit(X, y)
    assert search.halving_["note"].eq("").all() and len(search.halving_) > 1
    assert np.isfinite(search.cv_results_["subset0_test_score"]).all()


def test_candidates_are_ranked_by_the_folds_with_scores_of_all(data, store):
    X, y = data

    def score(estimator, X, y):
        return np.nan if len(y) < 50 and y[0] == 0 else estimator.score(X, y)

    search = FeatureSearchCV(**OPTIONS | {"scoring": score, "cv": 8}, cache=store).fit(X, y)
    means = search.cv_results_["subset0_test_score"]
    assert np.isfinite(means).all() and search.best_params_["layer"] == LAYERS[1]


@pytest.mark.slow
@pytest.mark.parametrize("scores", [np.nan, "error"])
def test_a_subset_without_scores_is_skipped(data, store, scores, tmp_path):
    X, y = data

    def score(estimator, X, y):
        if len(y) < 100 and scores == "error":
            raise ValueError("too few images")
        return np.nan if len(y) < 100 else estimator.score(X, y)

    options = OPTIONS | {"scoring": score}
    with pytest.warns(UserWarning, match="had no effect"):
        search = FeatureSearchCV(**options, cache=store).fit(X, y)
    everything = FeatureSearchCV(**options | {"search": "exhaustive"}, cache=store).fit(X, y)
    table = search.halving_
    assert table["images"].tolist() == [60, 240, 600] and table["candidates"].tolist() == [18, 18, 18]
    expected = "too few images" if scores == "error" else "fewer than two folds"
    assert table["note"].str.contains(expected).tolist() == [True, True, False]
    np.testing.assert_array_equal(split_scores(search), split_scores(everything))
    page = write_report(without_map(search.result()), tmp_path).read_text("utf-8")
    assert "Candidates were not compared on 60 images" in page


def test_heads_that_need_more_images_than_a_subset_has(data, store):
    options = OPTIONS | {"heads": {"knn": {"n_neighbors": [5, 50]}}}
    search = FeatureSearchCV(**options, cache=store).fit(*data)
    assert search.halving_["eliminated"].tolist() == [0, 2, 0]
    assert "n_neighbors" in search.halving_["note"][0]


def test_errors_on_all_images_are_raised(data, store):
    def score(estimator, X, y):
        raise ValueError("no score")

    with pytest.raises(ValueError, match="cannot be scored on fold 0: no score"):
        FeatureSearchCV(**OPTIONS | {"scoring": score}, cache=store).fit(*data)


def test_candidates_near_the_best_are_kept_with_the_rule_1se():
    rng = np.random.default_rng(0)
    noise = 0.001 * rng.normal(size=5)
    means = np.array([0.9, 0.899, 0.898, 0.897, 0.896, 0.8, 0.8995, 0.5])
    scores = means[:, None] + noise
    grids = np.array([0, 0, 0, 0, 0, 1, 2, 3])
    costs = np.array([9, 9, 9, 9, 9, 1, 1, 1])
    best = choose_survivors(scores, costs, costs, grids, "best")
    assert best.tolist() == [0, 1, 5, 6]  # two points of the first grid
    scores[1] = scores[0]  # as of two large values of C with the same predictions
    assert choose_survivors(scores, costs, costs, grids, "best").tolist() == [0, 2, 5, 6]
    many, spread = np.arange(8), np.array([0.0, 0.1, -0.1, 0.2, -0.2])
    near = choose_survivors(means[:, None] + spread, costs, costs, many, "1se")
    assert set(near) == {0, 1, 2, 3, 4, 6}


# -- subsets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("classes", [2, 10])
def test_subsets_are_nested_and_stratified_and_keep_groups(classes, grouped):
    rng = np.random.default_rng(0)
    n = 4000
    groups = rng.integers(0, 900, n) if grouped else np.arange(n)
    y = (groups if grouped else rng.permutation(n)) % classes
    folds = make_folds(5, y, groups if grouped else None, "classification", 0)
    subsets = make_subsets(y, groups, folds, "classification", 0, 400)
    assert len(subsets) == 2
    for subset, size in zip(subsets, (400, 1600), strict=True):
        rows = subset.rows
        assert size <= len(rows) < size + 20
        assert not np.isin(groups[rows], groups[np.setdiff1d(np.arange(n), rows)]).any()
        shares = np.bincount(y[rows]) / len(rows)
        np.testing.assert_allclose(shares, np.bincount(y) / n, atol=0.05)
        for (train, test), (all_train, all_test) in zip(subset.folds, folds, strict=True):
            assert set(rows[train]) <= set(all_train) and set(rows[test]) <= set(all_test)
            assert len(train) + len(test) == len(rows) and set(y[rows[test]]) == set(range(classes))
    assert set(subsets[0].rows) < set(subsets[1].rows)


def test_subsets_contain_rare_classes():
    y = np.r_[np.zeros(3000, int), np.ones(900, int), np.full(5, 2)]
    folds = make_folds(5, y, None, "classification", 0)
    for subset in make_subsets(y, np.arange(len(y)), folds, "classification", 0, 100):
        assert np.bincount(y[subset.rows])[2] == 5
        for train, test in subset.folds:
            assert set(y[subset.rows[train]]) == set(y[subset.rows[test]]) == {0, 1, 2}


def test_subsets_leave_out_folds_without_test_images():
    groups = np.repeat(np.arange(40), 50)
    y = np.arange(2000) % 2
    folds = [(np.flatnonzero(groups != g), np.flatnonzero(groups == g)) for g in range(40)]
    subset = make_subsets(y, groups, folds, "classification", 0, 300)[0]
    tested = [fold for fold in subset.folds if fold is not None]
    assert 6 <= len(tested) == len(np.unique(groups[subset.rows])) < 20
    assert all(len(np.unique(groups[subset.rows[test]])) == 1 for _, test in tested)


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_large_groups_are_left_out_of_subsets(grouped):
    rng = np.random.default_rng(0)
    n = 20000
    y, groups = rng.integers(0, 3, n), np.arange(n)
    large = rng.choice(n, 5000, replace=False)
    groups[large], y[large] = large[0], 0
    folds = make_folds(5, y, groups if grouped else None, "classification", 0)
    for seed in range(3):
        subsets = make_subsets(y, groups, folds, "classification", seed, 1000)
        assert [len(subset.rows) for subset in subsets] == [1000, 4000]
        assert all(np.bincount(y[subset.rows]).max() < len(subset.rows) / 2 for subset in subsets)


def test_subsets_without_all_classes_are_left_out():
    groups = np.repeat(np.arange(20), 500)
    y = groups % 5
    folds = make_folds(4, y, groups, "classification", 0)
    subsets = make_subsets(y, groups, folds, "classification", 0, 1000)
    assert [len(np.unique(y[subset.rows])) for subset in subsets] == [5] * len(subsets)
    assert 1000 not in [len(subset.rows) for subset in subsets]


def test_few_images_of_a_class_need_larger_subsets():
    y = np.arange(3000) % 100
    folds = make_folds(5, y, None, "classification", 0)
    (subset,) = make_subsets(y, np.arange(3000), folds, "classification", 0, 100)
    np.testing.assert_array_equal(np.bincount(y[subset.rows]), 10)


# -- fits on many images -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "task", "tolerance"), [
    ("ridge", "classification", 1e-9), ("logreg", "classification", 0.011), ("ridge", "regression", 1e-4),
    ("linear", "regression", 1e-4), ("svm", "classification", 1e-9),
])  # fmt: skip
def test_fits_in_float32_agree_with_scikit_learn_in_float64(monkeypatch, name, task, tolerance):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    X = (rng.normal(size=(4, 40))[y] * 0.3 + rng.normal(size=(400, 40))).astype(np.float32) * 3 + 7
    y = y if task == "classification" else y + X[:, 0].astype(float)
    monkeypatch.setattr(_fold_data, "MAX_KERNEL_ROWS", 50)
    folds = list((StratifiedKFold if task == "classification" else KFold)(3).split(X, y))
    (head,) = make_head_grids([name], task, y, 0)
    with blas_threads(*X.shape):
        ours = evaluate(X, y, folds, [head], check_scoring(make_head(name, task)))[0].test
        plain = GridSearchCV(make_head(name, task), head_grid(name, task), cv=folds, refit=False)
        results = plain.fit(X.astype(float), y).cv_results_
    theirs = np.stack([results[f"split{i}_test_score"] for i in range(3)], axis=1)
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    assert np.ptp(theirs) > 0


@pytest.mark.parametrize("head", ["svm", "linear_svm"])
def test_support_vector_machines_for_many_images_are_plain_scikit_learn(monkeypatch, store, data, head):
    for module in (_named, _head_grids, _fold_data):
        monkeypatch.setattr(module, "MAX_KERNEL_ROWS", 500)
    monkeypatch.setattr(_named, "_KERNEL_COLUMNS", 40)
    X, y = data
    options = GRID | {"layers": LAYERS[:1], "heads": {head: {"C": [0.1]}}, "cv": 2, "learning_curve": False}
    search = FeatureSearchCV(**options, cache=store).fit(X, y)
    kernel = ["nystroem"] if head == "svm" else []
    assert [name for name, _ in search.best_estimator_.steps] == ["cnn", "scale", *kernel, head]
    assert type(search.best_estimator_[-1]).__name__ == "LinearSVC"
    assert search.best_estimator_.get_params()[f"{head}__C"] == search.best_params_[f"{head}__C"] == 0.1
    plain = make_head(head, n_images=600).set_params(**{f"{head}__C": 0.1})
    features = search.embeddings()
    np.testing.assert_array_equal(cross_val_score(plain, features, y, cv=search.folds_), search.fold_scores_)
    expected = plain.fit(features, y).decision_function(features)
    np.testing.assert_allclose(search.best_estimator_[1:].decision_function(features), expected, rtol=1e-4)


@pytest.mark.parametrize("rows", ["few", "many"])
def test_least_squares_with_an_offset_of_the_targets(monkeypatch, rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 20)).astype(np.float32)
    y = X[:, :5].sum(axis=1) + 0.5 * rng.normal(size=300) + 1.7e9
    monkeypatch.setattr(_fold_data, "MAX_KERNEL_ROWS", 1000 if rows == "few" else 50)
    (head,) = make_head_grids(["linear"], "regression", y, 0)
    folds = list(KFold(3).split(X))
    scores = evaluate(X, y, folds, [head], check_scoring(make_head("linear", "regression")))[0].test
    assert scores.min() > 0.9
    images = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    images[20:] //= 2
    targets = images.mean(axis=(1, 2, 3)) + 1.7e9
    options = GRID | {"layers": LAYERS[:1], "heads": ["linear"], "cv": 2, "learning_curve": False}
    search = FeatureSearchCV(**options, cache=None).fit(images, targets)
    assert np.abs(search.predict(images) - targets).max() < 1


def test_approximated_kernels_of_duplicates_do_not_amplify_rounding():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 8)).astype(np.float32)
    X = np.concatenate([X, X, X + np.float32(1e-6)])
    model = StableNystroem(n_components=200, random_state=0).fit(X)
    features = model.transform(X)
    assert np.abs(model.normalization_).max() < 1e3
    single = np.concatenate([model.transform(X[i : i + 1]) for i in range(50)])
    np.testing.assert_allclose(single, features[:50], atol=1e-9)
    rows = model.component_indices_
    expected = rbf_kernel(X[rows].astype(float), gamma=1 / 8)
    np.testing.assert_allclose(features[rows] @ features[rows].T, expected, atol=1e-4)
    np.testing.assert_allclose(features[:100], features[100:200], atol=1e-9)
    exact = StableNystroem(n_components=100, random_state=0).fit_transform(X[:100])
    plain = Nystroem(n_components=100, random_state=0).fit_transform(X[:100].astype(float))
    np.testing.assert_allclose(exact, plain, atol=1e-6)


def test_few_rows_are_all_used_by_approximated_kernels():
    X = np.random.default_rng(0).normal(size=(30, 4))
    with warnings_as_errors():
        assert make_head("svm", n_images=6001)[:-1].fit_transform(X).shape == (30, 30)


def test_approximated_kernels_cannot_be_exported():
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    with pytest.raises(
        InvalidParameterError, match=r"StableNystroem.*Fit the head logreg, ridge or linear_svm"
    ):
        split_head(make_head("svm", n_images=6001).fit(X, y))


def test_pipelines_for_many_images_can_be_saved(store, data, tmp_path):
    X, y = data
    features = select(
        X, y, **GRID | {"layers": LAYERS[:1], "heads": ["ridge"], "cv": 3}, cache=store
    ).embeddings()
    head = make_head("svm", n_images=6001).set_params(nystroem__n_components=20).fit(features, y)
    cnn = CNNFeatures("tiny", layer=LAYERS[0], image_size=32, cache=store).fit(X)
    save(Pipeline([("cnn", cnn), ("head", head)]), tmp_path / "model.tlf")
    loaded = load(tmp_path / "model.tlf")
    np.testing.assert_array_equal(loaded[-1].decision_function(features), head.decision_function(features))


# -- embeddings beyond the memory ----------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Write twelve image files of two classes, of which the fourth and the ninth are not images."""
    rng, paths = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 120 + 80 * (i % 2), (16, 16, 3), dtype=np.uint8)).save(path)
    for i in (3, 8):
        paths[i].write_bytes(b"not an image")
    return list(map(str, paths)), np.arange(12) % 2


def test_large_passes_are_run_on_parts_of_the_images(monkeypatch, store, broken):
    X, y = broken
    options = GRID | {"heads": ["ridge"], "cv": 2, "on_error": "nan", "learning_curve": False}
    expected = FeatureSearchCV(**options, cache=None).fit(X, y)
    width = sum(embedding.width for embedding, _, _ in expected.candidates_)
    monkeypatch.setattr(_matrices, "_MAX_BYTES_IN_MEMORY", 8 * width * 5)
    steps = []
    monkeypatch.setattr(ProgressSteps, "advance", lambda self, *args: steps.append(args))
    search = FeatureSearchCV(**options, cache=store).fit(X, y)
    assert search.unreadable_ == expected.unreadable_ and sorted(search.unreadable_) == [3, 8]
    np.testing.assert_array_equal(search.rows_, expected.rows_)
    np.testing.assert_array_equal(split_scores(search, 2), split_scores(expected, 2))
    np.testing.assert_array_equal(search.embeddings(), expected.embeddings())
    assert search.timings_["computed"][0] == 10 and search.timings_["images"][0] == 12
    assert [done for done, total in filter(None, steps) if total] == [5, 5, 2]
    with pytest.raises(ImageReadError, match="2 of 12 images"):
        FeatureSearchCV(**options | {"on_error": "raise"}, cache=store).fit(X, y)


# -- the report and the command line ------------------------------------------------------------------


def without_map(result):
    """Leave out the map of the embeddings, which takes seconds."""
    return replace(result, embedding_sample=None, embedding_note="left out")


def test_the_report_says_where_candidates_were_eliminated(halved, tmp_path):
    page = write_report(without_map(halved.result()), tmp_path).read_text("utf-8")
    assert "13 of 18 candidates were eliminated on 60 images." in page
    assert "score when eliminated" in page and "compared on a subset of 60 images" in page
    summary = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert summary["halving"][0] == {"images": 60, "candidates": 18, "eliminated": 13, "note": ""}


def test_the_report_of_an_exhaustive_search_has_no_subsets(exhaustive, tmp_path):
    assert "eliminated" not in write_report(without_map(exhaustive.result()), tmp_path).read_text("utf-8")
    assert not len(exhaustive.halving_) and exhaustive.summary()["halving"].empty


def test_the_command_line_has_the_parameters_of_halving(photos, capsys):
    arguments = [
        "select",
        str(photos.root),
        "-m",
        "tiny",
        "--image-size",
        "32",
        "--resize",
        "stretch",
        "--cv",
        "2",
    ]
    arguments += ["--layer", ",".join(LAYERS), "--pooling", "avg", "--head", "ridge,knn"]
    assert main([*arguments, "--search", "halving", "--first-subset", "10"]) == 0
    assert "candidates" in capsys.readouterr().out
    assert main([*arguments, "--search", "sequential"]) == 2
    assert "--search must be 'auto', 'exhaustive' or 'halving'" in capsys.readouterr().err
