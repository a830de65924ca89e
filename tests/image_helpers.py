"""Helpers for tests of images: encoding, decoding in one call, arrays on disk."""

from __future__ import annotations

import io
import pathlib
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.warning_helpers import warnings_as_errors
from tlfeatures.errors import ImageReadError, LowContrastImagesWarning
from tlfeatures.images import Decoder, Images

SHARED = pathlib.Path(__file__).parents[1].parent / "shared"
D = Decoder((8, 6))
QUADRANTS = np.zeros((16, 12, 3), np.uint8)
QUADRANTS[:8, :6], QUADRANTS[8:, :6], QUADRANTS[:8, 6:], QUADRANTS[8:, 6:] = (
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [200, 200, 200],
)
SAMPLE = Image.fromarray(QUADRANTS)
RESIZED_SAMPLE = np.asarray(SAMPLE.resize((6, 8), Image.Resampling.BILINEAR)).astype(int)
# Transposition that undoes each EXIF orientation.
INVERSE_TRANSPOSITION = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


def encode(im, fmt, **options):
    out = io.BytesIO()
    (im if isinstance(im, Image.Image) else Image.fromarray(im)).save(out, fmt, **options)
    return out.getvalue()


def pixels(X, decoder=D, i=0):
    return Images.of(X).decode(i, decoder)[1].astype(int)


def photo(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(
        0, 256, (max(2, height // 9), max(2, width // 9), 3), np.uint8
    )
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(width, height, bits, color, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def reason(X, i=0):
    with pytest.raises(ImageReadError) as caught:
        Images.of(X).decode(i, D)
    assert isinstance(caught.value, OSError)
    return caught.value.reason


def python(code, *args, timeout=240):
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout, check=False)


class Rows:
    """Array on disk with the interface of h5py and zarr, which counts the rows that are read."""

    def __init__(self, array):
        self.array, self.read = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, i):
        self.read += 1
        return self.array[i]


@pytest.fixture(autouse=True)
def quiet():
    """Turn unexpected warnings into errors."""
    with warnings_as_errors():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", LowContrastImagesWarning)  # many tests decode images of one color
        yield
