"""`tlfeatures classify`: table, CSV, JSON, unreadable images and invalid arguments."""

from __future__ import annotations

import csv
import json

import pytest

from tests.networks import build
from tlfeatures import ImageNetClassifier
from tlfeatures.cli import main
from tlfeatures.networks import NETWORKS

SIZE = 32
COLUMNS = ["path", "rank", "class", "probability", "wordnet_id", "error"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Arguments for a network with its top and random weights."""
    path = tmp_path_factory.mktemp("classify") / "with_top.weights.h5"
    build(NETWORKS["mobilenet_0.25"], SIZE, top=True).save_weights(path)
    return ["--model", "mobilenet_0.25", "--image-size", str(SIZE), "--weights", str(path)]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in this process with a new store."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        capsys.readouterr()
        code = main(["classify", *map(str, argv)])
        return code, *capsys.readouterr()

    return call


def test_json_and_csv_have_the_classes_of_the_classifier(run, network, photos, tmp_path):
    code, out, _ = run(*photos.paths[:3], *network, "--top", 2, "--json")
    rows = json.loads(out)
    assert code == 0
    assert [list(row) for row in rows] == [COLUMNS] * 6
    clf = ImageNetClassifier("mobilenet_0.25", weights=network[-1], image_size=SIZE)
    expected = [
        (path, rank, name, key)
        for path, top in zip(photos.paths[:3], clf.top(photos.paths[:3], k=2), strict=True)
        for rank, (key, name, _) in enumerate(top, start=1)
    ]
    assert [(row["path"], row["rank"], row["class"], row["wordnet_id"]) for row in rows] == expected

    for _ in range(2):  # the second run may overwrite the file, and computes nothing
        code, out, _ = run(photos.root / "discs", *network, "-o", "classes.csv")
        assert code == 0
    assert "4 images: 4 from the store, 0 computed." in out and "classes.csv: 20 rows." in out
    with open(tmp_path / "classes.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == COLUMNS
    assert [row["rank"] for row in written[:6]] == ["1", "2", "3", "4", "5", "1"]


def test_table_with_unreadable_images(run, network, photos, tmp_path):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"not an image")
    code, out, err = run(photos.paths[0], damaged, *network, "--top", 1)
    assert code == 0
    assert out.splitlines()[0].split() == COLUMNS
    assert "1 of 2 images could not be read and has no classes:" in err and "damaged.jpg" in err
    assert run(photos.paths[0], damaged, *network, "--strict")[0] == 1
    code, out, _ = run(damaged, *network, "--json")
    assert code == 1
    (row,) = json.loads(out)
    assert row["class"] is None and row["error"] == "not an image in a known format"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--model", "tiny"], "--model must be a network that ends in the 1,000 classes of ImageNet"),
        (["--weights", "random"], "--weights must be 'imagenet' or the path of a file"),
        (["--top", "0"], "Invalid value for '--top'"),
        (["-o", "classes.txt"], "-o 'classes.txt' must end in .csv"),
    ],
)
def test_invalid_arguments_exit_with_2(run, photos, argv, text):
    code, _, err = run(photos.paths[0], *argv)
    assert code == 2
    assert text in err
    assert len(err.splitlines()) == 1
