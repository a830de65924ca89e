"""Notes on images that can be read but look wrong: 12-bit data in 16 bits, images without contrast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from tlfeatures._warnings import warn
from tlfeatures.errors import LowContrastImagesWarning
from tlfeatures.images._pixels import is_16_bit

__all__ = ["LOW_CONTRAST", "Note", "check_contrast", "check_depth", "warn_of_depth", "warn_of_low_contrast"]

LOW_CONTRAST = "low contrast"
_MIN_LEVELS = 16  # smallest number of levels, of 256, that an image must span
_NAMED = 10  # largest number of images that a warning names


class Note(NamedTuple):
    """Description of what looks wrong with an image that can be read.

    Attributes
    ----------
    kind : {"8-bit", "12-bit", "low contrast"}
    reason : str
    """

    kind: str
    reason: str


def check_depth(a: np.ndarray) -> Note | None:
    """Return a note if 16-bit values use only 12 or 8 bits."""
    high = int(a.max()) if is_16_bit(a) and a.size else 0
    if not 0 < high <= 4095:
        return None
    kind = "12-bit" if high > 255 else "8-bit"
    return Note(kind, f"16-bit image without a value above {high}: this looks like {kind} data")


def check_contrast(pixels: np.ndarray, image: Image.Image) -> Note | None:
    """Return a note if no channel of an image spans 16 levels.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        The resized image. If a sample of it has enough contrast, ``image`` is not examined.
    image : PIL.Image.Image
        The RGB image before resizing.
    """
    sample = pixels[:: len(pixels) // 24 or 1, :: pixels.shape[1] // 24 or 1]
    if int(np.ptp(sample, axis=(0, 1)).max()) + 1 >= _MIN_LEVELS:
        return None
    lows, highs = zip(*image.getextrema(), strict=True)
    span = 1 + max(high - low for low, high in zip(lows, highs, strict=True))
    if span >= _MIN_LEVELS:
        return None
    if span == 1:
        return Note(LOW_CONTRAST, f"all pixels have the color {lows}")
    if max(highs) < _MIN_LEVELS:
        return Note(LOW_CONTRAST, f"nearly black: values from {min(lows)} to {max(highs)} of 255")
    return Note(LOW_CONTRAST, f"values span {span} of 256 levels")


def warn_of_depth(names: Mapping[int, str], notes: Mapping[int, Note]) -> None:
    """Issue one warning for the 16-bit images that look like 12-bit data, and one for those that look like 8-bit data.

    Parameters
    ----------
    names : mapping of int to str
        Name of each row in ``notes``.
    notes : mapping of int to Note
    """
    for kind, limit in (("12-bit", 4095), ("8-bit", 255)):
        rows = [row for row, note in notes.items() if note.kind == kind]
        if rows:
            first = names[rows[0]]
            start = f"{len(rows):,} 16-bit images contain no value above {limit}, such as {first}. They are"
            if len(rows) == 1:
                start = f"The 16-bit image {first} contains no value above {limit}. It is"
            warn(f"{start} probably {kind} data, decoded as nearly black. If so, pass `max_value={limit}`.")


def warn_of_low_contrast(names: Iterable[str], reasons: Iterable[str], n_images: int) -> None:
    """Issue one warning that counts the images without contrast and names the first ten."""
    names, reasons = list(names), list(reasons)
    if names:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        warn(
            f"{len(names):,} of {n_images:,} images span fewer than {_MIN_LEVELS} of 256 levels, so their "
            f"embeddings carry almost no information: {', '.join(map(repr, names[:_NAMED]))}{more}. "
            f"The first: {reasons[0]}. Label masks and pixels divided by 255 look like this: scale them to 0..255. "
            "check_images(X) lists all.",
            LowContrastImagesWarning,
        )
