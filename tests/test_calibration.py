"""Calibrated heads: labels of the head, calibrated probabilities."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures.calibration import CalibratedHead, fit_calibrated_head
from tlfeatures.errors import InvalidParameterError
from tlfeatures.heads import make_head


@parametrize_with_checks([CalibratedHead(SVC()), CalibratedHead(LinearSVC())])
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.5, random_state=0, stratify=y)


@pytest.mark.parametrize("name", ["svm", "linear_svm", "ridge", "knn", "logreg"])
@pytest.mark.parametrize("classes", [2, 10])
def test_labels_are_those_of_the_head_and_probabilities_are_calibrated(digits, name, classes):
    X, X_test, y, y_test = digits
    if classes == 2:
        y, y_test = y > 4, y_test > 4
    head = CalibratedHead(make_head(name)).fit(X, y)
    head_alone = make_head(name).fit(X, y)
    np.testing.assert_array_equal(head.predict(X_test), head_alone.predict(X_test))
    proba = head.predict_proba(X_test)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (head.classes_[proba.argmax(axis=1)] == head.predict(X_test)).mean() > 0.99
    confidence, correct = proba.max(axis=1), head.predict(X_test) == y_test
    assert abs(confidence.mean() - correct.mean()) < 0.05
    if hasattr(head_alone, "decision_function"):
        np.testing.assert_array_equal(head.decision_function(X_test), head_alone.decision_function(X_test))
    else:
        assert not hasattr(head, "decision_function")


def test_log_loss_is_close_to_that_of_scikit_learn(digits):
    X, X_test, y, y_test = digits
    reference = CalibratedClassifierCV(make_head("svm"), method="sigmoid", ensemble=False).fit(X, y)
    ours = log_loss(y_test, CalibratedHead(make_head("svm")).fit(X, y).predict_proba(X_test))
    assert ours < 1.1 * log_loss(y_test, reference.predict_proba(X_test))


def test_separable_classes_do_not_reach_probability_1():
    X = np.r_[np.zeros(10), np.ones(10)][:, None]
    proba = CalibratedHead(SVC()).fit(X, X[:, 0] > 0.5).predict_proba(X)
    assert 0.9 < proba.max() < 0.999


def test_groups_stay_in_one_fold():
    X, y = make_classification(60, random_state=0, flip_y=0.5)
    X, labels, groups = np.repeat(X, 5, axis=0), np.repeat(y, 5), np.repeat(np.arange(60), 5)
    head = make_head("svm")
    leaking = CalibratedHead(head).fit(X, labels).predict_proba(X).max(axis=1).mean()
    grouped = CalibratedHead(head).fit(X, labels, groups=groups).predict_proba(X).max(axis=1).mean()
    assert grouped < leaking - 0.1


def test_small_classes_reduce_the_folds_and_clones_refit_on_other_rows():
    X, y = np.arange(8.0)[:, None], np.array(["a"] * 6 + ["b"] * 2)
    head = CalibratedHead(SVC()).fit(X, y)
    assert pickle.loads(pickle.dumps(head)).predict(X).tolist() == head.predict(X).tolist()
    assert clone(head).fit(X[2:], y[2:]).predict_proba(X).shape == (8, 2)


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (list("aaab"), None, "needs 2 folds or more"),
        (list("aabb"), [0, 0, 0, 0], "needs 2 folds or more"),
        (list("aabb"), [0, 0, 1, 1], "in one group"),
        (list("aaaa"), None, "can't be fitted on one class"),
    ],
)
def test_labels_that_cannot_be_calibrated_raise(y, groups, message):
    with pytest.raises(ValueError, match=message):
        CalibratedHead(SVC()).fit(np.arange(4.0)[:, None], y, groups=groups)
    for cv in (1, "5"):
        with pytest.raises(InvalidParameterError, match="`cv` must be an integer of at least 2"):
            CalibratedHead(SVC(), cv=cv).fit(np.arange(4.0)[:, None], y, groups=groups)


def test_only_heads_without_calibrated_probabilities_are_calibrated(digits):
    X, _, y, _ = digits
    assert isinstance(fit_calibrated_head(make_head("svm"), X, y), CalibratedHead)
    assert isinstance(fit_calibrated_head(make_head("logreg"), X, y), Pipeline)
    assert isinstance(fit_calibrated_head(make_head("ridge", "regression"), X, y), Pipeline)
    with pytest.warns(
        UserWarning, match="no class probabilities, only decision values: CalibratedHead needs 2"
    ):
        head = fit_calibrated_head(make_head("svm"), X[:3], ["a", "b", "b"])
    assert not hasattr(head, "predict_proba")


def test_groups_are_kept_in_one_fold_of_the_calibration(digits):
    X, _, y, _ = digits
    X, y = np.repeat(X[:200], 2, axis=0), np.repeat(y[:200], 2)
    groups = np.repeat(np.arange(200), 2)
    grouped, leaking = (fit_calibrated_head(make_head("knn"), X, y, each) for each in (groups, None))
    assert grouped.inverse_temperature_ < leaking.inverse_temperature_


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_decision_values_of_pairs_of_three_classes_raise(digits, in_pipeline):
    X, _, y, _ = digits
    svc, rows = SVC(decision_function_shape="ovo"), y < 3
    head = make_pipeline(svc) if in_pipeline else svc
    with pytest.raises(ValueError, match=r"has one column for each pair of the 3 classes; .*shape='ovr'"):
        CalibratedHead(head).fit(X[rows], y[rows])
