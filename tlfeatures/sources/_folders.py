"""Folders of images: flat, of classes, of splits."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import SourceError
from tlfeatures.sources._source import SPLITS, Source, listed, settle

_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".ico", ".pcx",
    ".sgi", ".qoi",
)  # fmt: skip


def read_folder(root: str, labels: bool) -> Source:
    """Images of a folder; `labels` says whether its folders are classes."""
    folders, files, ignored = _scan(root)
    trees = {}
    for name in folders:
        trees[name], skipped = _walk(root, name)
        ignored += skipped
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS and trees[name]}
    rest = [name for name in folders if trees[name] and name not in splits]
    if splits and (("train" in splits.values() and len(splits) > 1) or not rest):
        return _split_folders(root, splits, rest, files, ignored, labels)
    paths = [path for name in folders for path in trees[name]]
    if not files and not paths:
        raise SourceError(
            f"No images in {root!r} ({ignored} other files). Expected image files, a folder of images for "
            "each class, or train/ and test/ folders."
        )
    if not paths or not labels:
        names = sorted(files + paths, key=_natural)
        return Source([os.path.join(root, n) for n in names], None, None, None, names, "flat folder", ignored)
    _say_left_out(root, files, [name for name in folders if not trees[name]])
    if len(rest) + len(splits) == 1:
        warn(f"{root!r} holds a single class folder, {paths[0].split('/')[0]!r}.")
    y = np.array([path.split("/", 1)[0] for path in paths])
    full = [os.path.join(root, path) for path in paths]
    return Source(full, y, None, None, paths, "class folders", ignored + len(files))


def _split_folders(
    root: str, splits: dict[str, str], rest: list[str], files: list[str], ignored: int, labels: bool
) -> Source:
    if rest or len(set(splits.values())) < len(splits):
        raise SourceError(
            f"{root!r} holds the splits {listed(splits)}"
            + (f" and beside them images in {listed(rest)}" if rest else ", two of the same kind")
            + ". Move what is no split elsewhere, or give one split's folder as the source."
        )
    order = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    parts = {name: read_folder(os.path.join(root, name), labels) for name in order}
    _say_left_out(root, files, [])
    y = [label for p in parts.values() for label in (p.y.tolist() if p.y is not None else [None] * len(p))]
    return Source(
        [path for p in parts.values() for path in p.images],
        settle(np.array(y, dtype=object)),
        None,
        np.array([splits[name] for name, p in parts.items() for _ in range(len(p))]),
        [f"{name}/{path}" for name, p in parts.items() for path in p.names],
        "split folders",
        ignored + len(files),
    )


def _say_left_out(root: str, files: list[str], empty: list[str]) -> None:
    if files:
        warn(
            f"{len(files)} image(s) in {root!r} lie beside its folders and have no class: left out, "
            f"the first {files[0]!r}.",
        )
    if empty:
        warn(f"No images in the folder(s) {listed(empty)} of {root!r}: no classes.")


def _scan(folder: str) -> tuple[list[str], list[str], int]:
    """Names of folders and of image files in ``folder``, in natural order, and the count of the rest."""
    folders, files, ignored = [], [], 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.name.startswith("."):
                        folders.append(entry.name)
                elif not entry.name.startswith(".") and is_image_file(entry.path):
                    files.append(entry.name)
                else:
                    ignored += 1
    except OSError as e:
        raise SourceError(f"Cannot list the folder {folder!r}: {e.strerror or e}.") from e
    return sorted(folders, key=_natural), sorted(files, key=_natural), ignored


def _walk(root: str, name: str) -> tuple[list[str], int]:
    """Images at any depth below ``root/name``, relative to ``root``; each real folder is seen once."""
    found, ignored, seen, stack = [], 0, {os.path.realpath(root)}, [name]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(os.path.join(root, folder))
        if real in seen:  # a loop of symbolic links
            continue
        seen.add(real)
        folders, files, skipped = _scan(os.path.join(root, folder))
        ignored += skipped
        found += [f"{folder}/{file}" for file in files]
        stack += [f"{folder}/{inner}" for inner in folders]
    return sorted(found, key=_natural), ignored


def is_image_file(path: str) -> bool:
    """Whether ``path`` has an image's extension (broken or not), or begins as an image does."""
    if os.path.splitext(path)[1].lower() in _SUFFIXES:
        return True  # broken or not
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as f:
            head = f.read(16)
    except OSError:
        return False
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"))
        or head[4:12] == b"jP  \r\n\x87\n"
    )


def _natural(name: str) -> tuple[list[Any], str]:
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name
