"""Model cards: `tlfeatures info`, without loading the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

import tlfeatures
from tlfeatures import CNNFeatures, FeatureSearchCV, FineTuneClassifier
from tlfeatures.cli import main
from tlfeatures.errors import SavedModelError
from tlfeatures.heads import make_head
from tlfeatures.model_files import format_card, read_card, to_markdown

SMALL = ("--model", "tiny", "--image-size", "32", "--cache", "none")


@pytest.fixture(scope="module")
def model_file(photos, tmp_path_factory):
    """A file of `fit` with prediction sets."""
    path = tmp_path_factory.mktemp("models") / "photos.tlf"
    argv = ["fit", str(photos.root), *SMALL, "--cv", "2", "--conformal", "0.4", "-o", str(path)]
    assert main(argv) == 0
    return path


def test_card_of_a_fitted_pipeline(model_file, photos):
    card = read_card(model_file)
    assert (card["file"], card["task"], card["classes"]) == (
        "photos.tlf",
        "classification",
        sorted(set(photos.labels)),
    )
    assert (card["network"], card["weights_licence"], card["features"]) == ("tiny", "Apache-2.0", 320)
    assert (card["image_size"], card["layers"], card["pooling"]) == ([32, 32], ["block10_pw_relu"], "avg")
    assert card["head"] == "ConformalClassifier(CalibratedHead(StandardScaler, SVC))"
    assert card["training_images"] == 12 and len(card["training_digest"]) == 32
    assert card["conformal"]["error_rate"] == 0.4 and card["conformal"]["calibration_rows"] > 0
    scores = card["scores"]
    assert scores["scoring"] == "accuracy" and scores["folds"] == 2 == len(scores["scores"])
    assert scores["low"] <= scores["mean"] <= scores["high"]
    assert scores["mean"] == pytest.approx(np.mean(scores["scores"]))
    assert card["recipes"][0]["digest"] and card["versions"]["tlfeatures"] == tlfeatures.__version__
    assert tlfeatures.load(model_file).cv_scores_["mean"] == scores["mean"]


def test_info_imports_neither_scikit_learn_nor_keras(model_file):
    code = (
        "import sys\nfrom tlfeatures.cli import main\n"
        f"code = main(['info', {str(model_file)!r}])\n"
        "heavy = {'sklearn', 'scipy', 'pandas', 'keras', 'tensorflow', 'h5py', 'PIL'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert lines["network"].strip() == "tiny"
    assert lines["cross-validation"].strip().startswith("accuracy ")
    assert lines["licence of the weights"].strip() == "Apache-2.0"


def test_info_as_json_and_markdown(model_file, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["info", str(model_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_card(model_file)
    assert main(["info", str(model_file), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert main(["info", str(model_file), "-o", "card.md"]) == 0
    assert Path("card.md").read_text("utf-8").strip() == text.strip()
    assert main(["info", str(model_file), "-o", "card.md"]) == 2
    assert "exists. Name another file, or pass --force" in capsys.readouterr().err
    assert main(["info", str(model_file), "--json", "--markdown"]) == 2
    front = {}
    for line in text.split("---\n")[1].splitlines():  # each line is JSON, which is also YAML
        key, value = line.split(": ", 1)
        front[key] = json.loads(value)
    assert front["license"] == "apache-2.0" and front["pipeline_tag"] == "image-classification"
    assert front["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert '    model = tlfeatures.load("photos.tlf")' in text


def test_names_in_a_card_are_escaped():
    card = {"file": "a.tlf", "classes": ["<script>", "a|b", "![x](y)", "two\nlines"]}
    text = to_markdown(card)
    assert r"4: \<script\>, a\|b, !\[x\](y), two lines" in text


def test_names_may_not_be_unicode():
    name = os.fsdecode(b"chat\xe9.tlf")
    text = to_markdown({"file": name, "task": "classification", "classes": [os.fsdecode(b"\xff"), "dog"]})
    assert "# chat\\udce9" in text and text.encode().count(b"\\udcff") == 1


def test_card_of_a_search_and_of_a_grid_search(photos, tmp_path):
    search = FeatureSearchCV("tiny", image_sizes=[32], heads=["logreg"], poolings=["avg"], resize=["stretch"],
                             layers=["block10_pw_relu"], cv=2, learning_curve=False, cache=None)  # fmt: skip
    search.fit(photos.paths, photos.labels)
    tlfeatures.save(search, tmp_path / "search.tlf")
    card = read_card(tmp_path / "search.tlf")
    assert (card["estimator"], card["training_images"], card["scores"]["folds"]) == ("Pipeline", 12, 2)
    assert not hasattr(search.best_estimator_, "cv_scores_")
    loaded = tlfeatures.load(tmp_path / "search.tlf")
    np.testing.assert_array_equal(loaded.predict(photos.paths), search.predict(photos.paths))
    pipeline = Pipeline(
        [("cnn", CNNFeatures("tiny", image_size=32, cache=None)), ("head", make_head("logreg"))]
    )
    grid = GridSearchCV(pipeline, {"head__logreg__C": [0.1, 1]}, cv=2).fit(photos.paths, photos.labels)
    tlfeatures.save(grid, tmp_path / "grid.tlf")
    card = read_card(tmp_path / "grid.tlf")
    assert (card["estimator"], card["scores"], card["training_images"]) == ("Pipeline", None, None)
    assert ("head", "StandardScaler, LogisticRegression") in format_card(card)


def test_card_of_a_fine_tuned_estimator(photos, tmp_path):
    tuned = FineTuneClassifier(
        "tiny", image_size=32, cache=None, start="linear", epochs=0, validation_fraction=0, random_state=0
    ).fit(photos.paths, photos.labels)
    tuned.cv_scores_ = {"scoring": "accuracy", "folds": 2, "mean": 0.75}
    tuned.save(tmp_path / "tuned.tlf")
    card = read_card(tmp_path / "tuned.tlf")
    assert (card["estimator"], card["network"], card["training_images"]) == ("FineTuneClassifier", "tiny", 12)
    assert card["classes"] == sorted(set(photos.labels)) and card["weights_licence"] == "Apache-2.0"
    assert ("cross-validation", "accuracy 0.7500, 2 folds") in format_card(card)
    assert tlfeatures.load(tmp_path / "tuned.tlf").cv_scores_ == tuned.cv_scores_


def test_other_files_have_no_card(tmp_path, capsys):
    path = tmp_path / "model.joblib"
    joblib.dump({"a": 1}, path)
    assert main(["info", str(path)]) == 2
    assert "has another format than .tlf, and only .tlf files have a model card" in capsys.readouterr().err
    with pytest.raises(SavedModelError):
        read_card(path)
    assert main(["info", str(tmp_path / "absent.tlf")]) == 1
    assert "No such file" in capsys.readouterr().err
