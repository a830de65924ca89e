"""The report: what it says of a search, as page, PNG, CSV and JSON."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from sklearn.metrics import brier_score_loss, confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import KFold, LeaveOneOut, PredefinedSplit, ShuffleSplit

from tlfeatures import EmbeddingStore, select
from tlfeatures.errors import ImageReadError
from tlfeatures.report import figures, reproduce, summaries, write_report

NASTY = '<script>alert(1)</script> & "é$x$" 日本 a rather long name'


class Search:
    """What a report asks of a fitted search, made up."""

    def __init__(
        self, scoring=None, weights="imagenet", interpolation="bilinear", decode="scaled", precision="float32"
    ):
        self.scoring, self.weights, self.interpolation = scoring, weights, interpolation
        self.decode, self.precision = decode, precision

    @classmethod
    def of(cls, classes, n=60, images=None, proba=True, seed=0, networks=("tiny", "mobilenet_0.75"), folds=5):
        """Of so many classes; 0 for numbers."""
        self, rng = cls(), np.random.default_rng(seed)
        names = [f"class {i:02d}" for i in range(classes)]
        if classes:
            names[1] = NASTY
        self.task_ = "classification" if classes else "regression"
        if classes:
            self.classes_ = np.unique(names)
            true = self.classes_[np.arange(n) % classes]
            p = rng.dirichlet(np.full(classes, 0.3), n)
            p[np.arange(n), np.arange(n) % classes] += 0.25
            p /= p.sum(axis=1, keepdims=True)
            predicted = self.classes_[p.argmax(axis=1)]
            self.oof_proba_, self.oof_decision_ = (p, None) if proba else (None, p)
            self.metrics_ = {"accuracy": float((true == predicted).mean())}
        else:
            true = rng.normal(10, 3, n)
            predicted = true + rng.normal(size=n)
            self.oof_proba_ = self.oof_decision_ = None
            self.metrics_ = {"r2": 0.9, "mae": 0.8, "rmse": 1.0}
        self.rows_ = np.arange(n) + 2  # the first two could not be read
        self.unreadable_ = {0: "the file is empty", 1: "no such file"}
        images = images or [f"X[{row}]" for row in self.rows_]
        self.oof_ = pd.DataFrame({"row": self.rows_, "image": images, "fold": np.arange(n) % folds, "true": true,
                                  "predicted": predicted})  # fmt: skip
        rows = []
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
        self._table = table.assign(ci_low=table["score"] - 0.05, ci_high=table["score"] + 0.5)
        best = self._table.iloc[0]
        self.best_index_, self.best_score_ = 0, best["score"]
        layer = best["layer"].split("+")
        self.best_params_ = {
            "model": best["network"], "image_size": int(best["image_size"]), "resize": "crop",
            "layer": layer if len(layer) > 1 else layer[0], "pooling": "avg", "head": best["head"],
        }  # fmt: skip
        self.best_params_ |= {f"{best['head']}__{k}": v for k, v in json.loads(best["settings"]).items()}
        self.n_splits_, self.cv, self.rule, self.seed_ = folds, folds, "best", 0
        self.groups_, self.dedupe_groups = None, False
        self.nested_scores_ = np.linspace(0.7, 0.8, folds)
        self.regime_ = SimpleNamespace(domain="similar", data="small", recommendation="linear head",
                                       evidence=[("Earlier layers do not win.", "0.80 < 0.85")])  # fmt: skip
        self.learning_curve_ = SimpleNamespace(
            sizes=np.array([25, 50, 100, 200]), scores=rng.random((4, folds))
        )
        self.duplicates_ = SimpleNamespace(pairs=np.array([[0, 1], [4, 9]]), cosine=np.array([1.0, 0.97]),
                                           exact=np.array([True, False]), threshold=0.95, searched=True, crossing=1,
                                           score=0.81, score_together=0.79)  # fmt: skip
        embeddings = table.groupby(["network", "image_size", "layer"], as_index=False)[
            ["prescreen", "score"]
        ].max()
        self.prescreen_ = embeddings.assign(resize="crop", pooling="avg", kept=True)
        self.prescreen_correlation_, self.prescreen_method = 0.83, "logme"
        self.timings_ = pd.DataFrame([
            {"step": "network: tiny at 112 pixels, crop", "images": n, "computed": n, "seconds": 3.2},
            {"step": "cross-validation", "seconds": 1.5},
        ])  # fmt: skip
        self.best_estimator_ = [SimpleNamespace(recipes_=[{"network": "tiny", "image_size": (112, 112)}])]
        self._X = rng.normal(size=(n, 20)) + (np.arange(n) % classes if classes else true)[
            :, None
        ] * rng.normal(size=20)
        self._gone = {int(self.rows_[3])}
        return self

    def table(self):
        return self._table.copy()

    def embeddings(self):
        return self._X

    def thumbnail(self, i, side=160):
        if self.rows_[i] in self._gone:
            raise ImageReadError("x.jpg", "no such file")
        return np.full((side, side, 3), i % 255, np.uint8)


class Page(HTMLParser):
    """Checks that tags are balanced; holds text, tags and pictures."""

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


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fifty")
    search = Search.of(50, 500)
    write_report(
        search, folder, source=["x.h5::images", "--target", "y"], command="tlfeatures select x.h5::images"
    )
    return search, folder


# -- the page ----------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(fifty):
    html, page, _ = read(fifty[1])
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(
        source.startswith("data:") for source in re.findall(r"""(?:src|href)\s*=\s*["']?(.{5})""", html)
    )
    assert not re.search(r"@import|url\(|https?://", html)
    assert '<meta name="viewport"' in html
    for image in page.images:
        assert image["src"].startswith("data:image/")
        assert image["alt"]


