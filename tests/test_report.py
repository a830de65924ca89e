"""The report of a search: page, figures, tables and JSON file."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import brier_score_loss, confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import KFold, LeaveOneOut, PredefinedSplit, ShuffleSplit
from sklearn.tree import DecisionTreeClassifier

from tlfeatures import EmbeddingStore, FeatureSearchCV, select
from tlfeatures.cli._best_command import best_command
from tlfeatures.evaluation import Duplicates
from tlfeatures.report import _figures, _tables, is_report, write_report
from tlfeatures.report._class_names import Labels
from tlfeatures.report._code import make_python_code
from tlfeatures.results import LearningCurve, PredictionSets, Regime, Score, SearchResult
from tlfeatures.selection._fitted_images import worst_predictions
from tlfeatures.selection._result import best_options, sample_embeddings
from tlfeatures.trust import measure_prediction_intervals

UNUSUAL_NAME = '<script>alert(1)</script> & "é$x$" a rather long name'
OPTIONS = {
    "models": "tiny", "layers": ["block5_out"], "poolings": "avg", "image_sizes": [112], "resize": "crop",
    "heads": {"svm": {"C": [1.0]}}, "cv": 5, "task": "classification", "random_state": 0,
}  # fmt: skip
IMAGE_PROBLEMS = pd.DataFrame(
    [
        (0, "a.jpg", "error", "the file is empty"),
        (1, "b.jpg", "error", "no such file"),
        (5, "c.jpg", "warning", "all values lie within 3 of 256 levels"),
    ],
    columns=["row", "image", "problem", "reason"],
)


def make_candidates(networks, seed=0):
    """Make a table of candidates as `FeatureSearchCV.table` returns it."""
    rng, rows = np.random.default_rng(seed), []
    for network in networks:
        layers = [f"block{i}_out" for i in range(1, 6)]
        for depth, layer in [*enumerate(layers), (4, "+".join(layers[-2:])), (4, "+".join(layers[-3:]))]:
            for size in (112, 224):
                for head, settings in (("logreg", {"C": 1.0}), ("svm", {"C": 10.0}), ("ridge", {})):
                    rows.append(dict(
                        network=network, image_size=size, resize="crop", layer=layer, layers=layer.count("+") + 1,
                        depth=depth, pooling="avg", head=head, settings=json.dumps(settings),
                        score=0.6 + 0.05 * depth + 0.05 * rng.random(), std=0.02, se=0.01,
                        width=64, macs=10**7 * (depth + 1), prescreen=depth + rng.random(),
                    ))  # fmt: skip
    table = pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True)
    table.insert(0, "candidate", table.index)
    table.insert(1, "rank", table.index + 1)
    return table.assign(ci_low=table["score"] - 0.05, ci_high=np.minimum(table["score"] + 0.5, 1))


def jpeg(side=160):
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_predictions(rng, classes, n, names):
    """Return the classes, probabilities, codes or values, true labels and predictions; no classes for regression."""
    if not classes:
        y = rng.normal(10, 3, n)
        return None, None, y, y, y + rng.normal(size=n)
    names = names or [UNUSUAL_NAME if i == 1 else f"class {i:02d}" for i in range(classes)]
    labels = np.unique(names)
    codes = np.arange(n) % classes
    p = rng.dirichlet(np.full(classes, 0.3), n)
    p[np.arange(n), codes] += 0.25
    p /= p.sum(axis=1, keepdims=True)
    return labels, p, codes, labels[codes], labels[p.argmax(axis=1)]


def make_result(classes, n=60, proba=True, seed=0, networks=("tiny", "mobilenet_0.75"), folds=5, names=None):
    """Make a result with this number of classes; 0 for regression."""
    rng = np.random.default_rng(seed)
    rows = np.arange(n) + 2  # the first two could not be read
    labels, p, codes, true, predicted = make_predictions(rng, classes, n, names)
    accuracy = {"accuracy": float((true == predicted).mean())}
    metrics = accuracy if classes else {"r2": 0.9, "mae": 0.8, "rmse": 1.0}
    oof = pd.DataFrame({"row": rows, "image": [f"X[{row}]" for row in rows], "fold": np.arange(n) % folds,
                        "true": true, "predicted": predicted})  # fmt: skip
    candidates = make_candidates(networks)
    best = candidates.iloc[0]
    embeddings = candidates.groupby(["network", "image_size", "layer"], as_index=False)[
        ["prescreen", "score"]
    ].max()
    probabilities, decisions = (p, None) if proba else (None, p)
    mistakes = worst_predictions(oof, probabilities, decisions, labels)
    duplicates = Duplicates(np.array([[0, 1], [4, 9]]), np.array([1.0, 0.97]), np.array([True, False]),
                            np.arange(n), 0.95, crossing=1, score=0.81, grouped_score=0.79)  # fmt: skip
    return SearchResult(
        task="classification" if classes else "regression",
        scoring="accuracy" if classes else "R2",
        classes=labels,
        rows=rows,
        score=Score(0.79, 0.74, 1.0),
        uncorrected_score=Score(float(best["score"]), float(best["ci_low"]), 1.0),
        candidates=candidates,
        best=0,
        best_params={"model": best["network"], "head": best["head"]},
        options=OPTIONS,
        n_splits=folds,
        rule="best",
        grouped_duplicates=False,
        predictions=oof,
        probabilities=probabilities,
        decision_values=decisions,
        metrics=metrics,
        mistakes=mistakes,
        image_problems=IMAGE_PROBLEMS,
        thumbnails={row: jpeg() for row in mistakes["row"]},
        embedding_sample=sample_embeddings(
            rng.normal(size=(n, 20)) + codes[:, None] * rng.normal(size=20)
        ),
        embedding_note="",
        regime=Regime("similar", "small", "frozen features", [("Earlier layers are not better.", "0.80 < 0.85")]),
        learning_curve=LearningCurve(np.array([25, 50, 100, 200]), rng.random((4, folds))),
        duplicates=duplicates,
        nested_scores=np.linspace(0.7, 0.8, folds),
        prescreen=embeddings.assign(resize="crop", pooling="avg", kept=True),
        prescreen_correlation=0.83,
        prescreen_method="logme",
        timings=pd.DataFrame([
            {"step": "network: tiny at 112 pixels, crop", "images": n, "computed": n, "seconds": 3.2},
            {"step": "cross-validation", "seconds": 1.5},
        ]),
        recipes=[{"network": "tiny", "image_size": (112, 112)}],
    )  # fmt: skip


class Page(HTMLParser):
    """Parser that checks that tags are balanced, and collects text, tags and images."""

    VOID = ("meta", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def __contains__(self, text):
        return text in " ".join(" ".join(self.text).split())


def read(folder):
    html = (folder / "index.html").read_text("utf-8")
    return html, Page(html), json.loads((folder / "report.json").read_text("utf-8"))


def write(folder, result=None, **changes):
    """Write the report of a result, with some attributes changed, and read it."""
    write_report(dataclasses.replace(result or make_result(3), **changes), folder)
    return read(folder)


@pytest.fixture
def blank_figures(monkeypatch):
    """Write blank figures in tests of texts and tables, because drawing takes a second for each page."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    monkeypatch.setattr(_figures, "to_png", lambda figure: buffer.getvalue())


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fifty")
    result = make_result(50, 500)
    write_report(result, folder, command="tlfeatures select x.h5::images", best_command="tlfeatures select y")
    return result, folder


