"""Opening of files in the supported formats, with the reason if a file cannot be opened."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from tlfeatures._inputs import URL_HINT, has_lost_slash, is_url

__all__ = [
    "MAX_FILE_BYTES", "Unreadable", "check_file", "check_size", "depends_on_machine", "describe_os_error", "open_image",
    "readable",
]  # fmt: skip

# Raster formats with a magic number, except for those that Pillow decodes with an external program, such as EPS.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF",
    "DIB", "ICO", "PCX", "SGI", "QOI", "HEIF",
)  # fmt: skip
MAX_FILE_BYTES = 2 << 30  # no image within the pixel limit is larger
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Unreadable(Exception):
    """One image cannot be read; the argument is the reason."""


def depends_on_machine(reason: str) -> bool:
    """Whether an image may be readable on another machine, or later on this one, although its file does not change.

    >>> depends_on_machine("HEIC needs an optional reader: pip install pillow-heif"), depends_on_machine("is empty")
    (True, False)
    """
    causes = ("pip install", "not enough memory", "pixel limit", "permission denied")
    return any(cause in reason for cause in causes)


@contextlib.contextmanager
def readable():
    """Convert any exception that a decoder may raise on damaged data to `Unreadable`."""
    try:
        yield
    except Unreadable:
        raise
    except Image.DecompressionBombError as e:  # raised by plugins that read the size while they load
        raise Unreadable(f"more pixels than the pixel limit: {e}") from None
    except MemoryError:
        raise Unreadable("there is not enough memory to decode it") from None
    except Exception as e:
        raise Unreadable(f"damaged or unsupported: {e or type(e).__name__}") from e


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise an error if a path is not a file that can be read as an image."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        if is_url(path):
            raise Unreadable(f"is a URL of an unknown kind; {URL_HINT}") from None
        if has_lost_slash(path):
            raise Unreadable(
                "no such file; pass URIs as text, because pathlib removes one of their slashes"
            ) from None
        raise
    except ValueError as e:  # a null character
        raise Unreadable(f"the path is not valid: {e}") from None
    if stat.S_ISDIR(info.st_mode):
        raise Unreadable("is a folder, not an image file")
    if not stat.S_ISREG(info.st_mode):  # a pipe would block forever
        raise Unreadable("is not a regular file")
    if info.st_size == 0:
        raise Unreadable("the file is empty")
    if info.st_size > MAX_FILE_BYTES:
        raise Unreadable(f"the file has {info.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")


def describe_os_error(e: OSError) -> str:
    """Return the reason why a file cannot be read."""
    if isinstance(e, FileNotFoundError):
        return "no such file"
    return e.strerror.lower() if e.strerror else str(e)


def open_image(data: bytes) -> Image.Image:
    """Open an encoded image without decoding its pixels.

    This loops over Pillow's table of formats, because ``Image.open`` warns about large images in the thread that calls
    it, and warning filters cannot be set for a single thread.
    """
    if not len(data):
        raise Unreadable("the file is empty")
    prefix, damage = bytes(data[:16]), ""
    for name in _list_formats(prefix):
        try:
            im = Image.OPEN[name][0](io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as e:
            damage = damage or f"damaged {name} file: {e or type(e).__name__}"
            continue
        check_size(im.size)
        if name == "TIFF":
            _check_ycbcr(im)
        return im
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS:
        return _open_heif(data)
    raise Unreadable(damage or _describe_content(bytes(data[:256])))


def _list_formats(prefix: bytes) -> Iterator[str]:
    """Iterate over the formats that a file with these first bytes may have."""
    seen: set[str] = set()
    for load_plugins in (Image.preinit, Image.init):  # most files need few plugins
        load_plugins()
        for name in _FORMATS:
            if name not in seen and name in Image.OPEN:
                seen.add(name)
                accept = Image.OPEN[name][1]
                accepted = accept is None or accept(prefix)
                if accepted and not isinstance(accepted, str):  # a text is the reason why it is rejected
                    yield name


def check_size(size: tuple[int, int]) -> None:
    """Raise an error if an image has more pixels than Pillow's limit."""
    limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS  # as in Pillow; None is no limit
    if limit and size[0] * size[1] > limit:
        raise Unreadable(
            f"{size[0]} x {size[1]} pixels are more than the pixel limit of {limit:,}: cut it into tiles, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        )


def _check_ycbcr(im: Any) -> None:
    """Reject uncompressed YCbCr that Pillow reads wrongly: all of it before version 13, and subsampled colors."""
    tags = im.tag_v2
    if tags.get(Base.PhotometricInterpretation) != 6 or tags.get(Base.Compression, 1) != 1:
        return
    if tags.get(Base.YCbCrSubSampling, (2, 2)) != (1, 1):
        raise Unreadable("an uncompressed TIFF file with subsampled colors (YCbCr): save it as RGB")
    if im.mode != "YCbCr":
        raise Unreadable(
            "an uncompressed TIFF file in YCbCr needs a newer Pillow: pip install -U 'pillow>=13', or save it as RGB"
        )


def _open_heif(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise Unreadable("HEIC needs an optional reader: pip install pillow-heif") from None
    file = pillow_heif.open_heif(data)
    check_size(file.size)
    return file.to_pillow()


def _describe_content(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "contains a web page, not an image"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF needs a newer Pillow: pip install -U 'pillow>=11.3'"
    for magic, name in ((b"%PDF", "PDF"), (b"<svg", "SVG"), (b"<?xml", "XML"), (b"\x89HDF", "HDF5")):
        if text.startswith(magic.lower()):
            return f"contains {name}, not a raster image"
    return "not an image in a known format"
