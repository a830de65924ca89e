"""Heads: names, scaling, default grids and class weights."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split

from tests.warning_helpers import warnings_as_errors
from tlfeatures.errors import UnknownNameError
from tlfeatures.heads import head_grid, list_heads, make_head, make_nystroem

CLASSIFIERS = ["logreg", "linear_svm", "svm", "ridge", "knn"]
REGRESSORS = ["ridge", "svr", "linear"]
ALL = [*((name, "classification") for name in CLASSIFIERS), *((name, "regression") for name in REGRESSORS)]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings_as_errors():
        warnings.simplefilter("ignore", DeprecationWarning)  # scikit-learn's own are FutureWarning
        yield


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(
        X.astype("float32"), np.array([f"no {n}" for n in y]), random_state=0, train_size=600
    )


def regression_data(n=400, d=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    return X.astype("float32"), X[:, :5].sum(axis=1) + rng.normal(size=n) / 2 + 10


def wide(n=120, d=768):
    """Make typical embeddings: more features than images, a third of them constant, all values >= 0."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    X = np.maximum(rng.normal(size=(3, d))[y] + rng.normal(size=(n, d)), 0)
    X[:, ::3] = 0.25
    return X.astype("float32"), y


def test_list_heads():
    assert list_heads() == CLASSIFIERS
    assert list_heads("regression") == REGRESSORS


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_learn_named_classes(name, digits):
    X, X_test, y, y_test = digits
    head = make_head(name).fit(X, y)
    assert list(head.classes_) == [f"no {n}" for n in range(10)]
    assert set(head.predict(X_test[:50])) <= set(y)
    assert head.score(X_test, y_test) > 0.92
    assert hasattr(head, "predict_proba") == (name in {"logreg", "knn"})


