"""The studies in pipelines/ run from the command line to the results."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold, cross_val_score

from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.errors import SourceError
from tlfeatures.heads import make_head

SIGNS = Path(__file__).parents[1] / "pipelines" / "signs.py"
LAYERS = ["block5_pw_relu", "block10_pw_relu"]
NETWORK = ["--model", "tiny", "--image-size", "32"]
CLASSES = ["fist", "one", "two"]


@pytest.fixture(scope="module")
def signs():
    """Import the study as a module."""
    spec = importlib.util.spec_from_file_location("signs", SIGNS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def write(folder, labels_test=Y_TEST):
    """Write HDF5 files with the layout of the tutorial."""
    for split, images, labels in (("train", X, Y), ("test", X_TEST, labels_test)):
        with h5py.File(folder / f"{split}_signs.h5", "w") as file:
            file[f"{split}_set_x"] = images
            file[f"{split}_set_y"] = labels[None]  # shape (1, n), as in some versions of the tutorial
            file["list_classes"] = np.array(CLASSES, dtype="S")
    return folder


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tutorial"))


@pytest.fixture(scope="module")
def run(signs, tutorial, tmp_path_factory):
    """Run the study on an empty store; return the arguments and the folder of the store and the results."""
    out = tmp_path_factory.mktemp("run")
    args = [str(tutorial), *NETWORK, "--layers", ",".join(LAYERS), "--heads", "svm,ridge", "--folds", "3"]
    assert signs.main([*args, "--cache", str(out / "store"), "--out", str(out)]) == 0
    (out / "info.json").write_text(json.dumps(EmbeddingStore(out / "store").info()))
    return args, out


def test_signs_searches_all_candidates_and_scores_the_best(run):
    _, out = run
    table = pd.read_csv(out / "results.csv")
    assert len(table) == len(table.drop_duplicates(["layer", "pooling", "head"])) == 2 * 2 * 2
    assert table["cv_accuracy"].is_monotonic_decreasing
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    settings = {"model": "tiny", "image_size": 32, "cache": None}
    for _, row in table.iterrows():
        cnn = CNNFeatures(**settings, layer=row["layer"], pooling=row["pooling"]).fit(X)
        features = cnn.transform(X)
        scores = cross_val_score(make_head(row["head"]), features, Y, cv=folds)
        assert row["cv_accuracy"] == pytest.approx(scores.mean(), abs=1e-9)
        if row.name == 0:
            accuracy = make_head(row["head"]).fit(features, Y).score(cnn.transform(X_TEST), Y_TEST)
    result = json.loads((out / "result.json").read_text())
    assert [result[key] for key in ("layer", "pooling", "head")] == table.iloc[0, :3].tolist()
    assert result["test_accuracy"] == pytest.approx(accuracy)
    assert result["test_images"] == 12


def test_signs_computes_each_embedding_once(run):
    """Check that the store has one row for each image, layer and pooling."""
    _, out = run
    recipes = json.loads((out / "info.json").read_text())["recipes"]
    rows = {(r["recipe"]["layer"], r["recipe"]["pooling"]): (r["rows"], r["unique_rows"]) for r in recipes}
    assert rows == {(layer, pooling): (48, 48) for layer in LAYERS for pooling in ("avg", "max")}


def test_signs_second_run_imports_no_backend_and_has_equal_results(run, tmp_path):
    args, out = run
    script = (
        "import runpy, sys\n"
        "sys.argv[0] = 'signs.py'\n"
        f"try: runpy.run_path({str(SIGNS)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", script, *args, "--cache", str(out / "store"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rows that the search added to the store: 0" in done.stdout
    tables = [pd.read_csv(folder / "results.csv").drop(columns="fit_seconds") for folder in (out, tmp_path)]
    pd.testing.assert_frame_equal(*tables)


def test_signs_selects_on_the_training_images_only(signs, run, tmp_path):
    args, out = run
    wrong = write(tmp_path, (Y_TEST + 1) % 3)  # same images, wrong test labels
    assert signs.main([str(wrong), *args[1:], "--cache", str(out / "store"), "--out", str(tmp_path)]) == 0
    tables = [pd.read_csv(folder / "results.csv").drop(columns="fit_seconds") for folder in (out, tmp_path)]
    pd.testing.assert_frame_equal(*tables)
    right, wrong = (json.loads((f / "result.json").read_text())["test_accuracy"] for f in (out, tmp_path))
    assert wrong <= 1 - right


def test_signs_draws_the_confusion_matrix(run):
    with Image.open(run[1] / "confusion.png") as image:
        assert min(image.size) > 500
        pixels = np.asarray(image.convert("L"))
    assert pixels[0, 0] == 255 and pixels.min() < 80


def test_signs_classifies_images_named_on_the_command_line(signs, run, tmp_path, capsys):
    args, out = run
    paths = [str(tmp_path / f"my image [{label}].png") for label in range(3)]
    for label, path in enumerate(paths):
        Image.fromarray(X[label]).save(path)  # training images
    absent = str(tmp_path / "absent.jpg")
    for head, confidence in (("logreg", "probability 0."), ("svm", "decision margin ")):
        few = [*args[: args.index("--heads")], "--heads", head, "--poolings", "avg", "--folds", "3"]
        few += ["--cache", str(out / "store"), "--out", str(tmp_path), "--predict", absent, *paths]
        assert signs.main(few) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"{absent}: unreadable: no such file" in lines
        for name, path in zip(CLASSES, paths, strict=True):
            (line,) = (line for line in lines if line.startswith(path))
            assert line.startswith(f"{path}: {name} ({confidence}")


def test_signs_tunes_the_heads_and_reports_random_weights(signs, run, tmp_path, capsys):
    args, out = run
    few = [*args[: args.index("--layers")], "--layers", LAYERS[1], "--heads", "svm,ridge", "--folds", "3"]
    few += ["--poolings", "avg", "--tune", "--cache", str(out / "store"), "--out", str(tmp_path)]
    assert signs.main([*few, "--weights", "random"]) == 0
    assert "random weights" in capsys.readouterr().out
    heads = pd.read_csv(tmp_path / "results.csv")["head"]
    assert sorted(heads) == ["ridge", "svm C=0.1", "svm C=1", "svm C=10", "svm C=100"]


def test_signs_skips_unreadable_images(signs, run, tmp_path, capsys):
    args, _ = run
    for split, labels, images in (("train", Y, X), ("test", Y_TEST, X_TEST)):
        for i, (label, image) in enumerate(zip(labels, images, strict=True)):
            path = tmp_path / "signs" / split / CLASSES[label] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    args = [str(tmp_path / "signs"), *args[1:], "--cache", str(tmp_path / "store"), "--out"]
    assert signs.main([*args, str(tmp_path / "complete")]) == 0
    (tmp_path / "signs" / "train" / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff truncated")
    assert signs.main([*args, str(tmp_path / "truncated")]) == 0
    assert "skipped, unreadable: train/one/broken.jpg" in capsys.readouterr().out
    folders = (tmp_path / "complete", tmp_path / "truncated")
    pd.testing.assert_frame_equal(
        *(pd.read_csv(f / "results.csv").drop(columns="fit_seconds") for f in folders)
    )


@pytest.mark.parametrize("layout", ["folder", "two files", "one file", "manifest", "folder of a manifest"])
def test_signs_reads_every_layout(signs, tutorial, tmp_path, layout):
    files = [str(tutorial / "train_signs.h5"), str(tutorial / "test_signs.h5")]
    sources = {"folder": [str(tutorial)], "two files": files}.get(layout)
    if layout == "one file":
        with h5py.File(tmp_path / "signs.h5", "w") as target:
            for file in files:
                with h5py.File(file) as source:
                    for name in source:
                        data = source[name]
                        target.require_dataset(name, data.shape, data.dtype)[...] = data[()]
        sources = [str(tmp_path / "signs.h5")]
    elif sources is None:
        rows = []
        for split, labels, images in (("train", Y, X), ("test", Y_TEST, X_TEST)):
            for i, (label, image) in enumerate(zip(labels, images, strict=True)):
                Image.fromarray(image).save(tmp_path / f"{split}_{i}.png")
                rows.append((f"{split}_{i}.png", CLASSES[label], split))
        table = tmp_path / "signs.csv"
        pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(table, index=False)
        sources = [str(table if layout == "manifest" else tmp_path)]
    for (images, y, names), expected, labels in zip(
        signs.read(sources), (X, X_TEST), (Y, Y_TEST), strict=True
    ):
        assert y.tolist() == [CLASSES[i] for i in labels]
        assert len(names) == len(images)
        pixels = [np.asarray(Image.open(i)) if isinstance(i, str) else i for i in images]
        np.testing.assert_array_equal(pixels, expected)


def test_signs_error_messages(signs, tutorial, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def error(*args):
        assert signs.main([*args, "--cache", "store", "--out", "out"]) == 1
        message = capsys.readouterr().err
        assert message.startswith("signs.py: ") and "Traceback" not in message
        return message

    message = error(*NETWORK)
    assert "'data/signs' does not exist" in message and "train_signs.h5" in message and "manifest" in message
    train, test = (str(tutorial / f"{split}_signs.h5") for split in ("train", "test"))
    assert "No array 'train_set_x'" in error(test, train, *NETWORK)
    assert "'smv'. Did you mean 'svm'?" in error(str(tutorial), "--heads", "smv", *NETWORK)
    assert "Unknown network 'mobilnet'" in error(str(tutorial), "--model", "mobilnet")
    assert "class fist has 12 images" in error(
        str(tutorial), *NETWORK, "--layers", LAYERS[0], "--poolings", "avg", "--folds", "13"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        signs.main([str(tutorial), "--folds", "1"])
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.update({"train_set_x": X, "train_set_y": Y + 1, "list_classes": [0, 1, 2]})
        file.update({"test_set_x": X, "test_set_y": Y})
    with pytest.raises(SourceError, match="run from 1 to 3; list_classes has 3"):
        signs.read([str(tmp_path / "bad.h5")])


def test_signs_reaches_the_documented_accuracy(shared, keras_home, tmp_path):
    """Run the study on the images of the tutorial, with an empty store."""
    source = shared / "data" / "signs"
    if not source.is_dir() or not (keras_home / "models" / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip("needs ../shared/data/signs and the weights in ../shared/keras")
    command = [sys.executable, str(SIGNS), str(source), "--layers", "last", "--poolings", "avg"]
    command += ["--heads", "svm", "--cache", str(tmp_path / "store"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["layer"], result["pooling"], result["head"]) == ("conv_pw_13_relu", "avg", "svm")
    assert result["test_images"] == 120
    assert result["test_accuracy"] >= 0.983
