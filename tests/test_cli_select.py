"""`tlfeatures select`: its output, its report, the saved pipeline, and error messages."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tlfeatures
from tests.networks import make_images
from tlfeatures.cli import main
from tlfeatures.cli._parse import parse_heads

SMALL = ["--model", "tiny", "--image-size", "32", "--resize", "stretch"]
ONE = [*SMALL, "--layer", "block3_pw_relu", "--pooling", "avg", "--head", "ridge"]
pytestmark = pytest.mark.filterwarnings("ignore::tlfeatures.errors.RandomWeightsWarning")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One store for all tests, so that each image passes through the network once."""
    return tmp_path_factory.mktemp("select") / "store"


@pytest.fixture
def run(capsys, cache, tmp_path, monkeypatch):
    """Run the command in this process, in a new working directory."""
    monkeypatch.setenv("TLFEATURES_CACHE", str(cache))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*argv) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def no_network(monkeypatch):
    """Fail if a network runs: invalid arguments must raise an error before."""

    def fail(*args, **kwargs):
        raise AssertionError("a network ran")

    monkeypatch.setattr("tlfeatures.selection._matrices.extract", fail)


def manifest(photos, path, **columns) -> Path:
    columns = {"path": photos.paths, "label": photos.labels, **columns}
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def check_error(result, *parts):
    """Check that the output is one error with all ``parts``, and the exit code 2."""
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], lines[0]
    assert result.out == ""


# -- results --------------------------------------------------------------------------------


def test_best_pipeline_is_saved_and_reproduced(run, photos):
    argv = [*SMALL, "--layer", "block3_pw_relu,block3_pw_relu+block5_pw_relu", "--pooling", "avg,max",
            "--head", "ridge,logreg:C=0.1/1", "--cv", "2", "--nested", "--weights", "random"]  # fmt: skip
    result = run("select", photos.root, *argv, "-o", "report")
    assert result.code == 0, result.err
    assert "12 images in 3 classes, 12 candidates" in result.out
    assert "Saved report/index.html and pipeline.tlf." in result.out
    assert "Nested cross-validation, which scores the selection:" in result.out
    report = json.loads(Path("report/report.json").read_text("utf-8"))
    best = report["best"]
    assert f"2-fold accuracy: {best['score']:.4f}, 95% interval" in result.out
    assert shlex.split(report["command"])[:3] == ["tlfeatures", "select", str(photos.root)]
    assert "--cv 2 --nested --weights random" in report["command"]

    evaluated = run("evaluate", "report/pipeline.tlf", photos.root, "--json")
    assert evaluated.json["evaluated"] == 12
    assert evaluated.json["accuracy"] >= best["score"]  # on the images that it was fitted on
    assert evaluated.json["used_for_training"] == 12
    predicted = run("predict", "report/pipeline.tlf", photos.paths[0])
    assert photos.labels[0] in predicted.out
    assert "probability" in predicted.out

    reproduced = run(*shlex.split(report["best_command"])[1:], "--json")
    assert reproduced.code == 0, reproduced.err
    assert reproduced.json["best"]["score"] == best["score"]
    assert reproduced.json["candidates"] == 1
    first, second = (tlfeatures.load(f"{folder}/pipeline.tlf") for folder in ("report", "best"))
    np.testing.assert_array_equal(first.predict(photos.paths), second.predict(photos.paths))
    assert first[0].get_params() | {"cache": None} == second[0].get_params() | {"cache": None}

    repeated = run(*shlex.split(report["command"])[1:], "--json")
    assert repeated.json["best"]["score"] == best["score"]
    assert repeated.json["nested"] == report["nested"]["scores"]


def test_file_names_that_are_not_utf_8_are_not_read_from_the_table(run, photos, tmp_path, not_utf_8):
    folder = Path(shutil.copytree(photos.root, tmp_path / "photos"))
    first = next(folder.glob("checks/*"))
    first.rename(first.with_name(f"{not_utf_8}.jpg"))
    first.with_name(os.fsdecode(b"\xfe.jpg")).write_text("not an image")
    result = run("select", folder, *ONE, "--cv", "2", "-o", "report")
    assert result.code == 0, result.err
    report = json.loads(Path("report/report.json").read_text("utf-8"))
    assert "read_csv" not in report["best_code"] and "# X, y: the images and labels" in report["best_code"]
    assert "predictions.csv" not in (report["best_command"] or "")
    if report["best_command"]:
        assert run(*shlex.split(report["best_command"])[1:], "--json").code == 0


