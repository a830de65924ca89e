"""The study of objects: pipelines/objects.py and notebooks/objects.ipynb."""

from __future__ import annotations

import numpy as np
import pytest

from tests.study_helpers import (
    check_figures,
    import_study,
    run_notebook,
    run_on_empty_store,
    run_on_real_images,
    write_colored_images,
)

RECIPES = [
    "CNNFeatures + SVM",
    "FineTuneClassifier, convolutional head",
    "Keras: the same head, network in the loop",
    "CNNFeatures + ridge, average-pooled map",
    "CNNFeatures + ridge, whole map",
    "FineTuneRegressor, convolutional head",
    "Keras: the same head, network in the loop",
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Class folders with images of different colors."""
    return write_colored_images(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    new = pets / "dogs" / "1.png"
    return run_on_empty_store("objects", tmp_path_factory, "--data", pets, "--predict", new)


@pytest.mark.slow
def test_all_recipes_are_scored_on_the_test_images(run):
    results, _, _ = run
    assert results["network"] == "tiny stands in for vgg16, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert [row["task"] for row in results["rows"]] == ["class"] * 3 + ["position"] * 4
    assert results["rows"][0]["accuracy"] >= 0.8
    assert all(row["r2"] <= 1 for row in results["rows"][3:])


@pytest.mark.slow
def test_figures_show_classes_and_positions(run):
    results, out, _ = run
    check_figures(out, results, ["predictions.png", "positions.png", "objects.png"])


def test_images_are_placed_at_the_positions_that_are_returned():
    pixels = np.full((30, 112, 112, 3), 7, np.uint8)
    canvases, positions = import_study("objects").place(pixels, seed=0)
    assert canvases.shape == (30, 224, 224, 3) and positions.std() > 5
    for canvas, position in zip(canvases, positions, strict=True):
        columns = np.flatnonzero((canvas == 7).all(axis=2).sum(axis=0) >= 112)
        assert 100 * (columns.mean() + 0.5) / 224 == pytest.approx(position)


@pytest.mark.slow
def test_notebook_repeats_the_study(pets, tmp_path, monkeypatch):
    names = run_notebook(
        "objects", tmp_path, monkeypatch, data=str(pets), model="tiny", image_size=32, epochs=2
    )
    assert names["table"].to_frame()["recipe"].tolist() == RECIPES


@pytest.mark.slow
def test_objects_of_real_images(shared, keras_home, tmp_path):
    rows = run_on_real_images("objects", "pets", shared, keras_home, tmp_path)
    assert rows[1]["accuracy"] >= 0.85
    assert rows[-1]["r2"] >= 0.9 > rows[2]["r2"]  # average pooling loses the position
