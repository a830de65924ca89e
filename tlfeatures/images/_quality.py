"""Properties of image files, and faults: nearly black or white, blurry, tiny, elongated or rotated images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from tlfeatures._dicom import is_dicom
from tlfeatures.errors import ImageReadError
from tlfeatures.images._decode import Decoder, decode_array, decode_bytes, read_orientation, read_size
from tlfeatures.images._formats import open_image, readable
from tlfeatures.images._images import Images
from tlfeatures.images._notes import LOW_CONTRAST, Note
from tlfeatures.images._threads import make_pool

__all__ = ["ImageProperties", "describe_images", "find_faults"]

_SIDE = 256  # pixels of the long side to which images are reduced; about the input size of the networks
_DARK, _BRIGHT = 32, 223
_LEAST_RANGE = 32  # grey levels
_LEAST_SHARPNESS = 0.38  # measured by benchmarks/audit.py
_TINY = 32  # pixels of the short side
_ASPECT = 3.0
_TASK_IMAGES = 8


@dataclass(frozen=True)
class ImageProperties:
    """Properties of an image.

    Attributes
    ----------
    width, height : int
        Size of the upright image in pixels.
    file_type : str or None
        For example "JPEG"; None for images passed as pixels.
    file_size : int or None
        Size in bytes; None for images passed as pixels.
    mode : str or None
        Color mode of the file, such as "RGB", "L" or "CMYK".
    orientation : int
        EXIF orientation; 1 is upright.
    dark, bright : float
        1st and 99th percentile of the grey values, 0 to 255.
    sharpness : float or None
        From 0 to 1: share of the differences between neighboring pixels that a blur removes (Crete et al. 2007, "The
        blur effect"), in the image reduced to 256 pixels. None for images that are smaller than 16 pixels or
        uniform.
    note : Note or None
        What is suspicious about the values, if anything.
    """

    width: int
    height: int
    file_type: str | None
    file_size: int | None
    mode: str | None
    orientation: int
    dark: float
    bright: float
    sharpness: float | None
    note: Note | None


def describe_images(
    X: Any,
    n_threads: int | None = None,
    *,
    max_value: int | None = None,
    window: tuple[float, float] | None = None,
) -> list[ImageProperties | ImageReadError]:
    """Read the properties of all images, in the order of ``X``.

    Parameters
    ----------
    X : images in any form that `Images.of` takes
    n_threads : int, optional
        Number of decoding threads.
    max_value, window
        As in `Decoder`.

    Returns
    -------
    list of ImageProperties or ImageReadError
        An image that cannot be read has an error instead of properties.
    """
    images = Images.of(X)

    def describe(part: range) -> list[ImageProperties | ImageReadError]:
        results: list[ImageProperties | ImageReadError] = []
        for i in part:
            try:
                results.append(
                    images.apply(i, lambda _, content, frame: _describe(content, frame, max_value, window))
                )
            except ImageReadError as error:
                results.append(error)
        return results

    parts = [range(i, min(i + _TASK_IMAGES, len(images))) for i in range(0, len(images), _TASK_IMAGES)]
    with make_pool(n_threads) as executor:
        return [result for results in executor.map(describe, parts) for result in results]


def _describe(
    content: Any, frame: int, max_value: int | None, window: tuple[float, float] | None
) -> ImageProperties:
    file_type, mode, orientation = None, None, 1
    if isinstance(content, np.ndarray):
        width, height = content.shape[1::-1]
    else:
        width, height = read_size(content, frame)
        if is_dicom(content[:132]):
            file_type = "DICOM"
        else:
            with readable(), open_image(content) as im:
                mode, orientation = im.mode, read_orientation(im)
                file_type = "JPEG" if im.format == "MPO" else im.format
    scale = min(1.0, _SIDE / max(width, height, 1))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    decoder = Decoder(shape, max_value=max_value, window=window)
    pixels, note = (
        decode_array(content, decoder)
        if isinstance(content, np.ndarray)
        else decode_bytes(content, decoder, frame)
    )
    grey = pixels.mean(axis=2, dtype=np.float32)
    dark, bright = np.percentile(grey, [1, 99])
    file_size = None if file_type is None else len(content)
    sharpness = _measure_sharpness(grey)
    return ImageProperties(
        width, height, file_type, file_size, mode, orientation, float(dark), float(bright), sharpness, note
    )


def _measure_sharpness(grey: np.ndarray) -> float | None:
    if min(grey.shape) < 16:
        return None
    total = removed = 0.0
    for axis in (0, 1):
        differences = np.abs(np.diff(grey, axis=axis))
        blurred = np.abs(np.diff(uniform_filter1d(grey, 9, axis=axis), axis=axis))
        total += float(differences.sum())
        removed += float(np.maximum(differences - blurred, 0).sum())
    return removed / total if total else None


def find_faults(image: ImageProperties) -> Iterator[tuple[str, str]]:
    """Iterate over the faults of an image that can be read: name and reason.

    Parameters
    ----------
    image : ImageProperties

    Yields
    ------
    (fault, reason) : (str, str)
        The fault is "bit depth", "uniform", "nearly black", "nearly white", "low range", "blurry", "tiny", "odd
        aspect" or "EXIF rotation".
    """
    values = f"98% of the grey values are from {image.dark:.0f} to {image.bright:.0f} of 255"
    if image.note is not None and image.note.kind != LOW_CONTRAST:
        yield "bit depth", image.note.reason
    if image.bright < _DARK:
        yield "nearly black", image.note.reason if image.note else values
    elif image.dark > _BRIGHT:
        yield "nearly white", image.note.reason if image.note else values
    elif image.note is not None and image.note.reason.startswith("all pixels"):
        yield "uniform", image.note.reason
    elif image.bright - image.dark < _LEAST_RANGE:
        yield "low range", image.note.reason if image.note else values
    elif image.sharpness is not None and image.sharpness < _LEAST_SHARPNESS:
        yield (
            "blurry",
            f"sharpness {image.sharpness:.2f} of 1; below {_LEAST_SHARPNESS:g} details are missing",
        )
    short, long = sorted((image.width, image.height))
    if short < _TINY:
        yield "tiny", f"{image.width} x {image.height} pixels"
    if long > _ASPECT * short:
        yield (
            "odd aspect",
            f"{image.width} x {image.height} pixels; `resize='pad'` keeps the aspect ratio",
        )
    if image.orientation != 1:
        yield (
            "EXIF rotation",
            f"EXIF orientation {image.orientation}; it is applied here, but some programs ignore it",
        )
