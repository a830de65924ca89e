"""The study of lengths: pipelines/lengths.py and notebooks/lengths.ipynb."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.study_helpers import ROOT, import_study, run_notebook, run_study
from tlfeatures import FineTuneRegressor

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
    folder = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for label, color in {"cats": (200, 60, 40), "dogs": (50, 70, 190), "horses": (40, 160, 60)}.items():
        (folder / label).mkdir()
        for i in range(8):
            pixels = np.clip(np.array(color) + rng.integers(-40, 40, (36, 44, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its standard output."""
    out = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code, results = run_study("lengths", out, "--data", pets, "--predict", pets / "dogs" / "1.png")
    assert code == 0
    return results, out, text.getvalue()


def test_all_recipes_are_scored_on_the_test_images(run):
    results, _, _ = run
    assert results["network"] == "tiny stands in for vgg16, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(row["mae_cm"] > 0 and row["r2"] <= 1 for row in results["rows"])
    assert results["rows"][0]["r2"] >= 0.6


def test_figures_show_the_predictions(run):
    results, out, _ = run
    assert results["figures"] == ["lengths.png", "predictions.png", "new_images.png"]
    for name in results["figures"]:
        with Image.open(out / name) as image:
            assert min(image.size) > 200 and np.asarray(image.convert("L")).std() > 10


def test_the_file_of_the_head_is_restored_in_another_process(pets, run):
    _, out, text = run
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


def test_notebook_repeats_the_study(pets, tmp_path, monkeypatch):
    names = run_notebook(
        "lengths", tmp_path, monkeypatch, data=str(pets), model="tiny", image_size=32, epochs=2, steps=10
    )
    assert names["table"].to_frame()["recipe"].tolist() == RECIPES


@pytest.mark.slow
def test_lengths_of_real_images(shared, keras_home, tmp_path):
    source = shared / "data" / "pets"
    if not source.is_dir() or not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip("needs ../shared/data/pets and the weights in ../shared/keras")
    command = [
        sys.executable,
        str(ROOT / "pipelines" / "lengths.py"),
        "--data",
        str(source),
        "--skip-tutorial",
    ]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert max(row["r2"] for row in rows) >= 0.85
