"""Maintenance of a store: publish, list, verify, compact, prune, clear.

In this module, ``v1`` is the path of the folder in the root of the store that contains all files of version 1 of its
format: a folder for each recipe, and "networks" with the sidecars.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tlfeatures.fingerprints import bytes_key, recipe_digest
from tlfeatures.store._disk import (
    INDEX_NAME,
    RECIPE_NAME,
    SEGMENT_NAME,
    TEMP_NAME,
    is_folder,
    is_stale,
    list_names,
    load_segment,
    publish_file,
    read_file,
    unlink_quietly,
)
from tlfeatures.store._index import open_folder, pool_map
from tlfeatures.store._lock import flock
from tlfeatures.store._segment import TARGET_BYTES, encode
from tlfeatures.store._table import load_table

SIDECAR_NAME = re.compile(r"[0-9a-f]{32}\.json")
_OWN_NAME = re.compile(
    rf"{SEGMENT_NAME.pattern}|{INDEX_NAME.pattern}|{TEMP_NAME.pattern}|recipe\.json|lock|compact\.lock"
)
_UNITS_NAME = re.compile(r"[0-9a-f]{32}\.(part|claim)")
_SIDECAR_NAME = re.compile(rf"{SIDECAR_NAME.pattern}|{TEMP_NAME.pattern}")
JSON_BYTES = 1 << 20
MALFORMED = (ValueError, TypeError, KeyError, RecursionError)  # raised for damaged JSON
_TOUCH_SECONDS = 60.0
_touched: dict[str, float] = {}


def publish_recipe(folder: str, text: bytes) -> None:
    """Write recipe.json, for people to read, if it is absent or damaged."""
    path = os.path.join(folder, "recipe.json")
    with contextlib.suppress(OSError, ValueError):
        if read_file(path, JSON_BYTES) == text:
            return
    publish_file(path, text)


def publish_segment(folder: str, content: bytes) -> str:
    """Write a segment to a file that is named after its digest; return the name.

    An existing file is replaced, because it may be damaged.
    """
    name = f"{bytes_key(content).hex()}.h5"
    publish_file(os.path.join(folder, name), content)
    return name


def touch(folder: str) -> None:
    """Record the time of use of a recipe for `prune`, at most once a minute."""
    if time.time() - _touched.get(folder, 0) > _TOUCH_SECONDS:
        _touched[folder] = time.time()
        with contextlib.suppress(OSError, NotImplementedError):
            os.utime(os.path.join(folder, "recipe.json"), follow_symlinks=False)


def info(v1: str, root: str) -> dict[str, Any]:
    """Implement `EmbeddingStore.info`."""
    recipes = []
    for folder in _folders(v1):
        index = open_folder(folder).refresh()
        names = list_names(folder, SEGMENT_NAME)
        recipes.append(
            {
                "digest": os.path.basename(folder),
                "recipe": _recipe(folder),
                "rows": sum(index.count_rows().values()),
                "unique_rows": sum(map(len, index.unique_rows(index.names).values())),
                "bytes": sum(_size(os.path.join(folder, n)) for n in names),
                "segments": len(names),
                "quarantined": len(list_names(os.path.join(folder, "quarantine"), SEGMENT_NAME)),
                "last_used": _last_used(folder, names),
            }
        )
    return {"root": root, "bytes": sum(r["bytes"] for r in recipes), "recipes": recipes}


def verify(v1: str) -> list[dict[str, str]]:
    """Implement `EmbeddingStore.verify`."""
    work: list[tuple[Callable[[str], object], str]] = []
    for folder in _folders(v1):
        work += [(load_segment, os.path.join(folder, n)) for n in sorted(list_names(folder, SEGMENT_NAME))]
        work += [(load_table, os.path.join(folder, n)) for n in sorted(list_names(folder, INDEX_NAME))]
        work.append((_check_recipe, os.path.join(folder, "recipe.json")))
    if is_folder(v1):
        networks = os.path.join(v1, "networks")
        work += [
            (read_sidecar, os.path.join(networks, n)) for n in sorted(list_names(networks, SIDECAR_NAME))
        ]

    def check(item: tuple[Callable[[str], object], str]) -> str | None:
        read, path = item
        try:
            read(path)
        except FileNotFoundError:
            pass  # deleted by another process, such as one that compacts the store
        except (OSError, *MALFORMED) as error:
            return str(error) or type(error).__name__
        return None

    reasons = zip(work, pool_map(check, work), strict=True)
    return [{"path": path, "reason": reason} for (_, path), reason in reasons if reason]


def compact(v1: str) -> dict[str, int]:
    """Implement `EmbeddingStore.compact`."""
    before = _totals(v1)
    for folder in _folders(v1):
        _remove_stale(folder)
        if len(list_names(folder, SEGMENT_NAME)) > 1:
            lock = os.path.join(folder, "compact.lock")
            with flock(lock, wait=False) as is_locked:
                if is_locked:
                    _compact(folder)
                    unlink_quietly(lock)
    if is_folder(v1):
        _remove_stale(os.path.join(v1, "networks"))
    after = _totals(v1)
    return {
        "segments_before": before[0],
        "segments_after": after[0],
        "bytes_before": before[1],
        "bytes_after": after[1],
    }


def prune(v1: str, max_bytes: int) -> dict[str, int]:
    """Implement `EmbeddingStore.prune`."""
    usage = []
    for folder in _folders(v1):
        names = list_names(folder, SEGMENT_NAME)
        usage.append((_last_used(folder, names), folder, sum(_size(os.path.join(folder, n)) for n in names)))
    total, count = sum(size for _, _, size in usage), 0
    remaining = total
    for _, folder, size in sorted(usage):
        if remaining <= max_bytes:
            break
        _clear_folder(folder)
        remaining, count = remaining - size, count + 1
    return {"removed_recipes": count, "removed_bytes": total - remaining, "bytes": remaining}


def clear(v1: str) -> dict[str, int]:
    """Implement `EmbeddingStore.clear`."""
    removed = [_clear_folder(folder) for folder in _folders(v1)]
    if is_folder(v1):
        networks = os.path.join(v1, "networks")
        removed.append(_unlink_matching(networks, _SIDECAR_NAME))
        for folder in (networks, v1):
            _rmdir(folder)
    return {"removed_files": sum(n for n, _ in removed), "removed_bytes": sum(size for _, size in removed)}


def _compact(folder: str) -> None:
    opened = open_folder(folder)
    index = opened.refresh()
    sizes = {name: _size(os.path.join(folder, name)) for name in index.names}
    order = sorted(
        sizes, key=lambda name: (-sizes[name], name)
    )  # a duplicate key stays in the largest segment
    unique = index.unique_rows(order)
    rows = index.count_rows()
    sources = [n for n in order if len(unique[n]) < rows[n] or sizes[n] < TARGET_BYTES // 2]
    if len(sources) < 2 and all(len(unique[n]) == rows[n] for n in sources):
        return  # nothing to merge and no duplicates
    groups: list[list[str]] = [[]]
    bytes_left = TARGET_BYTES
    for name in sources:
        if len(unique[name]):
            size = sizes[name] * len(unique[name]) // rows[name]
            if size > bytes_left:
                groups.append([])
                bytes_left = TARGET_BYTES
            groups[-1].append(name)
            bytes_left -= size
    published = set()
    for group in filter(None, groups):
        segments = [opened.segment(name) for name in group]
        if any(s is None for s in segments):
            return  # deleted or damaged, so a row that appeared to be a duplicate may be the only one
        keys = np.concatenate([s.keys[unique[n]] for n, s in zip(group, segments, strict=True)])
        features = np.concatenate([s.features[unique[n]] for n, s in zip(group, segments, strict=True)])
        published.add(publish_segment(folder, encode(segments[0].recipe, keys, features)))
    for name in sources:
        if name not in published:
            _unlink(os.path.join(folder, name))
    opened.write_table()


def _folders(v1: str) -> Iterator[str]:
    for name in sorted(list_names(v1, RECIPE_NAME)):
        if is_folder(path := os.path.join(v1, name)):
            yield path


def _recipe(folder: str) -> dict[str, Any] | None:
    path = os.path.join(folder, "recipe.json")
    with contextlib.suppress(OSError, *MALFORMED):
        return _check_recipe(path)
    for name in list_names(folder, SEGMENT_NAME):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(load_segment(os.path.join(folder, name)).recipe)
    return None


def _check_recipe(path: str) -> dict[str, Any]:
    return parse_recipe(read_file(path, JSON_BYTES), os.path.basename(os.path.dirname(path)))


def parse_recipe(content: bytes, folder: str) -> dict[str, Any]:
    """Parse a recipe.json and compare it with the name of its folder; raise one of ``MALFORMED`` if it is damaged."""
    recipe = json.loads(content)
    if not isinstance(recipe, dict):
        raise ValueError("it is not a JSON object")
    if recipe_digest(recipe) != folder:
        raise ValueError("its digest does not match the name of its folder")
    return recipe


def read_sidecar(path: str) -> dict[str, Any]:
    """Read and verify a sidecar.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError, TypeError, KeyError, RecursionError
        If it is damaged.
    """
    return parse_sidecar(read_file(path, JSON_BYTES), os.path.basename(path))


def parse_sidecar(content: bytes, name: str) -> dict[str, Any]:
    """Parse a sidecar and compare it with its file name; raise one of ``MALFORMED`` if it is damaged."""
    sidecar = json.loads(content)
    if sidecar["digest"] != recipe_digest([sidecar["key"], sidecar["value"]]):
        raise ValueError("its content does not match its digest")
    if recipe_digest(sidecar["key"]) != name[:-5]:
        raise ValueError("the digest of its key does not match its file name")
    return sidecar


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


def _totals(v1: str) -> tuple[int, int]:
    paths = [os.path.join(f, n) for f in _folders(v1) for n in list_names(f, SEGMENT_NAME)]
    return len(paths), sum(map(_size, paths))


def _last_used(folder: str, names: frozenset[str]) -> float:
    times = [0.0]
    for name in ("recipe.json", *names):
        with contextlib.suppress(OSError):
            times.append(os.lstat(os.path.join(folder, name)).st_mtime)
    return max(times)


def _remove_stale(folder: str) -> None:
    for name in list_names(folder, TEMP_NAME):
        if is_stale(path := os.path.join(folder, name)):
            unlink_quietly(path)


def _clear_folder(folder: str) -> tuple[int, int]:
    """Delete the files of this library in the folder of a recipe; return (files, bytes)."""
    count = total = 0
    for part, pattern in (("", _OWN_NAME), ("quarantine", _OWN_NAME), ("units", _UNITS_NAME)):
        removed = _unlink_matching(os.path.join(folder, part), pattern)
        count, total = count + removed[0], total + removed[1]
    for part in ("quarantine", "units", ""):
        _rmdir(os.path.join(folder, part))
    return count, total


def _unlink_matching(folder: str, pattern: re.Pattern[str]) -> tuple[int, int]:
    count = total = 0
    for name in list_names(folder, pattern):
        size = _size(path := os.path.join(folder, name))
        if _unlink(path):
            count, total = count + 1, total + size
    return count, total


def _unlink(path: str) -> bool:
    """Delete a file; return False if another process has deleted it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _rmdir(path: str) -> None:
    if is_folder(path):
        with contextlib.suppress(OSError):  # a folder that contains other files is kept
            os.rmdir(path)
