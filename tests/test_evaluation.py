"""Labels, folds, groups, duplicates and intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.stats import t as student
from sklearn.datasets import load_diabetes, load_digits

from tlfeatures.evaluation import (
    check_groups,
    check_labels,
    confidence_interval,
    find_duplicates,
    infer_task,
    make_folds,
    split_validation,
)


def test_the_confidence_interval_by_hand():
    scores = np.array([0.8, 0.9, 1.0])
    folds = [(np.arange(20), np.arange(20, 30))] * 3
    low, high = confidence_interval(scores, folds)
    margin = student.ppf(0.975, 2) * 0.1 * np.sqrt(1 / 3 + 1 / 2)
    assert (low, high) == (pytest.approx(0.9 - margin), pytest.approx(0.9 + margin))


def test_folds_are_stratified_and_keep_groups():
    y = np.repeat(["a", "b"], [40, 20])
    folds = make_folds(5, y, None, "classification", 0)
    assert all((y[test] == "a").sum() == 8 and len(test) == 12 for _, test in folds)
    groups = check_groups([f"patient {i // 4}" for i in range(60)], 60)
    for train, test in make_folds(5, y, groups, "classification", 0):
        assert not set(groups[train]) & set(groups[test])
    for train, test in make_folds(5, np.linspace(0, 1, 60), groups, "regression", 0):
        assert not set(groups[train]) & set(groups[test])
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(60))
    other = make_folds(5, y, None, "classification", 1)
    assert any(set(a[1]) != set(b[1]) for a, b in zip(folds, other, strict=True))


def test_duplicate_groups_list_only_their_nearest_pairs():
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(4), 150)
    F = rng.normal(size=(4, 20))[scene] + 0.02 * np.cumsum(rng.normal(size=(600, 20)), axis=0)
    keys = np.frombuffer(np.arange(1200, dtype="u8").tobytes(), "u1").reshape(-1, 16)
    found = find_duplicates(keys, F, 0.95)
    centred = F - F.mean(axis=0)
    cosine = centred @ centred.T / np.linalg.norm(centred, axis=1) / np.linalg.norm(centred, axis=1)[:, None]
    groups = connected_components(cosine >= 0.95)[1]
    assert len(found.pairs) == 600 - len(set(groups)) < 600 < ((cosine >= 0.95).sum() - 600) / 2
    assert len(set(zip(groups, found.groups, strict=True))) == len(set(groups)) == len(set(found.groups))
    np.testing.assert_allclose(found.cosine, cosine[tuple(found.pairs.T)], atol=1e-5)
    nearest = np.where(np.eye(600, dtype=bool), -1, cosine).argmax(axis=1)
    listed = set(map(tuple, found.pairs.tolist()))
    assert all(tuple(sorted(pair)) in listed for pair in enumerate(nearest.tolist()) if cosine[pair] > 0.95)


def test_near_duplicates_and_user_groups_are_merged():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(8, 50))
    F[5] = F[2] + 0.01 * rng.normal(size=50)
    keys = np.repeat(np.arange(8, dtype=np.uint8)[:, None], 16, axis=1)
    keys[7] = keys[0]
    found = find_duplicates(keys, F, 0.95, groups=np.array([0, 1, 2, 3, 4, 5, 5, 6]))
    assert found.pairs.tolist() == [[0, 7], [2, 5]] and found.exact.tolist() == [True, False]
    assert found.groups[0] == found.groups[7] and found.groups[2] == found.groups[5] == found.groups[6]
    assert len(set(found.groups)) == 5
    assert found.count_crossing([(np.array([0, 1, 2, 5]), np.array([3, 4, 6, 7]))]) == 1


@pytest.mark.parametrize("wrap", [list, np.array, pd.Series, lambda y: pd.Series(y, dtype="category"), tuple])
def test_labels_of_any_kind(wrap):
    values, task = check_labels(wrap(["b", "a", "b"]), 3, "auto")
    assert task == "classification" and values.tolist() == ["b", "a", "b"] and values.dtype.kind == "U"


def test_validation_keeps_classes_and_groups():
    codes, groups = np.arange(60) % 3, np.arange(60) // 4
    classes = np.array(["a", "b", "c"])
    train, validation = split_validation(codes, classes, None, 0.2, [0])
    assert sorted([*train, *validation]) == list(range(60))
    np.testing.assert_array_equal(np.bincount(codes[validation]), [4, 4, 4])
    train, validation = split_validation(codes, classes, groups, 0.2, [0])
    assert not set(groups[train]) & set(groups[validation]) and 8 <= len(validation) <= 16
    with pytest.raises(ValueError, match="of one group"):
        split_validation(codes, classes, groups * 0, 0.2, [0])
    with pytest.raises(ValueError, match=r"Class 'c' has one image.*validation_fraction=0"):
        split_validation(np.array([0, 0, 1, 1, 2]), classes, None, 0.2, [0])


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (["cat", "dog"], "classification"),
        (("1.5", "2.5"), "classification"),
        (np.array(["a", "b"], dtype=object), "classification"),
        ([True, False], "classification"),
        ([0, 1, 2], "classification"),
        ([3, -1], "classification"),
        (np.arange(100) % 20, "classification"),
        (np.arange(100), "regression"),
        (np.arange(5000) % 1000, "classification"),  # five images each
        (np.arange(4000) % 1000, "regression"),
        ([0.0, 1.0, 1.0], "classification"),
        ([0.0, 0.5], "regression"),
        (np.float32([1.25, 3]), "regression"),
        (pd.Series(["x", "y"]), "classification"),
        (pd.Series([1, 2], dtype="Int64"), "classification"),
        (pd.Series([1.5, 2], dtype="Float64"), "regression"),
        (pd.Series([True, False], dtype="boolean"), "classification"),
        (pd.Series([0.5, 1.5], dtype="category"), "classification"),
        (pd.Series([0.5, 1], dtype=object), "regression"),
    ],
)
def test_infer_task(y, task):
    assert infer_task(y) == task


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([], r"shape \(0,\)"),
        (np.zeros((4, 1)), r"shape \(4, 1\).*one column"),
        ([1.0, float("nan"), float("inf")], "2 of 3 labels are missing"),
        (["a", None], "1 of 2 labels are missing"),
        (pd.Series(["a", None, "b"]), "1 of 3 labels are missing"),
        (pd.Series([1, None], dtype="Int64"), "1 of 2 labels are missing"),
        (np.array(["a", 1], dtype=object), "mix text"),
        (pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])), "neither classes nor numbers"),
        ([1j, 2j], "neither classes nor numbers"),
    ],
)
def test_labels_that_cannot_be_learned(y, message):
    with pytest.raises(ValueError, match=message):
        infer_task(y)


def test_inferring_from_real_targets():
    assert infer_task(load_digits().target) == "classification"
    assert infer_task(load_diabetes().target) == "regression"  # whole numbers, but hardly any twice


def test_folds_are_reproducible():
    y = np.array(["a", "b"] * 12)
    first, again = (make_folds(4, y, None, "classification", 0) for _ in range(2))
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("cv", "y", "groups", "message"),
    [
        (7, np.array(["a", "b"] * 12), np.repeat(np.arange(6), 4), r"in 6 group\(s\).*cv=7 folds: use cv=6"),
        (6, np.arange(5.0), None, "cv=6 folds of 5 images"),
        (
            2,
            np.array(["a", "a", "b", "b"]),
            np.array([0, 0, 1, 1]),
            "All 2 images of class 'a' are in one group",
        ),
    ],
)
def test_folds_that_cannot_be_made(cv, y, groups, message):
    task = "regression" if y.dtype.kind == "f" else "classification"
    with pytest.raises(ValueError, match=message):
        make_folds(cv, y, groups, task, 0)
