"""The study of cats, dogs and horses: pipelines/pets.py and notebooks/pets.ipynb."""

from __future__ import annotations

import numpy as np
import pytest

from tests.study_helpers import (
    check_figures,
    run_notebook,
    run_on_empty_store,
    run_on_real_images,
    run_study,
    write_colored_images,
)

pytestmark = pytest.mark.slow  # runs the whole study

RECIPES = [
    "CNNFeatures + SVM",
    "CNNFeatures + SVM, balanced class weights",
    "FineTuneClassifier, tutorial's head, 2 epochs",
    "Keras: the tutorial's recipe, 2 epochs",
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Class folders of different sizes with names as cameras and browsers give them."""
    names = ("IMG_{:04d} (1).JPG", "download-{}.jpeg", "größe {}.png")
    return write_colored_images(tmp_path_factory.mktemp("pets"), (12, 6, 8), names)


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    new = pets / "dogs" / "download-1.jpeg"
    return run_on_empty_store("pets", tmp_path_factory, "--data", pets, "--predict", new)


def test_all_recipes_are_scored_on_the_same_folds(run):
    results, _, _ = run
    assert results["network"] == "tiny stands in for mobilenet, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(0 <= row["balanced accuracy"] <= 1 for row in results["rows"])
    assert results["rows"][0]["accuracy"] >= 0.8


def test_figures_show_the_recall_of_each_class(run):
    results, out, _ = run
    check_figures(out, results, ["recall.png", "confusion.png", "predictions.png"])


def test_sizes_and_recalls_of_classes_are_printed(run):
    results, _, lines = run
    assert "26 images: 12 cats, 6 dogs, 8 horses" in lines
    (line,) = (line for line in lines if line.startswith("  CNNFeatures + SVM: cats "))
    recalls = dict(part.rsplit(" ", 1) for part in line.partition(": ")[2].split(", "))
    expected = results["rows"][0]
    mean = np.mean([float(value.rstrip("%")) / 100 for value in recalls.values()])
    assert list(recalls) == ["cats", "dogs", "horses"]
    assert mean == pytest.approx(expected["balanced accuracy"], abs=1e-3)
    wrong = round(26 * (1 - expected["accuracy"]))
    assert f"{wrong} images misclassified by CNNFeatures + SVM:" in lines


def test_images_without_classes_are_an_error(pets, tmp_path, capsys):
    code, results = run_study("pets", tmp_path / "out", "--data", pets / "cats")
    assert (code, results) == (2, None)
    assert "have no labels. Expected a folder for each class" in capsys.readouterr().err


def test_notebook_repeats_the_study(pets, tmp_path, monkeypatch):
    parameters = {"data": str(pets), "model": "tiny", "image_size": 32, "epochs": 2, "folds": 2}
    table = run_notebook("pets", tmp_path, monkeypatch, **parameters)["table"].to_frame()
    assert table["recipe"].tolist() == RECIPES
    assert table["balanced accuracy"][0] >= 0.8


def test_pets_reaches_the_documented_accuracy(shared, keras_home, tmp_path):
    rows = run_on_real_images("pets", "pets", shared, keras_home, tmp_path)
    assert rows[0]["accuracy"] >= 0.94
