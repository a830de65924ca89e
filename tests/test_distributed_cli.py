"""`tlfeatures embed` with engines and shards."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from tests.test_cli import SMALL, damaged_folder, folder, run  # noqa: F401
from tlfeatures import CNNFeatures

UNITS = [*SMALL, "--unit-size", "2"]
pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.UnreadableImagesWarning")


def test_shards_fill_the_store_and_a_last_run_collects_the_rows(run, photos):  # noqa: F811
    shards = [run("embed", photos.root, "--shard", f"{i}/4", *UNITS).out for i in (1, 2, 3, 4)]
    assert shards[0].startswith("Shard 1/4: 4 images: 0 from the store, 4 computed in ")
    assert [text.split()[2] for text in shards] == ["4", "4", "2", "2"]
    assert os.listdir() == []
    last = run("embed", photos.root, "-o", "f.npy", *UNITS)
    assert "12 images: 12 from the store, 0 computed" in last.out
    expected = CNNFeatures("tiny", image_size=32, cache=None).fit_transform(sorted(photos.paths))
    np.testing.assert_array_equal(np.load("f.npy"), expected)


def test_a_shard_names_unreadable_images(run, damaged_folder):  # noqa: F811
    result = run("embed", damaged_folder, "--shard", "1/1", *UNITS, "--json", "--strict")
    assert result.code == 1
    assert (result.json["images"], result.json["unreadable"], result.json["shard"]) == (15, 3, "1/1")
    assert len(result.json["errors"]) == 3
    assert "3 of 15 images could not be read and have rows of NaN" in result.err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--shard", "1/4", "-o", "x.npy"], "--shard only fills the store: leave out --output"),
        ([], "Missing option '--output'"),
        (["--shard", "5/4"], "--shard must be I/N with I from 1 to N, such as 3/16; got 5/4"),
        (["-o", "x.npy", "--engine", "dask"], "--engine must be local or ray; got 'dask'"),
        (["-o", "x.npy", "--workers", "4"], "--workers is an option of --engine ray"),
        (["--shard", "1/4", "--cache", "none"], "--cache must be"),
    ],
)
def test_wrong_options_are_refused(run, photos, argv, text):  # noqa: F811
    result = run("embed", photos.root, *SMALL, *argv)
    assert result.code == 2
    assert text in result.errors[0]


def test_the_ray_engine_without_ray_names_the_extra(run, photos, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("embed", photos.root, "-o", "x.npy", "--engine", "ray", *UNITS)
    assert result.code == 1
    assert "pip install 'tlfeatures[ray]'" in result.errors[0]
