"""The study of a trigger word: pipelines/wakeword.py and notebooks/wakeword.ipynb."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from tests.study_helpers import ROOT, check_figures, run_notebook, run_on_empty_store, run_study
from tlfeatures.studies import describe_network, write_wakeword_stand_in

pytestmark = pytest.mark.slow  # runs the whole study

pytest.importorskip("soundfile", reason="needs soundfile, the extra `audio`")
RECIPES = [
    "CNNFeatures, last layer + logistic regression",
    "select: layer, pooling and head",
    "FineTuneClassifier, dense head, 2 epochs",
    "Keras: small network from scratch, 2 epochs",
    "Keras: dense head on the frozen network, 2 epochs",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Manifest of 48 clips of six speakers; two of the files are broken."""
    manifest = write_wakeword_stand_in(tmp_path_factory.mktemp("clips"), 6, 8)
    folder = manifest.parent / "clips"
    (folder / "speaker00_01.wav").write_bytes(b"RIFF damaged")
    (folder / "speaker03_02.wav").unlink()
    return manifest


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    return run_on_empty_store("wakeword", tmp_path_factory, "--data", clips)


def test_all_recipes_are_measured_in_one_run(run):
    results, out, _ = run
    assert results["network"] == "tiny, trained on photographs, stands in for a speech network"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(0 <= row["accuracy"] <= 1 and row["seconds"] >= 0 for row in results["rows"])
    check_figures(out, results, ["confusion.png", "spectrograms.png"])


def test_broken_files_cost_their_rows_and_new_clips_are_classified(run, clips, tmp_path, capsys):
    good, broken = (str(clips.parent / "clips" / f"speaker00_0{i}.wav") for i in (0, 1))
    args = ["--data", clips, "--skip-tutorial", "--cache", run[1] / "store"]
    assert run_study("wakeword", tmp_path, *args, "--predict", good, broken)[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("clips/speaker00_01.wav: unreadable: damaged or unsupported") for line in lines
    )
    assert "clips/speaker03_02.wav: unreadable: no such file" in lines
    (sizes,) = [line for line in lines if "training clips of" in line]
    words = sizes.split()
    assert int(words[0]) + int(words[6]) == 46 and int(words[4]) + int(words[10]) == 6
    assert any(line.startswith(f"{good}: ") and "(probability 0." in line for line in lines)
    assert any(line.startswith(f"{broken}: unreadable: damaged") for line in lines)


def test_a_folder_has_the_speakers_in_its_file_names(clips, tmp_path, capsys):
    table = pd.read_csv(clips)
    for name, label in zip(table["path"], table["label"], strict=True):
        source = clips.parent / name
        if source.exists():
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / label / source.name).write_bytes(source.read_bytes())
    assert run_study("wakeword", tmp_path / "out", "--data", tmp_path / "data", "--skip-tutorial")[0] == 0
    assert "of 4 speakers" in capsys.readouterr().out


def test_notebook_repeats_the_study(clips, tmp_path, monkeypatch):
    parameters = {"data": str(clips), "model": "tiny", "image_size": 32, "epochs": 2}
    table = run_notebook("wakeword", tmp_path, monkeypatch, **parameters)["table"].to_frame()
    assert table["recipe"].tolist() == RECIPES


def test_network_that_is_not_a_network_of_keras():
    text = describe_network("mobilenet_0.75", "a speech network", None)
    assert text == "mobilenet_0.75, with random weights, stands in for a speech network"


def test_speakers_unseen_in_training_are_recognized(keras_home, tmp_path):
    if not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip("needs the weights in ../shared/keras")
    command = [
        sys.executable,
        str(ROOT / "pipelines" / "wakeword.py"),
        "--skip-tutorial",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = pd.read_json(tmp_path / "results.json", typ="series")["rows"]
    assert all(row["accuracy"] >= 0.95 for row in rows)


def test_clips_of_which_none_can_be_read_are_named(tmp_path, capsys):
    for i in range(2):
        (tmp_path / f"{i}.wav").write_bytes(b"RIFF damaged")
    (tmp_path / "clips.csv").write_text("path,label,speaker\n0.wav,trigger,a\n1.wav,other,b\n")
    assert run_study("wakeword", tmp_path / "out", "--data", tmp_path / "clips.csv")[0] != 0
    assert "cannot read 2 of 2 clips: " in capsys.readouterr().err


def test_clips_without_labels_are_refused(tmp_path, capsys):
    write_wakeword_stand_in(tmp_path, 1, 2)
    assert run_study("wakeword", tmp_path / "out", "--data", tmp_path / "clips")[0] == 2
    assert "Clips in '" in (text := capsys.readouterr().err) and "have no labels. Expected a folder" in text
