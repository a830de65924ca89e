"""Images to label next: uncertain, unlike each other, no duplicates; and labels that cannot be used."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil

import numpy as np
import pandas
import pytest
from markupsafe import escape
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, suggest
from tlfeatures.cli import main
from tlfeatures.heads import make_head
from tlfeatures.report import is_report, is_suggestions, write_suggestions


@pytest.fixture(scope="module")
def classes():
    """Embeddings of three classes, the first two of which overlap, and their labels."""
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "hen"], 100)
    centers = rng.normal(size=(3, 30)) * 2
    centers[1] = centers[0] + 0.5 * rng.normal(size=30)
    return centers[np.repeat(np.arange(3), 100)] + rng.normal(size=(300, 30)), y


def keep_labels(y, rows):
    labels = np.full(len(y), None)
    labels[rows] = y[rows]
    return labels


LABELLED = np.r_[:20, 100:120, 200:220]


def test_suggested_images_are_unlabelled_uncertain_and_sorted(classes):
    X, y = classes
    suggestions = suggest(X, keep_labels(y, LABELLED), n=20)
    assert len(set(suggestions.rows.tolist())) == 20
    assert not np.isin(suggestions.rows, LABELLED).any()
    assert (np.diff(suggestions.margins) >= 0).all()
    head = make_head("svm").fit(X[LABELLED], y[LABELLED])
    np.testing.assert_array_equal(suggestions.predictions, head.predict(X[suggestions.rows]))
    unlabelled = np.setdiff1d(np.arange(300), LABELLED)
    top_two = np.sort(head.decision_function(X[unlabelled]), axis=1)[:, -2:]
    assert suggestions.margins.mean() < (top_two[:, 1] - top_two[:, 0]).mean()
    assert np.isin(y[suggestions.rows], ["cat", "dog"]).mean() > 0.8
    assert 0.5 < suggestions.accuracy <= 1
    table = suggestions.to_frame()
    assert list(table) == ["path", "prediction", "alternative", "margin"]
    assert table["path"].tolist() == suggestions.rows.tolist()
    assert (table["prediction"] != table["alternative"]).all()
    assert suggestions.classes["images"].tolist() == [20, 20, 20]


def test_the_seed_makes_suggestions_reproducible(classes):
    X, y = classes
    labels = keep_labels(y, LABELLED)
    rows = [suggest(X, labels, random_state=seed).rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_missing_labels_may_be_none_nan_or_empty(classes):
    X, y = classes
    expected = suggest(X, keep_labels(y, LABELLED)).rows.tolist()
    for missing in (np.nan, ""):
        labels = [label if label is not None else missing for label in keep_labels(y, LABELLED)]
        assert suggest(X, labels).rows.tolist() == expected
    codes = np.full(300, np.nan)
    codes[LABELLED] = np.searchsorted(["cat", "dog", "hen"], y[LABELLED])
    assert suggest(X, codes).rows.tolist() == expected


def test_duplicates_are_skipped(classes):
    X, y = classes
    doubled = np.concatenate([X, X])
    labels = np.concatenate([keep_labels(y, LABELLED), np.full(300, None)])
    suggestions = suggest(doubled, labels, n=50)
    originals = suggestions.rows % 300
    assert len(np.unique(originals)) == 50
    assert not np.isin(originals, LABELLED).any()
    assert suggestions.n_duplicates == 300
    groups = suggestions.duplicates.groupby("group")
    assert groups.ngroups == 300 and (groups["skipped"].sum() == 1).all()
    skipped = suggestions.duplicates[suggestions.duplicates["skipped"]]
    assert set(skipped["row"]) == set(range(300, 600)) and skipped["label"].isna().all()
    labels_of_groups = suggestions.duplicates["label"].dropna()
    assert len(labels_of_groups) == 60 and set(labels_of_groups) == {"cat", "dog", "hen"}


def test_an_unlabelled_duplicate_before_the_labelled_image_is_skipped(classes):
    X, y = classes
    labels = np.concatenate([[None], keep_labels(y, LABELLED)])
    suggestions = suggest(np.concatenate([X[:1], X]), labels)
    assert suggestions.duplicates[["row", "label", "skipped"]].to_numpy().tolist() == [
        [1, "cat", False], [0, None, True],
    ]  # fmt: skip


def test_all_remaining_images_are_suggested_with_a_warning_if_there_are_not_enough(classes):
    X, y = classes
    with pytest.warns(UserWarning, match="only 10 images are left to label; 11 were requested"):
        suggestions = suggest(X, keep_labels(y, np.arange(10, 300)), n=11)
    assert sorted(suggestions.rows.tolist()) == list(range(10))
    with pytest.warns(UserWarning, match="only 1 image is left to label; 2 were requested"):
        suggest(X, keep_labels(y, np.arange(1, 300)), n=2)


@pytest.mark.parametrize(
    ("labelled", "what"), [([0, 1], "all labels are 'cat'"), ([], "no image has a label")]
)
def test_fewer_than_two_classes_give_images_unlike_each_other(classes, labelled, what):
    X, y = classes
    with pytest.warns(UserWarning, match=f"{what}, so the suggested images are chosen without"):
        suggestions = suggest(X, keep_labels(y, labelled), n=12)
    assert suggestions.predictions is None and suggestions.margins is None
    assert set(y[suggestions.rows]) == {"cat", "dog", "hen"}
    assert list(suggestions.to_frame()) == ["path"]


def test_classes_with_one_or_two_images(classes):
    X, y = classes
    for rows in ([0, 100, 200], [0, 1, 100, 101, 200]):
        suggestions = suggest(X, keep_labels(y, rows), n=5)
        assert len(suggestions.rows) == 5 and np.isfinite(suggestions.margins).all()


def test_accuracy_of_small_classes_is_that_of_five_folds():
    """A class of two images does not halve the training sets of the others."""
    sizes = []

    class CountingClassifier(KNeighborsClassifier):
        def fit(self, X, y):
            sizes.append(len(y))
            return super().fit(X, y)

    X = np.random.default_rng(0).normal(size=(60, 30)) + (np.arange(60) < 20)[:, None]
    y = [*["cat"] * 20, *["dog"] * 18, *["hen"] * 2, *[None] * 20]
    suggestions = suggest(X, y, n=2, estimator=CountingClassifier())
    assert sizes == [32] * 5 + [40]
    assert suggestions.accuracy >= 0.8


def test_equal_and_constant_features(classes):
    X, y = classes
    labels = keep_labels(y, LABELLED)
    constant = np.c_[X, np.ones((300, 3))]
    assert np.isfinite(suggest(constant, labels).margins).all()
    with pytest.raises(ValueError, match="of 300 images, 60 have one, 240 are duplicates"):
        suggest(np.ones((300, 4)), labels)
    few_directions = np.sign(X[:, :5]) + 0.001 * X[:, :5]
    with pytest.warns(UserWarning, match="images are left to label; 200 were requested"):
        rows = suggest(few_directions, labels, n=200).rows
    assert len(set(rows.tolist())) == len(rows) > 0


def test_input_that_cannot_be_used_raises(classes):
    X, y = classes
    labels = keep_labels(y, LABELLED)
    bad = X.copy()
    bad[7] = np.nan
    with pytest.raises(ValueError, match="1 of 300 rows of `X` contain NaN"):
        suggest(bad, labels)
    with pytest.raises(
        ValueError, match="`y` must leave images without a label; of 300 images, 300 have one"
    ):
        suggest(X, y)
    with pytest.raises(ValueError, match="one label, or None, for each of the 300 images; got 2"):
        suggest(X, ["cat", None])
    with pytest.raises(ValueError, match="one label, or None, for each of the 300 images; got 0"):
        suggest(X, None)
    few = keep_labels(y, [0, 1, 100, 101])
    with pytest.raises(
        ValueError, match="`estimator` cannot be used with 4 labelled images: Expected n_neighbors"
    ):
        suggest(X, few, estimator=KNeighborsClassifier(5))
    assert (
        len(suggest(X, keep_labels(y, [0, 1, 2, 100, 101]), n=3, estimator=KNeighborsClassifier(5)).rows) == 3
    )
    with pytest.raises(ValueError, match=r"`y` must be classes; got numbers such as 0\.5"):
        suggest(X, [0.5, 1.5] + [None] * 298)
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1; got 0"):
        suggest(X, labels, n=0)
    with pytest.raises(ValueError, match=r"`estimator` must be a classifier"):
        suggest(X, labels, estimator=Ridge())
    with pytest.raises(ValueError, match=r"`X` must be embeddings of shape .* begins with CNNFeatures"):
        suggest(["a.jpg", "b.jpg"], ["cat", None])


@pytest.mark.filterwarnings("ignore::tlfeatures.errors.UnreadableImagesWarning")
def test_images_of_a_pipeline_without_unreadable_ones(photos, tmp_path):
    unreadable = tmp_path / "text.jpg"
    unreadable.write_text("not an image")
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), SVC())
    paths, labels = [str(unreadable), *photos.paths], [None, *photos.labels[:6], *[None] * 6]
    with pytest.warns(UserWarning, match="images are left to label"):
        suggestions = suggest(paths, labels, n=9, estimator=pipeline)
    assert 0 not in suggestions.rows and suggestions.rows.min() > 6
    assert "not an image" in suggestions.errors[0]
    assert set(suggestions.rows.tolist()) <= set(suggestions.thumbnails)
    page = write_suggestions(suggestions, tmp_path / "page", command="tlfeatures suggest x")
    html, summary = page.read_text("utf-8"), json.loads((page.parent / "report.json").read_text())
    assert is_suggestions(page) and not is_report(page)
    assert "Unreadable images" in html and "not an image" in html and "tlfeatures suggest x" in html
    assert summary["unreadable"] == 1 and summary["labelled"] == 6
    assert "tables/unreadable.csv" in summary["files"]


@pytest.fixture(scope="module")
def patterns():
    """Thirty noise images, the last four of which are duplicates of others, and their labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (26, 24, 24, 3), dtype="uint8")
    return np.concatenate([images, images[[0, 20, 20, 21]]]), [*["a<b>", "c"] * 5, *[None] * 20]