# -- the page ----------------------------------------------------------------------------------


def test_page_is_self_contained(fifty):
    html, page, _ = read(fifty[1])
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(
        source.startswith("data:") for source in re.findall(r"""(?:src|href)\s*=\s*["']?(.{5})""", html)
    )
    assert not re.search(r"@import|url\(|https?://", html)
    assert '<meta name="viewport"' in html
    assert is_report(fifty[1] / "index.html") and not is_report(fifty[1] / "report.json")


def test_page_is_accessible(fifty):
    html, page, _ = read(fifty[1])
    assert '<html lang="en">' in html and page.tags.count("main") == page.tags.count("h1") == 1
    for image in page.images:
        assert image["src"].startswith("data:image/")
        assert len(image["alt"]) > 10
    assert page.tags.count("table") == page.tags.count("caption") >= 4
    assert html.count('<th scope="col"') == page.tags.count("th") > 20


def test_names_are_escaped_and_shown(fifty):
    html, page, summary = read(fifty[1])
    assert "<script" not in html
    assert UNUSUAL_NAME in page
    assert UNUSUAL_NAME in [row["class"] for row in summary["per_class"]]


def test_all_figures_are_files_and_on_the_page(fifty):
    _, page, summary = read(fifty[1])
    names = {p.name for p in (fifty[1] / "figures").iterdir()}
    assert names == {
        "layers-tiny.png", "layers-mobilenet_0.75.png", "heads.png", "confusion.png", "per_class.png",
        "learning_curve.png", "calibration.png", "map.png", "prescreen.png",
    }  # fmt: skip
    plots = [image for image in page.images if image["src"].startswith("data:image/png")]
    assert len(plots) == len(names)
    assert {f"figures/{name}" for name in names} <= set(summary["files"])
    for name in names:
        with Image.open(fifty[1] / "figures" / name) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not blank


