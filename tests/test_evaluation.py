"""Labels, folds, groups, duplicates, intervals and the comparison of estimators."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest, ttest_rel
from scipy.stats import t as student
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.datasets import load_diabetes, load_digits
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from tlfeatures import compare
from tlfeatures.errors import InvalidParameterError, UnknownNameError
from tlfeatures.evaluation import (
    check_groups,
    check_labels,
    check_scorer_name,
    confidence_interval,
    find_duplicates,
    infer_task,
    keep_groups_together,
    make_folds,
    match_labels,
    score_classes,
    score_numbers,
    split_validation,
)
from tlfeatures.evaluation._paired_tests import bootstrap_test, mcnemar_test


def test_confidence_interval_agrees_with_its_formula():
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
        assert (y[test] == "a").sum() == 8 and len(test) == 12
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
    duplicates = find_duplicates(keys, F, 0.95)
    centered = F - F.mean(axis=0)
    cosine = (
        centered @ centered.T / np.linalg.norm(centered, axis=1) / np.linalg.norm(centered, axis=1)[:, None]
    )
    groups = connected_components(cosine >= 0.95)[1]
    assert len(duplicates.pairs) == 600 - len(set(groups)) < 600 < ((cosine >= 0.95).sum() - 600) / 2
    assert (
        len(set(zip(groups, duplicates.groups, strict=True)))
        == len(set(groups))
        == len(set(duplicates.groups))
    )
    np.testing.assert_allclose(duplicates.cosine, cosine[tuple(duplicates.pairs.T)], atol=1e-5)
    nearest = np.where(np.eye(600, dtype=bool), -1, cosine).argmax(axis=1)
    listed = set(map(tuple, duplicates.pairs.tolist()))
    assert all(tuple(sorted(pair)) in listed for pair in enumerate(nearest.tolist()) if cosine[pair] > 0.95)


def test_near_duplicates_and_user_groups_are_merged():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(8, 50))
    F[5] = F[2] + 0.01 * rng.normal(size=50)
    keys = np.repeat(np.arange(8, dtype=np.uint8)[:, None], 16, axis=1)
    keys[7] = keys[0]
    duplicates = find_duplicates(keys, F, 0.95, groups=np.array([0, 1, 2, 3, 4, 5, 5, 6]))
    assert duplicates.pairs.tolist() == [[0, 7], [2, 5]] and duplicates.exact.tolist() == [True, False]
    assert (
        duplicates.groups[0] == duplicates.groups[7]
        and duplicates.groups[2] == duplicates.groups[5] == duplicates.groups[6]
    )
    assert len(set(duplicates.groups)) == 5
    assert duplicates.count_crossing([(np.array([0, 1, 2, 5]), np.array([3, 4, 6, 7]))]) == 1


@pytest.mark.parametrize(
    "wrap", [list, np.array, pd.Series, lambda y: pd.Series(y, dtype="category"), tuple, iter]
)
def test_labels_in_any_container(wrap):
    values, task = check_labels(wrap(["b", "a", "b"]), 3, "auto")
    assert task == "classification" and values.tolist() == ["b", "a", "b"] and values.dtype.kind == "U"


def test_labels_in_arrow_arrays():
    pa = pytest.importorskip("pyarrow")
    for y in (
        pa.array(["b", "a", "b"]),
        pa.chunked_array([["b"], ["a", "b"]]),
        pa.array(["b", "a", "b"]).dictionary_encode(),
    ):
        assert check_labels(y, 3)[0].tolist() == ["b", "a", "b"] and infer_task(y) == "classification"
    assert check_labels(pa.array([0.5, 1.5]), 2)[1] == "regression"
    with pytest.raises(ValueError, match="1 of 2 labels are missing"):
        check_labels(pa.array(["a", None]), 2)


@pytest.mark.parametrize(
    ("y", "fix"),
    [
        (scipy.sparse.csr_matrix([[1], [0], [2]]), r"shape \(3, 1\). Use y.toarray\(\).ravel\(\)."),
        (
            scipy.sparse.csr_array([[1, 0], [0, 1], [1, 0]]),
            r"shape \(3, 2\). Use y.toarray\(\).argmax\(axis=1\).",
        ),
    ],
)
def test_error_for_sparse_labels_says_how_to_convert_them(y, fix):
    for check in (lambda: check_labels(y, 3), lambda: infer_task(y)):
        with pytest.raises(
            ValueError, match=rf"`y` must have one label for each image; got a sparse matrix of {fix}"
        ):
            check()


def test_validation_split_is_stratified_and_keeps_groups():
    codes, groups = np.arange(60) % 3, np.arange(60) // 4
    classes = np.array(["a", "b", "c"])
    train, validation = split_validation(codes, classes, None, 0.2, [0])
    assert sorted([*train, *validation]) == list(range(60))
    np.testing.assert_array_equal(np.bincount(codes[validation]), [4, 4, 4])
    train, validation = split_validation(codes, classes, groups, 0.2, [0])
    assert not set(groups[train]) & set(groups[validation]) and 8 <= len(validation) <= 16
    for fraction in (0.4, 0.9):  # the nearest fraction 1/k is 1/2
        _, validation = split_validation(codes, classes, groups, fraction, [0])
        assert 24 <= len(validation) <= 36
    with pytest.raises(ValueError, match="in one group"):
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
        ([1.0, float("nan"), float("inf")], "2 of 3 labels are missing or infinite;"),
        ([1.0, float("-inf"), 2.0], "1 of 3 labels are infinite;"),
        (["a", None], "1 of 2 labels are missing"),
        (["a", float("nan")], "1 of 2 labels are missing"),
        (["Z\udcfc", "tea"], r"Unicode text; got 'Z\\udcfc'"),
        (pd.Series(["a", None, "b"]), "1 of 3 labels are missing"),
        (pd.Series([1, None], dtype="Int64"), "1 of 2 labels are missing"),
        (np.array(["a", 1], dtype=object), "mix text"),
        (pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])), "neither classes nor numbers"),
        ([1j, 2j], "neither classes nor numbers"),
    ],
)
def test_invalid_labels_raise(y, message):
    with pytest.raises(ValueError, match=message):
        infer_task(y)


def test_arrow_table_as_labels_raises():
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"got a table with the columns path, label.*table\['label'\]"):
        check_labels(pa.table({"path": ["a"], "label": ["b"]}), 1)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(3), r"got the shape \(3, 3\).*one column, such as y\[:, 0\].*argmax\(axis=1\) for one-hot"),
        (pd.DataFrame({"path": list("abc"), "label": list("xyx")}), r"shape \(3, 2\).*table\['label'\]"),
        ([["a"], ["a", "b"], []], "Several labels for one image are not supported"),
        ("aab", "got 'aab'"),
        ({"a": 1}, "got {'a': 1}"),
        (3, "one label for each image; got 3"),
        (None, "requires y to be passed"),
    ],
)
def test_error_for_labels_of_another_type_says_what_to_pass(y, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y, 3)


def test_infer_task_of_real_targets():
    assert infer_task(load_digits().target) == "classification"
    assert infer_task(load_diabetes().target) == "regression"  # whole numbers, but few of them repeated


def test_folds_are_reproducible():
    y = np.array(["a", "b"] * 12)
    first, again = (make_folds(4, y, None, "classification", 0) for _ in range(2))
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("cv", "y", "groups", "message"),
    [
        (
            7,
            np.array(["a", "b"] * 12),
            np.repeat(np.arange(6), 4),
            r"`cv=7` needs at least 7 groups.* in 6 group\(s\)\. Use `cv=6`",
        ),
        (6, np.arange(5.0), None, "`cv=6` needs at least 6 images; got n_samples=5"),
        (
            2,
            np.array(["a", "a", "b", "b"]),
            np.array([0, 0, 1, 1]),
            "all 2 images of class 'a' are in one group",
        ),
        ([1, 2], np.arange(5.0), None, r"a list of \(train, test\); element 0 is 1\."),
        (
            [([0, 1], [2]), ([0], [1], [2])],
            np.arange(5.0),
            None,
            r"element 1 is \(\[0\], \[1\], \[2\]\)\.",
        ),
        (
            [([True, False], [False, True])] * 2,
            np.arange(5.0),
            None,
            "masks of 5 values, one for each image; fold 0 has a mask of 2 values",
        ),
    ],
)
def test_error_for_folds_that_cannot_be_made(cv, y, groups, message):
    task = "regression" if y.dtype.kind == "f" else "classification"
    with pytest.raises(InvalidParameterError, match=message) as caught:
        make_folds(cv, y, groups, task, 0)
    assert caught.value.parameter in ("cv", "groups")  # so that the command line can name its option


@pytest.mark.parametrize("folds", [[([2, 3], [0]), ([0, 1], [2])], [([2], [0, 1]), ([0, 1], [2, 3])]])
def test_groups_are_kept_together_only_in_folds_that_use_every_row(folds):
    with pytest.raises(ValueError, match="must test each row once and train on all other rows"):
        keep_groups_together([tuple(map(np.array, fold)) for fold in folds], np.arange(4))


# -- comparison ----------------------------------------------------------------------------------


class Guess(ClassifierMixin, BaseEstimator):
    """Predict the label in the first column, correctly with a probability that partly depends on the image.

    Columns of X: label, difficulty in 0..1, row.
    """

    def __init__(self, accuracy=0.85, seed=0):
        self.accuracy = accuracy
        self.seed = seed

    def fit(self, X, y, groups=None):
        self.classes_, self.groups_ = np.unique(y), groups
        self.rng_ = np.random.default_rng([self.seed, int(X[:, 2].sum())])
        return self

    def predict(self, X):
        luck = np.where(self.rng_.random(len(X)) < 0.8, X[:, 1], self.rng_.random(len(X)))
        return np.where(luck < self.accuracy, X[:, 0], 1 - X[:, 0])


def make_guessing_data(n, seed=0):
    y = np.arange(n) % 2.0
    return np.c_[y, np.random.default_rng(seed).random(n), np.arange(n)], y


def fraction_significant(n, gain, trials, **kwargs):
    """Return how often a gain is significant and positive, and how often it is significant in either direction."""
    results = []
    for seed in range(trials):
        X, y = make_guessing_data(n, seed)
        pair = [Guess(0.85, 2 * seed), Guess(0.85 + gain, 2 * seed + 1)]
        results.append(compare(pair, X, y, random_state=seed, **kwargs))
    return np.mean([r.significant and r.difference > 0 for r in results]), np.mean(
        [r.significant for r in results]
    )


@pytest.mark.parametrize("kwargs", [{"cv": 3, "n_repeats": 1}, {"cv": 2}], ids=["mcnemar", "bootstrap"])
def test_equal_estimators_are_rarely_significantly_different(kwargs):
    assert fraction_significant(120, 0.0, 100, **kwargs)[1] <= 0.09  # 5% plus twice its standard error


@pytest.mark.parametrize("kwargs", [{"cv": 3, "n_repeats": 1}, {"cv": 3}], ids=["mcnemar", "bootstrap"])
def test_a_gain_of_six_points_on_200_images_is_usually_significant(kwargs):
    assert fraction_significant(200, 0.06, 50, **kwargs)[0] > 0.5


def test_compare_uses_mcnemar_for_one_prediction_per_image():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]
    near, linear = KNeighborsClassifier(1), LogisticRegression(C=1e-4)
    result = compare({"linear": linear, "near": near}, X, y, cv=3)
    assert result.test == "exact McNemar test" and result.n_repeats == 1
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    assert all((a[1] == b[1]).all() for a, b in zip(folds, result.folds, strict=True))
    predictions = result.predictions.set_index("row").sort_index()
    expected = np.empty(600, int)
    for i, (train, test) in enumerate(folds):
        expected[test] = near.fit(X[train], y[train]).predict(X[test])
        assert result.scores["near"][i] == pytest.approx(accuracy_score(y[test], expected[test]))
    np.testing.assert_array_equal(predictions["near"], expected)
    np.testing.assert_array_equal(predictions["true"], y)
    a, b = (predictions[name] == y for name in ("near", "linear"))
    wins, losses = (a & ~b).sum(), (b & ~a).sum()
    assert result.p_value == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert result.difference == pytest.approx((wins - losses) / 600)
    assert result.interval[0] < result.difference < result.interval[1]
    assert result.significant == (result.p_value < 0.05) == (result.interval[0] > 0)
    assert result.best == ("near" if result.significant else "linear")


@pytest.mark.parametrize("n", [8, 30, 200])
def test_interval_and_p_value_of_mcnemar_agree(n):
    for wins in range(min(n, 12)):
        for losses in range(min(n - wins, 12)):
            correct, reference = np.zeros(n, bool), np.zeros(n, bool)
            correct[:wins], reference[wins : wins + losses] = True, True
            difference, (low, high), p_value = mcnemar_test(correct, reference, 0.95)
            assert low < difference < high and (low > 0 or high < 0) == (p_value < 0.05), (wins, losses)


def test_repeated_folds_are_compared_by_image_and_groups_by_group():
    X, y = make_guessing_data(90)
    pair = {"a": Guess(0.7, 1), "b": Guess(0.9, 2)}
    result = compare(pair, X, y, cv=3)
    assert (result.n_repeats, len(result.folds), len(result.predictions)) == (4, 12, 360)
    assert result.test == "paired bootstrap by image"
    by_image = result.predictions.assign(
        a=result.predictions["a"] == result.predictions["true"], b=result.predictions["b"] == result.predictions["true"]
    ).groupby("row")[["a", "b"]].mean()  # fmt: skip
    expected = ttest_rel(by_image["b"], by_image["a"])
    assert result.difference == pytest.approx(by_image["b"].mean() - by_image["a"].mean())
    assert result.p_value == pytest.approx(expected.pvalue, rel=0.5, abs=1e-4)
    np.testing.assert_allclose(result.interval, expected.confidence_interval(), atol=0.01)
    groups = [f"patient {i // 9}" for i in range(90)]
    result = compare(pair, X, y, cv=3, n_repeats=1, groups=groups, attributes=["groups_"])
    assert result.test == "paired bootstrap by group"
    for (train, _), attributes in zip(result.folds, result.attributes["b"], strict=True):
        assert len(attributes["groups_"]) == len(train)  # estimators whose `fit` takes groups get them
    wide_interval = compare(pair, X, y, cv=3, n_repeats=1, groups=groups, level=0.999).interval
    assert wide_interval[0] < result.interval[0] < result.interval[1] < wide_interval[1]


def test_compare_bootstraps_other_scores():
    X, y = load_diabetes(return_X_y=True)
    result = compare([DummyRegressor(), LinearRegression()], X, y, cv=4, n_repeats=1)
    assert result.scoring == "r2" and result.test == "paired bootstrap by image"
    assert result.best == "LinearRegression" and 0.3 < result.interval[0] < result.difference < 0.6
    pooled = result.predictions
    expected = 1 - ((pooled["LinearRegression"] - pooled["true"]) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert result.pooled_scores["LinearRegression"] == pytest.approx(expected)
    X, y = make_guessing_data(60)
    soft = LogisticRegression().fit(X[:, 1:], y)
    result = compare([DummyClassifier(), LogisticRegression()], X, y, cv=5, n_repeats=1, scoring="roc_auc")
    assert result.pooled_scores["LogisticRegression"] == 1.0 and result.best == "LogisticRegression"
    assert roc_auc_score(y, soft.decision_function(X[:, 1:])) < 1


def test_compare_tests_a_callable_score_over_the_folds():
    X, y = make_guessing_data(60)

    def negative_errors(estimator, X, y):
        return -float((estimator.predict(X) != y).sum() * len(X[0]))

    result = compare([Guess(0.6, 1), Guess(0.95, 2)], X, y, cv=5, scoring=negative_errors)
    gains = result.scores["Guess 2"] - result.scores["Guess"]
    assert result.test == "corrected resampled t-test" and result.scoring == "negative_errors"
    error = np.std(gains, ddof=1) * np.sqrt(1 / len(gains) + 12 / 48)
    margin = student.ppf(0.975, len(gains) - 1) * error
    assert result.interval == (pytest.approx(gains.mean() - margin), pytest.approx(gains.mean() + margin))
    assert result.pooled_scores["Guess"] == pytest.approx(result.scores["Guess"].mean())


def test_several_estimators_are_compared_with_the_first_and_corrected():
    X, y = make_guessing_data(300)
    pair = {"base": Guess(0.8, 1), "better": Guess(0.9, 2)}
    two = compare(pair, X, y, cv=3, n_repeats=1)
    three = compare({**pair, "same": Guess(0.8, 3)}, X, y, cv=3, n_repeats=1)
    assert [test.name for test in three.tests] == ["better", "same"] and three.reference == "base"
    assert three.challenger.name == three.best == "better"
    assert three.p_value == pytest.approx(2 * two.p_value)
    assert three.interval[0] < two.interval[0] < two.interval[1] < three.interval[1]
    frame = three.to_frame()
    assert list(frame) == ["repeat", "fold", "n_train", "n_test", "base", "better", "same"]
    np.testing.assert_array_equal(frame["better"], three.scores["better"])
    table = three.score_table()
    assert list(table) == ["accuracy", "fold 1", "fold 2", "fold 3", "all folds"]
    assert table["accuracy"].tolist() == ["base", "better", "same"]
    assert table["fold 2"][1] == three.scores["better"][1]
    short = three.score_table(max_folds=2)
    assert list(short) == ["accuracy", "lowest fold", "highest fold", "all folds"]
    assert short["lowest fold"][2] == three.scores["same"].min()


@pytest.mark.parametrize(("n", "p_value"), [(2, 0.5), (3, 0.25), (8, 1 / 128)])
def test_equal_differences_of_few_groups_are_not_significant(n, p_value):
    difference, (low, high), p = bootstrap_test(np.repeat(np.arange(n), 30), np.full(n * 30, 0.1), 0.95, 0)
    assert difference == pytest.approx(0.1) and p == p_value  # a sign test
    assert (low <= 0 <= high) == (p_value > 0.05) and low <= difference <= high


def test_identical_estimators_do_not_differ():
    X, y = make_guessing_data(40)
    for kwargs in ({"n_repeats": 1}, {"n_repeats": 2}, {"n_repeats": 1, "scoring": "f1"}):
        result = compare([Guess(1.0), Guess(1.0)], X, y, cv=4, **kwargs)
        assert (result.difference, result.p_value, result.significant) == (0.0, 1.0, False)
        assert result.best == "Guess"


@pytest.mark.parametrize(
    ("estimators", "options", "message"),
    [
        ([Guess()], {}, "`estimators` must contain at least two estimators; got 1"),
        ([Guess(), Guess], {"cv": 3}, "Pass instances"),
        ({1: Guess(), 2: Guess()}, {}, r"names that are text .*; got 1\. Choose another"),
        ({"a": Guess(), "fold": Guess()}, {}, r"not names of other columns of the result; got 'fold'"),
        ([Guess(), Guess()], {"n_repeats": 0}, "`n_repeats` must be None or an integer of at least 1; got 0"),
        ([Guess(), Guess()], {"cv": StratifiedKFold(3), "n_repeats": 2}, "RepeatedStratifiedKFold"),
        ([Guess(), Guess()], {"scoring": "acuracy"}, "acuracy"),
        ([Guess(), Guess()], {"level": 95}, "`level` must be a number above 0 and below 1; got 95"),
    ],
)
def test_compare_raises_for_invalid_parameters(estimators, options, message):
    with pytest.raises(ValueError, match=message):
        compare(estimators, *make_guessing_data(20), **options)


@pytest.mark.parametrize("level, text", [(0.9, "90% interval"), (0.999, "99.9% interval")])
def test_the_description_of_a_comparison_has_its_level(level, text):
    result = compare([Guess(), Guess()], *make_guessing_data(40), cv=2, n_repeats=1, level=level)
    assert result.level == level and f", {text} " in result.describe()


def test_estimators_of_a_sequence_are_numbered_by_class():
    class GuessAgain(Guess):
        pass

    pair = [GuessAgain(), Guess(), Guess(seed=1)]
    result = compare(pair, *make_guessing_data(20), cv=2, n_repeats=1)
    assert list(result.scores) == ["GuessAgain", "Guess", "Guess 2"]


def test_names_of_columns_and_keys_of_a_comparison_are_reserved():
    data = make_guessing_data(20)
    result = compare({"a": Guess(), "b": Guess()}, *data, cv=2, n_repeats=1)
    for name in {*result.predictions, *result.to_frame(), *result.summary()} - {"a", "b"}:
        with pytest.raises(ValueError, match=f"got '{name}'"):
            compare({"a": Guess(), name: Guess()}, *data)


def test_compare_takes_regressors_and_lists():
    class Mean(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            assert isinstance(X, list)
            self.mean_ = float(np.mean(y))
            return self

        def predict(self, X):
            return np.full(len(X), self.mean_)

    paths = [f"{i}.png" for i in range(30)]
    result = compare([Mean(), Mean()], paths, np.arange(30) + 0.5, cv=3, scoring="neg_mean_absolute_error")
    assert result.n_repeats == 4 and result.difference == 0


def test_match_labels_converts_to_the_type_of_the_classes():
    assert match_labels(np.array(["0", "1"]), np.array([0, 1])).tolist() == [0, 1]
    assert match_labels(np.array([0, 1]), np.array(["0", "1"])).tolist() == ["0", "1"]
    assert match_labels(np.array([0.5, 1]), None).tolist() == [0.5, 1]
    with pytest.raises(
        InvalidParameterError, match="`y` must be numeric, because the model predicts numbers"
    ):
        match_labels(np.array(["cat"]), None)
    with pytest.raises(InvalidParameterError, match=r"got fox; expected cat, dog\. Pass other labels"):
        match_labels(np.array(["fox"]), np.array(["cat", "dog"]))
    with pytest.raises(InvalidParameterError, match="got fox; expected 0, 1"):
        match_labels(np.array(["fox"]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("value", "kind"), [(float("inf"), "infinite"), (float("nan"), "missing"), (None, "missing")]
)
def test_missing_and_infinite_groups_raise(value, kind):
    message = f"`groups` must not have {kind} values; 1 of 3 groups are {kind}\\. Fill"
    with pytest.raises(InvalidParameterError, match=message):
        check_groups([1.0, value, 2.0], 3)
    if kind == "missing":
        with pytest.raises(InvalidParameterError, match=message):
            check_groups(["a", value, "b"], 3)


def test_the_largest_group_may_be_one_that_was_passed():
    keys = np.arange(160, dtype="uint8").reshape(10, 16)
    keys[9] = keys[8]
    duplicates = find_duplicates(keys, np.eye(10), 0.9, groups=np.array([0] * 6 + [1, 2, 3, 4]))
    assert len(duplicates.pairs) == 1 and duplicates.largest == 6
    duplicates.crossing, duplicates.score = 1, 0.5
    assert "the largest group of duplicates, merged with `groups` if passed, has 6 of 10 images" in (
        duplicates.describe()
    )


@pytest.mark.parametrize(
    "y, classes, expected",
    [
        (["False", "True"], [False, True], [False, True]),
        ([0, 1], [False, True], [False, True]),
        (["1", "0"], [False, True], [True, False]),
        ([False, True], ["False", "True"], ["False", "True"]),
        ([0.0, 1.0], ["0", "1"], ["0", "1"]),
        ([0.0, 1.0], ["0.0", "1.0"], ["0.0", "1.0"]),
        (["01", "1.0"], [0, 1], [1, 1]),
        (np.array(["a", "b"], object), ["a", "b"], ["a", "b"]),
        ([b"a", b"b"], [b"a", b"b"], [b"a", b"b"]),
        (np.array([0, 1], object), [0, 1], [0, 1]),
    ],
)
def test_labels_match_classes_of_other_types(y, classes, expected):
    matched = match_labels(np.asarray(y), np.array(classes))
    assert matched.dtype.kind == np.array(expected).dtype.kind and matched.tolist() == expected


@pytest.mark.parametrize("label", ["unknown", "nan", "2.5", "1e300", "7"])
def test_a_label_that_is_not_a_class_counts_as_wrong(label):
    with pytest.warns(UserWarning, match=rf"1 of 3 images are not classes of the model \({label}\)"):
        matched = match_labels(np.array(["0", "1", label]), np.array([0, 1]))
    assert matched.tolist() == ([0, 1, 7] if label == "7" else ["0", "1", label])


def test_scores_of_predictions():
    y, y_pred = np.array(["a", "a", "b", "c"]), np.array(["a", "b", "b", "b"])
    scores = score_classes(y, y_pred, np.array(["a", "b", "d"]))
    assert scores.accuracy == 0.5 and scores.balanced_accuracy == pytest.approx(
        (0.5 + 1 + 0) / 3
    )  # d has no images
    assert scores.classes["class"].tolist() == ["a", "b", "c", "d"]
    assert scores.classes["images"].tolist() == [2, 1, 1, 0]
    assert scores.confusion_matrix.tolist()[0] == [1, 1, 0, 0]
    assert np.isnan(score_numbers(np.array([1.0]), np.array([2.0])).r2)


def test_unknown_scorer_names_near_ones():
    assert check_scorer_name("accuracy") == "accuracy"
    with pytest.raises(UnknownNameError, match=r"Unknown scorer 'acuracy'\. Did you mean 'accuracy'"):
        check_scorer_name("acuracy")
