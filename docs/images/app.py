"""Make the images of docs/app.md: the page of a model that finds scratches on drawn plates.

    python docs/images/app.py

Needs `pip install 'tlfeatures[app]' playwright` and Chromium, but no download: the network is "tiny".
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from explain import draw_plate
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, ConformalClassifier
from tlfeatures.app import Journal, Limits, ServedModel, make_service
from tlfeatures.app._server import make_server
from tlfeatures.heads import make_head
from tlfeatures.saved_models import save_pipeline
from tlfeatures.sources import read_source

FOLDER = Path(__file__).parent
COLORS = 112


def save(page: Page, name: str) -> None:
    """Save what the window shows as a small PNG file."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
    image = image.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(FOLDER / f"{name}.png", optimize=True)


def make_model(folder: Path) -> ServedModel:
    """Draw plates, fit a model and load it; the label of one plate is wrong."""
    for i in range(60):
        name = "scratched" if i % 2 else "intact"
        path = folder / "plates" / name / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_plate(i, i % 2 == 1, i % 4 > 1)).save(path)
    shutil.move(folder / "plates" / "scratched" / "01.png", folder / "plates" / "intact" / "01.png")
    source = read_source(str(folder / "plates"))
    pipeline = make_pipeline(CNNFeatures("tiny", image_size=(144, 192), cache=None), make_head("logreg"))
    conformal = ConformalClassifier(pipeline, error_rate=0.1, cv=5).fit(source.images, source.get_labels())
    save_pipeline(conformal.to_pipeline(), folder / "plates.tlf")
    model = ServedModel(folder / "plates.tlf", batch_size=4)
    model.warm_up()
    model.load_training_images(source, cache=None)
    return model


def show_prediction(page: Page, url: str, image: Path) -> None:
    """Predict for an image, and show its map."""
    page.goto(url)
    page.set_input_files("#files", image)
    page.wait_for_selector("#bars li")
    page.check("#heat")
    page.wait_for_selector("#canvas[data-heat='scratched']")
    page.wait_for_timeout(1000)
    page.evaluate("document.activeElement.blur()")


def main() -> None:
    """Run the page in a thread, and save four images of it."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as sock:
        folder, url = Path(name), f"http://127.0.0.1:{sock.getsockname()[1]}"
        service = make_service(make_model(folder), with_page=True, journal=Journal(folder / "labels.jsonl"))
        Image.fromarray(draw_plate(900, True, True)).save(folder / "new plate.png")
        server = make_server(service, Limits())
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        with sync_playwright() as driver:
            options = ["--no-sandbox"] if os.getuid() == 0 else []
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=options)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            show_prediction(page, url, folder / "new plate.png")
            save(page, "app-predict")
            page.goto(f"{url}/#data")
            page.wait_for_selector("#finding [value=suspected]:not([disabled])", state="attached")
            page.wait_for_timeout(3000)
            page.click("#rectangle")
            box = page.locator("#map").bounding_box()
            page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + 0.1 * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.55 * box["height"], steps=4)
            page.mouse.up()
            page.wait_for_timeout(1000)
            save(page, "app-data")
            page.goto(f"{url}/#label")
            page.select_option("#choice", "suspected")
            page.wait_for_selector("#grid li")
            page.wait_for_timeout(3000)
            page.focus("#grid button")
            page.keyboard.press("2")
            page.wait_for_selector("#grid .changed")
            page.click("#retrain")
            page.wait_for_selector("#save:not([disabled])")
            page.wait_for_selector("#scores:not(:empty)")
            page.wait_for_timeout(5000)
            save(page, "app-label")
            page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
            show_prediction(page, url, folder / "new plate.png")
            save(page, "app-phone")
            browser.close()
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