def test_page_shows_the_numbers_of_the_result(fifty):
    result, folder = fifty
    _, page, summary = read(folder)
    for text in (
        "accuracy 0.7900",
        "0.7400 to 1.0000",
        "500 images in 50 classes; 2 more could not be read and were left out",
        "Earlier layers are not better.",
        "0.80 < 0.85",
        f"score 0.7500 ± {np.std(result.nested_scores, ddof=1) / 5**0.5:.4f} on that fold",
        "correlation (Spearman) with the final scores of 28 embeddings is +0.83: it is reliable enough for pruning",
        "Total time: 4.7 s.",
        "tlfeatures select x.h5::images",
        "tlfeatures select y",
    ):
        assert text in page, text
    assert summary["best"]["score"] == 0.79
    assert summary["unreadable"] == {"0": "the file is empty", "1": "no such file"}
    assert summary["timings"][1] == {
        "step": "cross-validation",
        "images": None,
        "computed": None,
        "seconds": 1.5,
    }
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["recipes"][0]["image_size"] == [112, 112]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Page, text, summary and folder of the report of a result with three classes."""
    folder = tmp_path_factory.mktemp("three")
    return *write(folder), folder


@pytest.mark.usefixtures("blank_figures")
def test_headline_is_the_score_corrected_for_duplicates(three, tmp_path):
    html, page, summary, _ = three
    best = make_result(3).candidates.iloc[0]["score"]
    assert "<title>tiny: accuracy 0.7900</title>" in html or "accuracy 0.7900</title>" in html
    assert "<strong>accuracy 0.7900</strong>" in html
    assert f"With duplicates split between folds the score is {best:.4f}." in page
    assert f"Grouped cross-validation scores 0.7900 instead of {best:.4f}." in page
    assert summary["best"]["uncorrected_score"] == best
    duplicates = dataclasses.replace(make_result(3).duplicates, crossing=0, grouped_score=None)
    _, page, summary = write(tmp_path / "b", uncorrected_score=None, duplicates=duplicates)
    assert "No pair is split between folds." in page and "kept in one fold" not in page
    assert summary["best"]["uncorrected_score"] is None
    duplicates = dataclasses.replace(make_result(3).duplicates, groups=np.zeros(60, int), grouped_score=None)
    _, page, _ = write(tmp_path / "c", uncorrected_score=None, duplicates=duplicates)
    assert (
        "Grouped cross-validation is not possible: the largest group of duplicates, merged with the groups if passed, "
        "has 60 of 60 images." in page
    )


@pytest.mark.usefixtures("blank_figures")
def test_page_lists_images_with_problems(three, tmp_path):
    _, page, _, folder = three
    assert "Images that could not be read and were left out: 2." in page
    assert "Images that carry almost no information and were used: 1." in page
    for text in ("a.jpg", "the file is empty", "c.jpg", "all values lie within 3 of 256 levels"):
        assert text in page
    assert len(pd.read_csv(folder / "tables/image_problems.csv")) == 3
    problems = make_result(3).image_problems
    _, page, _ = write(tmp_path / "b", image_problems=problems.iloc[:0])
    assert "Images with problems" not in page
    thirty = pd.concat([problems] * 10).assign(image=[f"{i}.png" for i in range(30)])
    _, page, _ = write(tmp_path / "c", image_problems=thirty)
    assert "The first 20 are shown; tables/image_problems.csv lists all." in page
    assert "19.png" in page and "20.png" not in page


def test_tables_are_complete(fifty):
    result, folder = fifty
    tables = {p.stem: pd.read_csv(p) for p in (folder / "tables").glob("*.csv")}
    assert len(tables["candidates"]) == len(result.candidates)
    oof = result.predictions
    expected = confusion_matrix(oof["true"], oof["predicted"], labels=result.classes)
    np.testing.assert_array_equal(tables["confusion"].iloc[:, 1:], expected)
    np.testing.assert_array_equal(tables["predictions"]["predicted"], oof["predicted"])
    np.testing.assert_allclose(tables["predictions"][f"p({UNUSUAL_NAME})"], result.probabilities[:, 0])
    assert list(tables["learning_curve"]["training_images"]) == [25, 50, 100, 200]
    assert len(tables["map"]) == 500
    assert set(tables) == {"candidates", "confusion", "predictions", "learning_curve", "map", "layers", "per_class",
                           "calibration", "worst_mistakes", "prescreen", "timings", "duplicates",
                           "image_problems"}  # fmt: skip


def test_page_shows_the_twelve_worst_mistakes(fifty):
    result, folder = fifty
    _, page, _ = read(folder)
    p, oof = result.probabilities, result.predictions
    true, predicted = (np.searchsorted(result.classes, oof[name]) for name in ("true", "predicted"))
    margins = np.where(true == predicted, -1, p[np.arange(500), predicted] - p[np.arange(500), true])
    rows = pd.read_csv(folder / "tables" / "worst_mistakes.csv")
    assert rows["row"].tolist() == result.rows[np.argsort(-margins)[:12]].tolist()
    previews = [image for image in page.images if image["src"].startswith("data:image/jpeg")]
    assert len(previews) == 12


@pytest.mark.usefixtures("blank_figures")
def test_page_says_which_image_can_no_longer_be_read(tmp_path):
    _, page, _ = write(tmp_path, thumbnails={})
    assert "can no longer be read" in page
    assert not [image for image in page.images if image["src"].startswith("data:image/jpeg")]


def test_report_of_a_regression(tmp_path):
    result = make_result(0)
    _, page, summary = write(tmp_path, result)
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert {"scatter", "map", "learning_curve"} <= names
    assert not {"confusion", "per_class", "calibration"} & names
    assert "R2 0.9000, mean absolute error 0.8" in page
    assert "per_class" not in summary
    errors = np.abs(result.predictions["true"] - result.predictions["predicted"])
    worst = pd.read_csv(tmp_path / "tables" / "worst_mistakes.csv")
    np.testing.assert_allclose(worst["margin"], np.sort(errors)[::-1][:12])


@pytest.mark.usefixtures("blank_figures")
def test_report_of_a_head_without_probabilities(tmp_path):
    _, page, _ = write(tmp_path, make_result(3, proba=False))
    assert "has no probabilities" in page
    assert not (tmp_path / "figures" / "calibration.png").exists()
    assert "decision value of the predicted class minus that of the true class" in page


@pytest.mark.usefixtures("blank_figures")
def test_page_shows_prediction_sets(tmp_path):
    error_rates = pd.DataFrame(
        [(0.05, 0.96, 1.5, 0.61), (0.1, 0.912, 1.23, 0.77), (0.2, 0.83, 1.1, 0.9)],
        columns=["error_rate", "coverage", "mean_size", "one_class"],
    )
    classes = pd.DataFrame(
        [("class 00", 20, 0.85, 1.4)], columns=["class", "images", "coverage", "mean_size"]
    )
    note = "2 of 3 classes have fewer than 10 images."
    sets = PredictionSets(60, error_rates, classes, note)
    _, page, summary = write(tmp_path, prediction_sets=sets)
    for text in ("How certain is a prediction?", "10% 91.2% 1.23 77.0%", "class 00 20 85.0% 1.40", note,
                 "share of the 60 images whose set contains", "Duplicates are split between folds",
                 "ConformalClassifier", "tlfeatures fit --conformal 0.1"):  # fmt: skip
        assert text in page, text
    assert summary["prediction_sets"]["error_rates"][1] == error_rates.to_dict("records")[1]
    assert summary["prediction_sets"]["classes"] == classes.to_dict("records")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/prediction_sets.csv"), error_rates)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/prediction_sets_by_class.csv"), classes)


@pytest.mark.usefixtures("blank_figures")
def test_page_shows_prediction_intervals(tmp_path):
    y = np.random.default_rng(0).normal(size=60)
    intervals = measure_prediction_intervals(y, y + 0.1 * np.tile([-1, 1, 3], 20), np.arange(60))
    _, page, summary = write(tmp_path, make_result(0), prediction_intervals=intervals)
    rates, thirds = intervals.error_rates, intervals.thirds
    width, share = rates["width"][1], rates["share_of_range"][1]
    for text in ("How certain is a prediction?", f"10% {rates['coverage'][1]:.1%} {width:.4g} {share:.1%}",
                 "share of the 60 images whose interval contains", "third", "ConformalRegressor",
                 "tlfeatures fit --conformal 0.1"):  # fmt: skip
        assert text in page, text
    assert summary["prediction_intervals"] == intervals.summary()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/prediction_intervals.csv"), rates)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/prediction_intervals_by_third.csv"), thirds)


@pytest.mark.usefixtures("blank_figures")
def test_page_says_why_there_are_no_prediction_sets(fitted_search, tmp_path):
    """All images of the search are in one group of duplicates."""
    _, page, summary = read(fitted_search[1] / "report")
    assert "No prediction sets: 20 images with out-of-fold values of all classes are needed" in page
    assert summary["prediction_sets"]["error_rates"] == []
    assert not (fitted_search[1] / "report/tables/prediction_sets.csv").exists()
    _, page, summary = write(tmp_path, make_result(0))
    assert "How certain is a prediction?" not in page and "prediction_sets" not in summary


def test_report_without_mistakes_curve_duplicates_or_map(tmp_path):
    """The page says what is missing, also if there is a single candidate."""
    result = make_result(2, n=24, networks=("tiny",))
    oof = result.predictions
    duplicates = Duplicates(np.empty((0, 2), int), np.empty(0), np.empty(0, bool), np.arange(24), 0.95, False)
    _, page, _ = write(
        tmp_path, result, predictions=oof.assign(predicted=oof["true"]), mistakes=result.mistakes.iloc[:0],
        candidates=result.candidates.iloc[:1].assign(se=np.nan), duplicates=duplicates, uncorrected_score=None,
        learning_curve=LearningCurve(np.array([], int), np.empty((0, 5))), prescreen_correlation=None,
        nested_scores=None, embedding_sample=None, embedding_note="cannot read 'a.jpg': no such file",
    )  # fmt: skip
    for text in ("There are no mistakes.", "too few images for a learning curve", "There are no duplicates among",
                 "too many images to search for near-duplicates",
                 "No map of the embeddings: cannot read 'a.jpg': no such file"):  # fmt: skip
        assert text in page, text


@pytest.mark.usefixtures("blank_figures")
def test_second_report_replaces_only_the_first(tmp_path):
    write(tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    write(tmp_path)
    summary = json.loads((tmp_path / "report.json").read_text())
    summary["files"] += ["figures/../mine.csv", "../mine.csv", "pipeline.joblib"]
    (tmp_path / "report.json").write_text(json.dumps(summary))
    (tmp_path / "mine.csv").write_text("mine")
    write(tmp_path, make_result(0, networks=("tiny",)))
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    assert "mine.png" in names
    assert (tmp_path / "mine.csv").exists()
    assert not {"layers-mobilenet_0.75.png", "confusion.png"} & names


def test_same_result_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, options=None)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 15
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_matplotlib_settings_are_restored(tmp_path):
    before = matplotlib.rcParams.copy()
    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "yellow"}):
        write(tmp_path / "dark", make_result(2, n=24))
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    write(tmp_path / "light", make_result(2, n=24))
    assert matplotlib.rcParams == before
    dark, light = ((tmp_path / name / "figures/heads.png").read_bytes() for name in ("dark", "light"))
    assert dark == light


# -- class names in figures ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["日本", "قطة", "🐈", "ไทย", "\U0001f9d1\u200d\U0001f33e"])
def test_figures_show_class_names_in_any_script(tmp_path, name):
    """Figures show the name in an installed font, or a number that the page explains; but not a placeholder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as matplotlib's "Glyph missing from font"
        _, page, summary = write(tmp_path, make_result(3, names=["cat", "dog", name]))
    assert name in page
    labels = Labels(["cat", "dog", name])
    assert labels("cat") == "cat"
    assert labels(name) in (name, "#3") or "\u200d" in name
    if labels.numbered:
        assert labels.numbered == {"#3": name}
        assert "Numbers in the figures stand for these classes: #3" in page
        assert "Classes that no installed font can show have numbers; see the list." in page
    assert name in [row["class"] for row in summary["per_class"]]


