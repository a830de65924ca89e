"""The demo: it ends, tells what it used, and the second time computes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tlfeatures.cli import demo as module
from tlfeatures.cli import main
from tlfeatures.registry import NETWORKS


@pytest.fixture
def few(monkeypatch):
    """A sixth of the digits and one head, so that it takes a moment."""
    whole = module._digits
    monkeypatch.setattr(module, "_digits", lambda: tuple(a[:300] for a in whole()))
    monkeypatch.setattr(module, "_HEADS", ("linear_svm",))


def test_demo(few, tmp_path, capsys):
    first, second = [], []
    for lines in (first, second):
        assert main(["demo", "--cache", str(tmp_path / "demo")]) == 0
        lines += capsys.readouterr().out.splitlines()
    assert any(line.startswith("300 images: 0 from the store, 300 computed in") for line in first)
    assert any(line.startswith("300 images: 300 from the store, 0 computed.") for line in second)
    assert "Run it again" in first[-1]
    assert "Run it again" not in second[-1]
    scores = [[line for line in lines if " ± " in line] for lines in (first, second)]
    assert scores[0] == scores[1]
    assert sum("best layer" in line for line in scores[0]) == 1


def test_the_best_layer_is_the_best_of_the_network(few, tmp_path, capsys):
    assert main(["demo", "--cache", str(tmp_path / "demo"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    taps = [row for row in found["scores"] if row["layer"] != "raw pixels"]
    assert [row["layer"] for row in taps] == list(NETWORKS[found["model"]].taps)
    assert found["best"]["layer"] == max(taps, key=lambda row: row["mean"])["layer"]
    assert all(row["mean"] == pytest.approx(np.mean(row["scores"])) for row in found["scores"])
    assert 0.5 < found["test_accuracy"] <= 1


def test_random_weights_are_called_random(few, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tlfeatures.networks.weights.find_weights", lambda *args, **kwargs: None)
    assert main(["demo", "--cache", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "Network mobilenet_0.25 with RANDOM weights" in out
    assert "these figures show the machinery, not transfer learning" in out
    assert "(RANDOM weights)" in out


def test_the_smallest_network_at_hand_is_taken(tmp_path, monkeypatch):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"1")
    large.write_bytes(b"123")
    here = {"vgg16": large, "mobilenet_v2": small, "inception_v3": small}
    monkeypatch.setattr(
        "tlfeatures.networks.weights.find_weights", lambda spec, *, top, image_size: here.get(spec.name)
    )
    spec, weights = module._network()
    assert (spec.name, weights) == ("mobilenet_v2", "imagenet")
