"""Which files are images or audio clips, by their names and first bytes."""

from __future__ import annotations

import os

from tlfeatures._dicom import has_dicom_prefix

__all__ = [
    "FILES", "HEAD_BYTES", "NOUNS", "SYSTEM_FILES", "accepts_file", "accepts_name", "has_image_prefix", "is_image_file",
]  # fmt: skip

NOUNS = {"images": "images", "audio": "audio clips"}
FILES = {"images": "image file", "audio": "WAV or FLAC file"}
HEAD_BYTES = 132
_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".ico", ".pcx",
    ".sgi", ".qoi", ".dcm", ".dicom", ".ima",
)  # fmt: skip
_AUDIO_SUFFIXES = (".wav", ".wave", ".flac")
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "dicomdir")


def is_image_file(path: str) -> bool:
    """Whether ``path`` has the suffix of an image format, or its first bytes are those of an image file."""
    return accepts_file(path, "images")


def accepts_file(path: str, files: str) -> bool:
    """Whether ``path`` is an image, or with ``files="audio"`` has the suffix of a WAV or FLAC file."""
    accepted = accepts_name(path, files)
    if accepted is not None:
        return accepted
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as f:
            return has_image_prefix(f.read(HEAD_BYTES))
    except OSError:
        return False


def accepts_name(path: str, files: str) -> bool | None:
    """Whether a file is an image or a clip by its name; None if its first bytes must be read."""
    suffix = os.path.splitext(path)[1].lower()
    if files == "audio":
        return suffix in _AUDIO_SUFFIXES
    if suffix in _SUFFIXES:
        return True
    return False if os.path.basename(path).lower() in SYSTEM_FILES else None


def has_image_prefix(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an image."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"))
        or head[4:12] == b"jP  \r\n\x87\n"
        or has_dicom_prefix(head)
    )
