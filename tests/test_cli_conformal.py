"""`fit --conformal`, and what its models add to `predict` and `evaluate`."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, ConformalClassifier
from tlfeatures.cli import main
from tlfeatures.predictions import FittedModel
from tlfeatures.saved_models import load_model, save_pipeline

SMALL = ["--model", "tiny", "--image-size", "32", "--cv", "0"]
pytestmark = pytest.mark.filterwarnings("ignore:`false_alarm_rate=0.05` needs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of 12 dark and 12 bright images of random patterns, and a manifest of their brightness."""
    root = tmp_path_factory.mktemp("patterns")
    rng, rows = np.random.default_rng(0), []
    for name, low in (("bright", 128), ("dark", 0)):
        (root / name).mkdir()
        for i in range(12):
            coarse = rng.integers(low, low + 128, (4, 4, 3), dtype="uint8")
            path = root / name / f"{i}.png"
            Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path)
            rows.append({"path": str(path), "value": coarse.mean() + 0.5})
    pd.DataFrame(rows).to_csv(root / "values.csv", index=False)
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def run(capsys, store, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(store))

    def call(*argv):
        capsys.readouterr()
        return main([str(arg) for arg in argv]), *capsys.readouterr()

    return call


@pytest.fixture
def classifier(run, folder, tmp_path):
    path = tmp_path / "model.joblib"
    code, _, err = run("fit", folder, *SMALL, "--conformal", 0.2, "-o", path)
    assert code == 0, err
    return path


def test_predict_adds_sets_p_values_and_unusual_images(run, folder, classifier, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    code, out, err = run("predict", classifier, folder / "bright", text, "--json", "--proba")
    assert code == 0, err
    rows = json.loads(out)
    expected = [
        "path",
        "prediction",
        "probability",
        "set",
        "p_value",
        "unusual",
        "proba_bright",
        "proba_dark",
        "error",
    ]
    assert list(rows[0]) == expected
    for row in rows[:-1]:
        assert row["prediction"] in row["set"].split("|")
        assert 0 < row["p_value"] <= 1 and row["unusual"] in (True, False)
    assert [rows[-1][name] for name in ("set", "p_value", "unusual")] == [None] * 3
    assert "not an image" in rows[-1]["error"]
    code, out, _ = run("predict", classifier, text, "--json")
    assert code == 1 and "p_value" in json.loads(out)[0]


def test_fit_shows_the_coverage_out_of_fold(run, folder, tmp_path):
    path = tmp_path / "model.joblib"
    code, out, err = run("fit", folder, *SMALL, "--conformal", 0.1, "--per-class", "-o", path, "--json")
    about = joblib.load(path)[-1].out_of_fold_
    assert code == 0 and set(about) == {"coverage", "set_size"} and about["coverage"] >= 0.9, err
    assert json.loads(out)["conformal"] == {"error_rate": 0.1, "per_class": True, **about}
    _, out, _ = run("fit", folder, *SMALL, "--conformal", 0.1, "--per-class", "-o", path)
    assert (
        f"Error rate 0.1 for each class: out of fold, {about['coverage']:.1%} of the sets contain the class, with "
        f"{about['set_size']:.2f} classes on average." in out
    )
    _, out, err = run("fit", folder, *SMALL, "--conformal", 0.01, "-o", path)
    assert "too few independent images to measure it out of fold" in out and "needs at least 99 groups" in err
    assert "conformal" not in json.loads(run("fit", folder, *SMALL, "-o", path, "--json")[1])


def test_tables_of_conformal_models_are_overwritten(run, folder, classifier, tmp_path):
    for _ in range(2):
        code, _, err = run("predict", classifier, folder / "dark", "-o", tmp_path / "table.csv")
        assert code == 0, err
    assert list(pd.read_csv(tmp_path / "table.csv"))[3:6] == ["set", "p_value", "unusual"]


def test_evaluate_shows_the_coverage(run, folder, classifier):
    code, out, _ = run("evaluate", classifier, folder, "--json")
    about = json.loads(out)["conformal"]
    assert code == 0 and set(about) == {"coverage", "set_size", "unusual"}
    assert about["coverage"] >= 0.8 and 1 <= about["set_size"] <= 2
    _, out, _ = run("evaluate", classifier, folder)
    assert f"{about['coverage']:.1%} of the sets contain the class" in out


def test_saved_pipeline_is_that_of_the_library(run, folder, classifier):
    pipeline = joblib.load(classifier)
    conformal = pipeline[-1]
    assert isinstance(conformal, ConformalClassifier) and conformal.error_rate == 0.2
    paths = sorted(str(path) for path in folder.glob("*/*.png"))
    assert pipeline.predict(paths).tolist() == ["bright"] * 12 + ["dark"] * 12
    np.testing.assert_allclose(pipeline.predict_proba(paths).sum(axis=1), 1)
    predictions = load_model(classifier).predict(paths)
    np.testing.assert_array_equal(
        predictions.conformal.sets, conformal.predict_set(pipeline[0].transform(paths))
    )


def test_regression_adds_intervals(run, folder, tmp_path):
    path = tmp_path / "model.joblib"
    code, out, err = run(
        "fit", folder / "values.csv", "--target", "value", *SMALL, "--conformal", 0.2, "-o", path
    )
    assert code == 0, err
    about = joblib.load(path)[-1].out_of_fold_
    assert (
        f"Error rate 0.2: out of fold, {about['coverage']:.1%} of the intervals contain the value; mean width "
        f"{about['interval_width']:.4g}." in out
    )
    _, out, _ = run("predict", path, folder / "values.csv", "--json")
    rows = json.loads(out)
    assert list(rows[0]) == ["path", "prediction", "lower", "upper", "unusual", "error"]
    assert all(row["lower"] < row["upper"] for row in rows)
    _, out, _ = run("evaluate", path, folder / "values.csv", "--target", "value")
    assert "of the intervals contain the value" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--conformal", "10", "-o", "m.joblib"], "--conformal must be above 0 and below 1; got 10"),
        (["--conformal", "0.1"], "--conformal needs -o FILE.tlf"),
        (["--per-class"], "--per-class needs --conformal"),
    ],
)
def test_invalid_options(run, folder, options, message):
    code, _, err = run("fit", folder, *SMALL, *options)
    assert code == 2 and message in err


def test_a_class_of_duplicates_is_an_error_that_says_so(run, folder, tmp_path):
    for name in ("bright", "dark"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            data = (folder / name / f"{i if name == 'dark' else 0}.png").read_bytes()
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(data)
    code, _, err = run("fit", tmp_path / "photos", *SMALL, "--conformal", 0.2, "-o", tmp_path / "m.joblib")
    assert code == 2 and "all 6 images of class 'bright' are in one group, or are duplicates" in err


def test_conformal_classifier_of_a_pipeline_can_be_saved(folder, tmp_path):
    paths = sorted(str(path) for path in folder.glob("*/*.png"))
    labels = ["bright"] * 12 + ["dark"] * 12
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), SVC())
    conformal = ConformalClassifier(pipeline, error_rate=0.2).fit(paths, labels)
    save_pipeline(conformal.to_pipeline(), tmp_path / "model.joblib")
    for model in (FittedModel(conformal), load_model(tmp_path / "model.joblib")):
        result = model.evaluate(paths, np.array(labels))
        np.testing.assert_array_equal(result.predictions.conformal.sets, conformal.predict_set(paths))
        assert result.n_used_for_training == 24
    with pytest.raises(ValueError, match="needs an object that was fitted on images"):
        ConformalClassifier(SVC(), error_rate=0.2).fit(np.eye(24), labels).to_pipeline()
