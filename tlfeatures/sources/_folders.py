"""Reading of folders of images or audio clips: flat folders, class folders and split folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import numpy as np

from tlfeatures._dicom import has_dicom_prefix
from tlfeatures._warnings import warn
from tlfeatures.errors import SourceError
from tlfeatures.sources._source import SPLITS, Source, quote_names, simplify_labels

_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif", ".hif", ".ico", ".pcx",
    ".sgi", ".qoi", ".dcm", ".dicom", ".ima",
)  # fmt: skip


_AUDIO_SUFFIXES = (".wav", ".wave", ".flac")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "dicomdir")
_OTHER_FORMATS = {  # suffixes -> how to use files with them
    (
        ".nii",
        ".nii.gz",
        ".nrrd",
        ".nhdr",
        ".mha",
        ".mhd",
        ".img",
        ".hdr",
    ): "Volumes are not read: read them with SimpleITK or nibabel and pass their slices as arrays.",
    (
        ".svs",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".vms",
        ".bif",
        ".czi",
    ): "Whole-slide images are not read: cut them into tiles with OpenSlide.",
    (".npy", ".npz", ".mat"): "Arrays are not read from folders: load them and pass them as X.",
    (".csv", ".tsv", ".parquet"): "A manifest is read when it is passed as the source.",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "Unpack archives first.",
}


def read_folder(root: str, labels: bool, files: str = "images") -> Source:
    """List the images or audio clips of a folder; its subfolders are classes if ``labels`` is True."""
    source = _read_folder(root, labels, files)
    ignored = [name for name in source.ignored if not _is_hidden(name)]
    if ignored:
        warn(
            f"{len(ignored):,} file(s) in {root!r} are not {NOUNS[files]} and were ignored: "
            f"{_count_suffixes(ignored)}, the first {ignored[0]!r}.{_make_hint(ignored)}"
        )
    return source


def _read_folder(root: str, labels: bool, kind: str) -> Source:
    folders, files, ignored = _scan(root, kind)
    trees = {}
    for name in folders:
        trees[name], skipped = _walk(root, name, kind)
        ignored += skipped
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS and trees[name]}
    others = [name for name in folders if trees[name] and name not in splits]
    if splits and (("train" in splits.values() and len(splits) > 1) or not others):
        return _read_splits(root, splits, others, files, ignored, labels, kind)
    paths = [path for name in folders for path in trees[name]]
    if not files and not paths:
        suffixes = f": {_count_suffixes(ignored)}" if ignored else ""
        raise SourceError(
            f"No {NOUNS[kind]} in {root!r} ({len(ignored)} other files{suffixes}). Expected {FILES[kind]}s, a folder "
            f"of {NOUNS[kind]} for each class, or train/ and test/ folders.{_make_hint(ignored)}"
        )
    if not paths or not labels:
        names = sorted(files + paths, key=_make_natural_key)
        return Source([os.path.join(root, n) for n in names], None, None, None, names, "flat folder", ignored)
    _warn_of_unlabelled(root, files, [name for name in folders if not trees[name]], kind)
    if len(others) + len(splits) == 1:
        warn(f"{root!r} has a single class folder, {paths[0].split('/')[0]!r}.")
    y = np.array([path.split("/", 1)[0] for path in paths])
    full = [os.path.join(root, path) for path in paths]
    return Source(full, y, None, None, paths, "class folders", ignored)


def _read_splits(
    root: str,
    splits: dict[str, str],
    others: list[str],
    files: list[str],
    ignored: list[str],
    labels: bool,
    kind: str,
) -> Source:
    if others or len(set(splits.values())) < len(splits):
        raise SourceError(
            f"{root!r} has the splits {quote_names(splits)}"
            + (
                f" and other folders with {NOUNS[kind]}: {quote_names(others)}"
                if others
                else ", two of the same kind"
            )
            + ". Move the folders that are not splits elsewhere, or pass the folder of one split as the source."
        )
    order = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    parts = {name: _read_folder(os.path.join(root, name), labels, kind) for name in order}
    _warn_of_unlabelled(root, files, [], kind)
    y = [label for p in parts.values() for label in (p.y.tolist() if p.y is not None else [None] * len(p))]
    return Source(
        [path for p in parts.values() for path in p.images],
        simplify_labels(np.array(y, dtype=object)),
        None,
        np.array([splits[name] for name, p in parts.items() for _ in range(len(p))]),
        [f"{name}/{path}" for name, p in parts.items() for path in p.names],
        "split folders",
        ignored,
    )


def _warn_of_unlabelled(root: str, files: list[str], empty: list[str], kind: str) -> None:
    if files:
        warn(
            f"{len(files):,} file(s) in {root!r} are not in a class folder and are left out, the first {files[0]!r}."
        )
    if empty:
        warn(f"No {NOUNS[kind]} in the folder(s) {quote_names(empty)} of {root!r}: they are not classes.")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/")) or name.lower().endswith(_SYSTEM_FILES)


def _get_suffix(name: str) -> str:
    """Return the suffix in lower case."""
    stem, suffix = os.path.splitext(name.lower())
    return ".nii.gz" if suffix == ".gz" and stem.endswith(".nii") else suffix


def _count_suffixes(names: list[str]) -> str:
    """Count files by suffix, the most frequent first, such as "3 .dcm, 1 .txt"."""
    counts = Counter(_get_suffix(name) or "without a suffix" for name in names).most_common()
    return ", ".join(f"{n:,} {suffix}" for suffix, n in counts[:6]) + (", ..." if len(counts) > 6 else "")


def _make_hint(names: list[str]) -> str:
    """Return how to use the files of other formats among ``names``."""
    suffixes = {_get_suffix(name) for name in names}
    return "".join(f" {hint}" for key, hint in _OTHER_FORMATS.items() if suffixes.intersection(key))


def _scan(folder: str, kind: str) -> tuple[list[str], list[str], list[str]]:
    """List the folders, the images or clips, and the other files in ``folder``, each in natural order."""
    folders, files, ignored = [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.name.startswith("."):
                        folders.append(entry.name)
                elif not entry.name.startswith(".") and accepts_file(entry.path, kind):
                    files.append(entry.name)
                else:
                    ignored.append(entry.name)
    except OSError as e:
        raise SourceError(f"Cannot list the folder {folder!r}: {e.strerror or e}.") from e
    return (
        sorted(folders, key=_make_natural_key),
        sorted(files, key=_make_natural_key),
        sorted(ignored, key=_make_natural_key),
    )


def _walk(root: str, name: str, kind: str) -> tuple[list[str], list[str]]:
    """List images or clips, and other files, at any depth below ``root/name``, as paths relative to ``root``."""
    images, ignored, visited, stack = [], [], {os.path.realpath(root)}, [name]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(os.path.join(root, folder))
        if real in visited:  # a loop of symbolic links
            continue
        visited.add(real)
        folders, files, others = _scan(os.path.join(root, folder), kind)
        ignored += [f"{folder}/{file}" for file in others]
        images += [f"{folder}/{file}" for file in files]
        stack += [f"{folder}/{inner}" for inner in folders]
    return sorted(images, key=_make_natural_key), sorted(ignored, key=_make_natural_key)


def is_image_file(path: str) -> bool:
    """Whether ``path`` has the suffix of an image format, or its first bytes are those of an image file."""
    if os.path.splitext(path)[1].lower() in _SUFFIXES:
        return True
    if os.path.basename(path).lower() in _SYSTEM_FILES:
        return False
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as f:
            head = f.read(132)
    except OSError:
        return False
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"))
        or head[4:12] == b"jP  \r\n\x87\n"
        or has_dicom_prefix(head)
    )


NOUNS = {"images": "images", "audio": "audio clips"}
FILES = {"images": "image file", "audio": "WAV or FLAC file"}


def accepts_file(path: str, files: str) -> bool:
    """Whether ``path`` is an image, or with ``files="audio"`` has the suffix of a WAV or FLAC file."""
    if files == "audio":
        return os.path.splitext(path)[1].lower() in _AUDIO_SUFFIXES
    return is_image_file(path)


def _make_natural_key(name: str) -> tuple[list[Any], str]:
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name