def test_class_names_that_start_with_an_underscore_are_in_the_legend():
    labels = Labels(["_a", "b"])
    with labels.style():
        xy, targets = np.random.default_rng(0).normal(size=(20, 2)), np.array(["_a", "b"] * 10)
        written, _ = texts(_figures.plot_map(xy, "PCA", targets, targets == "b", labels))
    assert "_a" in [text.strip() for text in written]


def test_font_is_chosen_among_the_installed_ones():
    labels = Labels(
        ["cat", "\u2a0b"]
    )  # a character that DejaVu Sans lacks, but another font of matplotlib has
    assert labels.fonts[0] == "DejaVu Sans"
    assert not any(font.startswith("Last Resort") for font in Labels(["日本"]).fonts)
    assert Labels(["cat", "Ünï"]).fonts == ["DejaVu Sans"]


# -- texts of figures do not overlap --------------------------------------------------------------------------


def texts(figure):
    """Return all texts of a figure, and their boxes in pixels: (m, 4) of left, bottom, right, top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, hidden = canvas.get_renderer(), set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        hidden |= {label for position, label in labels if not low <= position <= high}
    shown = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    shown = [t for t in shown if t not in hidden]
    return [t.get_text() for t in shown], np.array([t.get_window_extent(renderer).extents for t in shown])


def check_no_overlap(figure):
    names, boxes = texts(figure)
    assert len(names) >= 4
    width, height = figure.bbox.size
    outside = (boxes < -1).any(axis=1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)
    assert not outside.any(), [names[i] for i in np.flatnonzero(outside)]
    low, high = boxes[:, :2] + 0.75, boxes[:, 2:] - 0.75
    over = ((low[:, None] < high) & (low < high[:, None])).all(axis=2) & ~np.eye(len(boxes), dtype=bool)
    assert not over.any(), [(names[i], names[j]) for i, j in np.argwhere(over)[:5]]


def expand(counts, names):
    """Return true and predicted classes with these counts."""
    i, j = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    return names[i], names[j]


@pytest.mark.parametrize("n", [2, 3, 12, 50])
def test_names_of_classes_do_not_overlap(n):
    rng = np.random.default_rng(n)
    names = np.array([f"{i:02d} {UNUSUAL_NAME}" if i % 2 else f"class {i}" for i in range(n)])
    counts = rng.integers(0, 3, (n, n)) * rng.integers(0, 2, (n, n)) + 150 * np.eye(n, dtype=int)
    labels = Labels(names)
    true, predicted = expand(counts, names)
    with labels.style():
        check_no_overlap(_figures.plot_confusion(counts, names.tolist(), labels))
        check_no_overlap(_figures.plot_class_metrics(_tables.class_metrics(true, predicted, names), labels))


@pytest.mark.parametrize("n", [3, 7, 50])
def test_names_on_the_map_do_not_overlap(n):
    rng = np.random.default_rng(0)
    codes = np.arange(600) % n
    xy = rng.normal(size=(n, 2))[codes] + 0.2 * rng.normal(size=(600, 2))
    labels = np.array([f"{i:02d} a long name" for i in range(n)])[codes]
    with Labels(labels).style():
        figure = _figures.plot_map(xy, "PCA", labels, codes % 9 == 0, Labels(labels))
        check_no_overlap(figure)
        written, _ = texts(figure)
    assert sum("long name" in text.replace("\n", " ") for text in written) >= min(n, 40)


def test_many_classes_are_drawn_without_names():
    n = 1000
    counts = np.eye(n, dtype=int)
    counts[3, 4] = 1
    names = np.array([f"c{i:03d}" for i in range(n)])
    labels = Labels(names)
    with labels.style():
        written, _ = texts(_figures.plot_confusion(counts, names.tolist(), labels))
        assert len(written) <= 4
        figure = _figures.plot_class_metrics(_tables.class_metrics(*expand(counts, names), names), labels)
        written, _ = texts(figure)
    named = [text for text in written if text.startswith("c")]
    assert len(named) == _figures.MAX_NAMES
    assert {"c003 (2)", "c004 (1)"} <= set(named)  # those with mistakes


@pytest.mark.parametrize("n", [1, 8, 60])
def test_names_of_layers_do_not_overlap(n):
    layers = tuple(f"conv{i}_block_with_a_long_name_out" for i in range(n))
    values = np.linspace(0.5, 0.9, n + 2)
    series = [
        _tables.LayerScores("net", f"{size} px, crop", layers, ("last 2", "last 3"), values, values / 50)
        for size in range(7)
    ]
    with Labels([]).style():
        figure = _figures.plot_layers("a network of a very long name " * 3, series, "accuracy", (0.4, 1.0))
        names, boxes = texts(figure)
    assert (boxes[:, 0] >= -1).all()
    assert (boxes[:, 2] <= figure.bbox.width + 1).all()
    ends = [
        right
        for name, right in zip(names, boxes[:, 2], strict=True)
        if name.endswith("_out") or "last" in name
    ]
    assert (np.diff(sorted(ends)) > 8).all()  # pixels, the height of a line of text


# -- tables behind the figures ---------------------------------------------------------------


def test_class_metrics_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c", "d"])
    true, predicted = classes[rng.integers(0, 4, 80)], classes[rng.integers(0, 3, 80)]  # never "d"
    counts = confusion_matrix(true, predicted)
    metrics = _tables.class_metrics(true, predicted, classes)
    p, r, f, n = precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    for name, values in {"precision": p, "recall": r, "f1": f, "images": n}.items():
        np.testing.assert_allclose(metrics[name], values)
    common = _tables.frequent_confusions(counts, classes, 3)
    wrong = np.sort((counts * (1 - np.eye(4, dtype=int))).ravel())[::-1][:3]
    assert common["images"].tolist() == wrong.tolist()


def test_calibration_of_calibrated_and_overconfident_probabilities():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 4000)
    classes = np.array(["a", "b"])
    true = classes[(rng.random(4000) < p[:, 1]).astype(int)]
    bins = _tables.calibration(true, p, classes)
    errors = _tables.calibration_errors(bins, true, p, classes)
    assert errors["expected_calibration_error"] < 0.03
    assert errors["brier"] == pytest.approx(2 * brier_score_loss(true == "b", p[:, 1]))
    assert bins["confidence"].between(bins["low"], bins["high"]).mean() > 0.7
    sharp = p**4 / (p**4).sum(axis=1, keepdims=True)
    sharp_bins = _tables.calibration(true, sharp, classes)
    errors = _tables.calibration_errors(sharp_bins, true, sharp, classes)
    assert errors["expected_calibration_error"] > 0.1
    assert bins["images"].sum() == 4000
    incomplete = p.copy()
    incomplete[:1000] = np.nan
    assert _tables.calibration(true, incomplete, classes)["images"].sum() == 3000


def test_layer_scores_take_the_best_candidate():
    rows = [("n", 96, "crop", "a", 1, 0, "avg", "svm", 0.5, 0.1), ("n", 96, "crop", "a", 1, 0, "max", "svm", 0.7, 0.2),
            ("n", 96, "crop", "b", 1, 1, "avg", "svm", 0.6, 0.1),
            ("n", 96, "crop", "a+b", 2, 1, "avg", "svm", 0.9, 0.1)]  # fmt: skip
    columns = [
        "network",
        "image_size",
        "resize",
        "layer",
        "layers",
        "depth",
        "pooling",
        "head",
        "score",
        "se",
    ]
    table = pd.DataFrame(rows, columns=columns)
    avg, max_ = _tables.layer_scores(table)["n"]  # one size: by pooling
    assert (avg.name, avg.layers, avg.combined) == ("avg", ("a", "b"), ("last 2",))
    np.testing.assert_array_equal(avg.scores, [0.5, 0.6, 0.9])
    np.testing.assert_array_equal(max_.scores, [0.7, np.nan, np.nan])
    two = pd.concat([table, table.assign(image_size=224, score=table["score"] + 0.01)])
    small, large = _tables.layer_scores(two)["n"]
    assert (small.name, large.name) == ("96 px", "224 px")
    np.testing.assert_allclose(large.scores, [0.71, 0.61, 0.91])
    np.testing.assert_allclose(small.errors, [0.2, 0.1, 0.1])


@pytest.mark.parametrize("shape", [(60, 100), (60, 2), (5, 3), (3, 1), (1200, 8), (5200, 3)])
def test_map_is_reproducible(shape):
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    a, b = (_tables.map_embeddings(sample_embeddings(X)) for _ in range(2))
    np.testing.assert_array_equal(a.xy, b.xy)
    assert a.xy.shape == (min(shape[0], 5000), 2)
    assert np.isfinite(a.xy).all()
    assert a.method == ("t-SNE" if shape == (60, 100) else "PCA")


@pytest.mark.usefixtures("two_blas_threads")
def test_maps_in_several_threads_have_one_blas_thread_each():
    """Maps that are made at the same time do not end in the order in which they began."""
    code = """
