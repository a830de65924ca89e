"""Decode images with Pillow or pydicom to uint8 RGB of one size."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tlfeatures._dicom import is_dicom
from tlfeatures._image_options import IMAGE_CONSTRAINTS
from tlfeatures._params import check_parameter
from tlfeatures.errors import InvalidParameterError
from tlfeatures.images._dicom_pixels import read_dicom
from tlfeatures.images._formats import Unreadable, open_image, readable
from tlfeatures.images._notes import Note, check_contrast, check_depth
from tlfeatures.images._pixels import is_16_bit, suggest_scaling, to_uint8, window_to_uint8
from tlfeatures.images._views import take_view

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange width and height
_GIANT = 32_000_000  # pixels; larger images are decoded one at a time, to bound memory
_giant_lock = threading.Lock()

# Increase this number when the rules for orientation, color, transparency, 16 bits or padding change.
_PIXELS_VERSION = 1


@dataclass(frozen=True)
class Decoder:
    """Options for decoding an image and resizing it to one size.

    Parameters
    ----------
    image_size : tuple of int
        (height, width) in pixels.
    resize : {"stretch", "crop", "pad"}
        "stretch" is what ``keras.utils.load_img(target_size=...)`` does; "crop" fits the short side
        and crops the center; "pad" fits the long side and centers the image on black.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}
        Pillow's resampling filters, which antialias (all but "nearest").
    decode : {"scaled", "exact"}
        "exact" decodes JPEG files at full size. "scaled" lets the JPEG decoder shrink by powers of two, never below
        twice the required size.
    max_value : int, optional
        The value in 16-bit grey files and uint16 arrays that becomes 255, such as 4095 for 12-bit data. None is 65535.
        Images with larger values cannot be read. 8-bit images, floats and DICOM files are not affected.
    window : (float, float), optional
        Center and width of the range of values that becomes 0 to 255 in 16-bit grey files, uint16 arrays and grey DICOM
        files of any depth; for DICOM in the units of the rescaled values (Hounsfield units for CT). Values outside
        the range become 0 or 255. None means, for DICOM, the window in the file or, without one, the full range of
        unsigned 8-bit values and the 1st to the 99th percentile of others; for other images, 0 to `max_value`. Other
        8-bit images and floats are not affected.
    view : str, default=""
        A view of the image that is decoded in its place: one of `list_views`.

    Raises
    ------
    UnknownNameError
        If an option is not one of the names above.
    ValueError
        If the size is not two positive integers, `max_value` is not an integer from 1 to 65535, `window` is not a pair
        of finite numbers with a positive width, or both are passed.

    Notes
    -----
    EXIF orientation is applied, alpha is composited on white, and 16-bit grey is divided by 257. One frame of
    animations and multi-page files is read: the first, or the one whose number is in brackets after the path, counted
    from 0, as in "scan.dcm[3]". Grey DICOM files of the type MONOCHROME1 are inverted; overlays are not drawn. Color
    profiles are not applied. 16-bit color files are reduced to their high byte, as Pillow reads them.

    Examples
    --------
    >>> Decoder((224, 160)).recipe()["image_size"]
    [224, 160]
    """

    image_size: tuple[int, int]
    resize: str = "stretch"
    interpolation: str = "bilinear"
    decode: str = "scaled"
    max_value: int | None = None
    window: tuple[float, float] | None = None
    view: str = ""

    def __post_init__(self) -> None:
        for name, allowed in IMAGE_CONSTRAINTS.items():
            check_parameter(name, getattr(self, name), allowed)
        size = self.image_size
        is_pair = isinstance(size, (tuple, list, np.ndarray)) and len(size) == 2
        if not is_pair or not all(isinstance(s, (int, np.integer)) and s is not True and s > 0 for s in size):
            raise ValueError(f"`image_size` must be (height, width), two positive integers; got {size!r}.")
        object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))
        if self.window is not None and self.max_value is not None:
            raise InvalidParameterError(
                f"`window` and `max_value` both state the range of the values; got {self.window!r} and "
                f"{self.max_value!r}. Pass one of them.",
                "window",
            )
        object.__setattr__(self, "max_value", None if self.max_value is None else int(self.max_value))
        object.__setattr__(self, "window", None if self.window is None else tuple(map(float, self.window)))

    def recipe(self) -> dict[str, Any]:
        """Return all options that change pixels, as JSON values.

        The installed decoder, which affects only encoded images, has a separate recipe: `decoder_recipe`.
        """
        recipe = {
            "image_size": list(self.image_size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "decode": self.decode,
            "pixels": _PIXELS_VERSION,
        }
        if self.window is not None:
            recipe["window"] = list(self.window)
        if self.view:
            recipe["view"] = self.view
        return recipe if self.max_value is None else {**recipe, "max_value": self.max_value}

    def find_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image that becomes the pixels: left, top, right and bottom.

        Parameters
        ----------
        size : (int, int)
            Width and height of the upright image.

        Examples
        --------
        >>> Decoder((100, 100), "crop").find_box((400, 200)), Decoder((100, 100), "pad").find_box((400, 200))
        ((100.0, 0.0, 300.0, 200.0), (0.0, -100.0, 400.0, 300.0))
        """
        height, width = self.image_size
        if self.resize == "crop":
            scale = max(width / size[0], height / size[1])
            left, top = (size[0] - width / scale) / 2, (size[1] - height / scale) / 2
            right, bottom = left + width / scale, top + height / scale
            return max(0.0, left), max(0.0, top), min(float(size[0]), right), min(float(size[1]), bottom)
        w, h = _compute_size(size, self)
        x, y = size[0] / w, size[1] / h  # pixels of the image for each pixel of the result
        left, top = (width - w) // 2 * x, (height - h) // 2 * y
        return 0.0 - left, 0.0 - top, width * x - left, height * y - top


