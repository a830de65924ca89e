"""The study of STL-10: pipelines/stl10.py, notebooks/stl10.ipynb and the reader of its binary files."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from tests.study_helpers import check_figures, run_notebook, run_on_empty_store
from tlfeatures.errors import SourceError
from tlfeatures.sources import read_stl10
from tlfeatures.studies import write_stl10_stand_in

STAND_IN = "Images: drawn stand-in in the format of STL-10, not its photographs"
RECIPES = [
    "CNNFeatures + SVM, no augmentation",
    "FineTuneClassifier, last layer, 2 epochs",
    "FineTuneClassifier, all layers, 2 epochs",
    "Keras: tutorial's recipe, last layer, 2 epochs",
    "Keras: tutorial's recipe, all layers, 2 epochs",
]


@pytest.fixture(scope="module")
def stl10(tmp_path_factory):
    """Folder with a few images in the format of STL-10, without names of classes."""
    folder = tmp_path_factory.mktemp("stl10_binary")
    write_stl10_stand_in(folder, 100, 20)
    (folder / "class_names.txt").unlink()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the study without data; return its results, its folder, its lines and the titles of its figures."""
    titles, fill = [], textwrap.fill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textwrap, "fill", lambda text, *args: titles.append(text) or fill(text, *args))
        return *run_on_empty_store("stl10", tmp_path_factory), titles


@pytest.mark.slow
def test_both_ways_are_measured_in_one_run(run):
    results, _, lines, _ = run
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(0 <= row["accuracy"] <= 1 for row in results["rows"])
    assert sum(row["seconds"] for row in results["rows"]) > 0  # rounded to a tenth, one alone may be 0
    assert "100 training images, 20 test images, 10 classes" in lines
    assert "one dense layer on the global average of the last map of 32 pixels" in lines


@pytest.mark.slow
def test_curves_are_drawn(run):
    results, out, _, _ = run
    check_figures(out, results, ["curves.png", "confusion.png"])


@pytest.mark.slow
def test_the_stand_in_is_labelled_in_every_output(run):
    results, _, lines, titles = run
    assert (
        results["network"] == f"tiny stands in for vgg16, whose weights are not on this machine. {STAND_IN}"
    )
    assert lines[1] == STAND_IN and lines[-2].endswith(STAND_IN)
    assert len(titles) == 2 and all(STAND_IN in title for title in titles)


@pytest.mark.slow
def test_notebook_repeats_the_study(stl10, tmp_path, monkeypatch):
    parameters = {"data": str(stl10), "model": "tiny", "image_size": 32, "epochs": 2}
    names = run_notebook("stl10", tmp_path, monkeypatch, **parameters)
    assert names["table"].to_frame()["recipe"].tolist() == RECIPES
    assert STAND_IN not in names["network_text"]


def test_read_stl10_reads_column_major_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    for split, labels in (("train", [1, 10, 2]), ("test", [3, 3, 4])):
        with open(tmp_path / f"{split}_X.bin", "wb") as file:
            for image in images:
                for channel in range(3):
                    file.write(image[:, :, channel].T.tobytes())  # column by column
        (tmp_path / f"{split}_y.bin").write_bytes(bytes(labels))
    (X, y), (X_test, y_test) = read_stl10(tmp_path)
    np.testing.assert_array_equal(X, images)
    np.testing.assert_array_equal(X_test, images)
    assert y.tolist() == [1, 10, 2] and y_test.tolist() == [3, 3, 4]
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (tmp_path / "class_names.txt").write_text("\n".join(names))
    assert read_stl10(tmp_path)[0][1].tolist() == ["airplane", "truck", "bird"]


def test_the_stand_in_is_equal_for_equal_seeds(tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_stl10_stand_in(tmp_path / name, 20, 10, seed)
        contents.append((tmp_path / name / "train_X.bin").read_bytes())
    assert contents[0] == contents[1] != contents[2]
    (X, y), _ = read_stl10(tmp_path / "a")
    assert len(np.unique(y)) == 10 and X.std() > 30


def test_read_stl10_rejects_other_files(stl10, tmp_path):
    with pytest.raises(SourceError, match=r"No such folder: .*absent"):
        read_stl10(tmp_path / "absent")
    with pytest.raises(
        SourceError, match=r"No file 'train_X\.bin' in .* Expected train_X\.bin, train_y\.bin"
    ):
        read_stl10(tmp_path)
    for file in stl10.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "test_X.bin").write_bytes((stl10 / "test_X.bin").read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"'test_X\.bin' has 552,959 bytes and 'test_y\.bin' has 20 labels"):
        read_stl10(tmp_path)
    (tmp_path / "train_y.bin").write_bytes(bytes(i % 40 for i in range(100)))
    with pytest.raises(SourceError, match=r"'train_y\.bin' run from 0 to 39; expected labels from 1 to 10"):
        read_stl10(tmp_path)
