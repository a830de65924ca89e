"""Each benchmark runs, and writes the figures that it promises. The figures themselves count only in full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES = {
    "extract": {
        *("loop_images_per_s", "dataset_images_per_s", "network_images_per_s", "decode_images_per_s"),
        *("tlfeatures_images_per_s", "bound_images_per_s", "times_loop", "times_dataset", "of_bound"),
        *("large_times_dataset", "large_cosine_to_exact", "vgg19_of_network"),
    },
    "finetune": {
        *(
            "signs_finetuned_conv_dw_6",
            "signs_gain_over_frozen",
            "signs_tutorials_recipe",
            "lengths_finetuned_r2",
        ),
        *("times_64_ratio", "times_64_ratio_to_own_loop", "times_64_difference_to_own_loop"),
    },
    "gridsearch": {"photographs_1_jobs_cold_ratio", "photographs_1_jobs_warm_ratio"},
    "precision": {"vgg19_float32_apart", "vgg19_float32_ours_images_per_s", "vgg19_float32_of_bare"},
    "memory": {"cold_beyond_result_mb", "warm_beyond_result_mb"},
    "taps": {"network_ratio", "files_ratio"},
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """All benchmarks at once: each waits for most of its time on one core."""
    folder = tmp_path_factory.mktemp("benchmarks")
    runs = {}
    for name in FIGURES:
        command = [
            sys.executable,
            str(BENCHMARKS / f"{name}.py"),
            "--quick",
            "--json",
            f"{folder}/{name}.json",
        ]
        with open(folder / f"{name}.txt", "w") as output:
            runs[name] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    yield folder, runs
    for run in runs.values():
        run.kill()
        run.wait()


@pytest.mark.parametrize("name", FIGURES)
def test_quick(running, name):
    folder, runs = running
    code = runs[name].wait(timeout=280)
    printed = (folder / f"{name}.txt").read_text()
    assert code == 0, printed
    result = json.loads((folder / f"{name}.json").read_text())
    assert (result["benchmark"], result["quick"]) == (name, True)
    assert FIGURES[name] <= result["figures"].keys()
    assert all(isinstance(value, float | int) and value == value for value in result["figures"].values())
    assert result["targets"].keys() <= result["figures"].keys() and result["targets"]
    for figure in result["targets"]:
        assert any(line.startswith(figure) and "target" in line for line in printed.splitlines())


def test_embeddings_are_those_of_keras(running):
    folder, runs = running
    assert runs["extract"].wait(timeout=280) == 0
    figures = json.loads((folder / "extract.json").read_text())["figures"]
    assert figures["largest_difference_to_loop"] < 1e-4
    assert figures["large_cosine_to_exact"] > 0.999
