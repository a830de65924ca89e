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
    "crop": "    return np.asarray(ImageOps.fit(image, (WIDTH, HEIGHT), FILTER))\n",
    "pad": """\
    w, h = image.size
    w, h = {size}
    black = Image.new("RGB", (WIDTH, HEIGHT))
    black.paste(image.resize((w, h), FILTER), ((WIDTH - w) // 2, (HEIGHT - h) // 2))
    return np.asarray(black)
""",
}
# JPEG files are decoded at a reduced size
_DRAFT_TO_SQUARE = """\
    w, h = image.size
    w, h = {size}
    image.draft("RGB", (2 * w, 2 * h))
"""
_DRAFT = """\
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
    """Read an image as the model needs it: upright, RGB on white, uint8 of shape (HEIGHT, WIDTH, 3)."""
    image = Image.open(path)
{draft}    if image.mode[0] in "IF":
        raise ValueError(f"{{path}}: more than 8 bits per channel; {deep}")
    layer = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.new("RGB", layer.size, "white")
    image.paste(layer, mask=layer)
{resize}

if __name__ == "__main__":
    paths = sys.argv[1:] or sys.exit(__doc__)
    session = onnxruntime.InferenceSession(Path(__file__).with_suffix(".onnx"))
    outputs = session.run(None, {{"pixels": np.stack([load(path) for path in paths])}})
    for row in zip(paths, *(output.tolist() for output in outputs)):
        print(*row, sep="\\t")
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
        draft=_make_draft(decoder).format(size=size),
        deep=deep,
        resize=_RESIZES[decoder.resize].format(size=size),
    )


def _make_draft(decoder: Decoder) -> str:
    """Return the lines by which large photographs are decoded at a reduced size, if the decoder does so."""
    if decoder.decode != "scaled":
        return ""
    if decoder.image_size[0] != decoder.image_size[1]:
        return _DRAFT
    if decoder.resize == "stretch":
        return '    image.draft("RGB", (2 * WIDTH, 2 * HEIGHT))\n'
    return _DRAFT_TO_SQUARE