def decode_bytes(data: bytes, decoder: Decoder, frame: int = 0) -> tuple[np.ndarray, Note | None]:
    """Decode a frame of an encoded image to uint8 (height, width, 3), with a note if its values look wrong.

    Raises
    ------
    Unreadable
        If the image cannot be decoded, for any reason; the message is the reason.
    """
    if is_dicom(data[:132]):
        with readable(), _giant_lock if len(data) > 2 * _GIANT else contextlib.nullcontext():
            return _resize_and_pad(to_rgb(read_dicom(data, frame, decoder.window))[0], decoder, None)
    with readable(), open_image(data) as im:
        _seek(im, frame)
        pixels = im.size[0] * im.size[1]
        with _giant_lock if pixels > _GIANT else contextlib.nullcontext():
            if decoder.decode == "scaled" and im.format in ("JPEG", "MPO"):
                _shrink_while_decoding(im, decoder)
            rgb, note = to_rgb(im, decoder)
            return _resize_and_pad(rgb, decoder, note)


def read_size(data: bytes, frame: int = 0) -> tuple[int, int]:
    """Return the width and height of a frame of an encoded image, upright; raises as `decode_bytes` does."""
    if is_dicom(data[:132]):
        with readable():
            return read_dicom(data, frame, None).size
    with readable(), open_image(data) as im:
        _seek(im, frame)
        return im.size[::-1] if read_orientation(im) in _TRANSPOSED else im.size


def decode_array(a: np.ndarray, decoder: Decoder, check_depth: bool = True) -> tuple[np.ndarray, Note | None]:
    """Convert a checked array (height, width[, 1 | 3 | 4]) as `decode_bytes` does, optionally with a depth note."""
    note = _check_values(a, decoder) if check_depth or decoder.max_value else None
    if decoder.window and is_16_bit(a):
        a = window_to_uint8(a, decoder.window)
    a = np.ascontiguousarray(to_uint8(a, decoder.max_value))
    with readable():
        rgb = to_rgb(Image.fromarray(a[..., 0] if a.ndim == 3 and a.shape[-1] == 1 else a))[0]
        return _resize_and_pad(rgb, decoder, note)


def _seek(im: Image.Image, frame: int) -> None:
    if frame:
        n_frames = getattr(im, "n_frames", 1)
        if frame >= n_frames:
            raise Unreadable(f"has {n_frames} frame(s), counted from 0, so there is no frame {frame}")
        im.seek(frame)