def test_fused_layers_are_saved_and_reproduced(run, photos):
    options = [*SMALL, "--pooling", "avg", "--head", "svm:C=1", "--cv", "2"]
    chosen = run("select", photos.root, *options, "--layer", "fused", "-o", "report")
    assert chosen.code == 0, chosen.err
    assert "tiny 32 stretch fused avg, svm(C=1)" in " ".join(chosen.out.split())
    report = json.loads(Path("report", "report.json").read_text())
    assert "--layer fused" in report["best_command"]
    reproduced = run(*shlex.split(report["best_command"])[1:], "--json")
    assert reproduced.json["best"]["params"]["fused"] is True
    best = report["best"]  # near-duplicates are split between the folds of these few images
    assert reproduced.json["best"]["score"] == (best["uncorrected_score"] or best["score"])
    predicted = run("predict", "report/pipeline.tlf", photos.root, "--json")
    assert predicted.code == 0, predicted.err
    both = run("select", photos.root, *options, "--layer", "standard,fused", "--json")
    assert both.json["candidates"] == 9


def test_json_output(run, photos):
    output = run("select", photos.root, *ONE, "--cv", "2", "--json").json
    assert (output["images"], output["unreadable"], output["candidates"], output["folds"]) == (12, 0, 1, 2)
    assert output["best"]["params"]["layer"] == "block3_pw_relu"
    assert output["best"]["score"] == pytest.approx(np.mean(output["best"]["scores"]))
    assert output["top"][0]["score"] == output["best"]["score"]
    assert output["scoring"] == "accuracy"
    assert output["recommendation"] in (
        "frozen features",
        "earlier layers",
        "fine-tune the top",
        "fine-tune all",
    )
    assert output["evidence"][-1][0].startswith("Recommended: ")
    assert not list(Path().iterdir())  # no report without -o


