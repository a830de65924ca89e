"""Prediction sets, intervals and unusual rows: coverage, groups, bad input, images, and scikit-learn's checks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlfeatures import CNNFeatures, ConformalClassifier, ConformalRegressor
from tlfeatures.calibration import CalibratedHead
from tlfeatures.evaluation import find_duplicates
from tlfeatures.heads import make_head
from tlfeatures.trust import OutlierDetector, measure_prediction_intervals, measure_prediction_sets


@pytest.mark.filterwarnings("ignore:`error_rate=0.1` needs at least", "ignore:`false_alarm_rate=0.05` needs")
@parametrize_with_checks(
    [
        ConformalClassifier(LogisticRegression()),
        ConformalClassifier(SVC(), per_class=True, allow_empty=True, false_alarm_rate=None),
        ConformalRegressor(Ridge()),
        OutlierDetector(),
    ]
)
def test_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


def draw_classes(n, random_state, share=0.5):
    """Draw rows of two overlapping classes; ``share`` is that of the first."""
    rng = np.random.default_rng(random_state)
    y = np.where(np.arange(n) < share * n, "cat", "dog")
    return rng.normal(size=(n, 2)) + 1.5 * (y == "dog")[:, None], y


def measure_coverage(conformal, y, X):
    sets = conformal.predict_set(X)
    return sets[np.arange(len(y)), np.searchsorted(conformal.classes_, y)]


@pytest.mark.parametrize("head", [LogisticRegression(), KNeighborsClassifier(15), GaussianNB()])
def test_sets_contain_the_true_class_at_the_stated_rate(head):
    X_test, y_test = draw_classes(2000, 100)
    covered = []
    for i in range(20):
        X, y = draw_classes(100, i)
        conformal = ConformalClassifier(head, error_rate=0.2, allow_empty=True, false_alarm_rate=None).fit(
            X, y
        )
        covered.append(measure_coverage(conformal, y_test, X_test).mean())
    assert 0.78 < np.mean(covered) < 0.86


def test_error_rate_holds_for_each_class_if_per_class():
    X_test, y_test = draw_classes(2000, 100)
    of_classes = {False: [], True: []}
    conformal = ConformalClassifier(GaussianNB(), allow_empty=True, false_alarm_rate=None)
    for i in range(20):
        X, y = draw_classes(200, i, share=0.2)
        conformal.fit(X, y)
        for per_class, rates in of_classes.items():
            covered = measure_coverage(conformal.set_params(per_class=per_class), y_test, X_test)
            rates.append([covered[y_test == name].mean() for name in ("cat", "dog")])
    assert np.mean(of_classes[False], axis=0)[0] < 0.85
    assert (np.mean(of_classes[True], axis=0) > 0.86).all()


def draw_groups(n_groups, size, random_state):
    """Draw rows whose deviation is mostly that of their group, and numbers to predict."""
    rng = np.random.default_rng(random_state)
    groups = np.repeat(np.arange(n_groups), size)
    x = rng.normal(size=len(groups))
    return x[:, None], 3 * x + rng.normal(size=n_groups)[groups] + 0.1 * rng.normal(size=len(groups)), groups


def test_intervals_contain_the_value_at_the_stated_rate_in_new_groups():
    rates = {"grouped": [], "as rows": []}
    for i in range(40):
        X, y, groups = draw_groups(12, 10, i)
        X_test, y_test, _ = draw_groups(300, 1, 1000 + i)
        for name, passed in (("grouped", groups), ("as rows", None)):
            conformal = ConformalRegressor(LinearRegression(), error_rate=0.2, false_alarm_rate=None)
            low, high = conformal.fit(X, y, groups=passed).predict_interval(X_test).T
            rates[name].append(((low <= y_test) & (y_test <= high)).mean())
    assert 0.78 < np.mean(rates["grouped"]) < 0.93
    assert np.mean(rates["as rows"]) < np.mean(rates["grouped"]) - 0.03


def test_each_group_has_the_weight_of_one_row():
    X, y = draw_classes(40, 0)
    one_large = np.r_[np.arange(20), np.full(20, 20)]
    conformal = ConformalClassifier(SVC(), error_rate=0.2, cv=3).fit(X, y, groups=[*range(30), *[30] * 10])
    assert conformal.n_calibration_.tolist() == [31, 20, 11]
    assert conformal.p_values(X).min() >= 1 / 32
    with pytest.raises(ValueError, match="all 20 images of class 'dog' are in one group"):
        ConformalClassifier(SVC()).fit(X, y, groups=one_large)


def test_sets_contain_the_predicted_class_unless_they_may_be_empty():
    X, y = draw_classes(200, 0)
    X[y == "dog"] += 3
    conformal = ConformalClassifier(SVC(), error_rate=0.3).fit(X, y)
    sets = conformal.predict_set(X)
    assert (sets.sum(axis=1) >= 1).all()
    assert sets[np.arange(len(y)), np.searchsorted(conformal.classes_, conformal.predict(X))].all()
    empty = conformal.set_params(allow_empty=True).predict_set(X).sum(axis=1) == 0
    assert 0.1 < empty.mean() < 0.4
    np.testing.assert_array_equal(conformal.predict_set(X), conformal.p_values(X) > 0.3)
    np.testing.assert_array_equal(conformal.predict_set(X, error_rate=0.01), conformal.p_values(X) > 0.01)
    with pytest.raises(ValueError, match=r"`error_rate` must be a number above 0 and below 1; got 10"):
        conformal.predict_set(X, error_rate=10)


def test_abstains_where_the_set_has_several_classes():
    X, y = draw_classes(200, 0)
    conformal = ConformalClassifier(SVC(), error_rate=0.05).fit(X, y)
    labels, sizes = conformal.predict_or_abstain(X, "unsure"), conformal.predict_set(X).sum(axis=1)
    np.testing.assert_array_equal(labels == "unsure", sizes != 1)
    np.testing.assert_array_equal(labels[sizes == 1], conformal.predict(X)[sizes == 1])
    assert 0 < (sizes != 1).mean() < 0.8
    with pytest.raises(ValueError, match="`abstain_label` must be text, as the classes are; got -1"):
        conformal.predict_or_abstain(X, -1)
    numbers = ConformalClassifier(SVC(), error_rate=0.05).fit(X, (y == "dog").astype(int))
    assert set(numbers.predict_or_abstain(X, -1)) == {-1, 0, 1}
    for wrong in ("unsure", None, [-1], True):
        with pytest.raises(ValueError, match="`abstain_label` must be a number, as the classes are; got "):
            numbers.predict_or_abstain("not read", wrong)


def test_calibrated_probabilities_are_those_of_the_calibrated_head():
    X, y = draw_classes(100, 0)
    calibrated = CalibratedHead(SVC())
    conformal = ConformalClassifier(calibrated).fit(X, y)
    np.testing.assert_allclose(conformal.predict_proba(X), calibrated.fit(X, y).predict_proba(X))
    np.testing.assert_array_equal(conformal.p_values(X), ConformalClassifier(SVC()).fit(X, y).p_values(X))
    assert not hasattr(ConformalClassifier(SVC()), "predict_proba")


def test_saved_and_cloned_estimators_predict_the_same():
    X, y = draw_classes(60, 0)
    conformal = ConformalClassifier(SVC()).fit(X, y)
    for other in (pickle.loads(pickle.dumps(conformal)), clone(conformal).fit(X, y)):
        np.testing.assert_array_equal(other.p_values(X), conformal.p_values(X))
        np.testing.assert_array_equal(other.is_unusual(X), conformal.is_unusual(X))


def test_intervals_of_many_rows_do_not_depend_on_blocks(monkeypatch):
    X, y, _ = draw_groups(50, 1, 0)
    conformal = ConformalRegressor(Ridge()).fit(X, y)
    intervals = conformal.predict_interval(X)
    monkeypatch.setattr("tlfeatures.trust._conformal_regressor._BLOCK_VALUES", 100)
    np.testing.assert_array_equal(conformal.predict_interval(X), intervals)
    assert (intervals[:, 0] < intervals[:, 1]).all()


def test_few_rows_give_full_sets_and_infinite_intervals_with_a_warning():
    X, y = draw_classes(6, 0)
    with pytest.warns(UserWarning, match=r"needs at least 9 rows; there are 6, so every set contains all"):
        conformal = ConformalClassifier(SVC(), false_alarm_rate=None).fit(X, y)
    assert conformal.predict_set(X).all()
    with pytest.warns(UserWarning, match=r"1 of 2 classes have fewer \(cat\) and are in every set"):
        conformal = ConformalClassifier(SVC(), per_class=True, false_alarm_rate=None)
        conformal.fit(*draw_classes(40, 0, share=0.1))
    assert conformal.predict_set(X)[:, 0].all()
    with pytest.warns(UserWarning, match="there are 6, so intervals are infinite"):
        regressor = ConformalRegressor(Ridge(), false_alarm_rate=None).fit(X, np.arange(6.5)[:6])
    assert np.isinf(regressor.predict_interval(X)).all()
    with pytest.warns(UserWarning, match=r"needs at least 19 images or groups; there are 6, so no image"):
        assert (OutlierDetector().fit(X).predict(100 * X[::-1]) == 1).all()


@pytest.mark.filterwarnings("ignore:`error_rate=0.1` needs", "ignore:`false_alarm_rate=0.05` needs")
def test_classes_with_two_rows_and_constant_features():
    X = np.c_[np.repeat(np.arange(3.0), 2), np.ones(6)]
    conformal = ConformalClassifier(make_head("svm")).fit(X, list("aabbcc"))
    assert np.isfinite(conformal.p_values(X)).all()
    assert conformal.predict(X).tolist() == list("aabbcc")


@pytest.mark.parametrize("conformal", [ConformalClassifier(SVC()), ConformalRegressor(Ridge())])
def test_rows_that_cannot_be_used_raise(conformal):
    X, y = np.arange(24.0).reshape(12, 2), np.arange(12) % 2
    bad = X.copy()
    bad[[4, 7], 0] = np.nan
    with pytest.raises(ValueError, match=r"2 of 12 rows of `X` contain NaN or infinity .*first is row 4"):
        conformal.fit(bad, y)
    with pytest.raises(ValueError, match="2 of 12 rows of `X` contain NaN"):
        conformal.fit(X, y).predict(bad)
    with pytest.raises(ValueError, match="All 12 rows of `X` are equal"):
        conformal.fit(np.ones((12, 2)), y)
    with pytest.raises(ValueError, match="All 12 rows of `X` are equal"):
        conformal.fit(np.ones((12, 2), bool), y)
    with pytest.raises(ValueError, match="All 12 labels are one"):
        conformal.fit(X, np.ones(12, int))
    with pytest.raises(ValueError, match="All 12 rows are in one group"):
        conformal.fit(X, y, groups=np.zeros(12))
    conformal.set_params(false_alarm_rate=None).fit(X, y)
    with pytest.raises(ValueError, match="`false_alarm_rate` must be a number"):
        conformal.is_unusual(X)


def test_classes_with_one_row_raise():
    with pytest.raises(
        ValueError, match="Class 'c' has 1 row, which cannot be both trained on and calibrated"
    ):
        ConformalClassifier(SVC()).fit(np.arange(5.0)[:, None], list("aabbc"))


def test_false_alarms_are_at_the_stated_rate_and_other_rows_are_unusual():
    rng = np.random.default_rng(0)
    X, new = (np.maximum(rng.normal(size=(n, 20)) + np.r_[np.ones(10), -np.ones(10)], 0) for n in (300, 3000))
    detector = OutlierDetector(false_alarm_rate=0.1).fit(X)
    assert 0.07 < (detector.predict(new) == -1).mean() < 0.13
    assert (detector.predict(new[:, ::-1]) == -1).mean() > 0.9
    np.testing.assert_array_equal(detector.predict(new) == -1, detector.p_values(new) <= 0.1)
    conformal = ConformalClassifier(SVC(), false_alarm_rate=0.1).fit(X, np.arange(300) % 2)
    np.testing.assert_array_equal(conformal.is_unusual(new), detector.predict(new) == -1)


def test_duplicates_in_one_group_do_not_cause_false_alarms():
    rng = np.random.default_rng(0)
    X, new = np.repeat(rng.uniform(size=(400, 5)), 4, axis=0), rng.uniform(size=(1000, 5))
    groups = np.repeat(np.arange(400), 4)
    assert (OutlierDetector().fit(X, groups=groups).predict(new) == -1).mean() < 0.1
    assert (OutlierDetector().fit(X).predict(new) == -1).mean() > 0.5
    with pytest.raises(ValueError, match="All 1600 rows are in one group"):
        OutlierDetector().fit(X, groups=np.zeros(1600))


def test_pipelines_are_split_so_that_images_are_embedded_once(photos):
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    conformal = ConformalClassifier(make_pipeline(cnn, StandardScaler(), SVC()), error_rate=0.3)
    with pytest.warns(UserWarning, match="`false_alarm_rate=0.05` needs"):
        conformal.fit(photos.paths, photos.labels)
    embeddings = cnn.fit_transform(photos.paths)
    on_embeddings = ConformalClassifier(make_pipeline(StandardScaler(), SVC()), error_rate=0.3)
    keys = np.arange(12 * 16, dtype="uint8").reshape(12, 16)  # no exact duplicates
    groups = find_duplicates(keys, embeddings, 0.95).groups
    on_embeddings.set_params(false_alarm_rate=None).fit(embeddings, photos.labels, groups=groups)
    np.testing.assert_array_equal(conformal.p_values(photos.paths), on_embeddings.p_values(embeddings))
    assert [type(step) for step in conformal.fold_estimators_[0]] == [StandardScaler, SVC]
    assert conformal.predict(photos.paths).tolist() == photos.labels


def test_duplicate_images_are_kept_together(photos):
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    conformal = ConformalClassifier(make_pipeline(cnn, SVC()), error_rate=0.3, false_alarm_rate=None)
    once = conformal.fit(photos.paths, photos.labels).n_calibration_.tolist()
    assert conformal.fit(photos.paths * 3, photos.labels * 3).n_calibration_.tolist() == once
    with pytest.raises(ValueError, match="in one group of duplicates"):
        conformal.fit([photos.paths[0]] * 8, list("aabbaabb"))


def test_missing_labels_are_named():
    with pytest.raises(ValueError, match="1 of 20 labels are missing"):
        ConformalClassifier(SVC()).fit(np.eye(20), [None, *["a", "b"] * 9, "a"])


# -- coverage and size of sets from out-of-fold values ---------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_measured_sets_agree_with_a_direct_computation(grouped):
    rng = np.random.default_rng(0)
    n, classes = 90, np.array(["a", "b", "c", "rare"])
    codes = np.r_[np.arange(n - 4) % 3, np.full(4, 3)]
    logits = rng.normal(size=(n, 4)) + 2 * np.eye(4)[codes]
    logits[5, 1] = np.nan
    groups = rng.integers(0, 40, n) if grouped else np.arange(n)
    result = measure_prediction_sets(logits, codes, logits.argmax(axis=1), classes, groups)
    used = np.delete(np.arange(n), 5)
    scores = {i: [max(np.delete(logits[i], c)) - logits[i, c] for c in range(4)] for i in used}
    p = np.zeros((n, 4))
    for i in used:
        others = set(groups[used].tolist()) - {groups[i]}
        for c in range(4):
            share = sum(
                np.mean([scores[j][codes[j]] >= scores[i][c] for j in used if groups[j] == g]) for g in others
            )
            p[i, c] = (share + 1) / (len(others) + 1)
    assert result.images == n - 1
    for row in result.error_rates.itertuples():
        sets = p[used] > row.error_rate + 1e-9
        sets[np.arange(n - 1), logits[used].argmax(axis=1)] = True
        covered, sizes = sets[np.arange(n - 1), codes[used]], sets.sum(axis=1)
        expected = covered.mean(), sizes.mean(), (sizes == 1).mean()
        np.testing.assert_allclose((row.coverage, row.mean_size, row.one_class), expected)
        if row.error_rate == 0.1:
            of_a = codes[used] == 0
            np.testing.assert_allclose(
                result.classes.iloc[0, 1:].tolist(), [of_a.sum(), covered[of_a].mean(), sizes[of_a].mean()]
            )
    assert result.error_rates["error_rate"].tolist() == [0.05, 0.1, 0.2]
    assert result.classes["class"].tolist() == ["a", "b", "c"]
    assert result.note == "1 of 4 classes have fewer than 10 images and are not in the table of classes."


def test_measured_sets_per_class_agree_with_a_direct_computation():
    rng = np.random.default_rng(0)
    codes, groups = np.arange(60) % 2, rng.integers(0, 30, 60)
    logits = rng.normal(size=(60, 2)) + 1.5 * np.eye(2)[codes]
    expected = []
    for i in range(60):
        sets = []
        for c in range(2):
            score = logits[i, 1 - c] - logits[i, c]
            others = set(groups[codes == c].tolist()) - {groups[i]}
            of_group = {g: np.flatnonzero((groups == g) & (codes == c)) for g in others}
            share = sum(np.mean(logits[rows, 1 - c] - logits[rows, c] >= score) for rows in of_group.values())
            sets.append((share + 1) / (len(others) + 1) > 0.2 + 1e-9)
        expected.append((sets[codes[i]], sum(sets)))
    result = measure_prediction_sets(
        logits, codes, logits.argmax(axis=1), np.arange(2), groups,
        error_rates=[0.2], per_class=True, allow_empty=True,
    )  # fmt: skip
    np.testing.assert_allclose(result.error_rates.iloc[0, :3], [0.2, *np.mean(expected, axis=0)])


def test_measured_sets_contain_the_class_at_the_stated_rate():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, 3000)
    logits = rng.normal(size=(3000, 3)) + 1.5 * np.eye(3)[codes]
    result = measure_prediction_sets(logits, codes, logits.argmax(axis=1), np.arange(3), np.arange(3000))
    np.testing.assert_allclose(result.error_rates["coverage"], [0.95, 0.9, 0.8], atol=0.015)
    assert result.error_rates["mean_size"].is_monotonic_decreasing
    assert result.error_rates["one_class"].is_monotonic_increasing


@pytest.mark.parametrize("groups", [np.arange(19), np.arange(40) % 19])
def test_sets_are_not_measured_on_few_independent_rows(groups):
    n = len(groups)
    codes = np.arange(n) % 2
    result = measure_prediction_sets(np.eye(2)[codes], codes, codes, np.arange(2), groups)
    assert result.error_rates.empty and result.classes.empty
    assert "20 images with out-of-fold values of all classes are needed" in result.note
    assert result.note.endswith("there are 19.")


def test_measured_sets_of_small_classes_are_not_listed():
    codes = np.arange(25) % 5
    result = measure_prediction_sets(np.eye(5)[codes], codes, codes, np.array(list("abcde")), np.arange(25))
    assert result.classes.empty and result.error_rates["coverage"].tolist() == [1.0, 1.0, 1.0]
    assert result.note.startswith("5 of 5 classes have fewer than 10 images")


@pytest.mark.parametrize("grouped", [False, True])
def test_measured_intervals_agree_with_a_direct_computation(grouped):
    rng = np.random.default_rng(0)
    y = rng.normal(size=70)
    predicted = y + rng.normal(size=70) * np.where(y > 0.5, 3, 1)
    groups = rng.integers(0, 30, 70) if grouped else np.arange(70)
    result, errors = measure_prediction_intervals(y, predicted, groups), np.abs(y - predicted)
    p_values = []
    for i in range(70):
        others = set(groups.tolist()) - {groups[i]}
        share = sum(np.mean(errors[groups == g] >= errors[i]) for g in others)
        p_values.append((share + 1) / (len(others) + 1))
    for row in result.error_rates.itertuples():
        assert row.coverage == pytest.approx(np.mean(np.array(p_values) > row.error_rate + 1e-9))
        assert row.share_of_range == pytest.approx(row.width / np.ptp(y))
    assert result.error_rates["width"].is_monotonic_decreasing
    order = np.argsort(predicted)
    assert result.thirds["images"].tolist() == [24, 23, 23]
    assert result.thirds["mean_error"][2] == pytest.approx(errors[order[-23:]].mean())
    assert result.images == 70 and result.note == ""


def test_intervals_are_not_measured_on_few_independent_rows():
    y, groups = np.arange(40.0), np.arange(40) % 19
    result = measure_prediction_intervals(y, y + 1, groups)
    assert result.error_rates.empty and result.thirds.empty
    assert result.note.startswith("20 images with out-of-fold predictions are needed")
    result = measure_prediction_intervals(y[:25], y[:25] + 1, np.arange(25))
    assert result.thirds.empty and result.note.startswith("There are fewer than 30 images")
    constant = measure_prediction_intervals(np.ones(40), np.ones(40), np.arange(40))
    assert constant.error_rates["share_of_range"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("per_class", [False, True])
def test_out_of_fold_coverage_of_a_classifier(per_class):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    X = rng.normal(size=(400, 5)) + 1.2 * np.eye(3, 5)[y]
    conformal = ConformalClassifier(SVC(), error_rate=0.1, per_class=per_class).fit(X[:200], y[:200])
    measured, sets = conformal.out_of_fold_, conformal.predict_set(X[200:])
    assert measured["coverage"] == pytest.approx(0.9, abs=0.02)
    assert measured["set_size"] == pytest.approx(sets.sum(axis=1).mean(), abs=0.15)
    with pytest.warns(UserWarning, match="needs at least 99 rows"):
        assert ConformalClassifier(SVC(), error_rate=0.01).fit(X[:60], y[:60]).out_of_fold_ == {}


def test_out_of_fold_coverage_of_a_regressor():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = X[:, 0] + rng.normal(size=200)
    conformal = ConformalRegressor(Ridge(), error_rate=0.2).fit(X, y)
    low, high = conformal.predict_interval(X).T
    assert conformal.out_of_fold_["coverage"] == pytest.approx(0.8, abs=0.01)
    assert conformal.out_of_fold_["interval_width"] == pytest.approx((high - low).mean(), rel=0.05)
