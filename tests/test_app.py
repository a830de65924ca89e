"""The page of a fitted model: its files, and the user's paths in a real browser."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra app")
pytest.importorskip("httpx", reason="needs httpx, which Starlette's TestClient uses")

from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from starlette.testclient import TestClient

from tlfeatures import CNNFeatures, ConformalClassifier
from tlfeatures.app import Journal, JournalError, Limits, ServedModel, make_service
from tlfeatures.app._labels import Labels
from tlfeatures.app._server import make_server
from tlfeatures.cli import main
from tlfeatures.predictions import FittedModel
from tlfeatures.saved_models import load_model, save_pipeline
from tlfeatures.sources import read_source

pytestmark = pytest.mark.filterwarnings("ignore:`false_alarm_rate", "ignore:.*images span fewer")


def draw_image(path, kind, seed):
    """Draw discs or stripes on a noisy background."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(90, 140, (96, 128, 3), dtype="uint8"))
    pen, color = ImageDraw.Draw(image), tuple(rng.integers(160, 256, 3).tolist())
    x, y = rng.integers(10, 60, 2).tolist()
    if kind == "disc":
        pen.ellipse((x, y // 2, x + 50, y // 2 + 50), fill=color)
    else:
        for i in range(4):
            pen.rectangle((x, y // 2 + 14 * i, x + 60, y // 2 + 14 * i + 6), fill=color)
    image.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of discs and stripes, and a saved model with prediction sets."""
    root = tmp_path_factory.mktemp("shapes")
    for kind in ("disc", "stripes"):
        (root / "data" / kind).mkdir(parents=True)
        for i in range(12):
            draw_image(root / "data" / kind / f"{kind} {i}.png", kind, i + 100 * (kind == "disc"))
    source = read_source(str(root / "data"))
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=64, cache=None), LogisticRegression())
    conformal = ConformalClassifier(pipeline, error_rate=0.2, cv=3).fit(source.images, source.get_labels())
    save_pipeline(conformal.to_pipeline(), root / "shapes.tlf")
    for i in range(3):
        draw_image(root / f"new-{i}.png", "stripes" if i else "disc", 500 + i)
    return root


@pytest.fixture(scope="module")
def model(folder):
    model = ServedModel(folder / "shapes.tlf", batch_size=4)
    model.warm_up()
    model.load_training_images(read_source(str(folder / "data")), cache=None)
    return model


@pytest.fixture(scope="module")
def client(model):
    with TestClient(make_service(model, with_page=True), base_url="http://localhost") as client:
        yield client


def post(client, *paths):
    return client.post("/app/predict", files=[("file", (path.name, path.read_bytes())) for path in paths])


def test_page_has_no_inline_scripts_and_names_no_other_host(client):
    response = client.get("/")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    page = response.text
    assert "shapes.tlf" in page and "ConformalClassifier" in page
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", page)
    assert not re.search(r"https?://", page)
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        content = client.get(name)
        assert content.status_code == 200 and "http" not in re.sub(r"//.*", "", content.text)
    assert client.get("/static/heat.js").headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/static/page.html",
        "/static/..%2f_page.py",
        "/static/../_page.py",
        "/static/%2fetc%2fpasswd",
        "/static/",
        "/app/training/99",
        "/app/training/-1",
    ],
)
def test_only_listed_files_are_served(client, path):
    assert client.get(path).status_code == 404


def test_training_images_are_named_by_their_row(client):
    response = client.get("/app/training/3")
    assert response.headers["content-type"] == "image/jpeg" and response.content[:2] == b"\xff\xd8"
    assert client.get("/app/training/x").status_code == 422


def test_nearest_training_images_leave_out_the_image_itself(client, model, folder):
    training = folder / "data" / "disc" / "disc 3.png"
    (answer,) = post(client, training).json()["images"]
    neighbors = answer["neighbors"]
    assert len(neighbors) == 6 and training.name not in [neighbor["name"] for neighbor in neighbors]
    similarities = [neighbor["similarity"] for neighbor in neighbors]
    assert similarities == sorted(similarities, reverse=True) and similarities[0] <= 1
    embeddings = model.training.embeddings - model.training.embeddings.mean(axis=0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    row = [os.path.basename(name) for name in model.training.names].index(training.name)
    expected = np.argsort(-(embeddings @ embeddings[row]), kind="stable")[1:7]
    assert [neighbor["row"] for neighbor in neighbors] == expected.tolist()
    assert neighbors[0]["label"] == "disc"


def test_service_has_no_page(model):
    with TestClient(make_service(model), base_url="http://localhost") as client:
        assert client.get("/").status_code == 404


def test_command_needs_a_model(capsys):
    assert main(["app", "missing.joblib"]) == 2
    assert "No such file: 'missing.joblib'" in capsys.readouterr().err


# --- labels


@pytest.fixture
def labelled(folder, tmp_path):
    """The service of a copy of the model, with a journal; two labels of the training images are wrong."""
    shutil.copy(folder / "shapes.tlf", tmp_path)
    model = ServedModel(tmp_path / "shapes.tlf", batch_size=4)
    source = read_source(str(folder / "data"))
    source.y[[0, 23]] = ["stripes", "disc"]
    model.load_training_images(source, cache=None)
    journal = Journal(tmp_path / "labels.jsonl")
    with TestClient(
        make_service(model, with_page=True, journal=journal), base_url="http://localhost"
    ) as client:
        settings = json.loads(html.unescape(re.search('data-settings="([^"]+)"', client.get("/").text)[1]))
        client.headers["x-csrf-token"] = settings["csrf"]
        client.model, client.source, client.folder = model, source, tmp_path
        yield client
    journal.close()


def read_labels(client):
    answer = client.get("/app/labels", params={"size": 200}).json()
    return [image["label"] for image in answer["images"]]


def test_labels_are_changed_and_taken_back(labelled):
    assert read_labels(labelled) == labelled.source.y.tolist()
    assert labelled.post("/app/labels", json={"rows": [0, 5], "label": "disc"}).json()["changed"] == 1
    assert labelled.post("/app/labels", json={"rows": [23], "label": "stripes"}).json()["changed"] == 2
    assert read_labels(labelled) == ["disc"] * 12 + ["stripes"] * 12
    changed = labelled.get("/app/labels?choice=changed").json()["images"]
    assert [(image["row"], image["label"], image["original"]) for image in changed] == [
        (0, "disc", "stripes"),
        (23, "stripes", "disc"),
    ]
    rows = list(csv.DictReader(io.StringIO(labelled.get("/app/labels.csv").text)))
    assert len(rows) == 24 and os.path.isabs(rows[0]["path"])
    assert (rows[0]["label"], rows[0]["original_label"]) == ("disc", "stripes")
    assert labelled.post("/app/undo", json={}).json() == {"rows": [23], "changed": 1}
    assert labelled.post("/app/undo", json={}).json() == {"rows": [0, 5], "changed": 0}
    assert labelled.post("/app/undo", json={}).json() == {"rows": [], "changed": 0}
    assert read_labels(labelled) == labelled.source.y.tolist()
    assert labelled.get("/app/labels?choice=class:disc&offset=2&size=3").json()["total"] == 12
    assert labelled.get("/app/labels?choice=next").json()["total"] == 0  # all have labels


def test_journal_is_applied_to_the_same_images_after_a_restart(labelled, folder):
    labelled.post("/app/labels", json={"rows": [0, 1], "label": "disc"})
    labelled.post("/app/labels", json={"rows": [3], "label": "stripes"})
    labelled.post("/app/undo", json={})
    labelled.app.state.service.queue.stop()
    content = (labelled.folder / "labels.jsonl").read_bytes()
    (labelled.folder / "copy.jsonl").write_bytes(content)
    source = labelled.source.take(np.arange(24)[::-1])  # in another order
    model = ServedModel(folder / "shapes.tlf", batch_size=4)
    model.load_training_images(source, cache=None)
    journal = Journal(labelled.folder / "copy.jsonl")
    labels = Labels(model, journal)
    journal.close()
    assert labels.changed.tolist() == [23] and labels.current[23] == "disc"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"rows": [0], "label": "cat"}, "unknown-label"),
        ({"rows": [99], "label": "disc"}, "unknown-image"),
        ({"rows": [-1], "label": "disc"}, "unknown-image"),
        ({"rows": [], "label": "disc"}, "unknown-image"),
        ({"rows": ["0"], "label": "disc"}, "invalid-change"),
        ({"rows": [True], "label": "disc"}, "invalid-change"),
        ({"rows": 3, "label": "disc"}, "invalid-change"),
        ({}, "invalid-change"),
    ],
)
def test_invalid_changes_are_problems(labelled, content, name):
    response = labelled.post("/app/labels", json=content)
    assert response.status_code == 422 and response.json()["type"].endswith(name)
    assert (labelled.folder / "labels.jsonl").read_bytes() == b""


def test_changes_need_the_token_of_the_page(labelled):
    for path in ("labels", "undo", "retrain", "save"):
        for token in ("", "wrong"):
            response = labelled.post(f"/app/{path}", json={}, headers={"x-csrf-token": token})
            assert response.status_code == 403 and "Reload the page" in response.json()["detail"]
    headers = {"origin": "http://evil.example"}
    assert labelled.post("/app/undo", json={}, headers=headers).json()["type"].endswith("cross-origin")


def wait_for_training(client, *states):
    """Wait until the training is finished or failed, or in one of some states."""
    deadline = time.monotonic() + 60
    while (state := client.get("/app/retrain").json())["state"] not in ("finished", "failed", *states):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def test_head_is_trained_again_and_saved_beside_the_old_model(labelled, folder):
    old = (labelled.folder / "shapes.tlf").read_bytes()
    assert labelled.post("/app/save", json={}).status_code == 409
    labelled.post("/app/labels", json={"rows": [0], "label": "disc"})
    labelled.post("/app/labels", json={"rows": [23], "label": "stripes"})
    assert labelled.post("/app/retrain", json={}).json()["state"] == "training"
    training = wait_for_training(labelled)
    assert training["state"] == "finished" and training["done"] == training["total"] == 11
    scores = training["scores"]
    assert scores["images"] == 24 and 0 <= scores["before"] <= scores["after"] <= 1
    paths = [labelled.post("/app/save", json={}).json()["path"] for _ in range(2)]
    assert [os.path.basename(path) for path in paths] == ["shapes-labels-1.tlf", "shapes-labels-2.tlf"]
    assert (labelled.folder / "shapes.tlf").read_bytes() == old
    # the labels of the folders, on which the model was trained first
    image = [(folder / "new-0.png").read_bytes()]
    expected = ServedModel(folder / "shapes.tlf", batch_size=4).predict(image)
    for answers in (ServedModel(paths[0], batch_size=4).predict(image), labelled.model.predict(image)):
        assert answers[0]["probabilities"] == pytest.approx(expected[0]["probabilities"])
    assert load_model(paths[0]).evaluate(labelled.source.images, labelled.source.y).n_used_for_training == 24


def test_images_without_label_are_not_those_of_a_class_named_none(folder, tmp_path):
    model = ServedModel(folder / "shapes.tlf", batch_size=4)
    source = read_source(str(folder / "data"))
    source.y.setflags(write=True)
    model.load_training_images(source, cache=None)
    model.training.labels[:2] = [None, "None"]
    with Journal(tmp_path / "labels.jsonl") as journal:
        assert Labels(model, journal).list_rows("class:None") == ([1], {})


def test_a_class_without_images_remains_a_label(labelled):
    """Also after the head was trained on labels without it, and the page was loaded again."""
    model = labelled.model
    head = LogisticRegression().fit(model.training.embeddings, ["disc", "ring"] * 12)
    model.use(FittedModel(make_pipeline(model.fitted.cnn, head)))
    page = labelled.get("/").text
    assert '<button type="button" data-label="stripes">' in page and '<option value="class:stripes">' in page
    settings = json.loads(html.unescape(re.search('data-settings="([^"]+)"', page)[1]))
    assert settings["classes"] == ["disc", "stripes"]
    assert labelled.post("/app/labels", json={"rows": [0], "label": "stripes"}).status_code == 200


def test_names_of_files_may_not_be_unicode(labelled):
    training, model = labelled.model.training, labelled.model
    name = os.fsdecode(b"a\xff.png")
    training.paths, training.names = [name, *training.paths[1:]], [name, *training.names[1:]]
    table = labelled.get("/app/labels.csv")
    assert table.status_code == 200 and table.content.splitlines()[1] == b"a\xff.png,stripes,stripes"
    assert labelled.get("/app/data").json()["names"][0] == name
    model.path = os.path.join(labelled.folder, os.fsdecode(b"m\xff.tlf"))
    page = labelled.get("/")
    assert page.status_code == 200 and "<h1>m\\udcff.tlf</h1>" in page.text


def test_model_whose_file_was_moved_cannot_be_saved_until_it_is_back(labelled):
    labelled.post("/app/retrain", json={})
    assert wait_for_training(labelled)["state"] == "finished"
    path = labelled.folder / "shapes.tlf"
    path.rename(labelled.folder / "moved.tlf")
    response = labelled.post("/app/save", json={})
    assert response.status_code == 500
    assert re.search(r"shapes\.tlf.*No such file.*Put it back", response.json()["detail"])
    (labelled.folder / "moved.tlf").rename(path)
    assert labelled.post("/app/save", json={}).status_code == 200


def test_nearest_training_images_have_their_current_labels(labelled, folder):
    def list_labels():
        (answer,) = post(labelled, folder / "new-0.png").json()["images"]
        return {neighbor["row"]: neighbor["label"] for neighbor in answer["neighbors"]}

    row, label = next(iter(list_labels().items()))
    other = "stripes" if label == "disc" else "disc"
    labelled.post("/app/labels", json={"rows": [row], "label": other})
    assert list_labels()[row] == other
    labelled.post("/app/undo", json={})
    assert list_labels()[row] == label


def test_suspected_labels_are_listed(labelled):
    answer = labelled.get("/app/labels?choice=suspected").json()
    assert answer["total"] == len(answer["images"])
    assert {0, 23} <= {image["row"] for image in answer["images"]}  # their labels are wrong
    assert all(image["note"].startswith("probably ") for image in answer["images"])


def test_labels_of_other_models_cannot_be_changed(folder, tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    model = ServedModel(folder / "shapes.tlf", batch_size=4)  # without training images
    with TestClient(
        make_service(model, with_page=True, journal=journal), base_url="http://localhost"
    ) as client:
        assert 'href="#label"' not in client.get("/").text
        assert client.get("/app/labels").status_code == 404
    journal.close()


def test_journal_is_used_by_one_process(tmp_path):
    journal = Journal(tmp_path / "labels.jsonl")
    with pytest.raises(JournalError, match="Another process uses the journal of labels"):
        Journal(tmp_path / "labels.jsonl")
    journal.close()
    Journal(tmp_path / "labels.jsonl").close()


def test_journal_that_cannot_be_opened_names_the_option(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "labels.jsonl")
    for path, reason in (
        (tmp_path, "is a directory"),
        (tmp_path / "missing" / "labels.jsonl", "no such file or directory"),
        (tmp_path / "link.jsonl", "it is a symbolic link"),
    ):
        with pytest.raises(JournalError, match=f"{reason}.*Pass another --journal"):
            Journal(path)
    assert not (tmp_path / "labels.jsonl").exists()


def test_journal_needs_training_images(folder, capsys):
    assert main(["app", str(folder / "shapes.tlf"), "--journal", "labels.jsonl"]) == 2
    assert "--journal needs --data" in capsys.readouterr().err


def test_second_page_on_the_same_journal_is_refused(folder, tmp_path, capsys):
    options = ["--data", str(folder / "data"), "--journal", str(tmp_path / "labels.jsonl"), "--port", "0"]
    with Journal(tmp_path / "labels.jsonl"):
        assert main(["app", str(folder / "shapes.tlf"), *options]) == 1
    assert "Another process uses the journal of labels" in capsys.readouterr().err


def test_journal_without_its_last_line_end_keeps_the_other_lines(tmp_path):
    path = tmp_path / "labels.jsonl"
    journal = Journal(path)
    for i in range(3):
        journal.append({"i": i, "name": "é\n"})
    journal.close()
    complete = path.read_bytes()
    lengths = [i + 1 for i, byte in enumerate(complete) if byte == 10]
    for cut in range(len(complete) + 1):
        path.write_bytes(complete[:cut])
        journal = Journal(path)
        n = sum(length <= cut for length in lengths)
        assert [entry["i"] for entry in journal.entries] == list(range(n))
        journal.append({"i": 9})
        journal.close()
        journal = Journal(path)
        assert [entry["i"] for entry in journal.entries] == [*range(n), 9]
        journal.close()
    path.write_bytes(b"{damaged\n" + complete)
    with pytest.raises(JournalError, match="Line 1 of the journal of labels"):
        Journal(path)


def test_changes_that_cannot_be_written_name_the_reason(labelled, monkeypatch):
    labelled.post("/app/labels", json={"rows": [0], "label": "disc"})
    written = (labelled.folder / "labels.jsonl").read_bytes()

    def fail(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        for path, content in (("labels", {"rows": [23], "label": "stripes"}), ("undo", {})):
            response = labelled.post(f"/app/{path}", json=content)
            assert response.status_code == 500
            assert re.search(r"labels\.jsonl.*No space left.*repeat the change", response.json()["detail"])
    assert read_labels(labelled) == ["disc"] * 12 + ["stripes"] * 11 + ["disc"]
    assert (labelled.folder / "labels.jsonl").read_bytes() == written
    labelled.post("/app/retrain", json={})
    assert wait_for_training(labelled)["state"] == "finished"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        response = labelled.post("/app/save", json={})
    assert response.status_code == 500
    assert re.search(r"shapes-labels-1\.tlf.*No space left.*save it again", response.json()["detail"])
    assert sorted(path.name for path in labelled.folder.iterdir()) == ["labels.jsonl", "shapes.tlf"]


@pytest.mark.parametrize("content", [b"no line end", b'{"a": 1}\nmy notes', b"PK\n\0", b'{"i": 1}\n[2]\n{"i'])
def test_other_files_are_not_journals_and_stay_as_they_are(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"is not a change of labels.*pass another --journal"):
            Journal(path)
    assert path.read_bytes() == content


def test_lines_of_a_dataset_are_not_changes_of_labels(labelled):
    path = labelled.folder / "data.jsonl"
    path.write_text('{"undo": true}\n{"path": "a.png", "label": "disc"}\n')
    with (
        Journal(path) as journal,
        pytest.raises(JournalError, match=r"Line 2 of the journal of labels .*data\.jsonl"),
    ):
        Labels(labelled.model, journal)


@pytest.mark.slow
def test_kill_loses_no_change_that_was_written(tmp_path):
    code = f"""
from tlfeatures.app import Journal
journal, i = Journal({str(tmp_path / "labels.jsonl")!r}), 0
while True:
    journal.append({{"i": i}})
    print(i, flush=True)
    i += 1
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(50):
            process.stdout.readline()
        with pytest.raises(JournalError):
            Journal(tmp_path / "labels.jsonl")
        process.kill()
        last = 49 + len(process.stdout.read().split())
    journal = Journal(tmp_path / "labels.jsonl")
    entries = [entry["i"] for entry in journal.entries]
    assert entries == list(range(len(entries))) and len(entries) in (last + 1, last + 2)
    journal.close()


# --- in a browser


@contextlib.contextmanager
def run_page(model, journal=None):
    """Run the page in a thread; yield its address."""
    server = make_server(make_service(model, with_page=True, journal=journal), Limits())
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.fixture(scope="module")
def url(model):
    """The address of the page."""
    with run_page(model) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium, such as Debian's package")
    options = ["--disable-dev-shm-usage"]  # shared memory is small in containers
    options += ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=chromium, args=options, timeout=120_000)
        except playwright.Error as error:
            pytest.skip(f"Chromium cannot start on this machine: {error}")
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, 800), (360, 740)], ids=["wide", "narrow"])
def page(browser, url, request):
    """The page; fails the test on messages of the console and requests to other hosts."""
    context = browser.new_context(viewport={"width": request.param[0], "height": request.param[1]})
    page, messages, requests = context.new_page(), [], []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda each: requests.append(each.url))
    page.goto(url)
    yield page
    assert [text for text in messages if "status of 413" not in text] == []
    assert [
        each for each in requests if not each.startswith(("http://127.0.0.1:", "blob:", "data:", "about:"))
    ] == []
    context.close()


