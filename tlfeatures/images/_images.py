"""`Images`: a read-only view of images in any accepted form."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tlfeatures._inputs import split_frame
from tlfeatures._object_digests import digest_of_uri
from tlfeatures._objects import is_object, redact
from tlfeatures.errors import ImageReadError, ObjectStorageError, TransientReadError
from tlfeatures.fingerprints import KEY_BYTES, memoized_keys
from tlfeatures.images._contents import frame_key, read_content, read_file_key, read_item, read_object
from tlfeatures.images._decode import Decoder, decode_array, decode_bytes, read_size
from tlfeatures.images._formats import Unreadable, describe_os_error
from tlfeatures.images._forms import recognize_images
from tlfeatures.images._notes import LOW_CONTRAST, Note, warn_of_depth, warn_of_low_contrast
from tlfeatures.images._threads import make_pool

_OBJECT_THREADS = 16  # at least, because they mostly wait for the network


class Images:
    """A read-only view of images in any accepted form; row i is always image i.

    No input is copied or changed; arrays on disk (h5py) are read row by row. Make one with `Images.of`.

    Examples
    --------
    >>> import numpy as np
    >>> images = Images.of(np.arange(128, dtype="uint8").reshape(2, 8, 8))
    >>> len(images), images.name(1)
    (2, 'X[1]')
    >>> images.decode(0, Decoder((4, 4)))[1].shape
    (4, 4, 3)
    """

    def __init__(self, data: Any, rows: np.ndarray, checked: bool, full_depth: bool = False) -> None:
        self._data, self._rows = data, rows
        self._checked = checked  # whether layout and values of the whole array were checked
        self._full_depth = full_depth  # whether the whole array was checked and has no depth note
        # row -> digest and content of objects to decode next
        self._contents: dict[int, tuple[bytes, bytes]] = {}
        self._bytes_left = 0

    @classmethod
    def of(cls, X: Any) -> Images:
        """View ``X`` as images.

        Parameters
        ----------
        X : array-like
            Paths, URIs, bytes, PIL images or arrays in a list, 1-D array, Series, Arrow array or one-column DataFrame;
            or an array (n, height, width[, 1 | 3 | 4]) of uint8, uint16, bool, floats in [0, 1], or
            integers in 0..255; or an array on disk of that shape (h5py, zarr).

        Raises
        ------
        ImageInputError
            If ``X`` as a whole is not a batch of images; the message says what was passed, what is expected and how
            to fix it. Single items of a list are not checked here: `key` and `decode` raise for invalid ones.
        """
        if isinstance(X, Images):
            return X
        data, n, *checks = recognize_images(X)
        return cls(data, np.arange(n), *checks)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Images: {len(self)}>"

    def take(self, rows: Sequence[int] | np.ndarray) -> Images:
        """Return a view of some rows (integers or a mask), in that order; names stay those of ``X``."""
        rows = np.asarray(rows)
        return Images(
            self._data, self._rows[rows if rows.size else rows.astype(int)], self._checked, self._full_depth
        )

    def detach(self, rename: Callable[[str], str] = str) -> Images:
        """Return a copy that contains no other images of ``X``, so that it is small when pickled.

        Parameters
        ----------
        rename : callable, optional
            Returns the new path of each file, for example the absolute path.

        Returns
        -------
        Images
            Names of images that are not files are positions in the copy.
        """
        data: Any = self._data
        if isinstance(data, list):
            items = [data[row] for row in self._rows.tolist()]
            data = [rename(os.fsdecode(i)) if isinstance(i, (str, os.PathLike)) else i for i in items]
        elif isinstance(data, np.ndarray):
            data = data[self._rows]
        elif hasattr(data, "take") and not hasattr(data, "__array__"):
            # an array on disk that is pickled without its pixels; `take` of an array of JAX would flatten it
            data = data.take(self._rows)
        else:
            data = [np.asarray(data[row]) for row in self._rows.tolist()]
        return Images(data, np.arange(len(self)), self._checked, self._full_depth)

    def encoded(self) -> np.ndarray:
        """Return a mask of the images that are encoded files or bytes, not pixels; bool (n,)."""
        if not isinstance(self._data, list):
            return np.zeros(len(self), bool)
        items = [self._data[row] for row in self._rows.tolist()]
        if set(map(type, items)) <= {str, bytes}:
            return np.ones(len(self), bool)
        kinds = (str, os.PathLike, bytes, bytearray, memoryview)
        return np.array([isinstance(item, kinds) for item in items])

    def paths(self) -> list[str | None]:
        """Return the path of each image; None if the image is not a file."""
        if isinstance(self._data, list):
            items = list(map(self._data.__getitem__, self._rows.tolist()))
            if set(map(type, items)) <= {str}:
                return items
        return [self._path(i) for i in range(len(self))]

    def uris(self) -> dict[int, str]:
        """Return {row: URI} of the images in object storage."""
        if not isinstance(self._data, list):
            return {}
        items = enumerate(self.paths())
        return {i: split_frame(path)[0] for i, path in items if path and "://" in path and is_object(path)}

    def forget_contents(self) -> None:
        """Free the memory of objects that were read but not decoded."""
        self._contents.clear()

    def name(self, i: int) -> str:
        """Return the path of image ``i``, or its position in ``X``, such as ``"X[12]"``; URIs without passwords."""
        path = self._path(i)
        return redact(path) if path else f"X[{self._rows[i]}]"

    def _path(self, i: int) -> str | None:
        if not isinstance(self._data, list):
            return None
        item = self._data[self._rows[i]]
        return os.fsdecode(item) if isinstance(item, (str, os.PathLike)) else None

    def key(self, i: int) -> bytes:
        """Return the digest of the content of image ``i``; 16 bytes.

        Raises
        ------
        ImageReadError
            If the file is missing, empty or a folder, or the array is not an image.
        """
        with self._named(i):
            item = self._data[int(self._rows[i])]
            if isinstance(item, (str, os.PathLike)):
                path, frame = split_frame(item)
                key = self._read_object_key(i, path) if is_object(path) else read_file_key(path)
                return frame_key(key, frame)
            return read_item(item, self._checked)[0]

    def keys(self, n_threads: int | None = None, keep_bytes: int = 0) -> tuple[np.ndarray, dict[int, str]]:
        """Return the digests of all images.

        Parameters
        ----------
        n_threads : int, optional
            Reading threads.
        keep_bytes : int, default=0
            Size of the objects that are kept in memory until they are decoded, so that each is read once.

        Returns
        -------
        keys : ndarray of uint8, shape (n, 16)
            Zeros for unreadable images.
        errors : dict
            {row: reason} of unreadable images.

        Raises
        ------
        TransientReadError, ObjectStorageError
            If the storage fails, which is not an error of single images.
        """
        keys, errors = [None] * len(self), {}
        self._bytes_left = keep_bytes
        if isinstance(self._data, list):
            keys = memoized_keys(map(self._data.__getitem__, self._rows.tolist()))
        missing = [i for i, key in enumerate(keys) if key is None]

        def fill(part: list[int]) -> None:
            for i in part:
                try:
                    keys[i] = self.key(i)
                except ImageReadError as e:
                    keys[i] = bytes(KEY_BYTES)
                    errors[i] = e.reason

        if missing:
            in_storage = isinstance(self._data, list) and any(
                is_object(self._data[self._rows[i]]) for i in missing
            )
            n_threads, step = (max(n_threads or 1, _OBJECT_THREADS), 4) if in_storage else (n_threads, 64)
            with make_pool(n_threads) as executor:
                for future in [
                    executor.submit(fill, missing[i : i + step]) for i in range(0, len(missing), step)
                ]:
                    future.result()
        joined = np.frombuffer(bytearray().join(keys), np.uint8).reshape(len(keys), KEY_BYTES)
        return joined, dict(sorted(errors.items()))

    def decode(self, i: int, decoder: Decoder) -> tuple[bytes, np.ndarray]:
        """Decode image ``i``.

        Returns
        -------
        key : bytes
            Digest of the content that was decoded; 16 bytes.
        pixels : ndarray of uint8, shape (height, width, 3)

        Raises
        ------
        ImageReadError
            With the name and the reason.
        """
        key, pixels, note = self.decode_with_note(i, decoder)
        if note:
            warn_of_notes(self, {i: note})
        return key, pixels

    def decode_with_note(self, i: int, decoder: Decoder) -> tuple[bytes, np.ndarray, Note | None]:
        """Decode image ``i``; return a `Note` instead of a warning if its values look wrong."""
        with self._named(i):
            key, content, frame = self._read(i)
            if isinstance(content, np.ndarray):
                return key, *decode_array(content, decoder, not self._full_depth)
            return key, *decode_bytes(content, decoder, frame)

    def size(self, i: int) -> tuple[int, int]:
        """Return the width and height of image ``i`` in pixels, upright; raises as :meth:`decode` does."""
        with self._named(i):
            _, content, frame = self._read(i)
            return content.shape[1::-1] if isinstance(content, np.ndarray) else read_size(content, frame)

    def apply(self, i: int, function: Callable[[bytes, Any, int], Any]) -> Any:
        """Return ``function(digest, content, frame)`` of image ``i``; the content is bytes or an array.

        Raises
        ------
        ImageReadError
            If the content cannot be read, or ``function`` raises `Unreadable` or an ``OSError``.
        """
        with self._named(i):
            return function(*self._read(i))

    def _read(self, i: int) -> tuple[bytes, Any, int]:
        """Return the key, the content (bytes or array) and the number of the frame of an image."""
        item = self._data[int(self._rows[i])]
        if not isinstance(item, (str, os.PathLike)):
            return *read_item(item, self._checked), 0
        path, frame = split_frame(item)
        if is_object(path):
            kept = self._contents.pop(i, None)
            key, content = kept or read_object(path)
        else:
            key, content = read_content(path)
        return frame_key(key, frame), content, frame

    def _read_object_key(self, i: int, uri: str) -> bytes:
        """Return the digest of an object, and keep its content if it had to be read."""
        key = digest_of_uri(uri)
        if key is None:
            key, content = read_object(uri)
            if len(content) <= self._bytes_left:
                self._bytes_left -= len(content)
                self._contents[i] = key, content
        return key

    @contextlib.contextmanager
    def _named(self, i: int) -> Iterator[None]:
        try:
            yield
        except Unreadable as e:
            raise ImageReadError(self.name(i), str(e)) from e.__cause__
        except (TransientReadError, ObjectStorageError):
            raise
        except OSError as e:
            raise ImageReadError(self.name(i), describe_os_error(e)) from e


def warn_of_notes(images: Images, notes: dict[int, Note]) -> dict[int, str]:
    """Issue one warning for each kind of note; return {row: reason} of the images without contrast.

    Parameters
    ----------
    images : Images
    notes : dict
        {row: `Note`}.
    """
    names = {row: images.name(row) for row in notes}
    warn_of_depth(names, notes)
    low_contrast = {row: note.reason for row, note in notes.items() if note.kind == LOW_CONTRAST}
    warn_of_low_contrast([names[row] for row in low_contrast], low_contrast.values(), len(images))
    return low_contrast
