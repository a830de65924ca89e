"""Bytes and pictures in memory -> uint8 RGB of one size. Pillow is the reference."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tlfeatures._params import check_parameter, integer
from tlfeatures.fingerprints import bytes_key
from tlfeatures.images._notes import Note, contrast_note, depth_note
from tlfeatures.images._pixels import float_scaling, is_16_bit, to_uint8

RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
DECODES = ("scaled", "exact")

# Plain raster formats with a magic number; none that runs another program (EPS) or only stubs one.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF",
    "DIB", "ICO", "PCX", "SGI", "QOI", "HEIF",
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_GIANT = 32_000_000  # pixels; above, one picture at a time, so that threads do not multiply the memory
_MAX_VALUE_HINT = "It is the largest value that 16-bit images can have, such as 4095 for 12-bit data."
IMAGE_CONSTRAINTS: dict[str, list[Any]] = {
    "resize": list(RESIZES),
    "interpolation": list(INTERPOLATIONS),
    "decode": list(DECODES),
    "max_value": [None, integer(1, 65535, hint=_MAX_VALUE_HINT)],
}
_giant_lock = threading.Lock()

# 48 x 40 pixels, 4:2:0, quality 60: enough to tell one JPEG decoder and resizer from another.
_PROBE = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ&KWM"
    "T47pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf!2A"
    "01*fPC;%`60U`hb5di}c0sq7R8UO$S0|5a50000000000000060R#mD0{_GSClCMu1Ofs90tW#A00000000310s|2Q1ri}aF<}!G"
    "BT-YKqS61v02cuP0RaI30000000000000051O@{C!~iD|00II50|NpF00000000000RsXA00j{t5+gAaaUwxNQDKqM|Jncy0|5X6"
    "5d#qbKLBFF$cjb_r5TV#BMnkhhdM|HWUq2<=Y0rd<6gZ2iB$rw=g4AD)0?<TPQ?BEXT0r5k;jNsS*Lp)VWoHZmS^VvNBFMlvodnF"
    "5o60BF~5)_gGYnxn^vhB@FaqE$&;bqK`m^eK<9#gnV9d35ustN{h;k6i=s+u%hj;3&<R&(taC}?5!Ku-"
    "w6VTUTWa!s9)p^@Em2@RLSA!Z#e4plb^FqMpCT!Ts9Cb><Cv2{DM$$~p~H*?`s0-"
    "0vDl1N89iI0Bgd_+EnKaODm;#KTYXpDQnMzQ$o@g5yair-"
    "2_PK;jC(6sX^IBX@$dQPH8ieH!h5pw?TkZg$F_+JgWVQE@RR4rmKRl(-"
    "v?&!@nobb>0KkLIg{0^8P8>$mThEf=#sSYHsVJJ@2@CAzgmP>Pze1;W1Y&f+Wq7)p9W~8V7gP8j}(kGNJ7U~Sd93}to9Y~V#dQ%9"
    "^=F;!>W8%`ZN%QuuX}oyr&-^6Z#l63k+kxk<b6x"
)


# Raised when orientation, colour, transparency, 16-bit or padding rules change.
_PIXELS_VERSION = 1


class Unreadable(Exception):
    """One image cannot be read; the argument is the reason."""


@dataclass(frozen=True)
class Decoder:
    """How an image becomes pixels of one size.

    Parameters
    ----------
    image_size : tuple of int
        (height, width) in pixels.
    resize : {"stretch", "crop", "pad"}
        "stretch" is what ``keras.utils.load_img(target_size=...)`` does; "crop" fits the short side
        and cuts the centre out; "pad" fits the long side and centres the picture on black.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"}
        Pillow's resampling filters, which antialias (all but "nearest").
    decode : {"scaled", "exact"}
        "scaled" lets the JPEG decoder shrink by powers of two, never below twice the size needed.
    max_value : int, optional
        The value of 16-bit grey files and uint16 arrays that becomes 255, such as 4095 for 12-bit data. None is
        65535. Images with larger values cannot be read. Images of 8 bits and floats are not affected.

    Raises
    ------
    UnknownNameError
        For a name that is none of the above.
    ValueError
        For a size that is not two positive integers, or a `max_value` that is not an integer from 1 to 65535.

    Notes
    -----
    EXIF orientation is applied; alpha is composited on white; 16-bit grey is scaled by 257; the first
    frame of animations and multi-page files is taken. Colour profiles are not applied. 16-bit colour
    files keep their high byte, as Pillow reads them.

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

    def __post_init__(self) -> None:
        for name, allowed in IMAGE_CONSTRAINTS.items():
            check_parameter(name, getattr(self, name), allowed)
        size = self.image_size
        whole = isinstance(size, (tuple, list, np.ndarray)) and len(size) == 2
        if not whole or not all(isinstance(s, (int, np.integer)) and s is not True and s > 0 for s in size):
            raise ValueError(f"image_size must be (height, width), two positive integers; got {size!r}.")
        object.__setattr__(self, "image_size", (int(size[0]), int(size[1])))
        object.__setattr__(self, "max_value", None if self.max_value is None else int(self.max_value))

    def recipe(self) -> dict[str, Any]:
        """Every field that changes pixels, as JSON values.

        The installed decoder, which matters for encoded images only, has a recipe of its own:
        `decoder_recipe`.
        """
        recipe = {
            "image_size": list(self.image_size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "decode": self.decode,
            "pixels": _PIXELS_VERSION,
        }
        return recipe if self.max_value is None else {**recipe, "max_value": self.max_value}


def decoder_recipe() -> dict[str, Any]:
    """What identifies the installed decoder: a digest of the pixels that it gives for a small JPEG file."""
    return {"pixel_probe": bytes_key(probe_pixels().data).hex()}


@functools.cache
def probe_pixels() -> np.ndarray:
    """Pixels that the installed Pillow and JPEG decoder give for a small JPEG file; uint8, one row of 7,605."""
    sizes = (
        Decoder((40, 48)),
        Decoder((13, 11)),
        Decoder((17, 23), "crop", "bicubic"),
        Decoder((9, 9)),
    )
    pixels = np.concatenate([decode_bytes(_PROBE, size)[0].ravel() for size in sizes])
    pixels.setflags(write=False)
    return pixels


def decode_bytes(data: bytes, decoder: Decoder) -> tuple[np.ndarray, Note | None]:
    """Pixels of an encoded image, uint8 (height, width, 3), and a note if its values look wrong.

    Raises
    ------
    Unreadable
        With the reason, whatever the bytes are.
    """
    with readable(), open_image(data) as im:
        pixels = im.size[0] * im.size[1]
        with _giant_lock if pixels > _GIANT else contextlib.nullcontext():
            if decoder.decode == "scaled" and im.format in ("JPEG", "MPO"):
                _draft(im, decoder)
            rgb, note = to_rgb(im, decoder.max_value)
            return fit(rgb, decoder, note)


def decode_array(a: np.ndarray, decoder: Decoder, check_depth: bool = True) -> tuple[np.ndarray, Note | None]:
    """As `decode_bytes`, of one checked array (height, width[, 1 | 3 | 4]), with or without notes on its depth."""
    note = _check_depth(a, decoder.max_value) if check_depth or decoder.max_value else None
    a = np.ascontiguousarray(to_uint8(a, decoder.max_value))
    with readable():
        rgb = to_rgb(Image.fromarray(a[..., 0] if a.ndim == 3 and a.shape[-1] == 1 else a))[0]
        return fit(rgb, decoder, note)


@contextlib.contextmanager
def readable():
    """Turn everything that a decoder may raise on garbage into `Unreadable`."""
    try:
        yield
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # by a plugin that knows the size later than we do
        raise Unreadable(f"more pixels than the pixel limit: {e}") from None
    except MemoryError:
        raise Unreadable("there is not enough memory to decode it") from None
    except Exception as e:
        raise Unreadable(f"damaged or unsupported: {e or type(e).__name__}") from e


def open_image(data: bytes) -> Image.Image:
    """Open ``data`` with the formats we trust; nothing is decoded yet.

    Goes through Pillow's table of formats itself: ``Image.open`` warns of large pictures from the
    thread it is called in, and warning filters cannot be set per thread.
    """
    if not len(data):
        raise Unreadable("the file is empty")
    prefix, said = bytes(data[:16]), ""
    for name in _openers():
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if not accepted or isinstance(accepted, str):
            continue
        try:
            im = factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as e:
            said = said or f"damaged {name} file: {e or type(e).__name__}"
            continue
        _check_size(im.size)
        return im
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS:
        return _open_heif(data)
    raise Unreadable(said or _guess(bytes(data[:256])))


@functools.cache
def _openers() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int]) -> None:
    limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS  # Pillow's own; None when switched off
    if limit and size[0] * size[1] > limit:
        raise Unreadable(f"{size[0]} x {size[1]} pixels are more than the pixel limit of {limit:,}")


