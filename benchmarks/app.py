"""`tlfeatures app`: first prediction, training of the head on 5,000 stored embeddings, and kills while labels change.

    python benchmarks/app.py [--quick] [--part retrain|labels]

All times are those of a client: requests over HTTP to the page's process. A click on "Train the head again" and the
first prediction of the new head are two requests. Further clicks follow while the model's own head, a support vector
machine with calibration, is trained in the background. Labels are changed as fast as possible until the process is
killed; after a restart, each change that was confirmed must be there.
"""

from __future__ import annotations

import csv
import html
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from _common import arguments, mobilenet_weights, photographs, progress, report

TARGETS = {
    "first_prediction_s": ("<=", 0.2),
    "click_to_predictions_s": ("<=", 1.0),
    "confirmed_but_lost": ("<=", 0),
    "unconfirmed_but_kept": ("<=", 1),
    "second_instance_refused": (">=", 1),
}
PARTS = ("retrain", "labels")
CODE = "import sys; from tlfeatures.cli import main; sys.exit(main())"


class Page:
    """The process of a page, and a client of it."""

    def __init__(self, folder: str) -> None:
        progress("starting the page")
        command = [sys.executable, "-c", CODE, "app", f"{folder}/model.joblib"]
        command += ["--data", f"{folder}/images.csv", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        settings = re.search('data-settings="([^"]+)"', self.request("/").decode())[1]
        self.token = json.loads(html.unescape(settings))["csrf"]

    def request(self, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """Send a request; return the body of the answer."""
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, body, headers), timeout=600
        ) as answer:
            return answer.read()

    def change(self, path: str, **content: Any) -> Any:
        """Send a request that changes something."""
        headers = {"Content-Type": "application/json", "X-CSRF-Token": self.token}
        return json.loads(self.request(f"/app/{path}", json.dumps(content).encode(), **headers))

    def predict(self, image: bytes) -> Any:
        """Predict for an image as the page does."""
        disposition = b'Content-Disposition: form-data; name="file"; filename="a.jpg"'
        body = b"--benchmark\r\n%b\r\n\r\n%b\r\n--benchmark--\r\n" % (disposition, image)
        kind = "multipart/form-data; boundary=benchmark"
        return json.loads(self.request("/app/predict", body, **{"Content-Type": kind}))["images"][0]

    def state(self) -> Any:
        """Return the state of the training."""
        return json.loads(self.request("/app/retrain"))

    def kill(self) -> None:
        """Kill the process with signal 9."""
        self.process.kill()
        self.process.communicate()


