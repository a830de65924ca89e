"""The command line: its output, files, exit codes and error messages."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import h5py
import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, EmbeddingStore, list_models
from tlfeatures.cli import main
from tlfeatures.cli._parse import parse_image_size
from tlfeatures.heads import make_head

SMALL = ["--model", "tiny", "--image-size", "32"]
CNN = {"model": "tiny", "image_size": 32}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in this process, with a new store and a new working directory."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*argv) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return Result(code, *capsys.readouterr())

    return call


def command(*argv, env=None, **kwargs):
    """Run the command in a new process."""
    code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=240,
        **kwargs,
    )


@pytest.fixture
def folder(photos, tmp_path) -> Path:
    """A copy of the photographs that a test may change."""
    return Path(shutil.copytree(photos.root, tmp_path / "photos"))


@pytest.fixture
def damaged_folder(folder) -> Path:
    """The photographs and three files that are not readable as images."""
    (folder / "checks" / "text.jpg").write_text("hello")
    (folder / "discs" / "a zero.png").write_bytes(b"")
    data = min((folder / "stripes").glob("*.jpg")).read_bytes()
    (folder / "stripes" / "cut.jpg").write_bytes(data[: len(data) // 2])
    return folder


def manifest(file: Path, /, **columns) -> Path:
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def rows_of(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


# -- options, errors and warnings ------------------------------------------------------------------------


def test_help_and_version(run):
    for argv in ((), ("--help",), ("-h",)):
        assert "evaluate" in run(*argv).out
    assert run("--version").out.startswith("tlfeatures 0.")
    for name in ("models", "layers", "embed", "fit", "evaluate", "predict", "classify", "demo", "cache"):
        result = run(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert "Usage" in result.out


def test_help_and_models_do_not_import_large_packages():
    code = """if True:
        import sys
        from tlfeatures.cli import main
        main(["--help"])
        assert not {"numpy", "sklearn", "pandas", "h5py", "keras", "PIL"} & set(sys.modules), sys.modules
        main(["models", "--json"])
        assert not {"sklearn", "pandas", "keras", "tensorflow"} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["fitt"], "No such command 'fitt'"),
        (["fit"], "Missing argument 'SOURCE'. See `tlfeatures fit --help`."),
        (["fit", "x", "--nope"], "No such option"),
        (["fit", "x", "--cv", "many"], "--cv"),
        (["fit", "x", "--cv", "-1"], "--cv"),
        (["embed", "x"], "--output"),
        (["cache", "prune"], "See `tlfeatures cache prune --help`."),
        (["cache", "prune", "--max-bytes", "lots"], "'lots' is not a size"),
        (["layers", "vgg91"], "Did you mean 'vgg19'"),
    ],
)
def test_invalid_arguments_print_one_line_and_exit_with_2(run, argv, text):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert text in err


def test_unexpected_error_prints_one_line(run, monkeypatch, photos):
    def fail(*args, **kwargs):
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr("tlfeatures.sources.read_source", fail)
    result = run("embed", photos.root, "-o", "x.h5")
    assert result == (1, "", "error: RuntimeError: one two (TLFEATURES_DEBUG=1 prints the traceback)\n")
    monkeypatch.setenv("TLFEATURES_DEBUG", "1")
    assert "Traceback" in run("embed", photos.root, "-o", "x.h5").err


def test_warnings_are_printed_once_and_filters_are_restored(run, monkeypatch):
    def noisy(*args, **kwargs):
        for _ in range(3):
            warnings.warn("over\n  two lines", stacklevel=1)
        warnings.warn("not for users", DeprecationWarning, stacklevel=1)
        raise OSError(errno.ENOSPC, "No space left on device", "some file")

    monkeypatch.setattr("tlfeatures.sources.read_source", noisy)
    before = warnings.showwarning, list(warnings.filters)
    result = run("embed", "x", "-o", "x.h5")
    assert result.err == "warning: over two lines\nerror: No space left on device: 'some file'\n"
    assert result.code == 1
    assert before == (warnings.showwarning, list(warnings.filters))


def test_closed_pipe_prints_no_error():
    code = "import sys; from tlfeatures.cli import main; sys.exit(main())"
    line = f"'{sys.executable}' -c '{code}' models --json | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[\n", "")