import threading
import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_info
from tlfeatures.report import map_embeddings
from tlfeatures.selection._result import sample_embeddings

def count():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

X = np.random.default_rng(0).normal(size=(60, 10)).astype("float32")
sample, first_is_in, second_is_in, first_is_out = sample_embeddings(X), *(threading.Event() for _ in range(3))
fit_transform, counts = TSNE.fit_transform, []

def overlap(tsne, X):
    if threading.current_thread().name == "first":
        first_is_in.set()
        assert second_is_in.wait(60)
    else:
        second_is_in.set()
        assert first_is_out.wait(60)
    counts.append(count())
    return fit_transform(tsne, X)

def make_first():
    map_embeddings(sample)
    first_is_out.set()

TSNE.fit_transform = overlap
thread = threading.Thread(target=make_first, name="first")
thread.start()
assert first_is_in.wait(60)
map_embeddings(sample)
thread.join()
assert counts == [{1}, {1}], counts
assert count() == {2}, count()
"""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "2")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | threads)


def test_map_keeps_clusters_together():
    codes = np.arange(90) % 3
    X = (
        np.random.default_rng(0).normal(size=(90, 30))
        + 3 * np.random.default_rng(1).normal(size=(3, 30))[codes]
    )
    xy = _tables.map_embeddings(sample_embeddings(X)).xy
    centers = np.stack([xy[codes == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(xy[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == codes).mean() > 0.95


def test_worst_predictions_by_decision_values_of_two_classes():
    oof = pd.DataFrame({"true": ["a", "b", "a", "b"], "predicted": ["b", "a", "b", "b"]})
    worst = worst_predictions(oof, None, np.array([0.5, -2.0, 1.0, 3.0]), np.array(["a", "b"]))
    assert worst.index.tolist() == [1, 2, 0]


# -- reproducing the best pipeline ---------------------------------------------------------------


def fake_search(best_params=None, **params):
    """Make a search with a best candidate without fitting it."""
    search = FeatureSearchCV(**params)
    search.task_, search.seed_ = "classification", 0
    search.best_params_ = {"model": "tiny", "image_size": 112, "layer": "block5_out", "pooling": "avg",
                           "resize": "crop", "head": "svm", "svm__C": 1.0, **(best_params or {})}  # fmt: skip
    return search


def test_command_has_every_option_that_differs():
    params = {"model": "tiny", "image_size": (96, 128), "resize": "pad", "layer": ["a", "b"], "pooling": "gem",
              "head": "knn", "knn__n_neighbors": np.int64(3), "knn__weights": "uniform"}  # fmt: skip
    search = fake_search(params, scoring="balanced_accuracy", weights=None, precision="bfloat16")
    result = dataclasses.replace(make_result(3), options=best_options(search))
    assert best_command(result, "report", ["my file.csv", "--target", "y"]) == (
        "tlfeatures select 'my file.csv' --target y --model tiny --layer a+b --pooling gem --image-size 96x128 "
        "--resize pad --head knn:n_neighbors=3:weights=uniform --cv 5 --task classification --seed 0 "
        "--scoring balanced_accuracy --weights random --precision bfloat16 -o best"
    )
    search.interpolation = "bicubic"  # the command line has no such option
    result = dataclasses.replace(result, options=best_options(search))
    assert best_command(result, "report", ["x"]) is None
    search.scoring = len
    assert best_options(search) is None


@pytest.mark.parametrize(
    ("cv", "text"),
    [
        (np.int64(3), "cv=3,"),
        (KFold(3), "cv=KFold(n_splits=3, random_state=None, shuffle=False),"),
        (ShuffleSplit(2, random_state=0), "random_state=0,"),
        (LeaveOneOut(), "cv=LeaveOneOut(),"),
        (KFold(3, shuffle=True), None),  # draws other folds each time
        (ShuffleSplit(2), None),
        (KFold(3, shuffle=True, random_state=np.random.RandomState(0)), None),
        (PredefinedSplit(np.arange(2000) % 2), None),  # NumPy prints only a part
        (type("Mine", (KFold,), {})(3), None),
    ],
)
def test_splitters_that_make_the_same_folds_are_written(cv, text):
    options = best_options(fake_search(cv=cv))
    assert (options is not None) == (text is not None)
    if text is not None:
        code = make_python_code(dataclasses.replace(make_result(3), options=options), "report")
        assert text in code
        names = {}
        exec("\n".join(line for line in code.splitlines() if line.startswith("from sklearn")), names)
        assert repr(eval(repr(options["cv"]), names)) == repr(options["cv"])


@pytest.mark.usefixtures("blank_figures")
def test_page_has_code_with_groups_or_says_why_there_is_none(tmp_path):
    grouped = make_result(3).predictions.assign(group=0)
    for cv in (3, KFold(3, shuffle=True)):
        options = best_options(fake_search(cv=cv))
        _, page, summary = write(tmp_path / str(cv), options=options, predictions=grouped)
        if cv == 3:
            assert "cv=3," in summary["best_code"] and "groups=groups" in summary["best_code"]
            assert "# groups: the attribute groups_ of the original search" in summary["best_code"]
        else:
            assert "There is no exact code" in page and summary["best_code"] is None


def test_parameters_of_heads_are_written_if_possible():
    search = fake_search({"head": "ridge", "ridge__alphas": np.array([1.0, 10.0])})
    options = best_options(search)
    assert options["heads"] == {"ridge": {"alphas": [[1.0, 10.0]]}}
    # the command line separates values by commas
    assert best_command(dataclasses.replace(make_result(3), options=options), "report", ["x"]) is None
    search.best_params_["ridge__alphas"] = np.asarray
    assert best_options(search) is None
    tree = DecisionTreeClassifier()
    user_search = fake_search(
        {"head": "tree", "tree__max_depth": 3}, heads={"tree": (tree, {"max_depth": [2, 3]})}
    )
    result = dataclasses.replace(make_result(3), options=best_options(user_search))
    code = make_python_code(result, "report")
    assert "heads={'tree': DecisionTreeClassifier(max_depth=3, random_state=0)}," in code
    assert "from sklearn.tree import DecisionTreeClassifier" in code.splitlines()
    assert best_command(result, "report", ["x"]) is None
    user_search.heads = {
        "tree": DecisionTreeClassifier(class_weight=np.asarray)
    }  # the repr of a function is not code
    assert best_options(user_search) is None
    weighted = fake_search()
    weighted.sample_weight_ = np.ones(3)
    assert best_options(weighted) is None


def test_parameters_from_numpy_are_written_as_built_in_types():
    pixels = np.array([[0.5] * 3, [0.25] * 3])
    for normalization in (pixels, tuple(pixels)):
        params = {"normalization": normalization, "window": (np.float64(0), np.int64(200))}
        search = fake_search(
            {"head": "tree", "pooling": np.str_("avg")},
            **params,
            heads={"tree": DecisionTreeClassifier(max_depth=np.int64(2), class_weight={np.str_("a"): 2})},
        )
        options = best_options(search)
        tree = " ".join(repr(options["heads"]["tree"]).split())
        assert tree == "DecisionTreeClassifier(class_weight={'a': 2}, max_depth=2, random_state=0)"
        assert repr(options["window"]) == "(0.0, 200)" and repr(options["poolings"]) == "'avg'"
        assert np.array_equal(eval(repr(options["normalization"])), pixels)
    search.heads = {"tree": DecisionTreeClassifier(min_impurity_decrease=float("inf"))}
    assert best_options(search) is None  # Python does not read "inf"


@pytest.mark.usefixtures("blank_figures")
def test_classes_that_are_numbers_are_shown_as_they_are(tmp_path):
    classes = np.array([1000, 2000, 3000])
    result = make_result(3)
    codes = {name: code for name, code in zip(result.classes, classes, strict=True)}
    predictions = result.predictions.assign(
        true=result.predictions["true"].map(codes), predicted=result.predictions["predicted"].map(codes)
    )
    html, _, _ = write(tmp_path, result, classes=classes, predictions=predictions)
    assert ">1000</td>" in html and ">1,000<" not in html


def test_folds_by_duplicates_of_arrays_have_no_command():
    result = dataclasses.replace(make_result(3), grouped_duplicates=True)
    assert best_command(result, "report", ["x.h5::images"]) is None
    result = dataclasses.replace(result, grouped_duplicates=False)
    assert best_command(result, "report", ["x.h5::images"]).startswith("tlfeatures select x.h5::images")


@pytest.fixture(scope="module")
def fitted_search(tmp_path_factory):
    """Run a search over image files, with groups, and write its report."""
    root = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for i in range(36):
        x, y = np.meshgrid(np.arange(40), np.arange(40))
        wave = np.sin((x, y, x + y)[i % 3] * 0.8 + rng.random())
        pixels = (128 + 60 * wave[..., None] + rng.normal(0, 70, (40, 40, 3))).clip(0, 255).astype("uint8")
        paths.append(str(root / f"{i} ü.png"))
        Image.fromarray(pixels).save(paths[-1])
        labels.append("0" + "123"[i % 3])  # texts that look like numbers
    store = EmbeddingStore(root / "store")
    groups = np.arange(36) // 3 % 12
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = select(
            paths, labels, groups=groups, models="tiny", image_sizes=[32], resize="stretch",
            layers=["block3_pw_relu", "block5_pw_relu", ["block3_pw_relu", "block5_pw_relu"]], poolings="avg",
            heads={"ridge": None, "logreg": {"C": [0.1, 1.0]}}, cv=3, cache=store,
        )  # fmt: skip
    page = search.report(root / "report")
    return search, root, page, store


def test_report_of_a_real_search(fitted_search):
    search, root, path, _ = fitted_search
    assert path == root / "report" / "index.html"
    _, page, summary = read(root / "report")
    assert f"accuracy {search.best_score_:.4f}" in page
    assert summary["metrics"] == search.metrics_
    assert summary["recipes"][0]["digest"] == search.best_estimator_["cnn"].recipes_[0]["digest"]
    table = pd.read_csv(root / "report/tables/predictions.csv", dtype={"true": str})
    assert table["true"].tolist() == search.oof_["true"].tolist()
    assert all(os.path.isabs(path) for path in table["image"])


def test_intervals_stay_within_the_range_of_the_score(fitted_search):
    search, root, _, _ = fitted_search
    results, table = search.cv_results_, pd.read_csv(root / "report/tables/candidates.csv")
    assert (table["ci_high"] == 1).any()  # clipped
    assert table["ci_low"].ge(0).all() and table["ci_high"].le(1).all()
    _, page, summary = read(root / "report")
    for end in ("low", "high"):
        np.testing.assert_allclose(results[f"ci_{end}_test_score"][table["candidate"]], table[f"ci_{end}"])
        assert f"{summary['best'][f'ci_{end}']:.4f}" in page


def test_result_of_a_search_needs_no_images(fitted_search):
    search, _, _, _ = fitted_search
    result = pickle.loads(pickle.dumps(search.result()))
    assert result.score == (search.grouped_score_ or result.score)
    assert len(result.embedding_sample.components) == 36 and not result.embedding_note
    assert set(result.thumbnails) == set(result.mistakes["row"])


def test_code_reproduces_the_best_pipeline(fitted_search, monkeypatch):
    search, root, _, store = fitted_search
    code = json.loads((root / "report/report.json").read_text("utf-8"))["best_code"]
    monkeypatch.setenv("TLFEATURES_CACHE", str(store.root))
    names = {}
    exec(compile(code, "code", "exec"), names)
    again = names["search"]
    assert len(again.table()) == 1
    assert again.best_score_ == search.best_score_
    for (a, b), (c, d) in zip(search.folds_, again.folds_, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    np.testing.assert_array_equal(
        search.predict(search.fitted_images_.paths), again.predict(search.fitted_images_.paths)
    )


def test_report_of_a_pickled_search(fitted_search, tmp_path):
    search = pickle.loads(pickle.dumps(fitted_search[0]))
    search.report(tmp_path)
    ours, theirs = (
        (folder / "figures/map.png").read_bytes() for folder in (tmp_path, fitted_search[1] / "report")
    )
    assert ours == theirs


@pytest.mark.usefixtures("blank_figures")
def test_images_without_contrast_are_on_the_page(fitted_search, tmp_path):
    """Two images are nearly black and one is broken; the second search reads all embeddings from the store."""
    _, root, _, _ = fitted_search
    paths = [str(root / f"{i} ü.png") for i in range(24)]
    for i in (2, 7):
        paths[i] = str(tmp_path / f"dark {i}.png")
        noise = np.random.default_rng(i).integers(0, 3, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(paths[i])
    paths[4] = str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    options = {"models": "tiny", "image_sizes": [32], "resize": "stretch", "layers": ["block3_pw_relu"],
               "poolings": "avg", "heads": ["ridge"], "cv": 2, "cache": tmp_path / "store"}  # fmt: skip
    pages = []
    for name in ("cold", "warm"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = select(paths, list("abc") * 8, on_error="nan", **options)
        search.report(tmp_path / name)
        pages.append(read(tmp_path / name)[1])
    assert "Images that could not be read and were left out: 1." in pages[0]
    assert "Images that carry almost no information and were used: 2." in pages[0]
    for text in ("broken.png", "dark 2.png", "dark 7.png", "nearly black: values from 0 to 2 of 255"):
        assert text in pages[0], text
    assert "were not decoded" not in pages[0]
    assert "The embeddings of 23 images were in the store." in pages[1]
