"""Transferability scores compared with independent computations of their definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr
from sklearn.covariance import LedoitWolf

from tlfeatures.errors import UnknownNameError
from tlfeatures.transferability import METHODS, h_score, logme, shrunk_h_score, transferability

SHAPES = [(40, 6), (30, 50)]


def clusters(n, d, signal=1.0, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return signal * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)), y


def evidence_by_search(F, target):
    """Maximize log N(target | 0, F F' / alpha + I / beta) numerically."""

    def loss(logs):
        alpha, beta = np.exp(logs)
        cov = F @ F.T / alpha + np.eye(len(F)) / beta
        return -multivariate_normal(np.zeros(len(F)), cov, allow_singular=False).logpdf(target)

    starts = [(0.0, 0.0), (3.0, 1.0), (6.0, 2.0)]
    return -min(
        minimize(loss, s, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8}).fun for s in starts
    )


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_maximum_of_the_evidence(n, d):
    F, y = clusters(n, d)
    by_search = np.mean([evidence_by_search(F, (y == k).astype(float)) for k in range(3)]) / n
    assert logme(F, y) == pytest.approx(by_search, abs=1e-4)
    target = F[:, :3].sum(axis=1) + np.random.default_rng(1).normal(size=n) + 5
    by_search = evidence_by_search(F, target - target.mean()) / n
    assert logme(F, target, "regression") == pytest.approx(by_search, abs=1e-4)


def test_logme_of_one_feature_by_hand():
    # with F = (1, 1)/sqrt 2 * s the evidence of y = (1, 1) lies along one direction only
    F, y = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([1.0, 1.0, -1.0, -1.0])
    score = logme(F + 0, y + np.array([0.1, -0.1, 0.1, -0.1]), "regression")
    # the fit is m = 1 nearly, the residual 0.04 over three free directions: beta = 3/0.04, 1/alpha = 1 - 1/(4 beta)
    beta = 75.0
    alpha = 1 / (1 - 1 / (4 * beta))
    variances = np.array([4 / alpha + 1 / beta, *[1 / beta] * 3])
    squares = np.array([4.0, 0.04, 0, 0])  # of y along (1, 1, -1, -1)/2 and across it
    by_hand = -0.5 * (np.log(2 * np.pi * variances) + squares / variances).sum() / 4
    assert score == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_h_score_is_the_trace_of_its_definition(n, d):
    F, y = clusters(n, d)
    cov = np.cov(F, rowvar=False, bias=True)
    means = np.stack([F[y == k].mean(axis=0) for k in range(3)])[y]
    assert h_score(F, y) == pytest.approx(
        np.trace(np.linalg.pinv(cov) @ np.cov(means, rowvar=False, bias=True))
    )


