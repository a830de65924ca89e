"""Reading of folders of images or audio clips: flat folders, class folders and split folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import SourceError
from tlfeatures.sources._formats import FILES, NOUNS, SYSTEM_FILES
from tlfeatures.sources._source import SPLITS, Source, quote_names, simplify_labels
from tlfeatures.sources._trees import Listing, Tree, open_tree

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr")
_SLIDES = (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".bif", ".czi")
_OTHER_FORMATS = {  # suffixes -> how to use files with them
    _VOLUMES: "Volumes are not read: read them with SimpleITK or nibabel and pass their slices as arrays.",
    _SLIDES: "Whole-slide images are not read: cut them into tiles with OpenSlide.",
    (".npy", ".npz", ".mat"): "Arrays are not read from folders: load them and pass them as X.",
    (".csv", ".tsv", ".parquet"): "A manifest is read when it is passed as the source.",
    (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"): "Unpack archives first.",
}


def read_folder(root: str, labels: bool, files: str = "images") -> Source:
    """List the images or audio clips of a folder; its subfolders are classes if ``labels`` is True."""
    tree = open_tree(root, files)
    source = _read_tree(tree, labels)
    ignored = [name for name in source.ignored if not _is_hidden(name)]
    if ignored:
        warn(
            f"{len(ignored):,} file(s) in {tree.name} are not {NOUNS[files]} and were ignored: "
            f"{_count_suffixes(ignored)}, the first {ignored[0]!r}.{_make_hint(ignored)}"
        )
    return source


def _read_tree(tree: Tree, labels: bool) -> Source:
    folders, files, ignored = _list_sorted(tree, "")
    trees = {}
    for name in folders:
        trees[name], skipped = _walk(tree, name)
        ignored += skipped
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS and trees[name]}
    others = [name for name in folders if trees[name] and name not in splits]
    if splits and (("train" in splits.values() and len(splits) > 1) or not others):
        return _read_splits(tree, splits, others, files, ignored, labels)
    paths = [path for name in folders for path in trees[name]]
    if not files and not paths:
        suffixes = f": {_count_suffixes(ignored)}" if ignored else ""
        raise SourceError(
            f"No {NOUNS[tree.kind]} in {tree.name} ({len(ignored)} other files{suffixes}). Expected "
            f"{FILES[tree.kind]}s, a folder of {NOUNS[tree.kind]} for each class, or train/ and test/ folders."
            f"{_make_hint(ignored)}"
        )
    if not paths or not labels:
        names = sorted(files + paths, key=_make_natural_key)
        return Source([tree.locate(n) for n in names], None, None, None, names, "flat folder", ignored)
    _warn_of_unlabelled(tree, files, [name for name in folders if not trees[name]])
    if len(others) + len(splits) == 1:
        warn(f"{tree.name} has a single class folder, {paths[0].split('/')[0]!r}.")
    y = np.array([path.split("/", 1)[0] for path in paths])
    full = [tree.locate(path) for path in paths]
    return Source(full, y, None, None, paths, "class folders", ignored)


def _read_splits(
    tree: Tree,
    splits: dict[str, str],
    others: list[str],
    files: list[str],
    ignored: list[str],
    labels: bool,
) -> Source:
    if others or len(set(splits.values())) < len(splits):
        problem = ", two of the same kind"
        if others:
            problem = f" and other folders with {NOUNS[tree.kind]}: {quote_names(others)}"
        raise SourceError(
            f"{tree.name} has the splits {quote_names(splits)}{problem}. Move the folders that are not splits "
            "elsewhere, or pass the folder of one split as the source."
        )
    order = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    parts = {name: _read_tree(tree.subtree(name), labels) for name in order}
    _warn_of_unlabelled(tree, files, [], "split")
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


def _warn_of_unlabelled(tree: Tree, files: list[str], empty: list[str], kind: str = "class") -> None:
    if files:
        warn(
            f"{len(files):,} file(s) in {tree.name} are not in a {kind} folder and are left out, the first "
            f"{files[0]!r}."
        )
    if empty:
        warn(
            f"No {NOUNS[tree.kind]} in the folder(s) {quote_names(empty)} of {tree.name}: they are not classes."
        )


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/")) or name.lower().endswith(SYSTEM_FILES)


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


def _list_sorted(tree: Tree, folder: str) -> Listing:
    """List a folder in natural order."""
    return Listing(*(sorted(names, key=_make_natural_key) for names in tree.list_folder(folder)))


def _walk(tree: Tree, name: str) -> tuple[list[str], list[str]]:
    """List images or clips, and other files, at any depth below a folder, as paths relative to the root of the tree."""
    images, ignored, visited, stack = [], [], {tree.identify("")}, [name]
    while stack:
        folder = stack.pop()
        identity = tree.identify(folder)
        if identity in visited:  # a loop of symbolic links
            continue
        visited.add(identity)
        folders, files, others = tree.list_folder(folder)
        ignored += [f"{folder}/{file}" for file in others]
        images += [f"{folder}/{file}" for file in files]
        stack += [f"{folder}/{inner}" for inner in folders]
    return sorted(images, key=_make_natural_key), sorted(ignored, key=_make_natural_key)


def _make_natural_key(name: str) -> tuple[list[Any], str]:
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name
