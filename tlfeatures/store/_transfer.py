"""Copies of a store in object storage or in another folder: missing files are copied by name and verified."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from tlfeatures._inputs import has_lost_slash, is_url
from tlfeatures._objects import is_object, join_uri, list_objects, read_object, redact, write_object
from tlfeatures.errors import InvalidParameterError, ObjectStorageError, StoreError, TransientReadError
from tlfeatures.store._disk import (
    RECIPE_NAME,
    SEGMENT_NAME,
    list_names,
    parse_segment,
    publish_file,
    read_file,
    store_error,
)
from tlfeatures.store._maintenance import JSON_BYTES, MALFORMED, SIDECAR_NAME, parse_recipe, parse_sidecar
from tlfeatures.store._segment import MAX_FILE_BYTES

__all__ = ["OnProgress", "copy_store", "open_side"]

OnProgress = Callable[[int, int], None]  # called with the bytes that are finished, and all bytes to copy
_NAME = re.compile(
    rf"{RECIPE_NAME.pattern}/({SEGMENT_NAME.pattern}|recipe\.json)|networks/{SIDECAR_NAME.pattern}"
)
_THREADS = 4  # each thread has a file in memory
_ROUNDS = 3  # a compaction of the source replaces files while they are copied


class Side(Protocol):
    """One end of a transfer: the files of a store by their names in ``v1``, the folder of version 1 of the format."""

    def list_files(self) -> dict[str, int]:
        """Return the sizes in bytes by name."""

    def read(self, name: str) -> bytes:
        """Read a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once or not at all."""

    def locate(self, name: str) -> str:
        """Return the path of a file, for messages."""


class _Folder:
    def __init__(self, v1: str) -> None:
        self.v1 = v1

    def list_files(self) -> dict[str, int]:
        names = [f"networks/{name}" for name in list_names(self._path("networks"), SIDECAR_NAME)]
        for folder in list_names(self.v1, RECIPE_NAME):
            segments = list_names(self._path(folder), SEGMENT_NAME)
            names += [f"{folder}/{name}" for name in (*segments, "recipe.json")]
        sizes = {}
        for name in names:
            try:
                sizes[name] = os.lstat(self._path(name)).st_size
            except FileNotFoundError:
                continue
        return sizes

    def read(self, name: str) -> bytes:
        return read_file(self._path(name), _max_bytes(name))

    def write(self, name: str, content: bytes) -> None:
        try:
            publish_file(self._path(name), content)
        except OSError as error:
            raise store_error(error, "write to", os.path.dirname(self.v1)) from error

    def locate(self, name: str) -> str:
        return self._path(name)

    def _path(self, name: str) -> str:
        return os.path.join(self.v1, *name.split("/"))


class _ObjectStorage:
    def __init__(self, v1: str) -> None:
        self.v1 = v1

    def list_files(self) -> dict[str, int]:
        return {name: info.size for name, info in list_objects(self.v1) if _NAME.fullmatch(name)}

    def read(self, name: str) -> bytes:
        return read_object(join_uri(self.v1, name), _max_bytes(name))[0]

    def write(self, name: str, content: bytes) -> None:
        write_object(join_uri(self.v1, name), content)

    def locate(self, name: str) -> str:
        return redact(join_uri(self.v1, name))


def open_side(url: str) -> Side:
    """Return the store at a URI or in a local folder.

    Raises
    ------
    InvalidParameterError
        If it is a web address or a URL of an unknown kind, or a URL from which pathlib has removed a slash.
    """
    if url.lower().startswith("file://"):
        url = unquote(urlsplit(url).path)
    if is_object(url) and not url.lower().startswith("http"):
        return _ObjectStorage(join_uri(url, "v1"))
    if is_url(url) or has_lost_slash(url):
        hint = " Pass it as text, because pathlib removes one of its slashes." if has_lost_slash(url) else ""
        raise InvalidParameterError(
            f"`url` must be a local folder or start with s3://, gs://, az:// or file://; got {redact(url)!r}.{hint}",
            "url",
        )
    return _Folder(os.path.join(os.path.expanduser(url), "v1"))


def copy_store(
    source: Side, target: Side, on_progress: OnProgress | None = None, must_exist: bool = False
) -> dict[str, Any]:
    """Copy the files that the target lacks, or has with another size; see `EmbeddingStore.push`."""
    result: dict[str, Any] = {
        "segments": 0, "files": 0, "bytes": 0, "skipped_files": 0, "skipped_bytes": 0, "damaged": [],
    }  # fmt: skip
    for i in range(_ROUNDS):
        sizes, present = source.list_files(), target.list_files()
        if not sizes and must_exist:
            raise StoreError(
                errno.ENOENT,
                "there is no embedding store, or it is empty; expected the bucket and prefix, or the folder, that was "
                "passed to `tlfeatures cache push`",
                source.locate("").rstrip("/").removesuffix("v1").rstrip("/"),
            )
        damaged = {entry["path"] for entry in result["damaged"]}
        missing = sorted(
            (
                name
                for name in sizes
                if _is_missing(name, sizes, present) and source.locate(name) not in damaged
            ),
            key=lambda name: (not name.endswith("recipe.json"), name),
        )
        if i == 0:
            result["skipped_files"] = len(sizes) - len(missing)
            result["skipped_bytes"] = sum(sizes.values()) - sum(sizes[name] for name in missing)
        if not _copy_files(source, target, missing, sizes, result, on_progress):
            break
    result["damaged"].sort(key=lambda entry: entry["path"])
    return result


def _is_missing(name: str, sizes: dict[str, int], present: dict[str, int]) -> bool:
    if name.startswith("networks/"):  # these depend on the machine: the target keeps its own
        return name not in present
    return present.get(name) != sizes[name]


def _copy_files(
    source: Side,
    target: Side,
    names: list[str],
    sizes: dict[str, int],
    result: dict[str, Any],
    on_progress: OnProgress | None,
) -> bool:
    """Copy files in threads, and count them in ``result``; return whether any vanished from the source."""

    def copy(name: str) -> tuple[str, int, str | None]:
        try:
            content = source.read(name)
            _verify(name, content)
        except FileNotFoundError:
            return name, 0, None
        except (ObjectStorageError, TransientReadError):
            raise
        except (OSError, *MALFORMED) as error:
            return name, 0, getattr(error, "strerror", None) or str(error) or type(error).__name__
        target.write(name, content)
        return name, len(content), ""

    has_vanished, done, total = False, 0, sum(sizes[name] for name in names)
    with ThreadPoolExecutor(_THREADS, "tlfeatures-copy") as pool:
        futures = [pool.submit(copy, name) for name in names]
        try:
            for future in as_completed(futures):
                name, n_bytes, reason = future.result()
                if reason is None:
                    has_vanished = True
                elif reason:
                    result["damaged"].append({"path": source.locate(name), "reason": reason})
                else:
                    result["files"] += 1
                    result["segments"] += name.endswith(".h5")
                    result["bytes"] += n_bytes
                done += sizes[name]
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return has_vanished


def _max_bytes(name: str) -> int:
    return MAX_FILE_BYTES if name.endswith(".h5") else JSON_BYTES


def _verify(name: str, content: bytes) -> None:
    """Raise one of ``MALFORMED`` if the content of a file is not that of its name."""
    folder, _, file = name.partition("/")
    if file.endswith(".h5"):
        parse_segment(content, folder, file)
    elif file == "recipe.json":
        parse_recipe(content, folder)
    else:
        parse_sidecar(content, file)