def test_regression_and_groups(run, photos, tmp_path):
    source = manifest(photos, tmp_path / "a.csv", size=np.linspace(1.5, 7, 12), patient=np.arange(12) // 2)
    argv = ["--target", "size", "--groups", "patient", *ONE, "--cv", "3", "-o", "report"]
    result = run("select", source, *argv, "--json")
    assert result.code == 0, result.err
    assert result.json["task"] == "regression"
    assert set(result.json["metrics"]) == {"r2", "mae", "rmse"}
    oof = pd.read_csv("report/tables/predictions.csv")
    assert (oof.groupby("group")["fold"].nunique() == 1).all()
    assert oof["group"].nunique() == 6
    report = json.loads(Path("report/report.json").read_text("utf-8"))
    assert "--groups group" in report["best_command"]
    reproduced = run(*shlex.split(report["best_command"])[1:], "--json")
    assert reproduced.json["best"]["scores"] == result.json["best"]["scores"]


def test_unreadable_images_are_left_out_and_listed(run, photos, tmp_path):
    folder = Path(shutil.copytree(photos.root, tmp_path / "photos"))
    (folder / "checks" / "text.jpg").write_text("hello")
    result = run("select", folder, *ONE, "--cv", "2", "--json")
    assert result.code == 0, result.err
    assert "1 of 13 images could not be read and is left out:" in result.err
    assert "text.jpg: " in result.err
    assert result.json["unreadable"] == 1
    assert list(result.json["skipped"]) == [str(folder / "checks" / "text.jpg")]


def test_warning_of_duplicates_names_the_option(run, tmp_path):
    folder = tmp_path / "photos"
    for i, pixels in enumerate(make_images(12, 40)):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        for name in (f"{i}.png", f"duplicate of {i}.png"):
            Image.fromarray(pixels).save(folder / "ab"[i % 2] / name)
    result = run("select", folder, *ONE, "--cv", "2", "--json")
    line = next(line for line in result.err.splitlines() if "split between folds" in line)
    assert line.startswith("warning: ")
    assert "--dedupe-groups uses such folds" in line
    assert "dedupe_groups=True" not in line
    assert result.json["duplicates"]["in_different_folds"] > 0
    text = run("select", folder, *ONE, "--cv", "2").out
    score = result.json["duplicates"]["grouped_score"]
    assert f"2-fold accuracy: {score:.4f}, 95% interval" in text  # the corrected score comes first
    grouped = run("select", folder, *ONE, "--cv", "2", "--dedupe-groups", "--json")
    assert grouped.code == 0, grouped.err
    assert grouped.json["duplicates"]["in_different_folds"] == 0


def test_warning_of_duplicates_that_are_all_in_one_group(run, photos, tmp_path):
    photos_twice = {"path": photos.paths * 2, "label": photos.labels * 2}
    source = tmp_path / "a.csv"  # groups and duplicates together connect all images
    pd.DataFrame({**photos_twice, "patient": np.arange(24) // 2 % 7}).to_csv(source, index=False)
    result = run("select", source, "--groups", "patient", *ONE, "--cv", "2", "--json")
    assert result.code == 0, result.err
    assert result.json["duplicates"]["grouped_score"] is None
    line = next(line for line in result.err.splitlines() if "split between folds" in line)
    assert (
        "is not possible: the largest group of duplicates, merged with `groups` if passed, has 24 of 24 "
        in line
    )
    assert "pass a higher --duplicate-threshold" in line and "--dedupe-groups" not in line


def test_plural_names_of_options_are_aliases(run, photos):
    plural = ["--models", "tiny", "--image-sizes", "32", "--layers", "block3_pw_relu", "--poolings", "avg"]
    former = run(
        "select", photos.root, *plural, "--heads", "ridge", "--resize", "stretch", "--cv", "2", "--json"
    )
    assert former.code == 0, former.err
    one = run("select", photos.root, *ONE, "--cv", "2", "--json")
    assert former.json["best"] == one.json["best"]
    fitted = run(
        "fit", photos.root, "--models", "tiny", "--image-size=32", "--heads=ridge", "--cv", "2", "--json"
    )
    assert fitted.code == 0, fitted.err
    text = run("select", "--help").out
    for name in ("--model", "--layer", "--pooling", "--image-size", "--head"):
        assert f"{name} " in text and f"{name}s" not in text


# -- errors -----------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
class TestErrorsBeforeExtraction:
    def test_class_with_fewer_images_than_folds(self, run, photos):
        result = run("select", photos.root, *ONE)
        check_error(result, "--cv 5 needs at least 5 images", "'checks' with 4", "Use --cv 4")

    def test_one_class(self, run, photos, tmp_path):
        source = manifest(photos, tmp_path / "a.csv", label="cat")
        check_error(run("select", source, *ONE), "one class, 'cat'", "two or more")

    def test_missing_labels(self, run, photos, tmp_path):
        labels = [None, None, *photos.labels[2:]]
        source = manifest(photos, tmp_path / "a.csv", label=labels)
        result = run("select", source, "--target", "label", *ONE)
        parts = ("2 of 12 rows", "no value in column 'label'", "Fill them in or delete")
        check_error(result, *parts)
        check_error(
            run("select", photos.root / "discs", *ONE), "has no labels", "Put the images of each class"
        )

    def test_unknown_column(self, run, photos, tmp_path):
        source = manifest(photos, tmp_path / "a.csv", finding=photos.labels)
        result = run("select", source, "--target", "findings", *ONE)
        check_error(result, "No column 'findings'", "Did you mean 'finding'?")
        check_error(run("select", source, "--groups", "patient", *ONE), "No column 'patient'")

    def test_too_few_groups(self, run, photos, tmp_path):
        source = manifest(photos, tmp_path / "a.csv", patient=np.arange(12) % 2)
        result = run("select", source, "--groups", "patient", *ONE, "--cv", "4")
        check_error(result, "2 group(s)", "--cv 4 needs at least 4 groups", "Use --cv 2")
        source = manifest(photos, tmp_path / "b.csv", patient=[f"{label[0]}" for label in photos.labels])
        result = run("select", source, "--groups", "patient", *ONE, "--cv", "3")
        check_error(result, "are in one group", "divide the group")

    def test_too_few_images_for_nested_cross_validation(self, run, photos):
        result = run("select", photos.root, *ONE, "--cv", "4", "--nested")
        check_error(
            result, "--nested splits the training rows", "--cv 4 needs at least 4 images", "Use --cv 3"
        )

    @pytest.mark.parametrize(
        ("argv", "parts"),
        [
            (["--head", "swm"], ["'swm'", "Did you mean 'svm'"]),
            (["--head", "svm:C"], ["'C' is not a setting", "for example svm:C=1/10"]),
            (["--head", "svm:gama=1"], ["gama"]),
            (["--head", "svm,"], ["--head 'svm,': a name is empty"]),
            (["--model", "mobilnet"], ["'mobilnet'", "Did you mean"]),
            (["--layer", "block99_pw_relu"], ["block99_pw_relu", "Did you mean"]),
            (["--pooling", "mean"], ["mean", "avg"]),
            (["--image-size", "big"], ["big", "such as 224"]),
            (["--resize", "squash"], ["squash", "crop"]),
            (["--scoring", "acuracy"], ["Did you mean 'accuracy'"]),
            (["--rule", "2se"], ["'2se'", "'best' or '1se'"]),
            (["--prescreen-method", "logm"], ["Did you mean 'logme'"]),
            (["--task", "regression"], ["--task regression needs numeric labels", "such as 'checks'"]),
            (["--task", "classes"], ["got 'classes'", "'auto', 'classification' or 'regression'"]),
            (["--scoring", "r2"], ["'ridge' cannot be scored by 'r2'", "another scoring"]),
            (["--cv", "1"], ["--cv"]),
            (["--prescreen", "0"], ["--prescreen"]),
        ],
    )
    def test_invalid_options(self, run, photos, argv, parts):
        check_error(run("select", photos.root, *ONE, "--cv", "2", *argv), *parts)

    def test_folders_with_files_of_others_are_rejected(self, run, photos):
        Path("file").write_text("mine")
        check_error(run("select", photos.root, *ONE, "-o", "file"), "'file' is a file", "name a folder")
        check_error(run("select", photos.root, *ONE, "-o", "no/where"), "does not exist; create it first")
        Path("site").mkdir()
        Path("site/index.html").write_text("<h1>mine</h1>")
        check_error(
            run("select", photos.root, *ONE, "-o", "site"), "was not written by this command", "--force"
        )
        assert Path("site/index.html").read_text() == "<h1>mine</h1>"
        for name in ("report.json", "pipeline.tlf"):
            Path("project").mkdir(exist_ok=True)
            Path("project", name).write_text("mine")
            check_error(run("select", photos.root, *ONE, "-o", "project"), name, "--force")
            Path("project", name).unlink()

    def test_report_inside_the_image_folder_is_rejected(self, run, photos):
        for folder in (photos.root, photos.root / "new", f"{photos.root}/discs/../x/"):
            result = run("select", photos.root, *ONE, "-o", folder)
            check_error(result, "is inside the folder of the images", "Name another folder")

    def test_hints_name_only_options_of_the_command(self, run, photos, tmp_path):
        source = manifest(photos, tmp_path / "a.csv", label=["rare", *photos.labels[1:]])
        result = run("select", source, "--target", "label", *ONE)
        check_error(result, "'rare' with 1. Add images, or merge or drop small classes.")


def test_report_replaces_an_earlier_report_but_no_pipeline_of_others(run, photos):
    argv = ("select", photos.root, *ONE, "--cv", "2", "-o", "report")
    for _ in range(2):
        assert run(*argv).code == 0
    joblib.dump({"theirs": 1}, "report/pipeline.tlf")
    check_error(run(*argv), "'report/pipeline.tlf' exists and was not written by this command")
    assert joblib.load("report/pipeline.tlf") == {"theirs": 1}


def test_too_few_readable_images_for_the_folds(run, photos, tmp_path):
    folder = Path(shutil.copytree(photos.root, tmp_path / "photos"))
    min((folder / "discs").iterdir()).write_bytes(b"")
    result = run("select", folder, *ONE, "--cv", "4")
    assert result.code == 2
    assert "'discs' with 3. Use --cv 3, or merge or drop small classes" in result.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("svm, ridge", ["svm", "ridge"]),
        ("svm:C=1/2.5:gamma=scale", {"svm": {"C": [1, 2.5], "gamma": ["scale"]}}),
        ("knn:weights=uniform,ridge", {"knn": {"weights": ["uniform"]}, "ridge": None}),
        ("svr:regressor__epsilon=1e-05", {"svr": {"regressor__epsilon": [1e-05]}}),
        ("logreg:class_weight=None", {"logreg": {"class_weight": [None]}}),
    ],
)
def test_parse_heads(text, expected):
    assert parse_heads(text) == expected


@pytest.mark.parametrize("text", ["", "svm,,ridge", "svm:", "svm:C=", "svm:=1"])
def test_parse_invalid_heads(text):
    with pytest.raises(ValueError, match="expected"):
        parse_heads(text)
