"""`tlfeatures finetune`: the comparison, the saved files, and predictions with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlfeatures
from tlfeatures.cli import main
from tlfeatures.finetune import FineTuneClassifier, is_bundle

SMALL = ["--model", "tiny", "--image-size", "32"]
QUICK = [
    *SMALL,
    "--linear-start",
    "--epochs",
    "1",
    "--train-from",
    "block10_dw",
    "--validation-fraction",
    "0",
]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command in this process; return exit code, standard output and standard error."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*argv):
        code = main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_bundle_is_saved_and_predicts(run, photos):
    code, out, err = run(
        "finetune", photos.root, *QUICK, "--cv", "0", "-o", "m.keras-bundle", "--curves", "c.png"
    )
    assert code == 0, err
    assert "Saved the fine-tuned network: m.keras-bundle" in out
    assert "Trained the network for 1 epoch (final training); final loss" in out
    assert "Best epoch of the network: 1, the last (no validation images)." in out
    assert Image.open("c.png").format == "PNG"
    clf = FineTuneClassifier.load("m.keras-bundle")
    code, out, err = run("predict", "m.keras-bundle", *photos.paths, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert code == 0 and [row["prediction"] for row in rows] == clf.predict(photos.paths).tolist()
    scores = clf.predict_proba(photos.paths).max(1)
    np.testing.assert_allclose([row["probability"] for row in rows], scores, atol=1e-5)
    figures = json.loads(run("evaluate", "m.keras-bundle", photos.root, "--json")[1])
    assert figures["used_for_training"] == figures["evaluated"] == 12
    code, out, _ = run("evaluate", "m.keras-bundle", photos.root, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(clf.score(photos.paths, photos.labels))


def test_frozen_pipeline_is_kept_unless_the_network_is_significantly_better(run, photos):
    code, out, err = run(
        *("finetune", photos.root, *QUICK, "--cv", "2", "--repeats", "1", "-o", "m.keras-bundle"),
        *("--curves", "c.png", "--json"),
    )
    assert code == 0, err
    about = json.loads(out)
    comparison = about["comparison"]
    assert comparison["test"] == "exact McNemar test" and (comparison["folds"], comparison["repeats"]) == (
        2,
        1,
    )
    assert comparison["difference"] == pytest.approx(
        comparison["pooled"]["finetuned"] - comparison["pooled"]["frozen"]
    )
    assert comparison["interval"][0] <= comparison["difference"] <= comparison["interval"][1]
    assert (
        about["kept"] == comparison["keep"] == "frozen" and not comparison["significant"]
    )  # with twelve images no difference is significant
    assert [row["epoch"] for row in about["history"]] == [0, 1]  # mean over the folds
    assert about["training"]["of"] == "mean of 2 fits on the folds" and Image.open("c.png").format == "PNG"


@pytest.mark.slow
def test_repeated_comparison_is_printed(run, photos):
    code, out, err = run("finetune", photos.root, *QUICK, "--epochs", "0", "--cv", "3", "--repeats", "2",
                         "--keep", "finetuned", "-o", "m.keras-bundle")  # fmt: skip
    assert code == 0, err
    assert "paired bootstrap by image, 2 repeats" in out and "Difference " in out
    assert "The difference is not significant" in out or "is significantly better." in out
    assert "lowest fold" in out and "Saved the fine-tuned network: m.keras-bundle" in out


def test_best_epoch_is_printed_with_its_validation_score(run, photos):
    code, out, err = run(
        "finetune", photos.root, *SMALL, "--train-from", "head", "--epochs", "2", "--cv", "0"
    )
    assert code == 0, err
    assert "Best epoch of the head: " in out and "; validation accuracy " in out


@pytest.mark.slow
def test_comparison_uses_groups(run, photos, tmp_path):
    table = tmp_path / "m.csv"
    rows = [
        f"{path},{label},{i // 3}"
        for i, (path, label) in enumerate(zip(photos.paths, photos.labels, strict=True))
    ]
    table.write_text("\n".join(["path,label,patient", *rows]))
    code, out, err = run("finetune", table, *QUICK, "--groups", "patient", "--target", "label", "--cv", "2",
                         "--repeats", "1", "--cache", "none", "--json")  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["comparison"]["test"] == "paired bootstrap by group"


# -- saved files --------------------------------------------------------------------------------------


def test_model_is_saved_under_the_name_of_the_option(run, photos):
    assert run("fit", photos.root, *SMALL, "--cv", "0", "-o", "m.joblib")[0] == 0
    before = Path("m.joblib").read_bytes()
    quick = ["finetune", photos.root, *QUICK, "--cv", "0"]
    code, out, err = run(*quick, "--keep", "frozen", "-o", "m.keras-bundle")
    assert code == 0 and "Saved the frozen pipeline: m.keras-bundle" in out, err
    assert Path("m.joblib").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["m.joblib", "m.keras-bundle"]
    assert len(tlfeatures.load("m.keras-bundle").steps) == 2
    code, out, err = run("predict", "m.keras-bundle", photos.paths[0], "--json")
    assert code == 0 and json.loads(out)[0]["prediction"] == photos.labels[0], err
    code, out, err = run(*quick, "--keep", "finetuned", "-o", "n.joblib")
    assert code == 0 and is_bundle("n.joblib"), err
    code, out, err = run("predict", "n.joblib", photos.paths[0], "--json")
    assert code == 0 and json.loads(out)[0]["error"] is None, err


def test_existing_file_is_overwritten_only_with_force(run, photos):
    quick = ["finetune", photos.root, *QUICK, "--cv", "0", "-o", "m.keras-bundle"]
    Path("m.keras-bundle").write_bytes(b"of an earlier run")
    code, _, err = run(*quick)
    assert (
        code == 2 and "-o 'm.keras-bundle' exists. Name another file, or pass --force to overwrite it." in err
    )
    assert Path("m.keras-bundle").read_bytes() == b"of an earlier run"
    code, _, err = run(*quick, "--keep", "frozen", "--force")
    assert code == 0 and len(tlfeatures.load("m.keras-bundle").steps) == 2, err
    assert run(*quick, "--force")[0] == 0 and is_bundle("m.keras-bundle")


@pytest.mark.slow
def test_warning_of_duplicates_in_different_folds(run, photos, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos.root, root)
    for path in sorted((root / "discs").iterdir()):
        shutil.copy(path, path.with_name(f"duplicate {path.name}"))
    code, _, err = run("finetune", root, *QUICK, "--cv", "2", "--repeats", "1")
    assert (
        code == 0 and "pair(s) of duplicate images (cosine >= 0.95; 4 exact)" in err and "--groups" in err
    ), err


@pytest.mark.slow
def test_predictions_average_augmented_views(run, photos):
    argv = (*QUICK, "--cv", "0", "--augment", "crop=8", "--tta", "2", "-o", "m.keras-bundle")
    assert run("finetune", photos.root, *argv)[0] == 0
    clf = FineTuneClassifier.load("m.keras-bundle")
    assert clf.tta == 2
    code, out, err = run("predict", "m.keras-bundle", *photos.paths, "--proba", "--json")
    assert code == 0, err
    proba = [[row[f"proba_{name}"] for name in clf.classes_] for row in json.loads(out)]
    np.testing.assert_allclose(proba, clf.predict_proba(photos.paths), atol=1e-5)
    assert "--tta" not in err


def test_zero_epochs(run, photos):
    code, out, err = run(
        *("finetune", photos.root, *SMALL, "--linear-start", "--validation-fraction", "0", "--epochs", "0"),
        *("--cv", "0", "-o", "m.keras-bundle"),
    )
    assert code == 0 and "Saved the fine-tuned network" in out and "Best epoch" not in out, err


def test_no_curves_without_epochs(run, photos):
    code, _, err = run("finetune", photos.root, *SMALL, "--cv", "0", "--keep", "frozen", "--curves", "c.png")
    assert code == 0 and "no epoch was trained: c.png is not written" in err and not Path("c.png").exists()


# -- options ---------------------------------------------------------------------------------------


def test_show_augmentations(run, photos, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "absent")  # weights are not needed
    code, out, err = run(
        "finetune",
        photos.root,
        *("--model", "vgg19", "--image-size", "32"),
        "--augment",
        "crop=4,flip=horizontal,color=0.2",
        "--show-augmentations",
        "v.png",
    )
    assert code == 0, err
    assert "Saved v.png" in out
    assert Image.open("v.png").size == (8 * 36 - 4, 6 * 36 - 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--train-from", "blok10_dw"], "block10_dw"),
        (["--keep", "best"], "--keep must be 'better', 'frozen' or 'finetuned'; got 'best'"),
        (["--head", "big"], "--head"),
        (["--augment", "flip"], "NAME=X"),
        (["--augment", "flap=1"], "flip"),
        (["-o", "m.zip"], "must end in .tlf, .keras-bundle or .joblib"),
        (["--frozen", "smv"], "svm"),
        (["--show-augmentations", "v.png"], "needs --augment"),
        (["--augment", "flip=sideways"], "augment['flip']='sideways'"),
        (["--tta", "2"], "Set augment, or tta=0"),
        (["--curves", "none/c.png"], "--curves 'none/c.png': the folder"),
        (["--weight-decay", "-1"], "--weight-decay must be a number of at least 0; got -1.0"),
    ],
)
def test_invalid_options(run, photos, options, text):
    code, _, err = run("finetune", photos.root, *SMALL, "--cv", "0", "--epochs", "1", *options)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and text in line


def test_unreadable_images_are_listed_and_left_out(run, photos, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos.root, root)
    unreadable = next(iter(sorted((root / "discs").iterdir())))
    unreadable.write_bytes(b"not an image")
    code, out, err = run("finetune", root, *QUICK, "--cv", "0", "-o", "m.keras-bundle")
    assert code == 0 and unreadable.name in err and "1 unreadable" in out
