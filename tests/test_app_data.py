"""The view of the training images: filters, what the checks noticed, and the grid in a real browser."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra app")
pytest.importorskip("httpx", reason="needs httpx, which Starlette's TestClient uses")

from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from starlette.testclient import TestClient

from tests.test_app import browser, check_layout, folder, labelled, run_page, wait  # noqa: F401
from tlfeatures import CNNFeatures
from tlfeatures.app import Journal, ServedModel, make_service
from tlfeatures.app._checks import NO_POINT, DataChecks, project
from tlfeatures.app._labels import Labels
from tlfeatures.app._out_of_fold import predict_out_of_fold
from tlfeatures.app._training import TrainingImages
from tlfeatures.cli._serve import PageOptions
from tlfeatures.model_files import format_card, read_card
from tlfeatures.saved_models import load_model, save_pipeline
from tlfeatures.sources import Source, read_source

pytestmark = pytest.mark.filterwarnings("ignore:`false_alarm_rate", "ignore:.*images span fewer")


@pytest.fixture(scope="module")
def source(folder):  # noqa: F811
    """The shapes with splits; one label is wrong, one image is a duplicate, and one file is damaged."""
    source = read_source(str(folder / "data"))
    content = open(source.images[1], "rb").read()  # noqa: SIM115
    extra = folder / "extra"
    extra.mkdir(exist_ok=True)
    (extra / "again.png").write_bytes(content)
    (extra / "damaged.png").write_bytes(content[:50])
    labels = np.array([*source.y, "disc", "disc"])
    labels[0] = "stripes"
    return Source(
        [*source.images, str(extra / "again.png"), str(extra / "damaged.png")],
        labels,
        None,
        np.array(["train"] * 20 + ["test"] * 6),
        [*source.names, "extra/again.png", "extra/damaged.png"],
        "manifest",
    )


@pytest.fixture(scope="module")
def model(folder, source):  # noqa: F811
    model = ServedModel(folder / "shapes.tlf", batch_size=4)
    with pytest.warns(UserWarning, match="damaged"):
        model.load_training_images(source, cache=None)
    return model


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_service(model, with_page=True), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    yield journal
    journal.close()


def read_checks(client):
    deadline = time.monotonic() + 60
    while (answer := client.get("/app/checks").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert answer["state"] == "done" and answer["progress"] <= 1
    return answer


def test_images_are_described(client, source):
    answer = client.get("/app/data").json()
    assert answer["names"] == source.names and answer["unreadable"] == [25]
    assert [answer["texts"][code] for code in answer["labels"]] == source.y.tolist()
    assert answer["labels"] == answer["original"]
    assert [answer["splits"][code] for code in answer["split"]] == source.split.tolist()


def test_checks_list_duplicates_mistakes_and_suspected_labels(client, model, source):
    result = read_checks(client)["result"]
    predicted = [result["texts"][code] if code >= 0 else None for code in result["predicted"]]
    assert predicted[25] is None and set(predicted[:25]) == {"disc", "stripes"}
    assert predicted[0] == "disc"  # its label is wrong
    assert 0 in result["suspected"]["rows"]
    assert result["suspected"]["suggestions"][result["suspected"]["rows"].index(0)] == "disc"
    duplicates = result["duplicates"]
    pair = [duplicates["groups"][duplicates["rows"].index(row)] for row in (1, 24)]
    assert pair[0] == pair[1] and duplicates["exact"][duplicates["rows"].index(24)]
    assert [result["texts"][code] for code in result["labels"]] == source.y.tolist()
    answer = client.get("/app/checks", params={"seen": 1}).json()
    assert answer["number"] == 1 and "result" not in answer


def test_map_has_a_point_for_each_readable_image(client, model):
    read_checks(client)
    response = client.get("/app/map")
    points = np.frombuffer(response.content, "<u2").reshape(-1, 2)
    assert points.shape == (26, 2) and (points[25] == NO_POINT).all()
    assert points[:25].min() == 0 and points[:25].max() == NO_POINT - 1
    checks = DataChecks(model, lambda: model.training.labels)
    checks.start()
    checks.wait()
    assert checks.points == response.content  # the same each time
    assert np.abs(points[1].astype(int) - points[24]).max() < 3000  # duplicates are near each other


def test_projection_of_many_rows_is_their_first_principal_components():
    X = np.random.default_rng(0).normal(size=(1200, 5)) * [1, 2, 9, 1, 5]
    xy, method, note = project(X)
    assert method == "PCA" and "%" in note
    assert abs(np.corrcoef(xy[:, 0], X[:, 2])[0, 1]) > 0.99
    assert abs(np.corrcoef(xy[:, 1], X[:, 4])[0, 1]) > 0.99
    assert np.array_equal(project(X)[0], xy)
    assert np.isfinite(project(np.ones((1200, 3)))[0]).all()


def test_thumbnails_are_cached_by_the_content_of_the_image(client, source):
    response = client.get("/app/training/1")
    tag = response.headers["etag"]
    assert client.get("/app/training/24").headers["etag"] == tag  # the same file
    assert client.get("/app/training/2").headers["etag"] != tag
    again = client.get("/app/training/1", headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    large = client.get("/app/training/1/large", headers={"if-none-match": tag})
    assert large.status_code == 200 and len(large.content) > len(response.content)
    damaged = client.get("/app/training/25")
    assert damaged.status_code == 404 and "cannot be read" in damaged.json()["detail"]
    for path in ("/app/training/26", "/app/training/-1/large", "/app/training/..%2f1"):
        assert client.get(path).status_code in (404, 422)


def test_thumbnails_of_12_bit_images_are_as_bright_as_those_of_8_bit_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype="uint8")
    thumbnails = []
    for max_value, values in ((None, pixels), (4095, (pixels.astype(int) * 4095 // 255).astype("uint16"))):
        path = tmp_path / str(max_value)
        path.mkdir()
        Image.fromarray(values).save(path / "a.png")
        cnn = CNNFeatures("tiny", image_size=32, max_value=max_value, cache=None).fit([str(path / "a.png")])
        jpeg = TrainingImages(cnn, read_source(str(path))).thumbnail(0)
        thumbnails.append(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int))
    assert np.abs(thumbnails[0] - thumbnails[1]).max() < 10


def test_checks_are_repeated_with_the_current_labels(labelled):  # noqa: F811
    assert read_checks(labelled)["number"] == 1
    labelled.post("/app/labels", json={"rows": [0], "label": "disc"})
    assert labelled.post("/app/checks", json={}, headers={"x-csrf-token": "x"}).status_code == 403
    assert labelled.post("/app/checks", json={}).status_code == 200
    answer = read_checks(labelled)
    assert answer["number"] == 2
    assert answer["result"]["texts"][answer["result"]["labels"][0]] == "disc"


def test_labels_of_chosen_rows_are_listed(labelled):  # noqa: F811
    answer = labelled.get("/app/labels", params={"rows": "23,3"}).json()
    assert [image["row"] for image in answer["images"]] == [23, 3]
    assert labelled.get("/app/labels", params={"rows": "99"}).json()["type"].endswith("unknown-image")
    for rows in ("", "1;2", "-1", "1,", ",".join(["1"] * 201)):
        assert labelled.get("/app/labels", params={"rows": rows}).status_code == 422


def test_data_of_a_model_of_numbers(folder, tmp_path):  # noqa: F811
    images = sorted(str(path) for path in (folder / "data").rglob("*.png"))
    y = np.arange(24.0)
    save_pipeline(
        make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), Ridge()).fit(images, y),
        tmp_path / "n.tlf",
    )
    model = ServedModel(tmp_path / "n.tlf", batch_size=4)
    model.load_training_images(Source(images, y, None, None, images, "manifest"), cache=None)
    with TestClient(make_service(model, with_page=True), base_url="http://localhost") as client:
        page = client.get("/").text
        assert 'id="finding"' in page and 'value="mistakes"' not in page and 'id="split"' not in page
        result = read_checks(client)["result"]
        assert result["suspected"]["rows"] == [] and min(result["predicted"]) >= 0
        scores = client.get("/app/scores").text
        assert "R2" in scores and "mean absolute error" in scores and "/app/figures/scatter" in scores
        assert client.get("/app/figures/scatter").content[:4] == b"\x89PNG"


def test_scores_and_figures_are_those_of_the_out_of_fold_predictions(model, source):
    with TestClient(make_service(model, with_page=True), base_url="http://localhost") as client:
        early = client.get("/app/scores")
        assert early.status_code == 409 and "Wait until the checks are finished" in early.json()["detail"]
        result = read_checks(client)["result"]
        scores = client.get("/app/scores").text
        assert "<strong>Accuracy 0.9" in scores and "5 folds of 25 images" in scores
        assert "Expected calibration error" in scores and "Most frequent confusions" in scores
        assert not re.search(r"<script|style=|https?://", scores)
        predicted = [result["texts"][code] for code in result["predicted"][:25]]
        n_wrong = sum(a != b for a, b in zip(predicted, source.y.tolist(), strict=False))
        assert n_wrong == 1
        for name in re.findall('src="([^"]+)"', scores):
            assert client.get(name).content[:4] == b"\x89PNG"
        for name in ("other", "..%2f..%2fREADME.md"):
            assert client.get(f"/app/figures/{name}").status_code == 404


def test_card_of_the_file_is_shown(client, folder):  # noqa: F811
    page = client.get("/").text
    for name, text in format_card(read_card(folder / "shapes.tlf")):
        assert name in page and html.escape(text, quote=False)[:60] in page
    assert "Recipe of the embeddings" in page and "interpolation" in page


def test_head_is_trained_on_the_training_split_only(folder, source, tmp_path, journal):  # noqa: F811
    shutil.copy(folder / "shapes.tlf", tmp_path)
    model = ServedModel(tmp_path / "shapes.tlf", batch_size=4)
    model.load_training_images(source.take(np.arange(25)), cache=None)
    key = np.zeros(16, "u1")
    rows = [
        neighbor["row"] for neighbor in model.training.find_nearest(model.training.embeddings[22], key, n=25)
    ]
    assert sorted(rows) == list(range(20))
    labels = Labels(model, journal)
    labels.change([21], "disc")
    labels.retrain()
    deadline = time.monotonic() + 60
    while labels.retraining.describe()["state"] not in ("finished", "failed"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    path = labels.save()
    assert (
        load_model(path).evaluate(source.images[:25], source.y[:25]).n_used_for_training == 21
    )  # 24 is a copy of 1
    lines = list(csv.DictReader(io.StringIO(labels.export())))
    assert [line["split"] for line in lines] == source.split[:25].tolist()
    assert (lines[21]["label"], lines[21]["original_label"]) == ("disc", "stripes")


def test_images_of_all_splits_are_shown(folder):  # noqa: F811
    table = folder / "splits.csv"
    names = sorted(path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*.png"))
    lines = [f"{name},{name.split('/')[1]},{'test' if i % 2 else 'train'}" for i, name in enumerate(names)]
    table.write_text("path,label,split\n" + "\n".join(lines))
    source = PageOptions(data=str(table), target=None, journal=None).read()
    assert source.split.tolist() == ["train", "test"] * 12


def test_out_of_fold_predictions_leave_out_classes_that_cannot_be_split():
    X = np.random.default_rng(0).normal(size=(21, 3))
    y = np.array(["a"] * 10 + ["c"] * 10 + ["b"])
    head = make_pipeline(LogisticRegression())
    result = predict_out_of_fold(head, X, y, np.arange(21), lambda done, total: None)
    assert result.rows.tolist() == list(range(20)) and result.classes.tolist() == ["a", "c"]
    probabilities = result.spread_probabilities(21)
    assert probabilities.shape == (21, 3) and np.isnan(probabilities[20]).all()
    assert (probabilities[:20, 1] == 0).all() and np.allclose(probabilities[:20].sum(axis=1), 1)
    assert result.low <= result.scores.mean() <= result.high
    with pytest.raises(ValueError, match="At least two classes"):
        predict_out_of_fold(head, X, y, np.repeat([0, 1], [10, 11]), lambda done, total: None)


def test_out_of_fold_predictions_of_whole_numbers_are_not_rounded():
    X = np.random.default_rng(0).normal(size=(30, 3))
    y = np.round(X @ [1, 2, 3]).astype(int)
    result = predict_out_of_fold(make_pipeline(Ridge()), X, y, np.arange(30), lambda done, total: None)
    expected = predict_out_of_fold(
        make_pipeline(Ridge()), X, y * 1.0, np.arange(30), lambda done, total: None
    )
    np.testing.assert_array_equal(result.predicted, expected.predicted)
    assert (result.predicted % 1 != 0).all() and result.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("n", [1, 3, 4, 6, 9, 11])
def test_out_of_fold_scores_of_few_numbers(n):
    X, head = np.random.default_rng(0).normal(size=(n, 3)), make_pipeline(Ridge())
    if n < 4:
        with pytest.raises(ValueError, match=f"At least four different images are needed; got {n}"):
            predict_out_of_fold(head, X, X[:, 0], np.arange(n), lambda done, total: None)
    else:
        result = predict_out_of_fold(head, X, X[:, 0], np.arange(n), lambda done, total: None)
        assert len(result.scores) == min(5, n // 2) and np.isfinite(result.scores).all()


def test_reason_for_missing_scores_of_few_images(folder, tmp_path):  # noqa: F811
    images = sorted(str(path) for path in (folder / "data").rglob("*.png"))[:3]
    cnn = CNNFeatures("tiny", image_size=32, cache=None)
    save_pipeline(make_pipeline(cnn, Ridge()).fit(images, [1.0, 2.0, 3.0]), tmp_path / "n.tlf")
    for n in (1, 3):
        model = ServedModel(tmp_path / "n.tlf", batch_size=4)
        source = Source(images[:n], np.arange(float(n)), None, None, images[:n], "manifest")
        model.load_training_images(source, cache=None)
        checks = DataChecks(model, model.training.current.copy)
        checks.start()
        checks.wait()
        expected = (
            f"Mistakes and scores are not available: At least four different images are needed; got {n}."
        )
        assert checks.result.notes[-1] == expected


def test_out_of_fold_predictions_of_small_classes():
    X = np.random.default_rng(0).normal(size=(6, 3)) + np.repeat([0, 9], 3)[:, None]
    y = np.repeat(["a", "b"], 3)
    result = predict_out_of_fold(
        make_pipeline(LogisticRegression()), X, y, np.arange(6), lambda done, total: None
    )
    assert len(result.scores) == 3 and result.predicted.tolist() == y.tolist()


# --- in a browser


@pytest.fixture(params=[(1200, 800), (360, 740)], ids=["wide", "narrow"])
def page(browser, model, journal, request):  # noqa: F811
    """The view of the data; fails the test on messages of the console."""
    context = browser.new_context(viewport={"width": request.param[0], "height": request.param[1]})
    page, messages = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    with run_page(model, journal) as url:
        page.goto(f"{url}/#data")
        wait(page, "document.querySelectorAll('#cells [role=option]').length > 3")
        wait(page, "!document.querySelector('#finding [value=duplicates]').disabled")
        wait(page, "document.getElementById('checking').hidden")
        yield page
        page.goto("about:blank")
    model.training.current = model.training.labels.copy()  # tests without a browser use the model too
    assert [text for text in messages if "status of 404" not in text] == []  # the damaged file
    context.close()


def list_shown(page):
    """Return the rows of the cells in the document."""
    return page.evaluate(
        "[...document.querySelectorAll('#cells [role=option]')].map((e) => Number(e.dataset.row))"
    )


@pytest.mark.slow
def test_filters(page, source):
    check_layout(page)
    assert page.inner_text("#data-status") == "26 images."
    page.select_option("#finding", "duplicates")
    assert {1, 24} <= set(list_shown(page))
    page.select_option("#finding", "mistakes")
    assert 0 in list_shown(page) and "predicted disc" in page.inner_text("#cells")
    page.select_option("#split", "test")
    page.select_option("#finding", "all")
    assert page.inner_text("#data-status") == "6 of 26 images."
    page.select_option("#class", "stripes")
    assert sorted(list_shown(page)) == [20, 21, 22, 23]
    page.fill("#file", "nothing has this name")
    assert "Change the filters" in page.inner_text("#data-status")
    page.fill("#file", "")
    page.select_option("#class", "")
    page.select_option("#finding", "unreadable")
    assert list_shown(page) == [25] and "cannot be read" in page.inner_text("#cells")
    page.emulate_media(color_scheme="dark")
    check_layout(page)


@pytest.mark.slow
def test_more_numbers_than_arguments_of_a_function(page):
    """Labels of a regressor, all of them different."""
    n = 140_000
    names, codes = [f"{i}.png" for i in range(n)], list(range(n))
    labels = {"texts": [str(i) for i in codes], "labels": codes, "original": codes}
    content = json.dumps({"names": names, **labels, "unreadable": []})
    page.route("**/app/data", lambda route: route.fulfill(content_type="application/json", body=content))

    def change_page(route):
        response = route.fetch()
        text = re.sub(r"(classes&#34;: )\[.*?\]", r"\1[]", response.text()).replace(
            'id="class"', 'id="other"'
        )
        route.fulfill(response=response, body=text)

    page.route(page.url.partition("#")[0], change_page)
    page.reload()
    wait(page, "document.getElementById('data-status').textContent === '140,000 images.'")
    wait(page, "document.querySelectorAll('#legend li').length === 2")
    assert page.locator("#legend li").all_inner_texts() == ["0", "139999"]


@pytest.mark.slow
def test_label_of_a_file_with_two_names(page):
    page.click("nav a[href='#label']")
    wait(page, "document.querySelectorAll('#grid li').length > 20")
    page.focus("#grid [data-row='1']")
    page.click("#grid [data-row='1']")
    page.keyboard.press("2")
    wait(page, "document.getElementById('label-status').textContent.startsWith('2 images are stripes now')")
    for row in (1, 24):
        assert page.inner_text(f"#grid [data-row='{row}'] .changed") == "stripes (was disc)"


@pytest.mark.slow
def test_last_page_of_a_list_of_labels_that_becomes_empty(page):
    n = 61

    def list_labels(route):
        offset = int(re.search(r"offset=(\d+)", route.request.url)[1])
        image = {"name": "a.png", "label": "disc", "original": "stripes", "note": ""}
        images = [{"row": row, **image} for row in range(n)][offset : offset + 60]
        route.fulfill(json={"total": n, "changed": n, "images": images})

    page.route("**/app/labels?*", list_labels)
    page.route("**/app/undo", lambda route: route.fulfill(json={"rows": [60], "changed": 60}))
    page.click("nav a[href='#label']")
    wait(page, "document.querySelectorAll('#grid li').length === 60")
    page.click("#next")
    wait(page, "document.querySelectorAll('#grid li').length === 1")
    n = 60
    page.keyboard.press("u")
    wait(page, "document.getElementById('range').textContent === '1 to 60 of 60'")


@pytest.mark.slow
def test_grid_by_keyboard_and_correction_in_the_view_of_labels(page, source):
    page.select_option("#finding", "suspected")
    rows = list_shown(page)
    page.focus("#cells")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert page.get_attribute("#cells", "aria-activedescendant") == f"cell-{rows[0]}"
    page.keyboard.press("Enter")
    assert page.inner_text("#viewer-name") == source.names[rows[0]]
    wait(page, "document.getElementById('viewer-image').naturalWidth === 640")
    check_layout(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    assert f"{len(rows)} chosen" in page.inner_text("#data-status")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Correct in Label
    wait(page, "(n) => document.querySelectorAll('#grid li').length === n", len(rows))
    page.focus("#grid button")
    page.keyboard.press("1")
    wait(page, "document.getElementById('label-status').textContent.includes('1 label changed')")
    page.click("nav a[href='#data']")
    wait(page, "document.querySelector('#finding [value=changed]').textContent.includes('(1)')")
    page.select_option("#finding", "changed")
    assert list_shown(page) == rows[:1]
    page.click("#check-again")
    wait(page, "document.getElementById('check-again').hidden && document.getElementById('checking').hidden")


def show_map(page):
    """Scroll to the map, wait until it has the background and two classes, and return its place."""
    page.evaluate("document.getElementById('map-pane').scrollIntoView({ block: 'center' })")
    wait(
        page,
        """() => {
          const map = document.getElementById("map");
          const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
          return new Set(new Uint32Array(data.buffer)).size >= 3;
        }""",
    )
    return page.locator("#map").bounding_box()


@pytest.mark.slow
def test_rectangle_on_the_map_is_corrected_and_exported(page, source):
    show_map(page)
    drawn = page.evaluate("document.getElementById('map').toDataURL()")
    page.focus("#map")
    page.keyboard.press("+")
    wait(page, "(drawn) => document.getElementById('map').toDataURL() !== drawn", drawn)
    page.keyboard.press("0")
    wait(page, "(drawn) => document.getElementById('map').toDataURL() === drawn", drawn)
    page.fill("#file", "disc 3")
    box = show_map(page)
    corners = [(box["x"] + 2, box["y"] + 2), (box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.down("Shift")
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.fill("#file", "")
    row = source.names.index("disc/disc 3.png")  # images that do not match the filters are not chosen
    assert page.inner_text("#data-status") == "26 images. 1 chosen."
    page.click("#show-chosen")
    assert list_shown(page) == [row] and page.get_attribute(f"#cell-{row}", "aria-selected") == "true"
    page.click("#choose-none")
    page.select_option("#finding", "all")
    page.select_option("#class", "disc")
    page.click("#rectangle")
    box = show_map(page)
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    chosen = [i for i, label in enumerate(source.y) if label == "disc" and i != 25]  # 25 cannot be read
    assert f"{len(chosen)} chosen" in page.inner_text("#data-status")
    check_layout(page)
    page.click("#correct")
    wait(page, "(n) => document.querySelectorAll('#grid li').length === n", len(chosen))
    for position in range(2):
        page.click(f"#grid li:nth-child({position + 1}) button")
    page.keyboard.press("2")
    wait(page, "document.getElementById('label-status').textContent.includes('labels changed')")
    with page.expect_download() as download:
        page.click("a[href='/app/labels.csv']")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    changed = [i for i, line in enumerate(table) if line["label"] != line["original_label"]]
    assert set(chosen[:2]) <= set(changed) <= {*chosen[:2], 24}  # 24 is the same file as 1
    assert all(table[i]["label"] == "stripes" for i in changed)
    page.click("nav a[href='#data']")
    page.select_option("#class", "")
    page.select_option("#finding", "changed")
    wait(page, "(n) => document.querySelectorAll('#cells [role=option]').length === n", len(changed))
    assert list_shown(page) == changed


@pytest.mark.slow
def test_image_under_the_pointer_is_shown(page):
    show_map(page)
    place = page.evaluate(
        """() => {
          const map = document.getElementById("map");
          const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
          const pixels = new Uint32Array(data.buffer);
          const i = pixels.findIndex((pixel, k) => pixel !== pixels[0] && pixels[k + map.width] === pixel);
          const { left, top } = map.getBoundingClientRect();
          return [left + 1 + i % map.width, top + 2 + Math.floor(i / map.width)];
        }"""
    )
    page.mouse.move(*place)
    page.wait_for_selector("#tip:not([hidden])")
    wait(page, "document.getElementById('tip-image').naturalWidth === 160")
    assert page.inner_text("#tip-label") in ("disc", "stripes")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.mouse.move(2, 2)
    page.wait_for_selector("#tip", state="hidden")


@pytest.mark.slow
def test_card_and_scores_of_the_model(page):
    page.click("nav a[href='#model']")
    wait(page, "document.querySelectorAll('#score-figures img').length === 3")
    wait(
        page,
        "[...document.querySelectorAll('#score-figures img')].every((image) => image.naturalWidth > 500)",
    )
    assert "Accuracy 0.9" in page.inner_text("#score-figures") and "tiny" in page.inner_text("#model")
    check_layout(page)
    page.emulate_media(color_scheme="dark")
    check_layout(page)
