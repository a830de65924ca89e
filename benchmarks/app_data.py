"""The page with 50,000 training images in Chromium: frames while the grid scrolls, and while the map moves and zooms.

    python benchmarks/app_data.py [--quick]

Chromium draws without a graphics card, on the same cores as the service, whose checks of the images run meanwhile. A
frame is the time between two calls of requestAnimationFrame while the mouse moves or its wheel turns; 16.7 ms is the
rate of the screen. ``pan_draw_ms`` and ``zoom_draw_ms`` are the part of a frame in which the page draws the map. Needs
playwright and Chromium, such as Debian's package.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import arguments, progress, report
from sklearn.pipeline import make_pipeline

TARGETS = {
    "pan_percentile_95_ms": ("<=", 34),
    "zoom_percentile_95_ms": ("<=", 34),
    "scroll_percentile_95_ms": ("<=", 34),
    "cells": ("<=", 150),
}
N_CLASSES = 6
RECORDER = """
const next = window.requestAnimationFrame.bind(window);
window.frames_ = [];
window.work_ = [];
window.requestAnimationFrame = (draw) => next((time) => {
  const start = performance.now();
  draw(time);
  window.work_.push(performance.now() - start);
});
const record = (time) => { window.frames_.push(time); next(record); };
next(record);
"""


def make_model(folder: Path, n: int) -> Any:
    """Draw images of noise around the colors of their classes, fit a head, and compute the embeddings."""
    from tlfeatures import CNNFeatures
    from tlfeatures.app import ServedModel
    from tlfeatures.heads import make_head
    from tlfeatures.saved_models import save_pipeline
    from tlfeatures.sources import Source

    rng = np.random.default_rng(0)
    codes = rng.integers(N_CLASSES, size=n)
    colors = rng.integers(60, 200, (N_CLASSES, 1, 1, 3))
    images = np.clip(colors[codes] + rng.normal(0, 30, (n, 24, 24, 3)), 0, 255).astype("uint8")
    labels = np.array([f"class {code}" for code in codes])
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=32, cache=None), make_head("ridge"))
    save_pipeline(pipeline.fit(images[:500], labels[:500]), folder / "model.tlf")
    model = ServedModel(folder / "model.tlf")
    progress(f"embeddings of {n:,} images")
    names = [f"{label}/{i:06}.png" for i, label in enumerate(labels)]
    model.load_training_images(Source(images, labels, None, None, names, "hdf5"), cache=None)
    return model


def wait(page: Any, expression: str, limit: float = 900) -> float:
    """Wait for an expression of JavaScript; return the seconds."""
    start = time.perf_counter()
    while not page.evaluate(expression):
        if time.perf_counter() - start > limit:
            raise SystemExit(f"not within {limit} s: {expression}")
        page.wait_for_timeout(20)
    return time.perf_counter() - start


def record(page: Any, name: str, action: Callable[[], None]) -> dict[str, float]:
    """Return median and percentiles of the frames during an action."""
    progress(name)
    page.evaluate("() => { window.frames_.length = 0; window.work_.length = 0; }")
    action()
    frames = np.diff(page.evaluate("window.frames_"))
    work = page.evaluate("window.work_")
    figures = {
        f"{name}_median_ms": float(np.median(frames)),
        f"{name}_percentile_95_ms": float(np.percentile(frames, 95)),
        f"{name}_largest_ms": float(frames.max()),
    }
    return figures | ({f"{name}_draw_ms": float(np.median(work))} if work else {})


def measure_page(page: Any, url: str, n_steps: int) -> dict[str, float]:
    """Open the view of the data, and move as a user does."""
    start = time.perf_counter()
    page.goto(f"{url}/#data")
    wait(page, "document.querySelectorAll('#cells [role=option]').length > 3")
    figures = {"open_s": time.perf_counter() - start}
    progress("map")
    wait(page, "!document.getElementById('map-pane').hidden")
    figures["map_s"] = time.perf_counter() - start
    cells = page.locator("#cells").bounding_box()
    page.mouse.move(cells["x"] + 50, cells["y"] + 50)
    counts = []

    def scroll() -> None:
        for i in range(n_steps):
            page.mouse.wheel(0, 120 if i % 3 else 2400)
            counts.append(page.evaluate("document.querySelectorAll('#cells [role=option]').length"))

    figures |= record(page, "scroll", scroll)
    figures["cells"] = max(counts)
    box = page.locator("#map").bounding_box()
    center = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def pan() -> None:
        page.mouse.move(*center)
        page.mouse.down()
        for i in range(n_steps):
            page.mouse.move(center[0] + 80 * np.sin(i / 9), center[1] + 60 * np.cos(i / 7))
        page.mouse.up()

    def zoom() -> None:
        for i in range(n_steps):
            page.mouse.wheel(0, -40 if i < n_steps / 2 else 40)

    figures |= record(page, "pan", pan)
    figures |= record(page, "zoom", zoom)
    page.click("#zoom-all")
    page.click("#rectangle")
    start = time.perf_counter()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)
    page.mouse.up()
    wait(page, "document.getElementById('data-status').textContent.includes('chosen')")
    return figures | {"choose_all_s": time.perf_counter() - start}


def main() -> None:
    """Run the page in a thread, and Chromium in another process."""
    args = arguments(__doc__, "app_data").parse_args()
    from playwright.sync_api import sync_playwright

    from tlfeatures.app import Limits, make_service
    from tlfeatures.app._server import make_server

    n, n_steps = (500, 20) if args.quick else (50_000, 200)
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as sock:
        server = make_server(make_service(make_model(Path(name), n), with_page=True), Limits())
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        with sync_playwright() as driver:
            options = ["--disable-gpu", "--disable-dev-shm-usage"]
            options += ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=options)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.set_default_timeout(900_000)
            page.add_init_script(RECORDER)
            figures = {
                "images": n,
                **measure_page(page, f"http://127.0.0.1:{sock.getsockname()[1]}", n_steps),
            }
            version = browser.version
            browser.close()
        server.should_exit = True
        thread.join()
    report("app_data", args, figures, TARGETS, chromium=version)


if __name__ == "__main__":
    main()