def test_names_are_escaped_and_shown(fifty):
    html, page, facts = read(fifty[1])
    assert "<script" not in html
    assert NASTY in page
    assert NASTY in [row["class"] for row in facts["per_class"]]


def test_all_figures_are_files_and_on_the_page(fifty):
    _, page, facts = read(fifty[1])
    names = {p.name for p in (fifty[1] / "figures").iterdir()}
    assert names == {
        "layers-tiny.png", "layers-mobilenet_0.75.png", "heads.png", "confusion.png", "per_class.png",
        "learning_curve.png", "calibration.png", "map.png", "prescreen.png",
    }  # fmt: skip
    plots = [image for image in page.images if image["src"].startswith("data:image/png")]
    assert len(plots) == len(names)
    assert {f"figures/{name}" for name in names} <= set(facts["files"])
    for name in names:
        with Image.open(fifty[1] / "figures" / name) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # not blank


def test_the_figures_of_the_page_are_those_of_the_search(fifty):
    search, folder = fifty
    _, page, facts = read(folder)
    best = search.table().iloc[0]
    for text in (
        f"accuracy {best['score']:.4f}",
        f"{best['score'] - 0.05:.4f} to 1.0000",  # an interval that reaches beyond 1 is cut there
        "500 images in 50 classes; 2 more could not be read and were left out",
        "Earlier layers do not win.",
        "0.80 < 0.85",
        f"scores 0.7500 ± {np.std(search.nested_scores_, ddof=1) / 5**0.5:.4f} on it",
        "With such images kept together the winner scores 0.7900 in place of 0.8100.",
        "correlation (Spearman) with the final scores of 28 embeddings is +0.83: it can be trusted",
        "4.7 s in all",
    ):
        assert text in page, text
    assert facts["winner"]["score"] == best["score"]
    assert facts["unreadable"] == {"0": "the file is empty", "1": "no such file"}
    assert facts["timings"][1] == {
        "step": "cross-validation",
        "images": None,
        "computed": None,
        "seconds": 1.5,
    }
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["recipes"][0]["image_size"] == [112, 112]


def test_tables_hold_everything(fifty):
    search, folder = fifty
    tables = {p.stem: pd.read_csv(p) for p in (folder / "tables").glob("*.csv")}
    assert len(tables["candidates"]) == len(search.table())
    oof = search.oof_
    expected = confusion_matrix(oof["true"], oof["predicted"], labels=search.classes_)
    np.testing.assert_array_equal(tables["confusion"].iloc[:, 1:], expected)
    np.testing.assert_array_equal(tables["predictions"]["predicted"], oof["predicted"])
    np.testing.assert_allclose(tables["predictions"][f"p({NASTY})"], search.oof_proba_[:, 0])
    assert list(tables["learning_curve"]["training_images"]) == [25, 50, 100, 200]
    assert len(tables["map"]) == 500
    assert set(tables) == {"candidates", "confusion", "predictions", "learning_curve", "map", "layers", "per_class",
                           "calibration", "worst_mistakes", "prescreen", "timings", "copies"}  # fmt: skip


