"""The study of cats, dogs and horses: pipelines/pets.py and notebooks/pets.ipynb."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.study_helpers import ROOT, run_notebook, run_study

RECIPES = [
    "CNNFeatures + SVM",
    "CNNFeatures + SVM, balanced class weights",
    "FineTuneClassifier, tutorial's head, 2 epochs",
    "Keras: the tutorial's recipe, 2 epochs",
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Class folders of different sizes with names as cameras and browsers give them."""
    folder = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    colors = {"cats": (200, 60, 40), "dogs": (50, 70, 190), "horses": (40, 160, 60)}
    for (label, color), n in zip(colors.items(), (12, 6, 8), strict=True):
        (folder / label).mkdir()
        for i in range(n):
            pixels = np.clip(np.array(color) + rng.integers(-40, 40, (36, 44, 3)), 0, 255).astype(np.uint8)
            name = (f"IMG_{i:04d} (1).JPG", f"download-{i}.jpeg", f"größe {i}.png")[i % 3]
            Image.fromarray(pixels).save(folder / label / name)
    return folder


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """Run the study on an empty store; return its results and its folder."""
    out = tmp_path_factory.mktemp("run")
    new = pets / "dogs" / "download-1.jpeg"
    code, results = run_study("pets", out, "--data", pets, "--predict", new)
    assert code == 0
    return results, out


def test_all_recipes_are_scored_on_the_same_folds(run):
    results, _ = run
    assert results["network"] == "tiny stands in for mobilenet, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(0 <= row["balanced accuracy"] <= 1 for row in results["rows"])
    assert results["rows"][0]["accuracy"] >= 0.8


def test_figures_show_the_recall_of_each_class(run):
    results, out = run
    assert results["figures"] == ["recall.png", "confusion.png", "predictions.png"]
    for name in results["figures"]:
        with Image.open(out / name) as image:
            assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 10


def test_sizes_and_recalls_of_classes_are_printed(run, pets, tmp_path, capsys):
    store = run[1] / "store"
    code, _ = run_study("pets", tmp_path, "--data", pets, "--skip-tutorial", "--cache", store)
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "26 images: 12 cats, 6 dogs, 8 horses" in lines
    (line,) = (line for line in lines if line.startswith("  CNNFeatures + SVM: cats "))
    recalls = dict(part.rsplit(" ", 1) for part in line.partition(": ")[2].split(", "))
    expected = run[0]["rows"][0]
    mean = np.mean([float(value.rstrip("%")) / 100 for value in recalls.values()])
    assert list(recalls) == ["cats", "dogs", "horses"]
    assert mean == pytest.approx(expected["balanced accuracy"], abs=1e-3)
    wrong = round(26 * (1 - expected["accuracy"]))
    assert f"{wrong} images misclassified by CNNFeatures + SVM:" in lines


def test_images_without_classes_are_an_error(pets, tmp_path, capsys):
    code, results = run_study("pets", tmp_path / "out", "--data", pets / "cats")
    assert (code, results) == (2, None)
    assert "have no labels. Expected a folder for each class" in capsys.readouterr().err


@pytest.mark.slow
def test_notebook_repeats_the_study(pets, tmp_path, monkeypatch):
    parameters = {"data": str(pets), "model": "tiny", "image_size": 32, "epochs": 2, "folds": 2}
    table = run_notebook("pets", tmp_path, monkeypatch, **parameters)["table"].to_frame()
    assert table["recipe"].tolist() == RECIPES
    assert table["balanced accuracy"][0] >= 0.8


@pytest.mark.slow
def test_pets_reaches_the_documented_accuracy(shared, keras_home, tmp_path):
    source = shared / "data" / "pets"
    if not source.is_dir() or not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip("needs ../shared/data/pets and the weights in ../shared/keras")
    command = [sys.executable, str(ROOT / "pipelines" / "pets.py"), "--data", str(source), "--skip-tutorial"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows[0]["accuracy"] >= 0.94