def test_page_shows_the_suggested_images_in_order(patterns, tmp_path):
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), SVC())
    suggestions = suggest(*patterns, n=8, estimator=pipeline)
    page = write_suggestions(suggestions, tmp_path)
    html, table = page.read_text("utf-8"), pandas.read_csv(tmp_path / "tables/suggestions.csv")
    pandas.testing.assert_frame_equal(table, suggestions.to_frame(), check_dtype=False)
    section = html[html.index("<h2>Suggested images") : html.index("<h2>Skipped duplicates")]
    previews = re.findall(r"base64,([\w+/=]+)", section)
    assert [base64.b64decode(preview) for preview in previews] == [
        suggestions.thumbnails[row] for row in suggestions.rows
    ]
    assert re.findall(r"margin: (\S+)", section) == [f"{margin:.4g}" for margin in suggestions.margins]
    assert re.findall(r"<strong>(.*?)</strong>, or (.*?)<br>", section) == [
        (escape(a), escape(b)) for a, b in zip(suggestions.predictions, suggestions.alternatives, strict=True)
    ]
    skipped = html[html.index("<h2>Skipped duplicates") : html.index("<h2>Labels so far")]
    assert len(re.findall(r">skipped$", skipped, re.MULTILINE)) == suggestions.n_duplicates == 4
    assert "label: a&lt;b&gt;" in skipped
    assert not re.search(r">\s*(nan|none)\b", html, re.IGNORECASE)