def _open_heif(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable("HEIC needs an optional reader: pip install pillow-heif") from None
    file = pillow_heif.open_heif(data)
    _check_size(file.size)
    return file.to_pillow()


def _guess(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "holds a web page, not an image"
    if head[128:132] == b"DICM":
        return "DICOM is not read: read it with pydicom and pass its pixel array"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF needs a newer Pillow: pip install -U 'pillow>=11.3'"
    for magic, what in ((b"%PDF", "PDF"), (b"<svg", "SVG"), (b"<?xml", "XML"), (b"\x89HDF", "HDF5")):
        if text.startswith(magic.lower()):
            return f"holds {what}, not a raster image"
    return "not an image in a known format"


def _orientation(im: Image.Image) -> int:
    try:
        return im.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata: the pixels may still be fine
        return 1


def _draft(im: Any, decoder: Decoder) -> None:
    turned = _orientation(im) in (5, 6, 7, 8)
    size = im.size[::-1] if turned else im.size
    width, height = _scaled_size(size, decoder)
    need = (2 * width, 2 * height)
    im.draft("RGB", need[::-1] if turned else need)


def to_rgb(im: Image.Image, max_value: int | None = None) -> tuple[Image.Image, Note | None]:
    """Upright 8-bit RGB of any image, and a note on its depth; the image itself stays as it is."""
    im.load()
    turn, note = _TURNS.get(_orientation(im)), None
    if is_deep(im):
        values = _deep_values(im)
        note = _check_depth(values, max_value)
        im = Image.fromarray(to_uint8(values, max_value))
    elif im.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in im.info:
        layer = im.convert("RGBA")
        im = Image.new("RGB", layer.size, (255, 255, 255))
        im.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    if im.mode != "RGB":
        im = im.convert("RGB")
    return (im if turn is None else im.transpose(turn)), note


def is_deep(im: Image.Image) -> bool:
    """Whether an image has more than 8 bits a channel."""
    return im.mode.startswith("I") or im.mode == "F"


def upright_values(im: Image.Image) -> np.ndarray:
    """Values of an image with more than 8 bits, uint16 or float (height, width), upright."""
    im.load()
    turn = _TURNS.get(_orientation(im))
    return _deep_values(im if turn is None else im.transpose(turn))


def _deep_values(im: Image.Image) -> np.ndarray:
    values = np.asarray(im)
    low, high, limit = values.min(), values.max(), 1 if im.mode == "F" else 65535
    if not (low >= 0 and high <= limit):  # so also for NaN
        finite = np.isfinite(low) and np.isfinite(high)
        raise Unreadable(
            f"{'float' if im.mode == 'F' else 'integer'} pixels from {low:g} to {high:g}; "
            f"expected 0 to {limit}: pass them as an array scaled to [0, 1]"
            + (f": {float_scaling(float(low), float(high))}" if finite else "")
        )
    return values if im.mode == "F" else values.astype(np.uint16)  # "I" is a container of 16 bits


def _check_depth(values: np.ndarray, max_value: int | None) -> Note | None:
    """Note on the depth of 16-bit values; with `max_value` none may be larger."""
    if max_value is None or not is_16_bit(values):
        return depth_note(values)
    if values.max() > max_value:
        raise Unreadable(
            f"16-bit values up to {values.max()} are above max_value={max_value}: pass a larger max_value"
        )
    return None


def _scaled_size(size: tuple[int, int], decoder: Decoder) -> tuple[int, int]:
    """(width, height) that the whole picture is resampled to, before any crop or pad."""
    height, width = decoder.image_size
    if decoder.resize == "stretch":
        return width, height
    if decoder.resize == "crop":
        scale = max(width / size[0], height / size[1])
        return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))
    scale = min(width / size[0], height / size[1])
    return min(width, max(1, round(size[0] * scale))), min(height, max(1, round(size[1] * scale)))


