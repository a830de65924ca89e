"""Manifests: CSV, TSV and Parquet tables with one row for each image."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlfeatures._inputs import URL_HINT, is_missing, is_url, split_frame
from tlfeatures._objects import is_object, join_uri, read_object, redact
from tlfeatures.errors import MissingDependencyError, ObjectStorageError, SourceError, TransientReadError
from tlfeatures.sources._source import Source, normalize_split, quote_names, suggest_names

if TYPE_CHECKING:
    import pandas

_PATH_COLUMNS = (
    "path", "file", "filename", "filepath", "image", "image_path", "img",
    "file_name", "file_path", "img_path", "image_file", "image_name",
)  # fmt: skip
_TARGET_COLUMNS = ("label", "target", "class")
_MISSING = frozenset(("", "na", "nan", "n/a", "none", "null"))
_LARGEST = 2**53  # float64 has all integers up to here
_INT, _FLOAT = r"[+-]?\d+", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_Kind = Literal["text", "label", "group"]
PARQUET = (".parquet", ".pq")
TABLES = (".csv", ".tsv", ".txt")


def read_manifest(path: str, columns: dict[str, str | None], labels: bool) -> Source:
    """List the images of a table; ``columns`` are the keyword arguments of `read_source`."""
    name, content = redact(path), _read_content(path)
    is_parquet = Path(name.partition("?")[0]).suffix.lower() in PARQUET
    table = _read_parquet(name, content) if is_parquet else _read_csv(name, content)
    uri, path = path, name
    if not len(table):
        raise SourceError(f"{path!r} has no rows; expected a header and one row for each image.")
    names = [str(name) for name in table.columns]
    path_column = _find_column(path, names, columns["path_column"], _PATH_COLUMNS, "the paths of the images")
    paths = _convert_column(path, path_column, table[path_column], "text").tolist()
    target = columns["target"] or (_find_default(names, _TARGET_COLUMNS) if labels else None)
    split = columns["split"] or _find_default(names, ("split",))

    def read_column(name: str | None, content: str, kind: _Kind) -> np.ndarray | None:
        if name is None:
            return None
        return _convert_column(path, name, table[_find_column(path, names, name, (), content)], kind)

    y, groups = read_column(target, "labels", "label"), read_column(columns["groups"], "groups", "group")
    parts = read_column(split, "splits", "text")
    folder = (uri.partition("?")[0] if uri.startswith("http") else uri).rpartition("/")[0]
    join = partial(join_uri, folder) if is_object(uri) else partial(os.path.join, os.path.dirname(uri))
    full = [p if is_url(p) else join(p) for p in paths]
    if not any(is_object(p) or os.path.exists(split_frame(p)[0]) for p in full):
        fix = "Paths are relative to the manifest's folder."
        if is_url(full[0]):
            fix = f"It is a URL of an unknown kind; {URL_HINT}."
        raise SourceError(
            f"None of the {len(full)} files in column {path_column!r} of {path!r} exists, such as {full[0]!r}. {fix}"
        )
    parts = None if parts is None else np.array([normalize_split(p) for p in parts])
    return Source(full, y, groups, parts, list(map(redact, paths)), "manifest", columns=names)


def _read_content(path: str) -> bytes:
    try:
        return read_object(path)[0] if is_object(path) else Path(path).read_bytes()
    except (ObjectStorageError, TransientReadError):
        raise
    except OSError as e:
        raise SourceError(f"Cannot read {redact(path)!r}: {e.strerror or e}.") from e


def _read_csv(path: str, content: bytes) -> pandas.DataFrame:
    """Read all columns as text; the index counts the rows of the file, where the header is row 1."""
    import pandas

    def read(**options: Any) -> pandas.DataFrame:
        return pandas.read_csv(
            io.BytesIO(content), sep=delimiter, header=None, dtype=str, encoding="utf-8-sig", skip_blank_lines=False,
            na_filter=False, **options,
        )  # fmt: skip

    try:
        first = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").readline()
        delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t|", key=first.count)
        header = [name.strip() for name in read(nrows=1).iloc[0].tolist()]
        while header and not header[-1]:
            header.pop()
        # read one column more than the header has, because lines may end with a delimiter
        table = read(names=range(max(first.count(delimiter), len(header)) + 2), index_col=False)
    except pandas.errors.EmptyDataError:
        return pandas.DataFrame()
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{path!r} is not UTF-8 text ({e.reason} at byte {e.start}): save it as UTF-8."
        ) from e
    except pandas.errors.ParserError as e:
        if ragged := re.search(r"in line (\d+), saw (\d+)", str(e)):
            row, fields = map(int, ragged.groups())
            raise _make_ragged_error(path, row, fields, len(header), delimiter) from None
        raise SourceError(f"{path!r} is not a readable CSV file: {e}.") from e
    duplicates = {name for name in header if header.count(name) > 1}
    if duplicates:
        raise SourceError(f"Column {quote_names(sorted(duplicates))} appears more than once in {path!r}.")
    table.index = range(1, len(table) + 1)
    filled = (table != "").to_numpy()
    beyond = filled[:, len(header) :].any(axis=1)
    if beyond.any():
        row = int(beyond.argmax())
        raise _make_ragged_error(
            path, row + 1, int(np.flatnonzero(filled[row])[-1]) + 1, len(header), delimiter
        )
    return table.loc[filled.any(axis=1)].iloc[1:, : len(header)].set_axis(header, axis=1)


def _make_ragged_error(path: str, row: int, fields: int, expected: int, delimiter: str) -> SourceError:
    return SourceError(
        f"Row {row} of {path!r} has {fields} fields; the header, row 1, has {expected}. Values that contain "
        f"{delimiter!r} must be quoted."
    )


def _read_parquet(path: str, content: bytes) -> pandas.DataFrame:
    import pandas

    try:
        table = pandas.read_parquet(io.BytesIO(content), engine="pyarrow")
    except ImportError:
        raise MissingDependencyError(f"{path!r} needs a Parquet reader: pip install pyarrow") from None
    except (OSError, ValueError) as e:  # ArrowInvalid is a ValueError
        raise SourceError(f"Cannot read {path!r} as Parquet: {e}") from e
    return table.reset_index(drop=table.index.names == [None])


def _find_default(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(list(names))}
    return next((lower[name] for name in candidates if name in lower), None)


def _find_column(
    path: str, names: list[str], name: str | None, candidates: Sequence[str], content: str
) -> str:
    column = _find_default(names, candidates) if name is None else name
    if column in names:
        return column
    problem = (
        f"No column {name!r} ({content})" if name else f"No column for {content}, such as {candidates[0]!r},"
    )
    raise SourceError(
        f"{problem} in {path!r}.{suggest_names(name or candidates[0], names)} Columns: {quote_names(names)}."
    )


def _convert_column(path: str, name: str, column: pandas.Series, kind: _Kind) -> np.ndarray:
    """Convert a column without missing values to an array; labels and groups may become numbers."""
    number = kind != "text"
    values = [v.strip() if isinstance(v, str) and number else v for v in column.tolist()]
    missing = [i for i, v in enumerate(values) if is_missing(v) or v == ""]
    full = [v for v in values if not (isinstance(v, str) and v.lower() in _MISSING)]
    if number and full and all(isinstance(v, str) and re.fullmatch(_FLOAT, v) for v in full):
        missing = [i for i, v in enumerate(values) if not v or v.lower() in _MISSING]
        numbers = None if missing else _parse_numbers(values, kind)
        if numbers is not None:
            return numbers
    if missing:
        rows = ", ".join(str(column.index[i]) for i in missing[:5])
        counted = "the header is row 1" if column.index[0] else "counted from 0"
        raise SourceError(
            f"{len(missing)} of {len(values)} rows of {path!r} have no value in column {name!r}: "
            f"{'row' if len(missing) == 1 else 'rows'} {rows}{', ...' if len(missing) > 5 else ''} ({counted}). "
            "Fill them in or delete these rows."
        )
    if not number and not all(isinstance(v, str) for v in values):
        kind = next(type(v).__name__ for v in values if not isinstance(v, str))
        raise SourceError(f"Column {name!r} of {path!r} has values of type {kind}; expected text.")
    return _simplify_numbers(np.array(values))


def _parse_numbers(texts: list[str], kind: _Kind) -> np.ndarray | None:
    """Convert texts to numbers; None if they are identifiers, such as the groups "1.1" and "1.10"."""
    if not all(re.fullmatch(_INT, text) for text in texts):
        return None if kind == "group" else _simplify_numbers(np.array([float(text) for text in texts]))
    try:
        numbers = np.array([np.int64(text) for text in texts])
    except OverflowError:
        return None
    is_merged = len(np.unique(numbers)) < len(set(texts))  # such as the labels "1" and "01"
    is_padded = kind == "group" and numbers.astype(str).tolist() != texts
    return None if is_merged or is_padded else numbers


def _simplify_numbers(values: np.ndarray) -> np.ndarray:
    """Convert whole numbers to integers: pandas writes 1 as 1.0 if the column once had missing values."""
    if values.dtype.kind == "f" and (np.abs(values) <= _LARGEST).all() and (values == np.round(values)).all():
        return values.astype(np.int64)
    return values
