"""Manifests: CSV, TSV and Parquet tables with one row an image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures._inputs import URL_HINT, is_missing, is_url
from tlfeatures.errors import MissingDependencyError, SourceError
from tlfeatures.sources._source import Source, listed, near_text, split_name

if TYPE_CHECKING:
    import pandas

_PATH_COLUMNS = (
    "path", "file", "filename", "filepath", "image", "image_path", "img",
    "file_name", "file_path", "img_path", "image_file", "image_name",
)  # fmt: skip
_TARGET_COLUMNS = ("label", "target", "class")
_MISSING = frozenset(("", "na", "nan", "n/a", "none", "null"))
_INT, _FLOAT = r"[+-]?\d+", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
PARQUET = (".parquet", ".pq")


def read_manifest(path: str, columns: dict[str, str | None], labels: bool) -> Source:
    """List the images of a table; `columns` holds the keywords of `read_source`."""
    table = _read_parquet(path) if Path(path).suffix.lower() in PARQUET else _read_csv(path)
    if not len(table):
        raise SourceError(f"{path!r} holds no rows; expected a header line and one line an image.")
    names = [str(name) for name in table.columns]
    where = _find_column(path, names, columns["path_column"], _PATH_COLUMNS, "the paths of the images")
    paths = _values(path, where, table[where], number=False).tolist()
    target = columns["target"] or (_default(names, _TARGET_COLUMNS) if labels else None)
    split = columns["split"] or _default(names, ("split",))

    def field(name: str | None, what: str, number: bool = True) -> np.ndarray | None:
        if name is None:
            return None
        return _values(path, name, table[_find_column(path, names, name, (), what)], number)

    y, groups = field(target, "labels"), field(columns["groups"], "groups")
    parts = field(split, "splits", number=False)
    folder = os.path.dirname(path)
    full = [p if is_url(p) else os.path.join(folder, p) for p in paths]
    if not any(map(os.path.exists, full)):
        fix = "Paths are relative to the manifest's folder."
        if is_url(full[0]):
            fix = f"URLs are not read: {URL_HINT}s."
        raise SourceError(
            f"None of the {len(full)} files in column {where!r} of {path!r} exists, such as {full[0]!r}. {fix}"
        )
    parts = None if parts is None else np.array([split_name(p) for p in parts])
    return Source(full, y, groups, parts, paths, "manifest", columns=names)


def _read_csv(path: str) -> pandas.DataFrame:
    """Text columns; the index counts the rows of the file, where the header is row 1."""
    import pandas

    def read(**options: Any) -> pandas.DataFrame:
        return pandas.read_csv(
            path, sep=mark, header=None, dtype=str, encoding="utf-8-sig", skip_blank_lines=False, na_filter=False,
            **options,
        )  # fmt: skip

    try:
        with open(path, encoding="utf-8-sig") as f:
            first = f.readline()
        mark = "\t" if path.lower().endswith(".tsv") else max(",;\t|", key=first.count)
        header = [name.strip() for name in read(nrows=1).iloc[0].tolist()]
        while header and not header[-1]:
            header.pop()
        # one column more than the header has: lines may end with a delimiter
        table = read(names=range(max(first.count(mark), len(header)) + 2), index_col=False)
    except pandas.errors.EmptyDataError:
        return pandas.DataFrame()
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{path!r} is not UTF-8 text ({e.reason} at byte {e.start}): save it as UTF-8."
        ) from e
    except pandas.errors.ParserError as e:
        if ragged := re.search(r"in line (\d+), saw (\d+)", str(e)):
            row, fields = map(int, ragged.groups())
            raise _ragged(path, row, fields, len(header), mark) from None
        raise SourceError(f"{path!r} is not a readable CSV file: {e}.") from e
    except OSError as e:
        raise SourceError(f"Cannot read {path!r}: {e.strerror or e}.") from e
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise SourceError(f"Column {listed(sorted(twice))} appears more than once in {path!r}.")
    table.index = range(1, len(table) + 1)
    filled = (table != "").to_numpy()
    beyond = filled[:, len(header) :].any(axis=1)
    if beyond.any():
        row = int(beyond.argmax())
        raise _ragged(path, row + 1, int(np.flatnonzero(filled[row])[-1]) + 1, len(header), mark)
    return table.loc[filled.any(axis=1)].iloc[1:, : len(header)].set_axis(header, axis=1)


def _ragged(path: str, row: int, fields: int, expected: int, mark: str) -> SourceError:
    return SourceError(
        f"Row {row} of {path!r} has {fields} fields; the header, row 1, has {expected}. Values that hold {mark!r} must "
        "be quoted."
    )


def _read_parquet(path: str) -> pandas.DataFrame:
    import pandas

    try:
        table = pandas.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise MissingDependencyError(f"{path!r} needs a Parquet reader: pip install pyarrow") from None
    except (OSError, ValueError) as e:  # ArrowInvalid is a ValueError
        raise SourceError(f"Cannot read {path!r} as Parquet: {e}") from e
    return table.reset_index(drop=table.index.names == [None])


def _default(names: Iterable[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(list(names))}
    return next((lower[name] for name in known if name in lower), None)


def _find_column(path: str, names: list[str], name: str | None, known: Sequence[str], what: str) -> str:
    column = _default(names, known) if name is None else name
    if column in names:
        return column
    asked = f"No column {name!r} ({what})" if name else f"No column for {what}, such as {known[0]!r},"
    raise SourceError(f"{asked} in {path!r}.{near_text(name or known[0], names)} Columns: {listed(names)}.")


def _values(path: str, name: str, column: pandas.Series, number: bool) -> np.ndarray:
    """One column as an array without gaps; texts become numbers where all of them are."""
    values = [v.strip() if isinstance(v, str) and number else v for v in column.tolist()]
    missing = [i for i, v in enumerate(values) if is_missing(v) or v == ""]
    full = [v for v in values if not (isinstance(v, str) and v.lower() in _MISSING)]
    if number and full and all(isinstance(v, str) for v in full):
        for pattern, kind in ((_INT, np.int64), (_FLOAT, np.float64)):
            if all(re.fullmatch(pattern, v) for v in full):
                missing = [i for i, v in enumerate(values) if not v or v.lower() in _MISSING]
                if not missing:
                    try:
                        return np.array([kind(v) for v in values])
                    except OverflowError:  # a long identifier stays text
                        break
    if missing:
        rows = ", ".join(str(column.index[i]) for i in missing[:5])
        counted = "the header is row 1" if column.index[0] else "counted from 0"
        raise SourceError(
            f"{len(missing)} of {len(values)} rows of {path!r} have no value in column {name!r}: rows {rows}"
            f"{', ...' if len(missing) > 5 else ''} ({counted}). Fill them in or delete these rows."
        )
    if not number and not all(isinstance(v, str) for v in values):
        kind = next(type(v).__name__ for v in values if not isinstance(v, str))
        raise SourceError(f"Column {name!r} of {path!r} holds {kind}; expected text.")
    return np.array(values)