@pytest.mark.parametrize("name", REGRESSORS)
def test_the_unit_of_the_target_does_not_change_scores(name):
    X, y = regression_data()
    scores = [
        cross_val_score(make_head(name, "regression"), X, y * unit, cv=3).mean() for unit in (1e-3, 1e5)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[0] > 0.6  # the lowest is 0.73, of the RBF kernel for a linear target


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_unit_of_a_feature_does_not_change_predictions(name):
    X, y = wide()
    units = np.logspace(-3, 3, X.shape[1])
    train, test = slice(0, 80), slice(80, None)
    plain = make_head(name).fit(X[train].astype("float64"), y[train]).predict(X[test].astype("float64"))
    scaled = make_head(name).fit(X[train] * units, y[train]).predict(X[test] * units)
    assert np.array_equal(plain, scaled)
    assert len(set(plain)) == 3


@pytest.mark.parametrize(("name", "task"), ALL)
def test_constant_features_do_not_change_predictions(name, task):
    X, y = wide()
    y = y if task == "classification" else y + 0.5
    varies = np.arange(X.shape[1]) % 3 != 0
    all_features = make_head(name, task).fit(X, y).predict(X)
    assert np.isfinite(all_features).all()
    np.testing.assert_allclose(
        all_features, make_head(name, task).fit(X[:, varies], y).predict(X[:, varies]), atol=0.05
    )


@pytest.mark.parametrize(("name", "task"), ALL)
def test_constant_features_only(name, task):
    X, y = np.ones((30, 8), "float32"), np.arange(30) % 3
    predicted = make_head(name, task).fit(X, y if task == "classification" else y / 2).predict(X)
    assert len(set(np.round(predicted, 5))) == 1


@pytest.mark.parametrize(("name", "task"), ALL)
def test_default_grid_fits_the_head(name, task):
    X, y = wide(n=60, d=30)
    y = y if task == "classification" else y + X[:, 1]
    head = make_head(name, task)
    search = GridSearchCV(head, head_grid(name, task), cv=3, error_score="raise").fit(X, y)
    grid = head_grid(name, task)
    assert len(search.cv_results_["params"]) == np.prod([len(values) for values in grid.values()], dtype=int)
    if grid:  # the default is one of the candidates
        params = head.get_params()
        assert all(
            params[key] in values for key, values in grid.items() if name != "svr" or key.endswith("C")
        )


def test_grids_have_the_prefix_and_are_new_dicts():
    grid = head_grid("svr", "regression", prefix="head__")
    assert set(grid) == {"head__svr__regressor__C", "head__svr__regressor__epsilon"}
    grid["head__svr__regressor__C"].clear()
    assert head_grid("svr", "regression", prefix="head__")["head__svr__regressor__C"]


@pytest.mark.parametrize(("name", "task"), [("ridge", "classification"), ("ridge", "regression")])
def test_ridge_chooses_its_penalty(name, task):
    X, y = regression_data(n=100)
    y = y if task == "regression" else y > y.mean()
    noise = np.random.default_rng(1).permutation(y)
    weak, strong = (make_head(name, task).fit(X, target)[-1].alpha_ for target in (y, noise))
    assert weak < strong  # without signal the largest penalty is best
    assert head_grid(name, task) == {}


@pytest.mark.parametrize(("name", "task"), ALL)
def test_heads_are_deterministic(name, task):
    X, y = wide(n=60, d=40)
    y = y if task == "classification" else y + X[:, 1]
    head = make_head(name, task)
    assert np.array_equal(head.fit(X, y).predict(X), clone(head).fit(X, y).predict(X))


@pytest.mark.parametrize("name", ["logreg", "linear_svm", "svm", "ridge"])
def test_balanced_class_weight(name):
    rng = np.random.default_rng(0)
    y = np.array(["rare"] * 30 + ["common"] * 570)
    X = rng.normal(size=(600, 5)) + (y == "rare")[:, None] * 0.8
    recalls = [
        np.mean(make_head(name, class_weight=weight).fit(X, y).predict(X[:30]) == "rare")
        for weight in (None, "balanced")
    ]
    assert recalls[1] > recalls[0] + 0.2


def test_features_of_the_kernel_approximation_have_names():
    X, _ = wide()
    frame = make_nystroem().set_output(transform="pandas").fit(X).transform(X)
    assert frame.shape == (120, 120) and frame.columns[0] == "stablenystroem0"
    with pytest.raises(NotFittedError):
        make_nystroem().transform(X)
    with pytest.raises(ValueError, match="'n_components' parameter"):
        make_nystroem().set_params(n_components=0).fit(X)


def test_unsupported_class_weight_raises_an_error():
    with pytest.raises(
        ValueError,
        match=r"`class_weight` must be None for the classification head 'knn'; got 'balanced'.*logreg",
    ):
        make_head("knn", class_weight="balanced")
    with pytest.raises(ValueError, match=r"must be None for the regression head 'ridge'"):
        make_head("ridge", "regression", class_weight="balanced")


def test_unknown_names_raise_an_error():
    with pytest.raises(
        UnknownNameError, match=r"Unknown classification head 'logrep'. Did you mean 'logreg'"
    ):
        make_head("logrep")
    with pytest.raises(UnknownNameError, match=r"Unknown regression head 'svm'.*'svr'"):
        head_grid("svm", "regression")
    with pytest.raises(UnknownNameError, match=r"Unknown task 'classify'. Did you mean 'classification'"):
        list_heads("classify")


@pytest.mark.usefixtures("two_blas_threads")
def test_blocks_with_one_thread_may_overlap():
    """Fits in several threads do not end in the order in which they began."""
    code = """
import threading
from threadpoolctl import threadpool_info, threadpool_limits
from tlfeatures.heads import blas_threads

def count():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

with threadpool_limits(2, user_api="blas"):
    before = count()
    first, second = blas_threads(10, 10), blas_threads(10, 10)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert count() == {1}
    second.__exit__(None, None, None)
    assert count() == before
    with blas_threads(10_000, 10_000):
        assert count() == before

def run_in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

before = count()
run_in_thread(lambda: blas_threads(10, 10).__enter__())
assert count() == {1}
blas_threads(10, 10).__exit__(None, None, None)
assert count() == before

block = blas_threads(10, 10)
block.__enter__()
run_in_thread(lambda: block.__exit__(None, None, None))
assert count() == before
counts = []

def count_in_block():
    with block:
        counts.append(count())

run_in_thread(count_in_block)
assert counts == [{1}]
assert count() == before == {2}
"""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "2")
    # in a process of its own, because tests before may have left threads that fit
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | threads)
