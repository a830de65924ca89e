"""The study of hand signs: pipelines/signs.py and notebooks/signs.ipynb."""

from __future__ import annotations

import json
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.study_helpers import (
    ROOT,
    TINY,
    check_figures,
    run_notebook,
    run_on_empty_store,
    run_on_real_images,
    run_study,
)
from tlfeatures.errors import SourceError
from tlfeatures.sources import read_splits

pytestmark = pytest.mark.slow  # runs the whole study
CLASSES = ["fist", "one", "two"]
RECIPES = [
    "CNNFeatures, last layer + SVM",
    "select: layer, pooling and head",
    "FineTuneClassifier, tutorial's head, 2 epochs",
    "Keras: the tutorial's recipe, 2 epochs",
]


def draw(labels, seed):
    """Draw bright bars on noise, whose number is the label; some have low contrast."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 160, (len(labels), 32, 32, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        for bar in range(label):
            left = 4 + 14 * bar + int(rng.integers(4))
            image[6:26, left : left + 6] = rng.integers(120, 200, 3)
    return images


Y, Y_TEST = np.arange(36) % 3, np.arange(12) % 3
X, X_TEST = draw(Y, seed=0), draw(Y_TEST, seed=1)
SPLITS = (("train", X, Y), ("test", X_TEST, Y_TEST))


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """Folder with HDF5 files in the layout of the tutorial, and an image outside of them."""
    folder = tmp_path_factory.mktemp("tutorial")
    for split, images, labels in SPLITS:
        with h5py.File(folder / f"{split}_signs.h5", "w") as file:
            file[f"{split}_set_x"] = images
            file[f"{split}_set_y"] = labels[None]  # shape (1, n), as in some versions of the tutorial
            file["list_classes"] = np.array(CLASSES, dtype="S")
    Image.fromarray(draw([2], seed=2)[0]).save(folder / "my hand.png")
    return folder


@pytest.fixture(scope="module")
def run(tutorial, tmp_path_factory):
    """Run the study on an empty store; return its results, its folder and its lines."""
    hand = tutorial / "my hand.png"
    return run_on_empty_store("signs", tmp_path_factory, "--data", tutorial, "--predict", hand, "absent.jpg")


def test_all_recipes_are_measured_in_one_run(run):
    results, _, _ = run
    assert results["network"] == "tiny stands in for vgg19, whose weights are not on this machine"
    assert [row["recipe"] for row in results["rows"]] == RECIPES
    assert all(0 <= row["accuracy"] <= 1 for row in results["rows"])
    assert sum(row["seconds"] for row in results["rows"]) > 0  # rounded to a tenth, one alone may be 0
    assert results["rows"][0]["accuracy"] >= 0.9


def test_figures_show_the_mistakes_and_the_new_image(run):
    results, out, _ = run
    check_figures(out, results, ["confusion.png", "predictions.png"])


def test_second_run_imports_no_backend_and_repeats_the_scores(run, tutorial, tmp_path):
    results, out, _ = run
    script = (
        "import runpy, sys\n"
        "sys.argv[0] = 'signs.py'\n"
        f"try: runpy.run_path({str(ROOT / 'pipelines' / 'signs.py')!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)\n"
    )
    hand = str(tutorial / "my hand.png")
    args = [*TINY, "--data", str(tutorial), "--skip-tutorial", "--predict", hand, "absent.jpg"]
    args += ["--cache", str(out / "store"), "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["accuracy"] for row in again] == [row["accuracy"] for row in results["rows"][:2]]
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"{hand}: two (probability 0.") for line in lines)
    assert "absent.jpg: unreadable: no such file" in lines


def test_the_search_does_not_see_the_test_labels(run, tutorial, tmp_path, capsys):
    results, out, _ = run
    for split in ("train", "test"):
        (tmp_path / f"{split}.h5").write_bytes((tutorial / f"{split}_signs.h5").read_bytes())
    with h5py.File(tmp_path / "test.h5", "r+") as file:
        file["test_set_y"][...] = (Y_TEST[None] + 1) % 3  # same images, wrong test labels
    args = ["--data", tmp_path, "--skip-tutorial", "--cache", out / "store"]
    code, wrong = run_study("signs", tmp_path / "out", *args)
    assert code == 0
    chosen = [line for line in capsys.readouterr().out.splitlines() if line.startswith("select chose")]
    run_study("signs", tmp_path / "out", "--data", tutorial, *args[2:])
    assert chosen == [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("select chose")
    ]
    for row, right in zip(wrong["rows"], results["rows"], strict=False):
        assert row["accuracy"] <= 1 - right["accuracy"] + 1e-9


def test_errors_are_one_line(tutorial, tmp_path, capsys):
    def error(*args):
        assert run_study("signs", tmp_path / "out", "--skip-tutorial", *args)[0] == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "'smv'. Did you mean 'svm'?" in error("--data", tutorial, "--heads", "smv")
    assert "Unknown network 'mobilnet'" in error("--data", tutorial, "--model", "mobilnet")
    assert "No images in" in error("--data", tmp_path)


def write_images(folder):
    """Write the images as PNG files in split folders with class folders; return the rows of a manifest."""
    rows = []
    for split, images, labels in SPLITS:
        for i, (label, image) in enumerate(zip(labels, images, strict=True)):
            path = folder / split / CLASSES[label] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            rows.append((str(path.relative_to(folder)), CLASSES[label], split))
    return pd.DataFrame(rows, columns=["path", "label", "split"])


@pytest.mark.parametrize("layout", ["two files", "one file", "manifest", "folder of a manifest", "folders"])
def test_read_splits_reads_every_layout(tutorial, tmp_path, layout):
    source = tmp_path
    if layout == "two files":
        source = tutorial
    elif layout == "one file":
        source = tmp_path / "signs.h5"
        with h5py.File(source, "w") as target:
            for split in ("train", "test"):
                with h5py.File(tutorial / f"{split}_signs.h5") as file:
                    for name in file:
                        target.require_dataset(name, file[name].shape, file[name].dtype)[...] = file[name][()]
    else:
        table = write_images(tmp_path)
        if layout != "folders":
            table.to_csv(tmp_path / "signs.csv", index=False)
            source = tmp_path / "signs.csv" if layout == "manifest" else tmp_path
    for part, (split, images, labels) in zip(read_splits(source), SPLITS, strict=True):
        assert sorted(part.y.tolist()) == sorted(CLASSES[i] for i in labels)
        assert part.split.tolist() == [split] * len(labels)
        pixels = {np.asarray(Image.open(i) if isinstance(i, str) else i).tobytes() for i in part.images}
        assert pixels == {image.tobytes() for image in images}


def test_read_splits_rejects_other_sources(tutorial, tmp_path):
    with pytest.raises(SourceError, match=r"No such file or folder: .*signz.*Expected a folder with train/"):
        read_splits(tmp_path / "signz")
    train = str(tutorial / "train_signs.h5")
    with pytest.raises(SourceError, match="No array 'test_set_x'"):
        read_splits(train)
    for split, name in (("train", "one"), ("test", "one")):
        (tmp_path / "unlabelled").mkdir(exist_ok=True)
        Image.fromarray(X[0]).save(tmp_path / "unlabelled" / f"{split} {name}.png")
    with pytest.raises(SourceError, match=r"The images in .* have no splits"):
        read_splits(tmp_path / "unlabelled")
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.update({"train_set_x": X, "train_set_y": Y + 1, "list_classes": [0, 1, 2]})
        file.update({"test_set_x": X, "test_set_y": Y})
    with pytest.raises(SourceError, match="run from 1 to 3; `list_classes` has 3 names"):
        read_splits(tmp_path / "bad.h5")


def test_read_splits_ignores_a_csv_file_of_other_data_beside_the_splits(tutorial, tmp_path):
    write_images(tmp_path)
    expected = [len(part) for part in read_splits(tmp_path)]
    for text in ("id,score\n1,0.5\n", "path,label\ntrain/missing.png,cat\n"):
        (tmp_path / "submission.csv").write_text(text)
        assert [len(part) for part in read_splits(tmp_path)] == expected


def test_unreadable_images_are_left_out(tmp_path, capsys):
    write_images(tmp_path / "signs")
    (tmp_path / "signs" / "train" / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff truncated")
    code, _ = run_study("signs", tmp_path / "out", "--data", tmp_path / "signs", "--skip-tutorial")
    text = capsys.readouterr().out
    assert code == 0
    assert "train/one/broken.jpg: unreadable: " in text and "36 training images, 12 test images" in text


@pytest.mark.slow
def test_notebook_repeats_the_study(tutorial, tmp_path, monkeypatch):
    names = run_notebook(
        "signs", tmp_path, monkeypatch, data=str(tutorial), model="tiny", image_size=32, epochs=2
    )
    table = names["table"].to_frame()
    assert table["recipe"].tolist() == RECIPES
    assert table["accuracy"][0] >= 0.9


@pytest.mark.slow
def test_signs_reaches_the_documented_accuracy(shared, keras_home, tmp_path):
    """Run the study on the images of the tutorial, with an empty store."""
    rows = run_on_real_images("signs", "signs", shared, keras_home, tmp_path)
    assert rows[0]["accuracy"] >= 0.983