def test_page_without_a_classifier(patterns, tmp_path):
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), SVC())
    with pytest.warns(UserWarning, match="no image has a label"):
        suggestions = suggest(patterns[0], [None] * 30, n=3, estimator=pipeline)
    html = write_suggestions(suggestions, tmp_path).read_text("utf-8")
    assert "The labels have fewer than two classes" in html and "<br>margin:" not in html
    assert "Labels so far" not in html


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty images of random patterns, ten dark and ten bright, without class folders."""
    root = tmp_path_factory.mktemp("patterns")
    rng = np.random.default_rng(0)
    for i in range(20):
        coarse = rng.integers(128 * (i % 2), 128 * (i % 2) + 128, (4, 4, 3), dtype="uint8")
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(root / f"{i:02}.png")
    return root


@pytest.fixture
def run(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TLFEATURES_CACHE", str(tmp_path / "store"))
    labels = tmp_path / "labels.csv"

    def call(rows, *argv, source=folder):
        capsys.readouterr()
        labels.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
        small = ["--model", "tiny", "--image-size", "32"]
        code = main(["suggest", str(source), "--labelled", str(labels), *small, *map(str, argv)])
        return code, *capsys.readouterr()

    return call


def labelled_rows(folder, n):
    return [(folder / f"{i:02}.png", ["dark", "bright"][i % 2]) for i in range(n)]


def test_command_suggests_images_without_labels(run, folder, tmp_path):
    rows = labelled_rows(folder, 8)
    code, out, err = run(rows, "-n", 5, "--json")
    assert code == 0, err
    about = json.loads(out)
    assert about["labelled"] == 8 and about["classes"] == 2 and 0 <= about["accuracy"] <= 1
    suggested = [row["path"] for row in about["suggestions"]]
    assert len(set(suggested)) == 5
    assert not {str(path) for path, _ in rows} & set(suggested)
    table = tmp_path / "next.csv"
    for _ in range(2):  # the second run overwrites its own table
        code, out, err = run(rows, "-n", 5, "-o", table)
        assert code == 0, err
    assert "8 labelled images of 2 classes, cross-validated accuracy" in out
    assert table.read_text().splitlines()[0] == "path,prediction,alternative,margin"
    table.write_text("mine\n")
    code, _, err = run(rows, "-n", 5, "-o", table)
    assert code == 2 and "was not written by this command" in err


def test_command_saves_a_page_in_a_folder(run, folder, tmp_path):
    rows, page = labelled_rows(folder, 8), tmp_path / "next"
    for _ in range(2):  # the second run replaces its own page
        code, out, err = run(rows, "-n", 5, "-o", page)
        assert code == 0 and f"Saved {page / 'index.html'}." in out, err
    assert "tlfeatures suggest" in (page / "index.html").read_text("utf-8")
    assert len(pandas.read_csv(page / "tables/suggestions.csv")) == 5
    code, _, err = run(rows, "-o", folder / "next")
    assert code == 2 and "is inside the folder of the images" in err
    code, _, err = run(rows, "-o", tmp_path / "next.txt")
    assert code == 2 and "must end in .csv, or name a folder for the page" in err
    (page / "index.html").write_text("mine")
    code, _, err = run(rows, "-o", page)
    assert code == 2 and "was not written by this command" in err


@pytest.mark.usefixtures("not_utf_8")
def test_command_accepts_file_names_that_are_not_utf_8(run, folder, tmp_path):
    odd = shutil.copytree(folder, tmp_path / "odd")
    for name in (b"\xfd.png", b"\xfe.png"):
        shutil.copy(odd / "19.png", odd / os.fsdecode(name))
    (odd / "19.png").unlink()
    (odd / os.fsdecode(b"\xff.png")).write_text("not an image")
    code, _, err = run(labelled_rows(odd, 8), "-n", 50, "-o", tmp_path / "next", source=odd)
    assert code == 0, err
    tables = [
        (tmp_path / "next/tables" / f"{name}.csv").read_bytes() for name in ("suggestions", "unreadable")
    ]
    assert b"/\xfd.png" in tables[0] and b"/\xff.png" in tables[1]


def test_command_uses_labelled_images_of_other_folders(run, folder, photos):
    rows = [*labelled_rows(folder, 4), (photos.paths[0], "checks"), (photos.paths[3], "checks")]
    code, out, err = run(rows, "-n", 3, "--json")
    assert code == 0 and json.loads(out)["classes"] == 3
    assert "note: 2 labelled images not in" in err


def test_command_reports_labels_that_cannot_be_used(run, folder):
    code, out, err = run(labelled_rows(folder, 1), "-n", 3, "--json")
    assert (
        code == 0 and "all labels are 'dark', so the suggested images are chosen without a classifier" in err
    )
    assert list(json.loads(out)["suggestions"][0]) == ["path"]
    path = folder / "00.png"
    code, _, err = run([(path, "dark"), (path, "bright")])
    assert code == 2 and "has the labels 'dark' and 'bright'; expected one for each image" in err
    code, _, err = run([(path, "")])
    assert code == 2 and "1 of 1 rows of" in err
    code, _, err = run([("missing.png", "dark")])
    assert code == 2 and "None of the 1 files in column 'path'" in err
    code, _, err = run(labelled_rows(folder, 20))
    assert code == 2 and "must leave images without a label" in err