def test_the_twelve_worst_mistakes(fifty):
    search, folder = fifty
    _, page, _ = read(folder)
    p, oof = search.oof_proba_, search.oof_
    true, guess = (np.searchsorted(search.classes_, oof[name]) for name in ("true", "predicted"))
    lead = np.where(true == guess, -1, p[np.arange(500), guess] - p[np.arange(500), true])
    rows = pd.read_csv(folder / "tables" / "worst_mistakes.csv")
    assert rows["row"].tolist() == search.rows_[np.argsort(-lead)[:12]].tolist()
    pictures = [image for image in page.images if image["src"].startswith("data:image/jpeg")]
    assert len(pictures) == 12


def test_a_picture_that_is_gone_leaves_its_place(tmp_path):
    search = Search.of(3)
    search._gone = set(search.rows_.tolist())
    write_report(search, tmp_path)
    _, page, _ = read(tmp_path)
    assert "cannot be read any more" in page
    assert not [image for image in page.images if image["src"].startswith("data:image/jpeg")]


def test_numbers(tmp_path):
    search = Search.of(0)
    write_report(search, tmp_path)
    _, page, facts = read(tmp_path)
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert {"scatter", "map", "learning_curve"} <= names
    assert not {"confusion", "per_class", "calibration"} & names
    assert "R2 0.9000, mean absolute error 0.8" in page
    assert "per_class" not in facts
    off = np.abs(search.oof_["true"] - search.oof_["predicted"])
    worst = pd.read_csv(tmp_path / "tables" / "worst_mistakes.csv")
    np.testing.assert_allclose(worst["by"], np.sort(off)[::-1][:12])


def test_a_head_without_probabilities_says_so(tmp_path):
    search = Search.of(3, proba=False)
    write_report(search, tmp_path)
    _, page, _ = read(tmp_path)
    assert "gives no probabilities" in page
    assert not (tmp_path / "figures" / "calibration.png").exists()
    assert "lead in decision value" in page


def test_little_to_show(tmp_path):
    """No mistakes, no curve, no copies, one candidate, images that are gone: said, not failed over."""
    search = Search.of(2, n=24, networks=("tiny",))
    search.oof_["predicted"] = search.oof_["true"]
    search._table = search._table.iloc[:1].assign(se=np.nan)
    search.learning_curve_ = SimpleNamespace(sizes=np.array([], int), scores=np.empty((0, 5)))
    search.duplicates_ = SimpleNamespace(pairs=np.empty((0, 2), int), cosine=np.empty(0), exact=np.empty(0, bool),
                                         threshold=0.95, searched=False, crossing=0, score_together=None)  # fmt: skip
    search.prescreen_correlation_ = None
    del search.nested_scores_

    def gone():
        raise ImageReadError("a.jpg", "no such file")

    search.embeddings = gone
    write_report(search, tmp_path)
    _, page, _ = read(tmp_path)
    for text in ("There are none.", "too few images for a learning curve", "There are no copies among the images.",
                 "No map of the embeddings: cannot read 'a.jpg': no such file"):  # fmt: skip
        assert text in page, text


def test_a_second_report_replaces_the_first_and_nothing_else(tmp_path):
    write_report(Search.of(3), tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    facts = json.loads((tmp_path / "report.json").read_text())
    facts["files"] += ["figures/../mine.csv", "../mine.csv", "pipeline.joblib"]
    (tmp_path / "report.json").write_text(json.dumps(facts))
    (tmp_path / "mine.csv").write_text("mine")
    write_report(Search.of(0, networks=("tiny",)), tmp_path)
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    assert "mine.png" in names
    assert (tmp_path / "mine.csv").exists()
    assert not {"layers-mobilenet_0.75.png", "confusion.png"} & names


def test_the_same_search_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        write_report(Search.of(3, n=60), tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 15
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_matplotlib_is_left_as_it_was(tmp_path):
    before = matplotlib.rcParams.copy()
    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "yellow"}):
        write_report(Search.of(2, n=24), tmp_path / "dark")
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    write_report(Search.of(2, n=24), tmp_path / "light")
    assert matplotlib.rcParams == before
    assert (tmp_path / "dark/figures/heads.png").read_bytes() == (
        tmp_path / "light/figures/heads.png"
    ).read_bytes()


