"""The study of faces: pipelines/faces.py and notebooks/faces.ipynb."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.study_helpers import check_figures, run_notebook, run_on_empty_store, run_study
from tlfeatures.studies import draw_faces

pytestmark = pytest.mark.slow  # runs the whole study

RECIPES = ["CNNFeatures, tiny, nearest neighbor", "Keras alone, tiny, one image after the other"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of images for each of three persons."""
    folder = tmp_path_factory.mktemp("faces")
    X, y = draw_faces(3, 4)
    for i, (image, person) in enumerate(zip(X, y, strict=True)):
        (folder / person).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / person / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    """Run the study on files; return its results, its folder and its lines."""
    return run_on_empty_store("faces", tmp_path_factory, "--data", faces, "--models", "tiny")


def test_both_ways_find_the_same_persons(run):
    results, _, _ = run
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    ours, keras_alone = (row["accuracy"] for row in results["rows"])
    assert ours == pytest.approx(keras_alone) and ours >= 0.5


def test_pairs_are_drawn(run):
    results, out, _ = run
    check_figures(out, results, ["pairs.png"])


def test_drawn_faces_and_absent_networks_are_named(tmp_path, capsys):
    code, results = run_study("faces", tmp_path, "--skip-tutorial", "--models", "resnet50,tiny")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and [row["recipe"] for row in results["rows"]] == RECIPES[:1]
    assert "left out, because the weights are not on this machine: resnet50" in lines
    assert "4 persons, 8 images in the gallery, 8 to recognize" in lines
    assert results["network"].endswith(". Images: drawn faces, not photographs")


@pytest.mark.parametrize("size", [0, 4])
def test_the_gallery_leaves_images_to_recognize(faces, tmp_path, capsys, size):
    assert run_study("faces", tmp_path, "--data", faces, "--gallery", size) == (2, None)
    assert f"--gallery {size} must be at least 1" in capsys.readouterr().err


def test_drawn_faces_are_equal_for_equal_seeds():
    X, y = draw_faces(3, 2, seed=1)
    np.testing.assert_array_equal(X, draw_faces(3, 2, seed=1)[0])
    assert (draw_faces(3, 2, seed=2)[0] != X).any() and (X[0] != X[1]).any()
    assert y.tolist() == ["person 00", "person 00", "person 01", "person 01", "person 02", "person 02"]


def test_notebook_repeats_the_study(faces, run, tmp_path, monkeypatch):
    parameters = {"data": str(faces), "model": "tiny", "models": ["tiny"], "image_size": 32}
    table = run_notebook("faces", tmp_path, monkeypatch, **parameters)["table"].to_frame()
    assert table["recipe"].tolist() == RECIPES
    assert table["accuracy"][0] == pytest.approx(run[0]["rows"][0]["accuracy"], abs=1e-4)