def wait(page, expression, arg=None):
    """Wait for an expression; Playwright's own function needs eval, which the page forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def check_layout(page):
    """Check that nothing is cut off at the right, and that axe finds no serious fault."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="needs axe-core-python").Axe()
    faults = [
        (fault["id"], [node["html"] for node in fault["nodes"]])
        for fault in axe.run(page)["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []


@pytest.mark.slow
def test_one_image(page, folder, model):
    check_layout(page)
    page.set_input_files("#files", folder / "new-0.png")
    page.wait_for_selector("#bars li")
    expected = model.predict([(folder / "new-0.png").read_bytes()])[0]
    assert page.inner_text("#prediction") == expected["prediction"]
    first = next(iter(expected["probabilities"].values()))
    assert page.inner_text("#bars li:first-child .value") == f"{100 * first:.1f}%"
    assert all(name in page.inner_text("#set") for name in expected["set"])
    assert page.is_visible("#unusual") == expected["unusual"]
    assert page.locator("#neighbor-tiles li").count() == 6
    wait(page, "[...document.querySelectorAll('#neighbor-tiles img')].some((i) => i.naturalWidth === 160)")
    wait(page, "document.getElementById('canvas').dataset.heat === ''")  # the image is drawn
    before = page.evaluate("document.getElementById('canvas').toDataURL()")
    page.check("#heat")
    wait(page, "document.getElementById('canvas').dataset.heat !== ''")
    blended = page.evaluate("document.getElementById('canvas').toDataURL()")
    assert blended != before and "support" in page.inner_text("#heat-note")
    page.select_option("#heat-label", "stripes")
    wait(page, "document.getElementById('canvas').dataset.heat === 'stripes'")
    check_layout(page)
    page.focus("#opacity")
    page.keyboard.press("Home")  # transparent
    wait(page, "(before) => document.getElementById('canvas').toDataURL() === before", arg=before)
    page.emulate_media(color_scheme="dark")
    check_layout(page)
    page.click("nav a[href='#model']")
    assert "tiny" in page.inner_text("#model") and not page.is_visible("#predict")
    check_layout(page)


@pytest.mark.slow
def test_answers_of_other_models(page, folder):
    """Classes that are not text, decision values beside sets, empty sets, and neighbors without label."""

    def answer(**result):
        content = json.dumps({"images": [{"name": "a.png", "error": None, **result}]})
        page.unroute("**/app/predict")
        page.route(
            "**/app/predict", lambda route: route.fulfill(content_type="application/json", body=content)
        )
        page.set_input_files("#files", folder / "new-0.png")
        wait(page, f"document.getElementById('prediction').textContent === '{result['prediction']}'")

    floats = (
        '{"name": "a.png", "prediction": 1.0, "probabilities": {"1.0": 0.625, "0.0": 0.375}, "error": null}'
    )
    shares = {"11": 0.5, "7": 0.3, **{str(i): 0.02 for i in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)}}
    neighbor = {"row": 0, "name": "a.png", "label": None, "similarity": 0.5}
    answer(prediction=11, probabilities=shares, neighbors=[neighbor])
    names = page.locator("#bars li > span:first-child").all_inner_texts()
    assert names[:3] == ["11", "7", "0"] and len(names) == 10
    assert page.get_attribute("#neighbor-tiles img", "alt") == "Training image of no class"
    answer(prediction="cat", set=["cat", "dog"], p_value=0.5, decision=-1.25)
    text = page.inner_text("#set")
    assert text.startswith("Not sure: cat, dog cannot be excluded") and text.endswith(
        "Decision value: -1.25."
    )
    answer(prediction=False, probabilities={"False": 0.75, "True": 0.25})
    wait(page, "document.querySelector('#rows tr:last-child td:nth-child(4)').textContent === '75.0%'")
    assert page.inner_text("#rows tr:last-child td:nth-child(3)") == "False"
    answer(prediction=123456, probabilities={"123456": 1})
    page.route("**/app/predict", lambda route: route.fulfill(body='{"images": [' + floats + "]}"))
    page.set_input_files("#files", folder / "new-0.png")
    wait(page, "document.querySelector('#rows tr:last-child td:nth-child(4)').textContent === '62.5%'")
    answer(prediction="dog", set=[], p_value=0.01)
    assert page.inner_text("#set").startswith("Not sure: all classes can be excluded")


@pytest.mark.slow
def test_many_images(page, folder, tmp_path):
    (tmp_path / "=notes.txt").write_text("not an image")
    paths = [*sorted(folder.glob("new-*.png")), tmp_path / "=notes.txt"]
    page.set_input_files("#files", paths)
    wait(page, "document.getElementById('status').textContent.includes('3 of 4 images predicted')")
    assert "not an image in a known format" in page.inner_text("#status")
    rows = page.locator("#rows tr")
    assert rows.count() == 4
    page.click("#heads button:has-text('probability')")
    texts = [text for text in page.locator("#rows tr td:nth-child(4)").all_inner_texts() if text]
    values = [float(text.rstrip("%")) for text in texts]
    assert len(values) == 3 and values == sorted(values)
    assert page.get_attribute("#heads th[data-key=probability]", "aria-sort") == "ascending"
    page.keyboard.press("Enter")  # the heading has the focus
    assert page.get_attribute("#heads th[data-key=probability]", "aria-sort") == "descending"
    page.click("#rows button.name:has-text('new-1.png')")
    wait(page, "document.getElementById('caption').textContent === 'new-1.png'")
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert table[0][:3] == ["file", "prediction", "probability"] and len(table) == 5
    assert "'=notes.txt" in [row[0] for row in table]  # no formula of a spreadsheet
    check_layout(page)
    page.click("#clear")
    assert not page.is_visible("#many") and not page.is_visible("#detail")


@pytest.mark.slow
def test_drop_and_paste(page, client, folder):
    (expected,) = post(client, folder / "new-1.png").json()["images"]
    content = list((folder / "new-1.png").read_bytes())
    for kind, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([bytes, kind, field]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, { type: "image/png" }));
              const event = kind === "drop"
                ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
              document.dispatchEvent(event);
            }""",
            [content, kind, field],
        )
        wait(page, "(name) => document.getElementById('caption').textContent === name", arg=f"{kind}.png")
        wait(page, "document.querySelectorAll('#bars li').length === 2")
        assert page.inner_text("#prediction") == expected["prediction"]


@pytest.mark.slow
def test_keyboard_alone(page, folder):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#predict"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model:not([hidden])")
    page.goto(page.url.partition("#")[0])
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.slow
def test_service_that_does_not_answer_is_named(page, folder):
    page.route(
        "**/app/predict",
        lambda route: route.fulfill(
            status=413,
            content_type="application/problem+json",
            body='{"detail": "Too large. Send fewer images."}',
        ),
    )
    page.set_input_files("#files", folder / "new-0.png")
    wait(page, "document.getElementById('status').textContent.includes('Send fewer images')")
    page.unroute("**/app/predict")
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('failed')); }")
    page.set_input_files("#files", folder / "new-1.png")
    wait(page, "document.getElementById('status').textContent.includes('Check that it still runs')")
    assert page.inner_text("#prediction").startswith("The service does not answer.")
    assert page.inner_text("#caption") == "new-1.png"


@pytest.mark.slow
def test_correct_a_label_by_keyboard(page, folder, tmp_path):
    shutil.copy(folder / "shapes.tlf", tmp_path)
    model = ServedModel(tmp_path / "shapes.tlf", batch_size=4)
    source = read_source(str(folder / "data"))
    source.y[0] = "stripes"
    model.load_training_images(source, cache=None)
    journal = Journal(tmp_path / "labels.jsonl")
    with run_page(model, journal) as url:
        page.goto(f"{url}/#label")
        wait(page, "document.querySelectorAll('#grid li').length === 24")
        check_layout(page)
        page.focus("#grid li:first-child button")
        page.keyboard.press("1")
        wait(page, "document.getElementById('label-status').textContent.includes('1 label changed')")
        assert page.inner_text("#grid li:first-child .changed") == "disc (was stripes)"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.keyboard.press("2")
        wait(page, "document.getElementById('label-status').textContent.includes('3 labels changed')")
        page.keyboard.press("u")
        wait(page, "document.getElementById('label-status').textContent.includes('was undone')")
        page.reload()
        wait(page, "document.querySelectorAll('#grid .changed').length === 1")
        page.click("#retrain")
        wait(page, "document.getElementById('scores').textContent.includes('before the changes')")
        page.click("#save")
        wait(page, "document.getElementById('label-status').textContent.includes('shapes-labels-1.tlf')")
        with page.expect_download() as download:
            page.click("a[href='/app/labels.csv']")
        text = open(download.value.path(), encoding="utf-8").read()  # noqa: SIM115
        assert text.splitlines()[1].endswith("disc,stripes")
        page.select_option("#choice", "changed")
        wait(page, "document.querySelectorAll('#grid li').length === 1")
        page.select_option("#choice", "next")
        wait(page, "document.getElementById('label-status').textContent.includes('There are no such images')")
        check_layout(page)
        page.goto("about:blank")
    journal.close()
    assert len(load_model(tmp_path / "shapes-labels-1.tlf").classes) == 2
