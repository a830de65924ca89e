"""Manifests: CSV, TSV and Parquet tables with one row an image."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures.errors import MissingDependencyError, SourceError
from tlfeatures.sources._source import Source, listed, near_text, split_name

_PATH_COLUMNS = (
    "path", "file", "filename", "filepath", "image", "image_path", "img",
    "file_name", "file_path", "img_path", "image_file", "image_name",
)  # fmt: skip
_TARGET_COLUMNS = ("label", "target", "class")
_MISSING = frozenset(("", "na", "nan", "n/a", "none", "null"))
_INT, _FLOAT = r"[+-]?\d+", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
PARQUET = (".parquet", ".pq")


def read_manifest(path: str, columns: dict[str, str | None], labels: bool) -> Source:
    """Images of a table; `columns` holds the keywords of `read_source`."""
    table = _parquet(path) if Path(path).suffix.lower() in PARQUET else _csv(path)
    if not table or not len(next(iter(table.values()))):
        raise SourceError(f"{path!r} holds no rows; expected a header line and one line an image.")
    where = _column(path, table, columns["path_column"], _PATH_COLUMNS, "the paths of the images")
    paths = _values(path, where, table[where], number=False).tolist()
    target = columns["target"] or (_default(table, _TARGET_COLUMNS) if labels else None)
    split = columns["split"] or _default(table, ("split",))

    def field(name: str | None, what: str, number: bool = True) -> np.ndarray | None:
        if name is None:
            return None
        return _values(path, name, table[_column(path, table, name, (), what)], number)

    y, groups = field(target, "labels"), field(columns["groups"], "groups")
    parts = field(split, "splits", number=False)
    folder = os.path.dirname(path)
    full = [os.path.join(folder, p) for p in paths]
    if not any(map(os.path.exists, full)):
        raise SourceError(
            f"None of the {len(full)} files in column {where!r} of {path!r} exists, such as {full[0]!r}. "
            "Paths are relative to the manifest's folder."
        )
    parts = None if parts is None else np.array([split_name(p) for p in parts])
    return Source(full, y, groups, parts, paths, "manifest")


def _csv(path: str) -> dict[str, list[Any]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            first = f.readline()
            f.seek(0)
            mark = "\t" if path.lower().endswith(".tsv") else max(",;\t|", key=first.count)
            reader = csv.reader(f, delimiter=mark)
            header = [name.strip() for name in next(reader, [])]
            while header and not header[-1]:
                header.pop()
            twice = {name for name in header if header.count(name) > 1}
            if twice:
                raise SourceError(f"Column {listed(sorted(twice))} appears more than once in {path!r}.")
            rows = []
            for row in reader:
                if len(row) > len(header) and any(row[len(header) :]):
                    raise SourceError(
                        f"Line {reader.line_num} of {path!r} has {len(row)} fields; the header has "
                        f"{len(header)}. Values that hold {mark!r} must be quoted."
                    )
                if any(row):
                    rows.append(row[: len(header)] + [""] * (len(header) - len(row)))
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{path!r} is not UTF-8 text ({e.reason} at byte {e.start}): save it as UTF-8."
        ) from e
    except csv.Error as e:
        raise SourceError(f"{path!r} is not a readable CSV file: {e}.") from e
    except OSError as e:
        raise SourceError(f"Cannot read {path!r}: {e.strerror or e}.") from e
    return {name: [row[j] for row in rows] for j, name in enumerate(header)}


def _parquet(path: str) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependencyError(f"{path!r} needs a Parquet reader: pip install pyarrow") from None
    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as e:  # ArrowInvalid is a ValueError
        raise SourceError(f"Cannot read {path!r} as Parquet: {e}") from e


def _default(table: Iterable[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(list(table))}
    return next((lower[name] for name in known if name in lower), None)


def _column(path: str, table: dict[str, list[Any]], name: str | None, known: Sequence[str], what: str) -> str:
    found = _default(table, known) if name is None else name
    if found in table:
        return found
    asked = f"No column {name!r} ({what})" if name else f"No column for {what}, such as {known[0]!r},"
    raise SourceError(f"{asked} in {path!r}.{near_text(name or known[0], table)} Columns: {listed(table)}.")


def _values(path: str, name: str, column: list[Any], number: bool) -> np.ndarray:
    """One column as an array without gaps; texts become numbers where all of them are."""
    texts = [v.strip() if isinstance(v, str) and number else v for v in column]
    bad = [i for i, v in enumerate(texts) if v is None or v == "" or v != v]
    full = [v for v in texts if not (isinstance(v, str) and v.lower() in _MISSING)]
    if number and full and all(isinstance(v, str) for v in full):
        for pattern, kind in ((_INT, np.int64), (_FLOAT, np.float64)):
            if all(re.fullmatch(pattern, v) for v in full):
                bad = [i for i, v in enumerate(texts) if not v or v.lower() in _MISSING]
                if not bad:
                    try:
                        return np.array([kind(v) for v in texts])
                    except OverflowError:  # a long identifier stays text
                        break
    if bad:
        rows = ", ".join(map(str, bad[:5]))
        raise SourceError(
            f"{len(bad)} of {len(texts)} rows of {path!r} have no value in column {name!r}: rows {rows}"
            f"{', ...' if len(bad) > 5 else ''} (counted from 0). Fill them or delete these lines."
        )
    if not number and not all(isinstance(v, str) for v in texts):
        came = next(type(v).__name__ for v in texts if not isinstance(v, str))
        raise SourceError(f"Column {name!r} of {path!r} holds {came}; expected text.")
    return np.array(texts)