def test_h_score_by_hand():
    assert h_score([[0.0], [1.0], [1.0], [2.0]], [0, 0, 1, 1]) == pytest.approx(
        0.5
    )  # 0.25 of a variance of 0.5
    assert h_score([[0.0], [1.0], [0.0], [1.0]], [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-12)
    F, y = clusters(30, 50, signal=0.0)
    assert h_score(F, y) == pytest.approx(
        2.0
    )  # the maximum for any labels if there are more features than rows


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_shrunk_h_score_equals_its_definition_with_ledoit_wolf(n, d):
    F, y = clusters(n, d, signal=0.5)
    shrunk = LedoitWolf().fit(F)
    means = np.stack([F[y == k].mean(axis=0) for k in range(3)])[y]
    expected = np.trace(
        np.linalg.inv(shrunk.covariance_) @ ((1 - shrunk.shrinkage_) * np.cov(means, rowvar=False, bias=True))
    )
    assert shrunk_h_score(F, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_more_signal_scores_higher(method):
    signals = [0.0, 0.2, 0.4, 0.8, 1.6]
    scores = [transferability(*clusters(120, 20, s), method) for s in signals]
    assert spearmanr(signals, scores).statistic == pytest.approx(1.0)


def test_more_signal_scores_higher_for_regression():
    F, _ = clusters(100, 30)
    noise = np.random.default_rng(2).normal(size=100)
    scores = [logme(F, F[:, 0] + s * noise, "regression") for s in (3.0, 1.0, 0.3)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "rename",
    [
        lambda y: np.array(["b", "a", "c"])[y],
        lambda y: np.array(["b", "a", "c"], dtype=object)[y],
        lambda y: pd.Series(["b", "a", "c"])[y],
        lambda y: y * -7 + 3,
        lambda y: (y + 0.0).tolist(),
    ],
)
def test_labels_of_any_type(method, rename):
    F, y = clusters(60, 8)
    assert transferability(F, rename(y), method) == pytest.approx(transferability(F, y, method))


@pytest.mark.parametrize("method", METHODS)
def test_order_units_and_rotation_do_not_change_scores(method):
    F, y = clusters(60, 8)
    order = np.random.default_rng(0).permutation(60)
    rotated = F @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    expected = transferability(F, y, method)
    for other in (F[order], rotated[order], 1000 * F[order]):
        assert transferability(other, y[order], method) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_and_the_random_state_are_not_changed(method):
    F, y = clusters(50, 60)
    original, state = F.copy(), np.random.get_state()[1].copy()
    F.setflags(write=False)
    first = transferability(F.astype("float32"), y, method)
    assert transferability(F, y, method) == pytest.approx(first, rel=1e-4)
    np.testing.assert_array_equal(F, original)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("method", METHODS)
def test_constant_features_and_a_thousand_classes(method):
    F, y = clusters(60, 8)
    assert np.isfinite(transferability(np.ones((60, 4)), y, method))
    with_constants = np.hstack([F, np.zeros((60, 3))])
    if method != "shrunk_hscore":  # its shrinkage depends on constant features
        assert transferability(with_constants, y, method) == pytest.approx(
            transferability(F, y, method), rel=1e-6
        )
    large, labels = clusters(3000, 16, classes=1000)
    noise = np.random.default_rng(5).permutation(labels)
    assert transferability(large, labels, method) > transferability(large, noise, method)


@pytest.mark.parametrize(
    ("F", "y", "options", "message"),
    [
        (np.ones(4), [0, 1, 0, 1], {}, r"got \(4,\) and \(4,\)"),
        (
            np.ones((4, 2)),
            [0, 1],
            {},
            r"shapes \(n, d\) and \(n,\) with n >= 2 and d >= 1; got \(4, 2\) and \(2,\)",
        ),
        (np.ones((3, 2)), ["a", "a", "a"], {}, "at least two classes; all labels are 'a'"),
        (np.ones((3, 2)), ["a", "b", None], {}, "`y` has 1 missing labels, None or NaN"),
        (np.ones((4, 2)), [0, 1, np.nan, np.nan], {"method": "hscore"}, "`y` has 2 missing labels"),
        (np.ones((2, 0)), [0, 1], {}, r"and d >= 1; got \(2, 0\)"),
        (np.full((2, 2), np.nan), [0, 1], {}, "`features` must be finite; got 2 rows"),
        (np.ones((2, 2)), [0.5, np.nan], {"task": "regression"}, "`y` must be finite"),
        (
            np.ones((2, 2)),
            [2.0, 2.0],
            {"task": "regression"},
            "at least two different values; all targets are equal",
        ),
        (
            np.ones((2, 2)),
            [1.0, 2.0],
            {"task": "regression", "method": "hscore"},
            "must be 'logme' for regression",
        ),
    ],
)
def test_invalid_input_raises_an_error(F, y, options, message):
    with pytest.raises(ValueError, match=message):
        transferability(F, y, **options)


def test_unknown_names_raise_an_error():
    with pytest.raises(UnknownNameError, match="Did you mean 'logme'"):
        transferability(np.eye(2), [0, 1], "logm")
    with pytest.raises(UnknownNameError, match="Unknown task 'ranking'"):
        logme(np.eye(2), [0, 1], "ranking")


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_logme_does_not_depend_on_units(scale):
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(40, 60)), np.arange(40) % 3
    F[:, 0] += y
    targets = F[:, 0] + rng.normal(size=40)
    assert logme(F * scale, y) == pytest.approx(logme(F, y), rel=1e-6)
    expected = logme(F, targets, "regression")
    assert logme(F * scale, targets, "regression") == pytest.approx(expected, rel=1e-6)
    assert logme(F, targets * scale, "regression") == pytest.approx(expected - np.log(scale), rel=1e-6)