# -- nothing overlaps --------------------------------------------------------------------------


def texts(figure):
    """All that is written, with its boxes in pixels: (m, 4) of left, bottom, right, top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, unseen = canvas.get_renderer(), set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        unseen |= {label for at, label in labels if not low <= at <= high}
    found = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    found = [t for t in found if t not in unseen]
    return [t.get_text() for t in found], np.array([t.get_window_extent(renderer).extents for t in found])


def check_apart(figure):
    names, boxes = texts(figure)
    assert len(names) >= 4
    width, height = figure.bbox.size
    outside = (boxes < -1).any(axis=1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)
    assert not outside.any(), [names[i] for i in np.flatnonzero(outside)]
    low, high = boxes[:, :2] + 0.75, boxes[:, 2:] - 0.75
    over = ((low[:, None] < high) & (low < high[:, None])).all(axis=2) & ~np.eye(len(boxes), dtype=bool)
    assert not over.any(), [(names[i], names[j]) for i, j in np.argwhere(over)[:5]]


@pytest.mark.parametrize("n", [2, 3, 12, 50])
def test_classes_do_not_overlap(n):
    rng = np.random.default_rng(n)
    names = np.array([f"{i:02d} {NASTY}" if i % 2 else f"class {i}" for i in range(n)])
    counts = rng.integers(0, 3, (n, n)) * rng.integers(0, 2, (n, n)) + 150 * np.eye(n, dtype=int)
    with figures.style():
        check_apart(figures.draw_confusion(counts, names.tolist()))
        check_apart(figures.draw_per_class(summaries.per_class(counts, names)))


@pytest.mark.parametrize("n", [3, 7, 50])
def test_the_names_on_the_map_do_not_overlap(n):
    rng = np.random.default_rng(0)
    codes = np.arange(600) % n
    flat = summaries.Flat(
        rng.normal(size=(n, 2))[codes] + 0.2 * rng.normal(size=(600, 2)), np.arange(600), "PCA", ""
    )
    labels = np.array([f"{i:02d} a long name" for i in range(n)])[codes]
    with figures.style():
        figure = figures.draw_map(flat, labels, codes % 9 == 0)
        check_apart(figure)
        found, _ = texts(figure)
    assert sum("long name" in text.replace("\n", " ") for text in found) >= min(n, 40)


def test_many_classes_are_drawn_without_names():
    n = 1000
    counts = np.eye(n, dtype=int)
    counts[3, 4] = 1
    with figures.style():
        found, _ = texts(figures.draw_confusion(counts, [f"c{i}" for i in range(n)]))
        assert len(found) <= 4
        figure = figures.draw_per_class(
            summaries.per_class(counts, np.array([f"c{i:03d}" for i in range(n)]))
        )
        found, _ = texts(figure)
    named = [text for text in found if text.startswith("c")]
    assert len(named) == figures.NAMED
    assert {"c003 (2)", "c004 (1)"} <= set(named)  # those with mistakes


@pytest.mark.parametrize("n", [1, 8, 60])
def test_layers_do_not_overlap(n):
    layers = tuple(f"conv{i}_block_with_a_long_name_out" for i in range(n))
    values = np.linspace(0.5, 0.9, n + 2)
    series = [
        summaries.Series(f"{size} px, crop", layers, ("last 2", "last 3"), values, values / 50)
        for size in range(7)
    ]
    with figures.style():
        figure = figures.draw_layers("a network of a very long name " * 3, series, "accuracy", (0.4, 1.0))
        names, boxes = texts(figure)
    assert (boxes[:, 0] >= -1).all()
    assert (boxes[:, 2] <= figure.bbox.width + 1).all()
    ends = [
        right
        for name, right in zip(names, boxes[:, 2], strict=True)
        if name.endswith("_out") or "last" in name
    ]
    assert (np.diff(sorted(ends)) > 8).all()  # pixels: a line of text


# -- the tables behind the plots ---------------------------------------------------------------


def test_per_class_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c", "d"])
    true, predicted = classes[rng.integers(0, 4, 80)], classes[rng.integers(0, 3, 80)]  # never "d"
    counts = summaries.confusion(true, predicted, classes)
    np.testing.assert_array_equal(counts, confusion_matrix(true, predicted))
    found = summaries.per_class(counts, classes)
    p, r, f, n = precision_recall_fscore_support(true, predicted, zero_division=np.nan)
    for name, values in {"precision": p, "recall": r, "f1": f, "images": n}.items():
        np.testing.assert_allclose(found[name], values)
    common = summaries.commonest_confusions(counts, classes, 3)
    wrong = np.sort((counts * (1 - np.eye(4, dtype=int))).ravel())[::-1][:3]
    assert common["images"].tolist() == wrong.tolist()


def test_calibration_of_the_calibrated_and_of_the_too_sure():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 4000)
    classes = np.array(["a", "b"])
    true = classes[(rng.random(4000) < p[:, 1]).astype(int)]
    good = summaries.calibration(true, p, classes)
    assert good.error < 0.03
    assert good.brier == pytest.approx(2 * brier_score_loss(true == "b", p[:, 1]))
    assert ((good.low <= good.confidence) & (good.confidence <= good.high)).mean() > 0.7
    sharp = p**4 / (p**4).sum(axis=1, keepdims=True)
    assert summaries.calibration(true, sharp, classes).error > 0.1
    assert good.images.sum() == 4000
    partly = p.copy()
    partly[:1000] = np.nan
    assert summaries.calibration(true, partly, classes).images.sum() == 3000


def test_layer_series_take_the_best_of_what_is_left_over():
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
    avg, most = summaries.layer_series(table)["n"]  # one size: by pooling
    assert (avg.name, avg.layers, avg.joined) == ("avg", ("a", "b"), ("last 2",))
    np.testing.assert_array_equal(avg.scores, [0.5, 0.6, 0.9])
    np.testing.assert_array_equal(most.scores, [0.7, np.nan, np.nan])
    two = pd.concat([table, table.assign(image_size=224, score=table["score"] + 0.01)])
    small, large = summaries.layer_series(two)["n"]
    assert (small.name, large.name) == ("96 px", "224 px")
    np.testing.assert_allclose(large.scores, [0.71, 0.61, 0.91])
    np.testing.assert_allclose(small.errors, [0.2, 0.1, 0.1])


@pytest.mark.parametrize("shape", [(60, 100), (60, 2), (5, 3), (3, 1), (1200, 8), (5200, 3)])
def test_the_map_is_the_same_each_time(shape):
    X = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    a, b = summaries.flatten(X), summaries.flatten(X)
    np.testing.assert_array_equal(a.xy, b.xy)
    assert a.xy.shape == (min(shape[0], 5000), 2)
    assert np.isfinite(a.xy).all()
    assert a.method == ("t-SNE" if shape == (60, 100) else "PCA")


def test_the_map_keeps_groups_together():
    codes = np.arange(90) % 3
    X = (
        np.random.default_rng(0).normal(size=(90, 30))
        + 3 * np.random.default_rng(1).normal(size=(3, 30))[codes]
    )
    xy = summaries.flatten(X).xy
    centres = np.stack([xy[codes == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(xy[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == codes).mean() > 0.95


def test_worst_by_decision_of_two_classes():
    oof = pd.DataFrame({"true": ["a", "b", "a", "b"], "predicted": ["b", "a", "b", "b"]})
    found = summaries.worst(oof, None, np.array([0.5, -2.0, 1.0, 3.0]), np.array(["a", "b"]))
    assert found["at"].tolist() == [1, 2, 0]


# -- the winner again --------------------------------------------------------------------------


def test_the_command_says_all_that_differs():
    search = Search.of(3)
    search.scoring, search.weights, search.precision = "balanced_accuracy", None, "bfloat16"
    search.best_params_ = {"model": "tiny", "image_size": (96, 128), "resize": "pad", "layer": ["a", "b"],
                           "pooling": "gem", "head": "knn", "knn__n_neighbors": np.int64(3),
                           "knn__weights": "uniform"}  # fmt: skip
    options = reproduce.winner_options(search)
    assert reproduce.command(options, ["my file.csv", "--target", "y"]) == (
        "tlfeatures select 'my file.csv' --target y --model tiny --layer a+b --pooling gem --image-size 96x128 "
        "--resize pad --head knn:n_neighbors=3:weights=uniform --cv 5 --task classification --seed 0 "
        "--scoring balanced_accuracy --weights random --precision bfloat16 -o winner"
    )
    search.interpolation = "bicubic"
    assert (
        reproduce.command(reproduce.winner_options(search), ["x"]) is None
    )  # the command has no such option
    search.scoring = len
    assert reproduce.winner_options(search) is None


@pytest.mark.parametrize(
    ("cv", "written"),
    [
        (np.int64(3), "cv=3,"),
        (KFold(3), "cv=KFold(n_splits=3, random_state=None, shuffle=False),"),
        (ShuffleSplit(2, random_state=0), "random_state=0,"),
        (LeaveOneOut(), "cv=LeaveOneOut(),"),
        (KFold(3, shuffle=True), None),  # draws other folds each time
        (ShuffleSplit(2), None),
        (KFold(3, shuffle=True, random_state=np.random.RandomState(0)), None),
        (PredefinedSplit(np.arange(2000) % 2), None),  # numpy prints a part
        (type("Mine", (KFold,), {})(3), None),
    ],
)
def test_splitters_are_written_where_they_make_the_same_folds(cv, written):
    search = Search.of(3, n=60)
    search.cv = cv
    options = reproduce.winner_options(search)
    assert (options is not None) == (written is not None)
    if written:
        code = reproduce.python_code(options, None, True, True)
        assert written in code and "# groups: the search's groups_" in code
        names = {}
        exec("\n".join(line for line in code.splitlines() if line.startswith("from sklearn")), names)
        assert repr(eval(repr(options["cv"]), names)) == repr(options["cv"])


def test_settings_of_heads_are_written_where_they_can_be():
    search = Search.of(3, n=60)
    search.best_params_ = search.best_params_ | {"head": "ridge", "ridge__alphas": np.array([1.0, 10.0])}
    options = reproduce.winner_options(search)
    assert options["heads"] == {"ridge": {"alphas": [[1.0, 10.0]]}}
    assert reproduce.command(options, ["x"]) is None  # it separates values by commas itself
    search.best_params_["ridge__alphas"] = np.asarray
    assert reproduce.winner_options(search) is None


def test_folds_by_copies_of_arrays_have_no_command(tmp_path):
    search = Search.of(3, n=60)
    search.dedupe_groups, search.groups_ = True, np.arange(60) // 2
    write_report(search, tmp_path, source=["x.h5::images"])
    _, _, facts = read(tmp_path)
    assert facts["winner_command"] is None and "groups=groups" in facts["winner_code"]


def test_what_cannot_be_written_down_is_said(tmp_path):
    search = Search.of(3, n=60)
    search.cv = [(np.arange(30), np.arange(30, 60))]
    write_report(search, tmp_path)
    _, page, facts = read(tmp_path)
    assert "There is no exact command" in page
    assert "winner_command" not in facts


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real search over image files, with groups, and its report."""
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


def test_a_real_search(real):
    search, root, path, _ = real
    assert path == root / "report" / "index.html"
    _, page, facts = read(root / "report")
    assert f"accuracy {search.best_score_:.4f}" in page
    assert facts["metrics"] == search.metrics_
    assert facts["recipes"][0]["digest"] == search.best_estimator_["cnn"].recipes_[0]["digest"]
    table = pd.read_csv(root / "report/tables/predictions.csv", dtype={"true": str})
    assert table["true"].tolist() == search.oof_["true"].tolist()
    assert all(os.path.isabs(path) for path in table["image"])


def test_the_code_finds_the_winner_again(real, monkeypatch):
    search, root, _, store = real
    code = json.loads((root / "report/report.json").read_text("utf-8"))["winner_code"]
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


def test_a_search_that_was_pickled_can_be_reported(real, tmp_path):
    search = pickle.loads(pickle.dumps(real[0]))
    search.report(tmp_path)
    ours, theirs = ((folder / "figures/map.png").read_bytes() for folder in (tmp_path, real[1] / "report"))
    assert ours == theirs
