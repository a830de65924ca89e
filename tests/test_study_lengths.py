"""The study of lengths: pipelines/lengths.py and notebooks/lengths.ipynb."""

from __future__ import annotations

import re

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
from tlfeatures import FineTuneRegressor
from tlfeatures.studies import Study

RECIPES = [
    "CNNFeatures + ridge",
    "CNNFeatures + SVR",
    "CNNFeatures + 5 nearest neighbors",
    "FineTuneRegressor, Dense(256), 2 epochs",
    "Keras: the tutorial's recipe, 10 steps",
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Class folders with images of different colors."""
    return write_colored_images(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    new = pets / "dogs" / "1.png"
    return run_on_empty_store("lengths", tmp_path_factory, "--data", pets, "--predict", new)


@pytest.mark.slow
def test_all_recipes_are_scored_on_the_test_images(run):
    results, _, _ = run
    assert results["network"] == "tiny stands in for vgg16, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(row["mae_cm"] > 0 and row["r2"] <= 1 for row in results["rows"])
    assert results["rows"][0]["r2"] >= 0.6


@pytest.mark.slow
def test_figures_show_the_predictions(run):
    results, out, _ = run
    check_figures(out, results, ["lengths.png", "predictions.png", "new_images.png"])


@pytest.mark.slow
def test_the_file_of_the_head_is_restored_in_another_process(pets, run):
    _, out, lines = run
    text = "\n".join(lines)
    assert "another process restored it and predicts the same lengths" in text
    assert "their lengths are drawn, not measured" in text
    assert re.search(r"1\.png: -?\d+ cm", text)
    head = out / "head.keras-bundle"
    assert FineTuneRegressor.load(head, cache=None).predict([pets / "cats" / "0.png"]).shape == (1,)
    assert head.stat().st_size < 2 * 4 * 320 * 256  # no weights of the network


def test_lengths_are_drawn_with_a_seed():
    draw = import_study("lengths").draw_lengths
    classes = np.array(["cats", "horses", "unicorns"]).repeat(400)
    y = draw(classes, 0)
    np.testing.assert_array_equal(y, draw(classes, 0))
    assert (y != draw(classes, 1)).all()
    assert y[:400].mean() == pytest.approx(46, abs=1) and y[400:800].mean() == pytest.approx(240, abs=3)
    assert 10 < y[800:].mean() < 260


@pytest.mark.slow
def test_notebook_repeats_the_study(pets, tmp_path, monkeypatch):
    names = run_notebook(
        "lengths", tmp_path, monkeypatch, data=str(pets), model="tiny", image_size=32, epochs=2, steps=10
    )
    assert names["table"].to_frame()["recipe"].tolist() == RECIPES


@pytest.mark.slow
def test_lengths_of_real_images(shared, keras_home, tmp_path):
    rows = run_on_real_images("lengths", "pets", shared, keras_home, tmp_path)
    assert max(row["r2"] for row in rows) >= 0.85


def test_new_images_that_cannot_be_read_are_named(pets, tmp_path, capsys):
    class Regressor:
        def predict(self, X):
            return np.full(len(X), 46.0)

    good, broken = str(pets / "cats" / "0.png"), str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    lengths, study = import_study("lengths"), Study("lengths", "", tutorial_network="vgg16", data=None)
    study.args = study.parser.parse_args(["--out", str(tmp_path)])
    lengths.predict_new(study, Regressor(), np.array([broken, good]))
    lengths.predict_new(study, Regressor(), np.array([broken]))
    lengths.predict_new(study, Regressor(), np.array([]))
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == third and first.startswith(f"{broken}: unreadable: ")
    assert second == f"{good}: 46 cm" and study.figures == ["new_images.png"]
