"""Heads trained on batches: `fit_head`, `fit_streaming` and `fit --stream`."""

from __future__ import annotations

import json
from functools import partial

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.cli import main
from tlfeatures.errors import InvalidParameterError
from tlfeatures.streaming import fit_head, fit_streaming

CNN = {"model": "tiny", "image_size": 32}


@pytest.fixture(scope="module")
def digits():
    """Training and test rows and labels of scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X.astype(np.float32), y, test_size=0.3, random_state=0, stratify=y)


def batches_of(X: np.ndarray, size: int = 200):
    """Return the function that `fit_head` calls."""

    def read_batches(seed):
        order = np.arange(len(X)) if seed is None else np.random.default_rng(seed).permutation(len(X))
        return ((order[i : i + size], X[order[i : i + size]]) for i in range(0, len(X), size))

    return read_batches


def test_accuracy_equals_that_of_logistic_regression_in_memory(digits):
    X, X_test, y, y_test = digits
    result = fit_head(batches_of(X), y, tol=0.01)
    in_memory = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    assert result.head.score(X_test, y_test) >= in_memory.score(X_test, y_test) - 0.015
    assert result.head.predict_proba(X_test[:3]).sum(axis=1) == pytest.approx(1)
    assert result.head.classes_.tolist() == list(range(10))
    np.testing.assert_allclose(result.head["scale"].mean_, X.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.head["scale"].var_, X.var(axis=0), rtol=1e-4, atol=1e-6)
    assert result.refitted and result.n_validation == pytest.approx(len(X) / 10, abs=10)
    assert result.losses[result.best] < result.losses[0] / 2
    assert result.validation_score > 0.9
    summary = result.summary()
    assert (summary["scoring"], summary["score"]) == ("accuracy", result.validation_score)


def test_ridge_regression_is_exact(digits):
    X, X_test, y, _ = digits
    result = fit_head(batches_of(X), y.astype(float), task="regression")
    alpha = result.head["linear"].alpha
    expected = make_pipeline(StandardScaler(), Ridge(alpha)).fit(X.astype(float), y)
    np.testing.assert_allclose(result.head.predict(X_test), expected.predict(X_test), atol=1e-3)
    assert alpha == np.logspace(0, 6, 13)[result.best] and len(result.losses) == 13


def test_the_same_seed_gives_the_same_head(digits):
    X, X_test, y, _ = digits
    first, second = (fit_head(batches_of(X), y, max_epochs=3, tol=0.5, patience=1) for _ in range(2))
    assert np.array_equal(first.head.predict_proba(X_test), second.head.predict_proba(X_test))


def test_other_estimators_and_text_labels(digits):
    X, X_test, y, y_test = digits
    names = np.array([f"digit {i}" for i in range(10)])
    sgd = SGDClassifier(random_state=0)
    result = fit_head(batches_of(X), names[y], estimator=sgd, max_epochs=20, tol=0.05, refit=False)
    assert result.head.score(X_test, names[y_test]) > 0.9
    assert [name for name, _ in result.head.steps] == ["scale", "estimator"]
    assert not hasattr(sgd, "coef_") and not result.refitted


def test_groups_are_not_split(digits):
    X, _, y, _ = digits
    trained = []

    class Recorder(SGDClassifier):
        def partial_fit(self, X, y, **options):
            trained.extend(X[:, -1])
            return super().partial_fit(X, y, **options)

    groups = np.arange(len(y)) // 4
    rows = np.hstack([X, groups[:, None].astype(np.float32)])
    result = fit_head(
        batches_of(rows),
        y,
        estimator=Recorder(),
        groups=groups,
        max_epochs=2,
        refit=False,
        tol=0.9,
        patience=1,
    )
    scale = result.head["scale"]
    seen = np.unique(np.rint(np.array(trained) * scale.scale_[-1] + scale.mean_[-1]))
    assert 0 < len(seen) < len(np.unique(groups))
    assert set(np.unique(trained, return_counts=True)[1]) <= {2, 8}  # all rows of a group, in two epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"estimator": LogisticRegression()},
            "`estimator` must have the method `partial_fit`; got LogisticRegression",
        ),
        ({"validation_fraction": 0}, "`validation_fraction` must be a number above 0 and below 1; got 0"),
        ({"max_epochs": 0}, "`max_epochs` must be an integer of at least 1; got 0"),
        ({"refit": "yes"}, "`refit` must be True or False or None; got 'yes'"),
    ],
)
def test_invalid_parameters(digits, options, message):
    with pytest.raises(InvalidParameterError, match=message):
        fit_head(batches_of(digits[0]), digits[2], **options)


@pytest.mark.parametrize(
    ("X", "y", "groups", "message"),
    [
        (np.ones((12, 3)), np.arange(12) + 0.5, None, "R2 needs two validation images or more"),
        (
            np.ones((12, 3)),
            ["a", "b"] * 6,
            [0] * 12,
            "in one group.* Pass more images, or fit a head in memory",
        ),
        (
            np.r_[np.ones((39, 3)), [[1, np.nan, 1]]],
            np.arange(40) + 0.5,
            None,
            "1 rows of a batch contain NaN",
        ),
    ],
)
def test_rows_that_cannot_be_trained_on(X, y, groups, message):
    with pytest.raises(ValueError, match=message):
        fit_head(batches_of(X.astype(np.float32)), y, groups=groups)


def test_too_few_epochs_warn(digits):
    X, _, y, _ = digits
    message = (
        "reached max_epochs={} before the loss had stopped decreasing for patience={} epochs. Pass a larger"
    )
    with pytest.warns(ConvergenceWarning, match=message.format(1, 5)):
        fit_head(batches_of(X), y, max_epochs=1)
    with pytest.warns(ConvergenceWarning, match=message.format(3, 4)):
        result = fit_head(batches_of(X), y, max_epochs=3, patience=4, tol=1e6)  # no decrease counts
    assert result.best == 0 and len(result.losses) == 3


@pytest.mark.slow
def test_a_store_sorted_by_class_is_shuffled_well(store, digits):
    X, X_test, y, y_test = digits
    order = np.argsort(y, kind="stable")
    X, y = np.repeat(X[order], 64, axis=1), y[order]  # 4,096 columns: blocks of eight rows
    recipe = {"network": "toy", "width": X.shape[1], "dtype": "float32"}
    keys = np.random.default_rng(0).integers(0, 256, (len(X), 16), "u1")
    for i in range(0, len(X), 100):
        store.publish(recipe, keys[i : i + 100], X[i : i + 100])
    read_batches = partial(store.batches, recipe, keys, 64, window=256)
    result = fit_head(read_batches, y, max_epochs=10, tol=0.05, patience=2)
    assert result.head.score(np.repeat(X_test, 64, axis=1), y_test) > 0.93


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty drawn images in two class folders, and one that is unreadable."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(40):
        name = ("rows", "columns")[i % 2]
        pixels = np.full((32, 32), 60, np.uint8)
        stripes = pixels if i % 2 else pixels.T
        stripes[:, :: rng.integers(3, 7)] = 200
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(pixels + rng.integers(0, 40, (32, 32), "u1")).save(root / name / f"{i:02d}.png")
    (root / "rows" / "text.png").write_text("not an image")
    return root


def test_a_pipeline_on_images_predicts_and_is_saved(tmp_path, folder):
    paths = sorted(str(path) for path in folder.rglob("*.png"))
    y = [path.split("/")[-2] for path in paths]
    cnn = CNNFeatures(
        **CNN, cache=tmp_path / "store", layer=["block5_pw_relu", "block10_pw_relu"], on_error="nan"
    )
    with pytest.warns(match="1 of 41 images could not be read"):
        result = fit_streaming(cnn, paths, y, tol=0.05)
    readable = [i for i in range(41) if i not in result.errors]
    assert len(readable) == 40 and "not an image" in next(iter(result.errors.values()))
    joblib.dump(result.pipeline, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert loaded.score([paths[i] for i in readable], [y[i] for i in readable]) == 1
    assert [name for name, _ in loaded.steps] == ["cnn", "scale", "linear"]
    assert loaded["scale"].n_features_in_ == 192 + 320


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cache": None}, "`cache` must be 'auto', the path of a folder or an EmbeddingStore"),
        ({"views": "flip"}, "`views` must be None for `fit_streaming`"),
    ],
)
def test_parameters_that_cannot_be_streamed(tmp_path, params, message):
    cnn = CNNFeatures(**CNN, **{"cache": tmp_path / "store"} | params)
    with pytest.raises(InvalidParameterError, match=message):
        fit_streaming(cnn, np.zeros((4, 32, 32), "u1"), ["a", "a", "b", "b"])


def test_only_unreadable_images(tmp_path, folder):
    cnn = CNNFeatures(**CNN, cache=tmp_path / "store", on_error="nan")
    with pytest.raises(ValueError, match="None of the images could be read"), pytest.warns():
        fit_streaming(cnn, [str(folder / "rows" / "text.png")] * 2, ["a", "b"])


def test_the_store_needs_all_rows_only_once(tmp_path, folder, monkeypatch):
    paths = sorted(str(path) for path in folder.rglob("*.png") if path.stem != "text")
    cnn = CNNFeatures(**CNN, cache=tmp_path / "store")
    y = np.arange(40.0)
    fit_streaming(cnn, paths, y, task="regression")
    recipes = EmbeddingStore(tmp_path / "store").info()["recipes"]
    assert {recipe["rows"] for recipe in recipes} == {40}
    assert fit_streaming(cnn, paths, y, task="regression").counts.computed == 0


def test_fit_stream_saves_a_pipeline_that_predicts(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    argv = ["fit", str(folder), "--model", "tiny", "--image-size", "32", "--stream"]
    assert main([*argv, "-o", str(tmp_path / "model.joblib"), "--json"]) == 0
    output = capsys.readouterr()
    about = json.loads(output.out)
    assert (about["computed"], about["unreadable"], about["classes"]) == (40, 1, {"columns": 20, "rows": 20})
    assert about["validation"]["images"] == 4 and about["validation"]["scoring"] == "accuracy"
    assert [name.split("/")[-1] for name in about["skipped"]] == ["text.png"]
    assert "1 of 41 images could not be read and is left out" in output.err
    assert main(["evaluate", str(tmp_path / "model.joblib"), str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1
    assert main(argv) == 0
    output = capsys.readouterr().out
    assert "accuracy on 4 held-out images: " in output and "0 computed" in output


@pytest.mark.parametrize(
    "option",
    [["--head", "svm"], ["--cv", "3"], ["--cv", "5"], ["--views", "flip"], ["--scoring", "f1_macro"]],
)
def test_options_that_cannot_be_streamed(folder, capsys, option):
    assert main(["fit", str(folder), "--stream", *option]) == 2
    assert f"{option[0]} cannot be used with --stream" in capsys.readouterr().err