def make_model(folder: str, cnn: Any, head: Any, paths: list[str], labels: list[str], n: int) -> None:
    """Fit a head on the first images, save the pipeline, and store the embeddings of all images."""
    from tlfeatures.calibration import fit_calibrated_pipeline
    from tlfeatures.features import embed
    from tlfeatures.saved_models import save_pipeline

    progress(f"embeddings of {len(paths)} images")
    extracted = embed(cnn.fit(paths[:1]), paths)
    pipeline = fit_calibrated_pipeline(
        cnn, head, extracted.features[:n], np.array(labels[:n]), extracted.keys[:n]
    )
    save_pipeline(pipeline, f"{folder}/model.joblib")
    with open(f"{folder}/images.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *zip(paths, labels, strict=True)])


def measure_retraining(folder: str, quick: bool) -> dict[str, float]:
    """Measure the first prediction, and the training of the head."""
    from tlfeatures import CNNFeatures
    from tlfeatures.heads import make_head

    n_images, n_classes = (120, 4) if quick else (5000, 37)
    if quick:
        cnn = CNNFeatures("tiny", image_size=32, cache=f"{folder}/store")
    else:
        cnn = CNNFeatures("mobilenet_0.75", weights=mobilenet_weights(folder), cache=f"{folder}/store")
    paths = photographs(f"{folder}/images", n_images, (120, 90), classes=n_classes)
    labels = [f"class {i % n_classes:02}" for i in range(n_images)]
    make_model(folder, cnn, make_head("svm"), paths, labels, 10 * n_classes)
    image = Path(photographs(f"{folder}/new", 1)[0]).read_bytes()
    page = Page(folder)
    clicks, seconds = [], []
    try:
        for _ in range(5):
            start = time.perf_counter()
            page.predict(image)
            seconds.append(time.perf_counter() - start)
        for i in range(4):
            page.change("labels", rows=[i], label="class 03")
            start = time.perf_counter()
            page.change("retrain")
            page.predict(image)
            clicks.append(time.perf_counter() - start)
            progress(f"click {i + 1}: {clicks[-1]:.2f} s")
        progress("the model's own head")
        while page.state()["state"] in ("training", "comparing"):
            time.sleep(0.2)
        state = page.state()
        if state["state"] != "finished":
            raise SystemExit(state["error"])
    finally:
        page.kill()
    return {
        "first_prediction_s": seconds[0],
        "later_predictions_s": statistics.median(seconds[1:]),
        "embeddings": n_images,
        "click_to_predictions_s": clicks[0],
        "click_while_training_s": statistics.median(clicks[1:]),
        "own_head_s": state["seconds"],
        "accuracy_before": state["scores"]["before"],
        "accuracy_after": state["scores"]["after"],
    }


def measure_kills(folder: str, n_kills: int) -> dict[str, float]:
    """Kill the process while labels change, and count the changes that a restart does not show."""
    from sklearn.linear_model import LogisticRegression

    from tlfeatures import CNNFeatures

    paths = photographs(f"{folder}/images", 40, (64, 48), classes=2)
    labels = ["b"] * 39 + ["a"]
    cnn = CNNFeatures("tiny", image_size=32, cache=f"{folder}/store")
    make_model(folder, cnn, LogisticRegression(), paths, ["a", "b"] * 20, 40)
    with open(f"{folder}/images.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *zip(paths, labels, strict=True)])
    journal, lost, kept, confirmed, refused = Path(f"{folder}/model.joblib.labels.jsonl"), 0, 0, 0, 0
    rng = np.random.default_rng(0)
    for i in range(n_kills):
        page = Page(folder)
        n_before = len(journal.read_bytes().splitlines())
        shown = json.loads(page.request("/app/labels?choice=all&size=200"))["images"]
        lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
        if lines:  # what the last process confirmed last is shown
            last = lines[-1]["label"]
            lost += sum(image["label"] != last for image in shown if image["row"] == 0)
        if i == 0:
            command = [sys.executable, "-c", CODE, "app", f"{folder}/model.joblib"]
            second = subprocess.run(
                [*command, "--data", f"{folder}/images.csv", "--port", "0"], capture_output=True, text=True
            )
            refused = int(second.returncode != 0 and "Another process uses the journal" in second.stderr)
        timer = threading.Timer(rng.uniform(0.2, 1), page.process.kill)
        timer.start()
        confirmed = 0
        try:
            while True:
                page.change("labels", rows=[0], label="ab"[confirmed % 2])
                confirmed += 1
        except (OSError, http.client.HTTPException):  # the process was killed
            page.kill()
        complete = journal.read_bytes().count(b"\n") - n_before
        lost += max(0, confirmed - complete)
        kept = max(kept, complete - confirmed)
        progress(f"kill {i + 1}: {confirmed} changes were confirmed, {complete} are in the journal")
    return {
        "kills": n_kills,
        "confirmed_before_last_kill": confirmed,
        "confirmed_but_lost": lost,
        "unconfirmed_but_kept": kept,
        "second_instance_refused": refused,
    }


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__, "app")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="what to measure; by default everything"
    )
    args = parser.parse_args()
    figures: dict[str, float] = {}
    for part in args.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            if part == "retrain":
                figures |= measure_retraining(folder, args.quick)
            else:
                figures |= measure_kills(folder, 1 if args.quick else 10)
    report("app", args, figures, TARGETS)


if __name__ == "__main__":
    main()
