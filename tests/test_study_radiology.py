"""The study of radiology: pipelines/radiology.py and notebooks/radiology.ipynb."""

from __future__ import annotations

import numpy as np
import pytest

from tests.study_helpers import check_figures, import_study, run_notebook, run_on_empty_store, run_study
from tlfeatures import CNNFeatures
from tlfeatures.studies import write_radiology_stand_in

pytest.importorskip("pydicom", reason="needs pydicom, the extra `dicom`")
RECIPES = [
    "select: layer, pooling and head",
    "CNNFeatures, all layers + logistic regression",
    "FineTuneClassifier, last layer, 1 epochs",
    "FineTuneClassifier, all layers, 1 epochs",
    "Keras: last layer, 1 epochs",
    "Keras: all layers, 1 epochs",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Manifest of 24 images of eight patients in three formats; two DICOM files are broken."""
    manifest = write_radiology_stand_in(tmp_path_factory.mktemp("images"), 8, 3)
    folder = manifest.parent / "images"
    (folder / "patient00_0.dcm").write_bytes((folder / "patient00_0.dcm").read_bytes()[:700])
    (folder / "patient03_0.dcm").write_bytes(b"")
    return manifest


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    return run_on_empty_store("radiology", tmp_path_factory, "--data", images)


@pytest.mark.slow
def test_all_recipes_are_measured_in_one_run(run):
    results, out, _ = run
    assert results["network"] == "tiny stands in for vgg16, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    for row in results["rows"]:
        assert 0 <= row["accuracy"] <= 1
    for row in results["rows"][2:]:
        assert row["low"] <= row["difference"] <= row["high"]
    check_figures(out, results, ["layers.png", "predictions.png"])


@pytest.mark.slow
def test_broken_files_cost_their_rows(images, run, tmp_path, capsys):
    args = ["--data", images, "--skip-tutorial", "--cache", run[1] / "store"]
    assert run_study("radiology", tmp_path, *args)[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("images/patient00_0.dcm: unreadable: ") and "DICOM" in line for line in lines)
    assert "images/patient03_0.dcm: unreadable: the file is empty" in lines
    assert "22 images of 8 patients, classes clear, opacity" in lines


def test_three_formats_give_one_embedding(images):
    paths = sorted(map(str, (images.parent / "formats").iterdir()))
    assert [path[-4:] for path in paths] == [".dcm", ".png", ".tif"]
    rows = CNNFeatures("tiny", image_size=32, cache=None, window=(2048, 4096)).fit_transform(paths)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (rows @ rows.T).min() >= 0.9999


@pytest.mark.slow
def test_notebook_repeats_the_study(images, tmp_path, monkeypatch):
    parameters = {"data": str(images), "model": "tiny", "image_size": 32, "epochs": 1}
    names = run_notebook("radiology", tmp_path, monkeypatch, **parameters)
    assert names["table"].to_frame()["recipe"].tolist() == RECIPES


def test_invalid_window_is_an_error_of_the_option(capsys):
    for window in ("wide", "2048"):
        with pytest.raises(SystemExit, match="2"):
            import_study("radiology").main(["--window", window])
        assert "argument --window: invalid" in capsys.readouterr().err
