"""Draw the maps of docs/trust.md: a model that looks at scratches, and one that looks at a sticker.

    python docs/images/explain.py

Plates are drawn, with and without a scratch. In the second set of training images, plates with a scratch also have a
sticker. No download is needed: the network is "tiny".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, explain
from tlfeatures.heads import make_head

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 240, 180


def draw_plate(seed: int, scratch: bool, sticker: bool) -> np.ndarray:
    """Draw a grey plate, uint8 (180, 240, 3)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 14, (HEIGHT, WIDTH)).cumsum(axis=1)
    noise = 130 + 12 * (noise - noise.mean()) / noise.std() + rng.normal(0, 2, (HEIGHT, WIDTH))
    image = Image.fromarray(noise.clip(0, 255).astype("uint8")).filter(ImageFilter.BoxBlur(1)).convert("RGB")
    pen = ImageDraw.Draw(image)
    for x, y in ((16, 16), (224, 16), (16, 164), (224, 164)):
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), (70, 70, 75), (40, 40, 45))
    if scratch:
        x, y, angle = rng.uniform(70, 170), rng.uniform(55, 125), rng.uniform(0.2, 1.3)
        dx, dy = 34 * np.cos(angle), 34 * np.sin(angle)
        middle = (x + rng.uniform(-5, 5), y + rng.uniform(-5, 5))
        pen.line(((x - dx, y - dy), middle, (x + dx, y + dy)), (225, 225, 230), 3)
    if sticker:
        x, y = 186 + rng.integers(-6, 6), 40 + rng.integers(-4, 4)
        pen.rounded_rectangle((x, y, x + 30, y + 22), 4, (235, 200, 60))
        pen.line((x + 5, y + 8, x + 25, y + 8), (90, 70, 20), 2)
        pen.line((x + 5, y + 14, x + 19, y + 14), (90, 70, 20), 2)
    return np.asarray(image)


def main() -> None:
    """Fit both models, and write one PNG file each."""
    y = np.array(["intact", "scratched"] * 40)
    cnn = CNNFeatures("tiny", image_size=(144, 192), cache=None)
    for name, with_sticker, shown in (
        ("explain-scratch", lambda i: i % 4 > 1, draw_plate(900, True, True)),
        ("explain-sticker", lambda i: i % 2 == 1, draw_plate(901, False, True)),
    ):
        X = np.stack([draw_plate(i, i % 2 == 1, with_sticker(i)) for i in range(len(y))])
        model = make_pipeline(cnn, make_head("logreg")).fit(X, y)
        result = explain(model, shown[None], X_train=X, y_train=y)
        image = result.draw(0).quantize(192, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
