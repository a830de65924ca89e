"""The script beside an exported model: the reference implementation of its preprocessing."""

from __future__ import annotations

import re

from tlfeatures.images import Decoder

__all__ = ["make_script"]

_SIZES = {  # the size to which the upright image (w, h) is resized
    "stretch": "WIDTH, HEIGHT",
    "crop": "max(WIDTH, round(w * (s := max(WIDTH / w, HEIGHT / h)))), max(HEIGHT, round(h * s))",
    "pad": "min(WIDTH, max(1, round(w * (s := min(WIDTH / w, HEIGHT / h))))), min(HEIGHT, max(1, round(h * s)))",
}
_RESIZES = {
    "stretch": "    return np.asarray(image.resize((WIDTH, HEIGHT), FILTER))\n",
    "crop": """\
    w, h = image.size
    s = max(WIDTH / w, HEIGHT / h)
    left, top = (w - WIDTH / s) / 2, (h - HEIGHT / s) / 2
    box = max(0, left), max(0, top), min(w, left + WIDTH / s), min(h, top + HEIGHT / s)
    return np.asarray(image.resize((WIDTH, HEIGHT), FILTER, box))
""",
    "pad": """\
    w, h = image.size
    w, h = {size}
    black = Image.new("RGB", (WIDTH, HEIGHT))
    black.paste(image.resize((w, h), FILTER), ((WIDTH - w) // 2, (HEIGHT - h) // 2))
    return np.asarray(black)
""",
}
_DRAFT = """\
    if image.format in ("JPEG", "MPO"):  # large photographs are decoded at a reduced size
        turned = image.getexif().get(0x0112, 1) > 4  # the EXIF orientation exchanges width and height
        w, h = image.size[::-1] if turned else image.size
        w, h = {size}
        image.draft("RGB", (2 * h, 2 * w) if turned else (2 * w, 2 * h))
"""
_SCRIPT = '''\
"""Predict with the model in the .onnx file beside this script: python {name} IMAGE ..."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HEIGHT, WIDTH, FILTER = {height}, {width}, Image.Resampling.{filter}


def load(path):
    """Read an image as the model needs it: upright, RGB, uint8 of shape (HEIGHT, WIDTH, 3)."""
    image = Image.open(path)
{draft}    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        raise ValueError(f"{{path}}: more than 8 bits per channel; {deep}")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    image = image.convert("RGB")
{resize}

def predict(paths):
    """Return the outputs of the model by name; normalization is part of the model."""
    session = onnxruntime.InferenceSession(Path(__file__).with_suffix(".onnx"))
    values = session.run(None, {{"pixels": np.stack([load(path) for path in paths])}})
    return dict(zip([output.name for output in session.get_outputs()], values))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    outputs = predict(sys.argv[1:])
    for i, path in enumerate(sys.argv[1:]):
        print(path, *[value[i] for value in outputs.values()], sep="\\t")
'''


def make_script(decoder: Decoder, name: str) -> str:
    """Return the source code of a script that reads images as ``decoder`` does, except for DICOM and 16-bit images.

    Parameters
    ----------
    decoder : Decoder
    name : str
        File name of the script.
    """
    height, width = decoder.image_size
    size = _SIZES[decoder.resize]
    if decoder.window is not None:
        deep = f"first convert the values with the window {decoder.window} (center, width) to 8 bits"
    else:
        deep = f"first divide the values by {(decoder.max_value or 65535) / 255:g}"
    return _SCRIPT.format(
        name=name if re.fullmatch(r"[\w .-]+", name) else "SCRIPT.py",
        height=height,
        width=width,
        filter=decoder.interpolation.upper(),
        draft=_DRAFT.format(size=size) if decoder.decode == "scaled" else "",
        deep=deep,
        resize=_RESIZES[decoder.resize].format(size=size),
    )