@pytest.mark.parametrize("fails", [False, True])
def test_start_up_messages_of_backends_are_printed_only_on_errors(tmp_path, fails):
    (tmp_path / "keras.py").write_text(
        "import os\nos.write(2, b'start-up noise\\n')\n"
        + ("raise ImportError('no device')\n" if fails else "")
        + "class config:\n    image_data_format = lambda: 'channels_last'\n"
    )
    code = """if True:
        import os
        from tlfeatures import _keras
        from tlfeatures.cli._session import session
        with session():
            _keras.keras()
        os.write(2, b"printed")
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ("start-up noise" in done.stderr) == fails
    assert done.stderr == "printed" or "importing them failed: no device" in done.stderr


def test_parse_image_size():
    assert parse_image_size("96") == 96
    assert parse_image_size("160x224") == (160, 224)
    for text in ("", "big", "224.5", "1x2x3", "-3"):
        with pytest.raises(ValueError, match="expected pixels"):
            parse_image_size(text)


# -- models and layers -------------------------------------------------------------------------


def test_models(run):
    rows = run("models", "--json").json
    assert [row["model"] for row in rows] == list_models()
    vgg = next(row for row in rows if row["model"] == "vgg19")
    assert vgg["image_size"] == 224
    assert vgg["taps"][-1] == "block5_pool"
    assert vgg["weights"] is None
    table = run("models").out
    assert all(name in table for name in list_models())


def test_models_shows_paths_of_local_weights(run, shared):
    weights = {row["model"]: row["weights"] for row in run("models", "--json").json}
    assert weights["mobilenet_0.75"].endswith("mobilenet_7_5_224_tf_no_top.h5")


def test_layers(run):
    rows = run("layers", "mobilenet_0.25", "--json").json
    by_name = {row["layer"]: row for row in rows}
    assert by_name["conv_pw_13_relu"] == {
        "layer": "conv_pw_13_relu",
        "type": "ReLU",
        "shape": [7, 7, 256],
        "standard": True,
        "width": 256,
        "fully_connected": False,
    }
    assert by_name["predictions"]["fully_connected"]
    short, full = run("layers", "mobilenet_0.25").out, run("layers", "mobilenet_0.25", "--all").out
    assert "conv_pw_13_relu" in short
    assert "predictions" in short
    assert "conv_pw_13_bn" not in short
    assert all(f"{name} " in full for name in by_name)
    assert [4, 4, 256] in [
        r["shape"] for r in run("layers", "mobilenet_0.25", "--image-size", 128, "--json").json
    ]


# -- embed -------------------------------------------------------------------------------------


def test_embed_writes_features_manifest_and_recipe(run, damaged_folder):
    layers = ["block5_pw_relu", "block10_pw_relu"]
    result = run("embed", damaged_folder, "-o", "f.h5", *SMALL, "--layer", ",".join(layers))
    assert result.code == 0
    assert "15 images: 0 from the store, 12 computed" in result.out
    assert "3 of 15 images could not be read" in result.err
    with h5py.File("f.h5") as file:
        X = file["features"][()]
        text = {
            k: file[k].asstr()[()].tolist() for k in ("path", "digest", "label", "error", "feature_names")
        }
        recipe = json.loads(file.attrs["recipe"])
    cnn = CNNFeatures(**CNN, layer=layers, on_error="nan", cache=None)
    with pytest.warns(match="3 of 15"):
        np.testing.assert_allclose(X, cnn.fit_transform(text["path"]), rtol=1e-6)
    assert X.dtype == np.float32
    assert text["feature_names"] == cnn.get_feature_names_out().tolist()
    assert text["label"] == ["checks"] * 5 + ["discs"] * 5 + ["stripes"] * 5
    bad = [i for i, error in enumerate(text["error"]) if error]
    assert [Path(text["path"][i]).name for i in bad] == ["text.jpg", "a zero.png", "cut.jpg"]
    assert np.isnan(X[bad]).all()
    assert np.isfinite(np.delete(X, bad, axis=0)).all()
    assert {len(d) for i, d in enumerate(text["digest"]) if i not in bad} == {32}
    assert [text["digest"][i] for i in bad] == ["", "", ""]
    assert recipe["network"] == "tiny"
    assert [column["layer"] for column in recipe["columns"]] == layers


def test_all_formats_have_equal_content_and_second_run_computes_nothing(run, photos):
    first = run("embed", photos.root, "-o", "f.h5", *SMALL, "--json").json
    assert (first["images"], first["from_store"], first["computed"], first["features"]) == (12, 0, 12, 320)
    for name in ("f.h5", "f.parquet", "f.npy"):
        again = run("embed", photos.root, "-o", name, *SMALL)
        assert "12 images: 12 from the store, 0 computed." in again.out
    with h5py.File("f.h5") as file:
        X, paths = file["features"][()], file["path"].asstr()[()].tolist()
    table = pd.read_parquet("f.parquet")
    assert table.columns[:5].tolist() == ["path", "digest", "label", "error", "block10_pw_relu_avg_000"]
    np.testing.assert_array_equal(table.filter(like="block10_pw").to_numpy(), X)
    np.testing.assert_array_equal(np.load("f.npy"), X)
    manifest_rows = rows_of("f.manifest.csv")
    assert paths == table["path"].tolist() == [row["path"] for row in manifest_rows]
    assert [row["label"] for row in manifest_rows] == table["label"].tolist()
    assert sorted(os.listdir()) == ["f.h5", "f.manifest.csv", "f.npy", "f.parquet"]


def test_embed_lists_ten_unreadable_images_and_strict_exits_with_1(run, folder):
    for i in range(13):
        (folder / "checks" / f"bad {i:02d}.jpg").write_text(f"not an image {i}")
    result = run("embed", folder, "-o", "f.npy", *SMALL, "--strict")
    assert result.code == 1
    assert "13 of 25 images could not be read" in result.err
    assert result.err.count("not an image in a known format") == 10
    assert "and 3 more" in result.err
    assert np.isnan(np.load("f.npy")).all(axis=1).sum() == 13
    assert run("embed", folder, "-o", "f.npy", *SMALL).code == 0


def test_fit_on_manifest_without_labels_lists_columns(run, photos):
    table = pd.DataFrame({"path": photos.paths, "kind": photos.labels, "patient": 1})
    table.to_csv("table.csv", index=False)
    result = run("fit", "table.csv", "-o", "m.joblib", *SMALL)
    assert result.code == 2
    assert (
        "has no labels. Name their column with --target. Columns: 'path', 'kind', 'patient'."
        in result.errors[0]
    )


def test_max_value_scales_12_bit_images(run):
    eight = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    for folder, images in (("8", eight), ("12", (eight.astype(np.uint32) * 4095 // 255).astype(np.uint16))):
        os.mkdir(folder)
        for i, image in enumerate(images):
            Image.fromarray(image).save(f"{folder}/{i}.png")
    result = run("embed", "12", "-o", "dark.npy", *SMALL)
    assert result.code == 0 and "4 16-bit images contain no value above 4095" in result.err
    assert "pass --max-value 4095" in result.err
    result = run("embed", "12", "-o", "scaled.npy", *SMALL, "--max-value", "4095")
    assert result.code == 0 and not result.err
    assert run("embed", "8", "-o", "eight.npy", *SMALL).code == 0
    np.testing.assert_allclose(np.load("scaled.npy"), np.load("eight.npy"), atol=0.02)
    assert np.abs(np.load("dark.npy") - np.load("eight.npy")).max() > 0.1


def test_interrupted_run_stores_computed_rows(run, photos, monkeypatch):
    from tlfeatures.distributed import _unit_results as extract

    decode_batches, stop = extract.decode_batches, [True]

    def interrupted(*args, **kwargs):
        for i, batch in enumerate(decode_batches(*args, **kwargs)):
            if i == 2 and stop.pop():
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(extract, "decode_batches", interrupted)
    argv = ("embed", photos.root, "-o", "f.npy", *SMALL, "--batch-size", 4)
    stopped = run(*argv)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith("interrupted; ")
    assert os.listdir() == []
    again = run(*argv)
    assert "12 images: 8 from the store, 4 computed" in again.out


def test_embed_fails_if_the_store_is_not_writable(run, photos):
    Path("file").write_text("a file")
    result = run("embed", photos.root, "-o", "f.h5", *SMALL, "--cache", "file")
    assert result.code == 1
    assert "cannot write to the embedding store" in result.errors[0]
    assert not os.path.exists("f.h5")
    assert run("embed", photos.root, "-o", "f.h5", *SMALL, "--cache", "none").code == 0


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("f.txt", "must end in .h5, .parquet or .npy"),
        ("absent/f.h5", "does not exist; create it first"),
        ("folder.h5", "is a folder"),
        ("theirs.h5", "was not written by this command"),
        ("theirs.parquet", "was not written by this command"),
        ("theirs.npy", "was not written by this command"),
        ("beside.npy", "'beside.manifest.csv' exists"),
    ],
)
def test_embed_rejects_output_files(run, photos, output, text):
    os.mkdir("folder.h5")
    with h5py.File("theirs.h5", "w") as file:
        file["x"] = [1]
    pd.DataFrame({"x": [1]}).to_parquet("theirs.parquet")
    np.save("theirs.npy", np.zeros(3))
    Path("beside.manifest.csv").write_text("my,notes\n")
    before = Path("theirs.h5").read_bytes()
    result = run("embed", photos.root, "-o", output, *SMALL)
    assert result.code == 2
    assert text in result.errors[0]
    assert not os.path.exists(os.environ["TLFEATURES_CACHE"])  # before any work
    assert Path("theirs.h5").read_bytes() == before
    if output.startswith("theirs"):
        assert run("embed", photos.root, "-o", output, *SMALL, "--force").code == 0
        assert run("embed", photos.root, "-o", output, *SMALL).code == 0  # the command wrote the file


def test_failed_write_keeps_the_old_file_and_leaves_no_other(run, photos, monkeypatch):
    assert run("embed", photos.root, "-o", "f.h5", *SMALL).code == 0
    before = Path("f.h5").read_bytes()
    monkeypatch.setattr(
        "os.fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    result = run("embed", photos.root, "-o", "f.h5", *SMALL, "--layer", "block10_pw_relu")
    assert result.code == 1
    assert "No space left on device" in result.errors[0]
    assert "f.h5" in result.errors[0]
    assert os.listdir() == ["f.h5"]
    assert Path("f.h5").read_bytes() == before


def test_embed_writes_splits_groups_and_unusual_file_names(run, tmp_path, photos):
    source = tmp_path / "odd"
    source.mkdir()
    names = ["two\nlines.png", "[red] :smile:.png", "quote'\".png", "a b.PNG"]
    for i, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(source / name, format="png")
    assert run("embed", source, "-o", "f.npy", *SMALL).code == 0
    assert {row["path"] for row in rows_of("f.manifest.csv")} == {str(source / name) for name in names}
    for output in ("f.h5", "f.parquet"):
        assert run("embed", source, "-o", output, *SMALL).code == 0
    (source / "two\nlines.png").write_text("not an image")
    assert "two\\nlines.png: not an image" in run("embed", source, "-o", "f.h5", *SMALL).err
    table = manifest(tmp_path / "m.csv", path=photos.paths, split=["train", "test"] * 6, who=range(12))
    assert run("embed", table, "-o", "g.npy", *SMALL, "--groups", "who").code == 0
    assert [(row["split"], row["group"]) for row in rows_of("g.manifest.csv")][:2] == [
        ("train", "0"),
        ("test", "1"),
    ]
    assert run("embed", table, "-o", "g.npy", *SMALL, "--split", "test", "--json").json["images"] == 6


def test_embed_writes_file_names_that_are_not_utf_8(run, tmp_path, not_utf_8):
    (tmp_path / "odd").mkdir()
    path = tmp_path / "odd" / f"{not_utf_8}.png"
    Image.new("L", (8, 8), 40).save(path)
    for output in ("f.npy", "f.h5", "f.parquet"):
        assert run("embed", tmp_path / "odd", "-o", output, *SMALL).code == 0
    assert [row["path"] for row in rows_of("f.manifest.csv")] == [str(path)]


# -- fit ---------------------------------------------------------------------------------------


def test_fit_scores_equal_cross_val_score_without_unreadable_images(run, photos, damaged_folder):
    clean = run("fit", photos.root, *SMALL, "--cv", 4, "--head", "ridge", "-o", "p.joblib", "--json").json
    dirty = run("fit", damaged_folder, *SMALL, "--cv", 4, "--head", "ridge", "--json")
    assert dirty.json["cv"] == clean["cv"]
    assert dirty.json["from_store"] == 12
    assert (clean["unreadable"], dirty.json["unreadable"]) == (0, 3)
    assert [Path(p).name for p in dirty.json["skipped"]] == ["text.jpg", "a zero.png", "cut.jpg"]
    assert "3 of 15 images could not be read and are left out" in dirty.err
    order = np.argsort(photos.labels, kind="stable")
    X = CNNFeatures(**CNN, cache=None).fit_transform([photos.paths[i] for i in order])
    y = np.array(photos.labels)[order]
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    expected = cross_val_score(make_head("ridge"), X, y, cv=folds)
    np.testing.assert_allclose(clean["cv"]["scores"], expected)
    assert clean["cv"]["mean"] == pytest.approx(expected.mean())
    assert clean["cv"]["std"] == pytest.approx(expected.std())
    assert clean["classes"] == {"checks": 4, "discs": 4, "stripes": 4}


def test_fit_prints_mean_standard_deviation_and_scores_of_folds(run, photos):
    result = run("fit", photos.root, *SMALL, "--cv", 2, "--scoring", "balanced_accuracy")
    assert "checks 4, discs 4, stripes 4" in result.out
    line = next(line for line in result.out.splitlines() if line.startswith("2-fold balanced_accuracy: "))
    mean, _, std, *folds = line.removesuffix(", duplicates kept in one fold").split(": ")[1].split()
    scores = [float(score.strip("()")) for score in folds]
    assert len(scores) == 2
    assert [float(mean), float(std)] == pytest.approx([np.mean(scores), np.std(scores)], abs=1e-3)
    assert os.listdir() == []


def test_saved_pipeline_predicts_from_paths_in_another_process(run, photos):
    fitted = run("fit", photos.root, *SMALL, "--cv", 0, "-o", "p.joblib")
    assert fitted.code == 0 and "note: p.joblib is a pickle, and loading a pickle can run code." in fitted.err
    pipe = joblib.load("p.joblib")
    assert isinstance(pipe, Pipeline)
    assert [name for name, _ in pipe.steps] == ["cnn", "head"]
    assert pipe.named_steps["cnn"].verbose == 0
    predictions = pipe.predict(photos.paths).tolist()
    assert predictions == photos.labels
    code = (
        "import joblib, json, sys; print(json.dumps(joblib.load('p.joblib').predict(sys.argv[1:]).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *photos.paths], capture_output=True, text=True)
    assert json.loads(done.stdout) == predictions


@pytest.mark.slow
def test_cold_start_prints_no_messages_of_the_backend(run, photos):
    assert run("fit", photos.root, *SMALL, "--cv", 0, "-o", "p.joblib").code == 0
    done = command("predict", "p.joblib", photos.paths[0], "--cache", "none", "--json")
    assert json.loads(done.stdout)[0]["prediction"] == photos.labels[0]
    assert done.stderr.startswith("note: p.joblib is a pickle")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--cv", "5"], "have fewer, the smallest 'checks' with 4. Use --cv 4, or merge"),
        (["--cv", "1"], "--cv must be at least 2; got 1"),
        (["--head", "svn"], "Did you mean 'svm'"),
        (["--head", "svr"], "Unknown classification head 'svr'"),
        (["--scoring", "acuracy"], "Did you mean 'accuracy'"),
        (["--task", "ranking"], "Unknown task 'ranking'"),
        (["--task", "regression", "--head", "ridge"], "--task regression needs numeric labels"),
        (["--split", "train"], "No split 'train'"),
        (["--target", "label"], "is a folder"),
        (["--layer", "block99_pw_relu", "--cv", "2"], "Did you mean 'block9_pw_relu'"),
        (["--layer", "a,,b", "--cv", "2"], "--layer 'a,,b': a name is empty"),
        (["--pooling", "mean", "--cv", "2"], "Unknown pooling 'mean'. Valid names: avg, max"),
        (["--resize", "squash", "--cv", "2"], "got 'squash'"),
        (["--image-size", "big", "--cv", "2"], "expected pixels"),
        (["--weights", "absent.h5", "--cv", "2"], "no such file"),
        (["--precision", "int8", "--cv", "2"], "got 'int8'"),
        (["-o", "p.txt", "--cv", "2"], "must end in .tlf, .joblib"),
        (["-o", "absent/p.joblib", "--cv", "2"], "does not exist; create it first"),
    ],
)
def test_fit_rejects_options(run, photos, argv, text):
    result = run("fit", photos.root, *SMALL, *argv)
    assert result.code == 2
    assert result.out == ""
    assert len(result.errors) == 1
    assert text in result.errors[0]


def test_fit_rejects_sources(run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    one = manifest(tmp_path / "one.csv", path=photos.paths, label=["same"] * 12)
    bare = manifest(tmp_path / "bare.csv", path=photos.paths, note=photos.labels)
    few = manifest(tmp_path / "few.csv", path=photos.paths, label=["a"] * 11 + ["rare"])
    text = tmp_path / "words.jpg"
    text.write_text("not an image")
    broken = manifest(tmp_path / "broken.csv", path=[text] * 4, label=["a", "b"] * 2)
    for source, message in (
        ("absent", "No such file or folder: 'absent'"),
        (tmp_path / "empty", "No images"),
        (photos.root / "discs", "Put the images of each class into a folder of its own"),
        (one, "All 12 labels are one class, 'same'"),
        (bare, "Name their column with --target"),
        (
            few,
            "1 of 2 classes have fewer, the smallest 'rare' with 1",
        ),
        (broken, "None of the images"),
    ):
        result = run("fit", source, *SMALL, "--cv", 2)
        assert result.code == 2
        assert message in result.errors[0]
    assert "Did you mean 'note'" in run("fit", bare, *SMALL, "--target", "notes").errors[0]


def test_fit_uses_the_train_split_and_evaluate_the_test_split(run, photos, tmp_path):
    split = ["train"] * 9 + ["test"] * 3
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=photos.labels, split=split)
    fitted = run("fit", table, *SMALL, "--cv", 3, "--head", "knn", "-o", "p.joblib", "--json").json
    assert fitted["images"] == 9
    assert run("evaluate", "p.joblib", table, "--json").json["images"] == 3
    assert run("evaluate", "p.joblib", table, "--split", "train", "--json").json["images"] == 9
    assert run("evaluate", "p.joblib", table, "--split", "all", "--json").json["images"] == 12
    assert "No split 'val'" in run("evaluate", "p.joblib", table, "--split", "val").errors[0]


def test_regression(run, photos, tmp_path):
    target = [x + 0.5 for x in range(12)]
    table = manifest(tmp_path / "m.csv", path=photos.paths, age=target)
    argv = ("fit", table, *SMALL, "--target", "age", "--cv", 3, "-o", "p.joblib")
    assert "Unknown regression head 'svm'" in run(*argv, "--head", "svm").errors[0]
    fitted = run(*argv, "--json").json
    assert fitted["head"] == "ridge"
    assert (fitted["task"], fitted["cv"]["scoring"], fitted["classes"]) == ("regression", "r2", None)
    figures = run("evaluate", "p.joblib", table, "--target", "age", "--json").json
    predictions = joblib.load("p.joblib").predict(photos.paths)
    assert figures["mae"] == pytest.approx(np.abs(predictions - target).mean(), rel=1e-4)
    assert "RMSE" in run("evaluate", "p.joblib", table, "--target", "age").out
    assert "predicts numbers" in run("evaluate", "p.joblib", photos.root).errors[0]
    row = run("predict", "p.joblib", photos.paths[0], "--json").json[0]
    assert row["prediction"] == pytest.approx(predictions[0], rel=1e-4)
    assert list(row) == ["path", "prediction", "error"]


def test_groups(run, photos, tmp_path):
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=photos.labels, who=["p", "q", "r", "s"] * 3)
    assert run("fit", table, *SMALL, "--groups", "who", "--cv", 4).code == 0
    assert "No column 'whom'" in run("fit", table, *SMALL, "--groups", "whom").errors[0]


# -- evaluate and predict ----------------------------------------------------------------------


@pytest.fixture
def saved(run, photos):
    """Path of a saved classification pipeline."""
    assert run("fit", photos.root, *SMALL, "--cv", 0, "-o", "p.joblib").code == 0
    return "p.joblib"


def test_evaluate(run, saved, photos, tmp_path, damaged_folder):
    labels = [*photos.labels[:10], "checks", "discs"]  # the last two are wrong
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=labels)
    scores = run("evaluate", saved, table, "--json").json
    assert scores["accuracy"] == pytest.approx(10 / 12)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, photos.labels))
    assert [row["class"] for row in scores["classes"]] == ["checks", "discs", "stripes"]
    assert np.sum(scores["confusion_matrix"]) == 12
    assert np.trace(scores["confusion_matrix"]) == 10
    result = run("evaluate", saved, damaged_folder)
    assert "accuracy 1.0000, balanced accuracy 1.0000 on 12 images" in result.out
    assert "true \\ predicted" in result.out
    assert "3 of 15 images could not be read and are left out" in result.err


def test_evaluate_on_labels_that_are_not_classes_of_the_pipeline(run, saved, photos, tmp_path):
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=["zebra", *photos.labels[1:]])
    result = run("evaluate", saved, table, "--json")
    assert "The labels of 1 of 12 images are not classes of the model (zebra)" in result.err
    assert result.json["accuracy"] == pytest.approx(11 / 12)
    other = manifest(tmp_path / "o.csv", path=photos.paths, label=list("xyz") * 4)
    result = run("evaluate", saved, other)
    assert result.code == 2
    assert "x, y, z; expected checks, discs, stripes" in result.errors[0]


def test_numbers_of_a_manifest_match_names_of_class_folders(run, photos, tmp_path):
    numbers = {"checks": 0, "discs": 1, "stripes": 2}
    # a column of integers that had missing values is written by pandas as floats
    floats = manifest(tmp_path / "f.csv", path=photos.paths, label=[float(numbers[n]) for n in photos.labels])
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=[numbers[name] for name in photos.labels])
    assert run("fit", table, *SMALL, "--cv", 0, "-o", "p.joblib").code == 0
    for name, number in numbers.items():
        shutil.copytree(photos.root / name, tmp_path / "numbered" / str(number))
    assert run("evaluate", "p.joblib", tmp_path / "numbered", "--json").json["accuracy"] == 1
    assert run("fit", tmp_path / "numbered", *SMALL, "--cv", 0, "-o", "q.joblib").code == 0
    for labels in (table, floats):
        assert run("evaluate", "q.joblib", labels, "--json").json["accuracy"] == 1


def test_predict_takes_files_folders_patterns_manifests_and_arrays(
    run, saved, photos, tmp_path, damaged_folder
):
    (damaged_folder / "discs" / "notes.txt").write_text("not an image")
    (damaged_folder / "discs" / "deeper").mkdir()
    shutil.copy(photos.paths[0], damaged_folder / "discs" / "deeper" / "x.png")
    table = manifest(tmp_path / "m.csv", path=photos.paths[:2])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.zeros((2, 40, 40, 3), np.uint8)
    pattern = f"{photos.root}/*/*0[0-5].jpg"
    items = (
        photos.paths[5],
        damaged_folder,
        pattern,
        table,
        f"{tmp_path}/a.h5::X",
        photos.paths[5],
    )
    result = run("predict", saved, *items, "-o", "out.csv")
    assert result.code == 0
    rows = rows_of("out.csv")
    assert list(rows[0]) == ["path", "prediction", "probability", "error"]
    assert len(rows) == 1 + 16 + 5 + 2 + 2 + 1
    assert rows[0] == rows[-1]
    assert (rows[0]["path"], rows[0]["prediction"]) == (photos.paths[5], photos.labels[5])
    unreadable = [row for row in rows if row["error"]]
    assert [Path(row["path"]).name for row in unreadable] == ["text.jpg", "a zero.png", "cut.jpg"]
    assert {(row["prediction"], row["probability"]) for row in unreadable} == {("", "")}
    assert [row["path"] for row in rows[-3:-1]] == ["X[0]", "X[1]"]
    assert run("predict", saved, *items, "--json").json[0]["prediction"] == photos.labels[5]
    table = run("predict", saved, photos.paths[5]).out
    assert photos.paths[5] in table
    assert photos.labels[5] in table


@pytest.mark.parametrize("head", ["svm", "logreg", "knn", "ridge"])
@pytest.mark.parametrize("classes", [2, 3])
def test_predict_shows_calibrated_probabilities(run, photos, tmp_path, head, classes):
    labels = [name if classes == 3 or name == "discs" else "others" for name in photos.labels]
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=labels)
    assert run("fit", table, *SMALL, "--cv", 0, "--head", head, "-o", "p.joblib").code == 0
    pipe = joblib.load("p.joblib")
    proba = pipe.predict_proba(photos.paths)
    X = pipe[0].transform(photos.paths)
    alone = make_head(head).fit(X, labels)
    rows = run("predict", "p.joblib", table, "--proba", "--json").json
    assert [row["prediction"] for row in rows] == alone.predict(X).tolist()
    columns = [f"proba_{name}" for name in pipe.classes_]
    assert list(rows[0]) == ["path", "prediction", "probability", *columns, "error"]
    np.testing.assert_allclose([[row[name] for name in columns] for row in rows], proba, rtol=1e-3)
    expected = [row[f"proba_{row['prediction']}"] for row in rows]
    assert [row["probability"] for row in rows] == expected
    assert all(0 < p < 1 for p in expected)


def test_predict_shows_decision_values_of_heads_without_probabilities(run, photos):
    for classes in (2, 3):
        y = [name if classes == 3 or name == "discs" else "others" for name in photos.labels]
        pipe = Pipeline([("net", CNNFeatures(**CNN)), ("svc", SVC())]).fit(photos.paths, y)
        joblib.dump(pipe, "p.joblib")
        rows = run("predict", "p.joblib", *photos.paths, "--json").json
        assert list(rows[0]) == ["path", "prediction", "decision", "error"]
        values = pipe.decision_function(photos.paths)
        expected = np.abs(values) if classes == 2 else values.max(axis=1)
        np.testing.assert_allclose([row["decision"] for row in rows], expected, rtol=1e-4)
        result = run("predict", "p.joblib", *photos.paths, "--proba")
        assert result.code == 2
        assert "--proba needs class probabilities, which 'p.joblib' does not have" in result.errors[0]


def test_predict_exits_with_1_if_images_are_unreadable(run, saved, photos, tmp_path):
    unreadable = tmp_path / "bad.jpg"
    unreadable.write_text("not an image")
    good = photos.paths[0]
    assert run("predict", saved, good).code == 0
    assert run("predict", saved, good, "--strict").code == 0
    assert run("predict", saved, good, unreadable).code == 0
    assert run("predict", saved, good, unreadable, "--strict").code == 1
    failed = run("predict", saved, unreadable, "--proba", "--json")
    assert "1 of 1 image could not be read and has no prediction:" in failed.err
    assert (failed.code, failed.json[0]["prediction"], failed.json[0]["proba_discs"]) == (1, None, None)


def test_evaluate_counts_training_images(run, photos, tmp_path):
    split = ["train"] * 9 + ["test"] * 3
    table = manifest(tmp_path / "m.csv", path=photos.paths, label=photos.labels, split=split)
    assert run("fit", table, *SMALL, "--cv", 0, "-o", "p.joblib").code == 0
    digests = joblib.load("p.joblib").training_digests_
    assert (digests.dtype, digests.shape) == (np.uint8, (9, 16))
    seen = run("evaluate", "p.joblib", table, "--split", "all", "--json")
    assert seen.json["used_for_training"] == 9
    assert "9 of 12 images were used for training" in seen.err
    unseen = run("evaluate", "p.joblib", table, "--json")
    assert unseen.json["used_for_training"] == 0
    assert "used for training" not in unseen.err
    pipe = joblib.load("p.joblib")
    del pipe.training_digests_
    joblib.dump(pipe, "old.joblib")
    assert run("evaluate", "old.joblib", table, "--json").json["used_for_training"] is None


def test_evaluate_uses_the_val_split_if_there_is_no_test_split(run, saved, photos, tmp_path):
    for i, (path, label) in enumerate(zip(photos.paths, photos.labels, strict=True)):
        target = tmp_path / "split" / ("train" if i < 6 else "val") / label / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    result = run("evaluate", saved, tmp_path / "split", "--json")
    assert result.json["evaluated"] == 6
    assert "has no test split; its val split is used" in result.err


def test_saved_files_are_recognized_by_their_content(run, saved, photos):
    pipe = joblib.load(saved)
    for i, compress in enumerate((0, "zlib", ("gzip", 3), "bz2", "lzma", "xz")):
        name = f"model {i}.keras-bundle"
        joblib.dump(pipe, name, compress=compress)
        result = run("predict", name, photos.paths[0], "--json")
        assert result.code == 0, result.err
        assert result.json[0]["prediction"] == photos.labels[0]
        assert result.err.count("loading a pickle can run code") == 1
    for data in (b"", b"x\x9cnothing", b"\x1f\x8bnothing", b"BZhnothing", Path(photos.paths[0]).read_bytes()):
        Path("other.joblib").write_bytes(data)
        result = run("predict", "other.joblib", photos.paths[0])
        assert result.code == 2
        assert "is neither a .tlf file, nor a joblib file, nor a bundle" in result.errors[0]
        assert "run code" not in result.err


def test_fit_overwrites_files_of_others_only_with_force(run, saved, photos):
    argv = ("fit", photos.root, *SMALL, "--cv", 0, "-o", "p.joblib")
    assert run(*argv).code == 0
    joblib.dump(joblib.load("p.joblib"), "p.joblib")  # a pipeline that the user saved
    before = Path("p.joblib").read_bytes()
    result = run(*argv)
    assert result.code == 2
    assert "was not written by this command" in result.errors[0]
    assert Path("p.joblib").read_bytes() == before
    assert run(*argv, "--force").code == 0


def test_fit_keeps_duplicates_in_one_fold_and_lists_label_conflicts(run, folder):
    clean = run("fit", folder, *SMALL, "--cv", 2, "--json")
    assert clean.json["cv"]["duplicates"]["exact"] == 0
    assert clean.json["label_conflicts"] == []
    assert "different labels" not in clean.err
    for image in sorted(folder.rglob("*.*")):
        for i in range(3):
            shutil.copy(image, image.with_name(f"duplicate {i} {image.name}"))
    stray = min((folder / "discs").iterdir())
    shutil.copy(stray, folder / "checks" / "stray.jpg")
    result = run("fit", folder, *SMALL, "--cv", 2, "--json")
    scores = result.json["cv"]
    assert scores["duplicates"]["exact"] == 37
    assert scores["mean"] == np.mean(scores["scores"]) != np.mean(scores["uncorrected"])
    assert "37 exact" in result.err
    assert "grouped cross-validation, which keeps duplicates in one fold, scores" in result.err
    assert "4 pairs of identical images with different labels:" in result.err
    assert "stray.jpg (checks) and " in result.err
    assert Path(result.json["label_conflicts"][0][0]).name == "stray.jpg"
    assert "duplicates kept in one fold" in run("fit", folder, *SMALL, "--cv", 2).out


def test_predict_overwrites_only_tables_of_predictions(run, saved, photos):
    argv = ("predict", saved, photos.paths[0], "-o", "out.csv")
    for _ in range(2):
        assert run(*argv).code == 0
    assert run(*argv, "--proba").code == 0
    assert run(*argv).code == 0
    table = pd.read_csv("out.csv").assign(notes="mine")
    table.to_csv("out.csv", index=False)
    result = run(*argv)
    assert result.code == 2
    assert "'out.csv' exists and was not written by this command" in result.errors[0]
    assert pd.read_csv("out.csv")["notes"].tolist() == ["mine"]
    Path("out.csv").write_text("x" * 200_000)  # a field that is longer than the csv module reads
    assert "was not written by this command" in run(*argv).errors[0]
    assert run(*argv, "--force").code == 0


def test_predict_with_a_grid_search_saved_in_python(run, photos):
    pipe = Pipeline([("net", CNNFeatures(**CNN)), ("svc", SVC())]).set_output(transform="pandas")
    search = GridSearchCV(pipe, {"svc__C": [1, 10]}, cv=2).fit(photos.paths, photos.labels)
    joblib.dump(search, "search.joblib")
    result = run("predict", "search.joblib", *photos.paths, "--json")
    assert [row["prediction"] for row in result.json] == photos.labels
    assert "feature names" not in result.err


def test_predict_rejects_arguments(run, saved, photos):
    Path("junk.joblib").write_bytes(b"not a pickle")
    Path("cut.joblib").write_bytes(Path(saved).read_bytes()[:900])
    joblib.dump({"a": 1}, "dict.joblib")
    joblib.dump(make_head("svm"), "head.joblib")
    Path("mine.csv").write_text("path,label\nx.jpg,cat\n")
    image = photos.paths[0]
    for argv, text in (
        (("absent.joblib", image), "No such file: 'absent.joblib'"),
        (("p.jobli", image), "Did you mean 'p.joblib'"),
        (("junk.joblib", image), "Cannot load 'junk.joblib': it is neither a .tlf file"),
        (("cut.joblib", image), "Cannot load 'cut.joblib' ("),
        (("dict.joblib", image), "contains an object of type dict; expected a scikit-learn Pipeline"),
        (("head.joblib", image), "begins with CNNFeatures"),
        ((saved, "absent.jpg"), "No such file or folder: 'absent.jpg'"),
        ((saved, "absent*.jpg"), "No file matches the pattern 'absent*.jpg'"),
        ((saved, image, "-o", "out.txt"), "must end in .csv"),
        ((saved, image, "-o", "mine.csv"), "was not written by this command"),
    ):
        result = run("predict", *argv)
        assert (result.code, result.out) == (2, "")
        assert text in result.errors[0]
    assert Path("mine.csv").read_text() == "path,label\nx.jpg,cat\n"


def test_predict_rejects_a_changed_recipe(run, saved, photos):
    pipe = joblib.load(saved)
    pipe.named_steps["cnn"].set_params(image_size=64)
    joblib.dump(pipe, "changed.joblib")
    result = run("predict", "changed.joblib", photos.paths[0])
    assert result.code == 2
    assert "image_size" in result.errors[0]


# -- cache -------------------------------------------------------------------------------------


def test_cache(run, photos, tmp_path):
    root = tmp_path / "store"
    assert run("cache", "info", "--json").json["recipes"] == []
    for batch in (photos.paths[:4], photos.paths[4:]):
        table = manifest(tmp_path / "m.csv", path=batch)
        assert run("embed", table, "-o", "f.npy", *SMALL).code == 0
    recipes = run("cache", "info", root, "--json").json["recipes"]
    for recipe in recipes:
        assert {"rows", "unique_rows", "bytes", "segments"} <= set(recipe)
        assert (recipe["rows"], recipe["unique_rows"], recipe["segments"]) == (12, 12, 2)
    assert {r["recipe"]["pooling"] for r in recipes} == {"avg", "max"}
    assert "block10_pw_relu" in run("cache", "info").out
    assert run("cache", "verify") == (0, "No damaged files.\n", "")
    assert run("cache", "compact", "--json").json["segments_after"] == 2
    segment = next(root.glob("v1/*/*.h5"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    damaged = run("cache", "verify", "--json")
    assert damaged.code == 1
    assert [Path(d["path"]) for d in damaged.json] == [segment]
    assert run("cache", "verify").code == 1
    assert run("cache", "prune", "--max-bytes", "1GB", "--json").json["removed_recipes"] == 0
    assert run("cache", "prune", "--max-bytes", "0").out.startswith("Removed 2 recipes")


def test_cache_clear_asks_for_confirmation(run, photos, monkeypatch):
    assert run("embed", photos.root, "-o", "f.npy", *SMALL).code == 0

    def rows():
        return sum(r["rows"] for r in EmbeddingStore().info()["recipes"])

    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        result = run("cache", "clear")
        assert (result.code, rows()) == (1, 24)
        assert "--yes" in result.err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run("cache", "clear").out.strip().startswith("Removed")
    assert rows() == 0
    assert run("embed", photos.root, "-o", "f.npy", *SMALL).code == 0
    assert run("cache", "clear", "--yes").out.startswith("Removed")
    assert rows() == 0


def test_cache_rejects_files_and_missing_folders(run):
    Path("file").write_text("x")
    assert "is a file" in run("cache", "info", "file").errors[0]
    assert "does not exist" in run("cache", "clear", "absent", "--yes").errors[0]


# -- real images -------------------------------------------------------------------------------


@pytest.mark.slow
def test_fit_pets_with_a_truncated_file(run, shared, tmp_path):
    pets = tmp_path / "pets"
    for source in (shared / "data/pets").rglob("*.jpg"):
        target = pets / source.relative_to(shared / "data/pets")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    argv = ("fit", pets, "--model", "mobilenet_0.75", "--head", "svm", "--cv", "5")
    clean = run(*argv, "-o", "pets.joblib", "--json").json
    assert clean["cv"]["mean"] >= 0.93
    (pets / "cats" / "Z (0).jpg").write_bytes((pets / "cats" / "Z.jpg").read_bytes()[:2000])
    dirty = run(*argv, "--json").json
    for figures in (clean, dirty):
        assert figures["images"] - figures["unreadable"] == 197
    assert dirty["unreadable"] == 1
    assert dirty["cv"] == clean["cv"]
    line = next(line for line in run(*argv).out.splitlines() if line.startswith("5-fold accuracy"))
    assert f"{clean['cv']['mean']:.4f} ± {clean['cv']['std']:.4f}" in line


@pytest.mark.slow
def test_accuracy_on_signs(run, shared):
    signs = shared / "data/signs/signs.csv"
    argv = ("--model", "mobilenet_0.75", "--head", "svm", "--cv", "0", "-o", "signs.joblib")
    assert run("fit", signs, "--target", "label", *argv).code == 0
    scores = run("evaluate", "signs.joblib", signs, "--split", "test", "--json").json
    assert scores["evaluated"] == 120
    assert scores["accuracy"] >= 0.983