def read_orientation(im: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 if it has none or an invalid one."""
    try:
        orientation = im.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata: the pixels may still be fine
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _shrink_while_decoding(im: Any, decoder: Decoder) -> None:
    is_transposed = read_orientation(im) in _TRANSPOSED
    size = im.size[::-1] if is_transposed else im.size
    width, height = _compute_size(size, decoder)
    min_size = (2 * width, 2 * height)
    im.draft("RGB", min_size[::-1] if is_transposed else min_size)


def to_rgb(im: Image.Image, decoder: Decoder | None = None) -> tuple[Image.Image, Note | None]:
    """Convert any image to upright 8-bit RGB, with a note on its depth; ``im`` is not changed."""
    im.load()
    transposition, note = _TRANSPOSITIONS.get(read_orientation(im)), None
    if is_deep(im):
        if decoder and decoder.window and im.mode != "F":
            im = Image.fromarray(window_to_uint8(np.asarray(im), decoder.window))
        else:
            values = _read_deep_values(im)
            note = _check_values(values, decoder)
            im = Image.fromarray(to_uint8(values, decoder and decoder.max_value))
    elif im.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in im.info:
        layer = im.convert("RGBA")
        im = Image.new("RGB", layer.size, (255, 255, 255))
        im.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    if im.mode != "RGB":
        im = im.convert("RGB")
    return (im if transposition is None else im.transpose(transposition)), note


def is_deep(im: Image.Image) -> bool:
    """Whether an image has more than 8 bits a channel."""
    return im.mode.startswith("I") or im.mode == "F"


def read_upright_values(im: Image.Image) -> np.ndarray:
    """Read the upright values of an image with more than 8 bits; uint16 or float32 (height, width)."""
    im.load()
    transposition = _TRANSPOSITIONS.get(read_orientation(im))
    return _read_deep_values(im if transposition is None else im.transpose(transposition))


def _read_deep_values(im: Image.Image) -> np.ndarray:
    values = np.asarray(im)
    low, high, limit = values.min(), values.max(), 1 if im.mode == "F" else 65535
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Unreadable("some pixels are NaN or infinite; expected floats from 0 to 1")
    if low < 0 or high > limit:
        raise Unreadable(
            f"{'float' if im.mode == 'F' else 'integer'} pixels from {low:g} to {high:g}; expected 0 to {limit}: pass "
            f"them as an array scaled to [0, 1]: {suggest_scaling(float(low), float(high))}"
        )
    # Pillow opens some 16-bit files with mode "I"
    return values if im.mode == "F" else values.astype(np.uint16)


def _check_values(values: np.ndarray, decoder: Decoder | None) -> Note | None:
    """Return a note on the depth of 16-bit values, or check that none is above ``max_value``."""
    if decoder and decoder.window:
        return None
    max_value = decoder and decoder.max_value
    if max_value is None or not is_16_bit(values):
        return check_depth(values)
    if values.max() > max_value:
        raise Unreadable(
            f"16-bit values up to {values.max()} are above `max_value={max_value}`: pass a larger `max_value`"
        )
    return None


def _compute_size(size: tuple[int, int], decoder: Decoder) -> tuple[int, int]:
    """Return the (width, height) to which the whole image is resampled, before cropping or padding."""
    height, width = decoder.image_size
    if decoder.resize == "stretch":
        return width, height
    if decoder.resize == "crop":
        scale = max(width / size[0], height / size[1])
        return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))
    scale = min(width / size[0], height / size[1])
    return min(width, max(1, round(size[0] * scale))), min(height, max(1, round(size[1] * scale)))


def _resize_and_pad(im: Image.Image, decoder: Decoder, note: Note | None) -> tuple[np.ndarray, Note | None]:
    """Resize an RGB image to uint8 (height, width, 3); if ``note`` is None, return a note on its contrast."""
    im = take_view(im, decoder.view)
    pixels = np.asarray(_resize(im, decoder))
    note = note or check_contrast(pixels, im)
    height, width = decoder.image_size
    if pixels.shape[:2] != (height, width):
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        padded = np.zeros((height, width, 3), np.uint8)
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = padded
    return pixels, note


def _resize(im: Image.Image, decoder: Decoder) -> Image.Image:
    """Resize an image, without padding."""
    height, width = decoder.image_size
    method = Image.Resampling[decoder.interpolation.upper()]
    if im.size == (width, height):
        return im
    if decoder.resize == "crop":  # crop and resize in one step, so that elongated images need little memory
        return im.resize((width, height), method, decoder.find_box(im.size))
    return im.resize(_compute_size(im.size, decoder), method)
