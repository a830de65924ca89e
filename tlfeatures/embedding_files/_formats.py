"""Writers of the formats; each writes its file in parts and replaces an old file when the new one is complete."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tlfeatures import __version__
from tlfeatures._files import replace_file
from tlfeatures.embedding_files._recognize import MARK, list_files

__all__ = ["FileLayout", "open_writer"]

Writer = Callable[[Mapping[str, Sequence[Any]], np.ndarray], None]
# Parquet keeps about 500 bytes for each column of a row group in memory until the file is closed
_ROW_GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class FileLayout:
    """What a file contains besides its rows.

    Attributes
    ----------
    n_rows : int
    names : sequence of str
        Names of the features.
    recipe : str
        JSON text.
    dtypes : dict of str to dtype or None
        The columns of the manifest: the dtype of numbers, or None for texts.
    """

    n_rows: int
    names: Sequence[str]
    recipe: str
    dtypes: dict[str, np.dtype | None]


def open_writer(
    path: str | os.PathLike[str], suffix: str, layout: FileLayout
) -> AbstractContextManager[Writer]:
    """Open a file for writing.

    Parameters
    ----------
    path : path
    suffix : {".h5", ".parquet", ".npy"}
    layout : FileLayout

    Returns
    -------
    context manager of a function
        The function is called with the manifest and the features of consecutive rows, float32 (m, d). The file is
        complete when the block ends; after an exception no file is left.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    return {".h5": _open_hdf5, ".parquet": _open_parquet, ".npy": _open_npy}[suffix](path, layout)


@contextlib.contextmanager
def _open_npy(path: str | os.PathLike[str], layout: FileLayout) -> Iterator[Writer]:
    import pandas

    header = {"descr": "<f4", "fortran_order": False, "shape": (layout.n_rows, len(layout.names))}
    with replace_file(list_files(path)[1]) as manifest_file, replace_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        has_header = True

        def write(manifest: Mapping[str, Sequence[Any]], features: np.ndarray) -> None:
            nonlocal has_header
            file.write(np.ascontiguousarray(features, "<f4").data)
            columns = {name: pandas.Series(values, dtype=object) for name, values in manifest.items()}
            pandas.DataFrame(columns).to_csv(
                manifest_file, index=False, header=has_header, errors="surrogateescape"
            )
            has_header = False

        yield write


@contextlib.contextmanager
def _open_parquet(path: str | os.PathLike[str], layout: FileLayout) -> Iterator[Writer]:
    import pyarrow
    import pyarrow.parquet

    def column_type(dtype: np.dtype | None) -> pyarrow.DataType:
        return pyarrow.string() if dtype is None else pyarrow.from_numpy_dtype(dtype)

    fields = [(name, column_type(dtype)) for name, dtype in layout.dtypes.items()]
    fields += [(name, pyarrow.float32()) for name in layout.names]
    schema = pyarrow.schema(fields, {MARK: __version__, "recipe": layout.recipe})
    with (
        replace_file(path) as file,
        # dictionaries and statistics of the features would only take memory
        pyarrow.parquet.ParquetWriter(
            file, schema, use_dictionary=list(layout.dtypes), write_statistics=list(layout.dtypes)
        ) as parquet,
    ):
        pending: list[pyarrow.Table] = []

        def flush() -> None:
            if pending:
                table = pyarrow.concat_tables(pending)
                pending.clear()
                parquet.write_table(table, row_group_size=len(table))

        def write(manifest: Mapping[str, Sequence[Any]], features: np.ndarray) -> None:
            columns = [
                [None if v is None else _encode(v).decode("utf-8", "replace") for v in values]
                if layout.dtypes[name] is None
                else values
                for name, values in manifest.items()
            ]
            arrays = [
                pyarrow.array(v, t.type) for v, t in zip([*columns, *features.T.copy()], schema, strict=True)
            ]
            pending.append(pyarrow.Table.from_arrays(arrays, schema=schema))
            if sum(table.nbytes for table in pending) >= _ROW_GROUP_BYTES:
                flush()

        yield write
        flush()


@contextlib.contextmanager
def _open_hdf5(path: str | os.PathLike[str], layout: FileLayout) -> Iterator[Writer]:
    import h5py

    with replace_file(path) as file:
        guard = _FileForHDF5(file)
        with h5py.File(guard, "w", libver=("earliest", "v108")) as h5:
            h5.attrs[MARK], h5.attrs["recipe"] = __version__, layout.recipe
            h5.create_dataset(
                "feature_names", data=[_encode(n) for n in layout.names], dtype=h5py.string_dtype()
            )
            h5.create_dataset("features", (layout.n_rows, len(layout.names)), np.float32)
            for name, dtype in layout.dtypes.items():
                h5.create_dataset(name, (layout.n_rows,), h5py.string_dtype() if dtype is None else dtype)
            start = 0

            def write(manifest: Mapping[str, Sequence[Any]], features: np.ndarray) -> None:
                nonlocal start
                stop = start + len(features)
                h5["features"][start:stop] = features
                for name, values in manifest.items():
                    is_text = layout.dtypes[name] is None
                    h5[name][start:stop] = [_encode(value) for value in values] if is_text else values
                start = stop
                guard.check()

            yield write
        guard.check()


class _FileForHDF5(io.RawIOBase):
    """A file that HDF5 writes through Python, whose methods never report an error to HDF5.

    HDF5 crashes the process if a write fails, for example because the disk is full. Therefore `check` raises the first
    error later, and all bytes that HDF5 writes after it stay in memory, from where HDF5 can read them back. The
    incomplete file is then removed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = io.FileIO(file.fileno(), "r+", closefd=False)
        self.position = self.end = 0
        self.error: OSError | None = None
        self.unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error of a write."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        view, n = memoryview(data).cast("B"), len(data)
        try:
            self.file.seek(self.position)
            while view and self.error is None:
                view = view[self.file.write(view) :]
        except OSError as error:
            self.error = error
        if view:
            self.unwritten.append((self.position + n - len(view), bytes(view)))
        self.position += n
        self.end = max(self.end, self.position)
        return n

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self.position, self.position + len(view)
        self.file.seek(start)
        n = self.file.readinto(view)
        view[n:] = bytes(len(view) - n)
        for offset, data in self.unwritten:
            first, last = max(start, offset), min(stop, offset + len(data))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self.position = stop
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.end}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def truncate(self, size: int | None = None) -> int:
        self.end = self.position if size is None else size
        try:
            self.file.truncate(self.end)
        except OSError as error:
            self.error = self.error or error
        return self.end


def _encode(value: Any) -> bytes:
    """Encode a text, without null characters, which texts in HDF5 files cannot contain."""
    return b"" if value is None else str(value).replace("\0", "").encode("utf-8", "surrogateescape")
