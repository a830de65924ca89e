"""Decoding of batches in threads, a bounded number of batches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures.errors import ImageReadError
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images._decode import Decoder
from tlfeatures.images._images import Images, warn_of_notes
from tlfeatures.images._notes import Note
from tlfeatures.images._quality import ImageProperties, describe_images, find_faults
from tlfeatures.images._threads import count_threads, make_pool

if TYPE_CHECKING:
    import pandas

_TASK_IMAGES = 4  # images per task: few, so that several threads decode each batch


def decode_batches(
    images: Any,
    rows: Iterable[int],
    decoder: Decoder,
    batch_size: int,
    n_threads: int | None = None,
    depth: int = 4,
    notes: dict[int, Note] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]]:
    """Decode ``rows`` of ``images`` in threads, at most ``depth`` batches ahead.

    Parameters
    ----------
    images : images, as `Images.of` takes them
    rows : iterable of int
        Read only as far as images are decoded ahead.
    decoder : Decoder
    batch_size : int
    n_threads : int, optional
        Decoding threads.
    depth : int, default=4
        Number of batches to decode ahead.
    notes : dict, optional
        Filled with {row: `Note`} of images that can be read but look wrong. If None, warnings are issued at the end.

    Yields
    ------
    rows : ndarray of int, shape (b,)
        The rows that could be read, in the order of ``rows``.
    keys : ndarray of uint8, shape (b, 16)
        Digests of the bytes that were decoded.
    batch : ndarray of uint8, shape (b, height, width, 3)
        A new array each time. b is the number of readable images in the batch, and may be 0.
    errors : dict
        {row: reason} of the unreadable images.

    Notes
    -----
    Closing the iterator, or an exception in the consumer, stops the threads.

    Examples
    --------
    >>> X = np.arange(320, dtype="uint16").reshape(5, 8, 8).astype("uint8")
    >>> [rows.tolist() for rows, *_ in decode_batches(X, range(5), Decoder((4, 4)), batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1 or depth < 1:
        raise ValueError(f"batch_size and depth must be at least 1; got {batch_size} and {depth}.")
    return _decode_batches(Images.of(images), iter(rows), decoder, int(batch_size), n_threads, depth, notes)


def _decode_batches(
    images: Images,
    rows: Iterator[int],
    decoder: Decoder,
    batch_size: int,
    n_threads: int | None,
    depth: int,
    notes: dict[int, Note] | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]]:
    all_notes: dict[int, Note] = {} if notes is None else notes

    def decode_task(
        part: np.ndarray, keys: np.ndarray, batch: np.ndarray
    ) -> tuple[dict[int, str], dict[int, Note]]:
        errors, task_notes = {}, {}
        for j, row in enumerate(part.tolist()):
            try:
                key, batch[j], note = images.decode_with_note(row, decoder)
                keys[j] = np.frombuffer(key, np.uint8)
                if note:
                    task_notes[row] = note
            except ImageReadError as e:
                errors[row] = e.reason
        return errors, task_notes

    with make_pool(n_threads) as executor:
        ahead: deque = deque()

        def submit() -> None:
            part = np.fromiter(islice(rows, batch_size), np.intp)
            if not len(part):
                return
            keys = np.zeros((len(part), KEY_BYTES), np.uint8)
            batch = np.empty((len(part), *decoder.image_size, 3), np.uint8)
            tasks = [slice(j, j + _TASK_IMAGES) for j in range(0, len(part), _TASK_IMAGES)]
            futures = [executor.submit(decode_task, part[p], keys[p], batch[p]) for p in tasks]
            ahead.append((part, keys, batch, futures))

        for _ in range(depth):
            submit()
        while ahead:
            part, keys, batch, futures = ahead.popleft()
            errors: dict[int, str] = {}
            for future in futures:
                task_errors, batch_notes = future.result()
                errors.update(task_errors)
                all_notes.update(batch_notes)
            submit()
            if errors:
                readable = np.array([row not in errors for row in part.tolist()], dtype=bool)
                part, keys, batch = part[readable], keys[readable], batch[readable]
            yield part, keys, batch, errors
    if notes is None:  # one warning, issued in the thread of the caller
        warn_of_notes(images, all_notes)


def check_images(
    X: Any,
    n_jobs: int | None = None,
    *,
    max_value: int | None = None,
    window: tuple[float, float] | None = None,
    quality: bool = False,
) -> pandas.DataFrame:
    """Find images that cannot be read or carry almost no information, by decoding all of them; needs no network.

    Parameters
    ----------
    X : array-like
        Images in any form that `CNNFeatures` takes.
    n_jobs : int, optional
        Decoding threads; None or -1 is one for each core, at most 8.
    max_value : int, optional
        As in `CNNFeatures`: the largest value of 16-bit images, such as 4095 for 12-bit data.
    window : (float, float), optional
        As in `CNNFeatures`: center and width of the range of values of 16-bit images and DICOM files.
    quality : bool, default=False
        Whether to report images of low quality too: nearly black or white, of low range, blurry, tiny (below 32
        pixels), elongated (over 3 to 1), or rotated by EXIF.

    Returns
    -------
    pandas.DataFrame
        One row for each such image, in the order of ``X``: ``row``, ``image`` (path or position in ``X``), ``problem``
        ("error" if it cannot be read, "warning" if it spans fewer than 16 of 256 levels or seems to contain 8-bit or
        12-bit data in 16 bits, "quality" for the other faults) and ``reason``. Empty if there are none.

    Raises
    ------
    ImageInputError
        If ``X`` as a whole is not a batch of images.

    Examples
    --------
    >>> import numpy as np
    >>> check_images([b"not an image", np.zeros((8, 8), "uint8")])[["row", "problem", "reason"]]
       row problem                              reason
    0    0    error      not an image in a known format
    1    1  warning  all pixels have the color (0, 0, 0)
    """
    import pandas

    images, notes = Images.of(X), {}
    threads = count_threads() if n_jobs is None or n_jobs < 1 else n_jobs
    decoder = Decoder((24, 24), interpolation="nearest", decode="exact", max_value=max_value, window=window)
    batches = decode_batches(images, range(len(images)), decoder, 16, threads, notes=notes)
    errors = {row: reason for *_, errors in batches for row, reason in errors.items()}
    table = [(row, images.name(row), "error", reason) for row, reason in errors.items()]
    table += [(row, images.name(row), "warning", note.reason) for row, note in notes.items()]
    if quality:
        described = describe_images(images, threads, max_value=max_value, window=window)
        table += [
            (row, images.name(row), "quality", f"{fault}: {reason}")
            for row, properties in enumerate(described)
            if isinstance(properties, ImageProperties)
            for fault, reason in find_faults(properties)
            if row not in notes or fault in ("tiny", "odd aspect", "EXIF rotation")
        ]
    columns = ["row", "image", "problem", "reason"]
    return pandas.DataFrame(sorted(table), columns=columns, dtype=object).astype({"row": int})