def fit(im: Image.Image, decoder: Decoder, note: Note | None) -> tuple[np.ndarray, Note | None]:
    """Resize an RGB image as ``decoder`` says; uint8 (height, width, 3), and ``note`` or one on its contrast."""
    pixels = np.asarray(_resize(im, decoder))
    note = note or contrast_note(pixels, im)
    height, width = decoder.image_size
    if pixels.shape[:2] != (height, width):
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        padded = np.zeros((height, width, 3), np.uint8)
        padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = padded
    return pixels, note


def _resize(im: Image.Image, decoder: Decoder) -> Image.Image:
    """``im`` in the size of ``decoder``, before any padding."""
    height, width = decoder.image_size
    method = Image.Resampling[decoder.interpolation.upper()]
    if im.size == (width, height):
        return im
    if decoder.resize == "crop":  # from the source: a very long image never gets huge in between
        scale = max(width / im.size[0], height / im.size[1])
        left, top = (im.size[0] - width / scale) / 2, (im.size[1] - height / scale) / 2
        box = (
            max(0.0, left),
            max(0.0, top),
            min(im.size[0], left + width / scale),
            min(im.size[1], top + height / scale),
        )
        return im.resize((width, height), method, box)
    return im.resize(_scaled_size(im.size, decoder), method)
