"""The demo writes its report, and a second run computes no embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tlfeatures.cli import _demo as module
from tlfeatures.cli import main
from tlfeatures.networks import NETWORKS


@pytest.fixture
def small_demo(monkeypatch):
    """Use 300 digits and one head to keep the test short."""
    all_digits = module._load_digits
    monkeypatch.setattr(module, "_load_digits", lambda: tuple(a[:300] for a in all_digits()))
    monkeypatch.setattr(module, "_HEADS", ("linear_svm",))


def test_second_run_reads_all_embeddings_from_the_store(small_demo, tmp_path, capsys):
    first, second = [], []
    for lines in (first, second):
        assert main(["demo", "--cache", str(tmp_path / "demo")]) == 0
        lines += capsys.readouterr().out.splitlines()
    assert any(line.startswith("300 images: 0 from the store, 300 computed in") for line in first)
    assert any(line.startswith("300 images: 300 from the store, 0 computed.") for line in second)
    assert first[-1].endswith("In the next run all embeddings will come from the store.")
    assert second[-1].endswith("All embeddings came from the store.")
    scores = [[line for line in lines if " ± " in line] for lines in (first, second)]
    assert scores[0] == scores[1]
    assert [line.split()[0] for line in scores[0]] == list(NETWORKS["tiny"].taps)
    assert sum(line.rstrip().endswith("best") for line in scores[0]) == 1


def test_json_output_and_files(small_demo, tmp_path, capsys):
    assert main(["demo", "--cache", str(tmp_path / "demo"), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["best_layer"] == max(output["scores"], key=lambda row: row["score"])["layer"]
    assert 0.8 < output["test_accuracy"] <= 1 and 0.8 < output["raw_pixels"] <= 1
    page, plot = map(Path, output["files"])
    assert "<html" in page.read_text() and plot.read_bytes().startswith(b"\x89PNG")
