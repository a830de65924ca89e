"""`tlfeatures finetune`: the gate, the files, and what predicts with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator

from tlfeatures.cli import main
from tlfeatures.cli.finetuning import _compare
from tlfeatures.finetune import FineTuneClassifier

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
    """Run the command in this process; exit code, output and errors."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*argv):
        code = main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_bundle_is_made_and_predicts(run, photos):
    code, out, err = run(
        "finetune", photos.root, *QUICK, "--cv", "0", "-o", "m.keras-bundle", "--curves", "c.png"
    )
    assert code == 0, err
    assert "Saved the fine-tuned network: m.keras-bundle" in out
    assert "Trained the network for 1 epoch; loss" in out
    assert Image.open("c.png").format == "PNG"
    clf = FineTuneClassifier.load("m.keras-bundle")
    code, out, err = run("predict", "m.keras-bundle", *photos.paths, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert code == 0 and [row["prediction"] for row in rows] == clf.predict(photos.paths).tolist()
    scores = clf.predict_proba(photos.paths).max(1)
    np.testing.assert_allclose([row["score"] for row in rows], scores, atol=1e-5)
    code, out, _ = run("evaluate", "m.keras-bundle", photos.root, "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(clf.score(photos.paths, photos.labels))
    assert run("finetune", photos.root, *QUICK, "--cv", "0", "-o", "m.keras-bundle")[0] == 0  # its own file


def test_the_frozen_pipeline_is_kept_unless_the_gain_exceeds_the_noise(run, photos):
    code, out, err = run("finetune", photos.root, *QUICK, "--cv", "2", "-o", "m.keras-bundle", "--json")
    assert code == 0, err
    about = json.loads(out)
    gate = about["comparison"]
    assert gate["gain"] == pytest.approx(np.mean(gate["finetuned"]) - np.mean(gate["frozen"]))
    assert about["kept"] == ("finetuned" if gate["gain"] > gate["noise"] else "frozen") == gate["keep"]
    assert about["kept"] == "frozen" and about["output"] == "m.joblib"  # 6 images a fold: all is noise
    assert run("predict", "m.joblib", photos.paths[0])[0] == 0
    code, out, _ = run(
        *("finetune", photos.root, *QUICK, "--train-from", "head", "--cv", "2", "-o", "m.keras-bundle"),
        *("--keep", "finetuned"),
    )
    assert code == 0 and "than the noise of" in out and "Saved the fine-tuned network" in out


class Knowing(BaseEstimator):
    """Reads the class off what stands for an image."""

    def fit(self, X, y, groups=None):
        return self

    def predict(self, X):
        return np.asarray(X)


class Rows:
    """What the command reads from a source."""

    def __init__(self, images):
        self.images, self.groups = images, None

    def take(self, rows):
        return Rows(self.images[rows])


@pytest.mark.parametrize(("n", "kept"), [(24, "frozen"), (400, "finetuned")])
def test_two_folds_that_agree_are_no_proof(n, kept):
    y = np.arange(n) % 2
    gate = _compare(Knowing(), "logreg", "classification", Rows(y), np.zeros((n, 1)), y, 2, "accuracy")
    assert (gate["gain"], gate["keep"]) == (0.5, kept) and gate["noise"] > 0


def test_views_are_shown(run, photos, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "nowhere")  # not even the weights are needed
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
    assert "6 pictures" in out
    assert Image.open("v.png").size == (8 * 36 - 4, 6 * 36 - 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--train-from", "blok10_dw"], "block10_dw"),
        (["--keep", "best"], "better, finetuned or frozen"),
        (["--head", "big"], "--head"),
        (["--augment", "flip"], "NAME=X"),
        (["--augment", "flap=1"], "flip"),
        (["-o", "m.zip"], ".keras-bundle"),
        (["--frozen", "smv"], "svm"),
        (["--show-augmentations", "v.png"], "needs --augment"),
        (["--augment", "flip=sideways"], "augment['flip']='sideways'"),
        (["--tta", "2"], "set augment, or tta=0"),
        (["--curves", "none/c.png"], "--curves 'none/c.png': there is no folder"),
        (["--weight-decay", "-1"], "weight_decay=-1.0; expected a number of 0 or more"),
    ],
)
def test_wrong_arguments(run, photos, options, text):
    code, _, err = run("finetune", photos.root, *SMALL, "--cv", "0", "--epochs", "1", *options)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and text in line


def test_unreadable_images_are_named_and_left_out(run, photos, tmp_path):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(photos.root, root)
    bad = next(iter(sorted((root / "discs").iterdir())))
    bad.write_bytes(b"no picture")
    code, out, err = run("finetune", root, *QUICK, "--cv", "0", "-o", "m.keras-bundle")
    assert code == 0 and bad.name in err and "1 unreadable" in out
