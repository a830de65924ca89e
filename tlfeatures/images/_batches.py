"""Decoding in threads, ahead of whoever consumes the batches, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import ImageReadError
from tlfeatures.fingerprints import KEY_BYTES
from tlfeatures.images._decode import Decoder
from tlfeatures.images._images import Images, default_threads, pool
from tlfeatures.images._pixels import depth_warning

if TYPE_CHECKING:
    import pandas

_PIECE = 4  # images a task: small enough to share a batch among threads


def decode_batches(
    images: Any,
    rows: Sequence[int] | np.ndarray,
    decoder: Decoder,
    batch_size: int,
    n_threads: int | None = None,
    depth: int = 4,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]]:
    """Decode ``rows`` of ``images`` in threads, at most ``depth`` batches ahead.

    Yields
    ------
    rows : ndarray of int, shape (b,)
        The rows that could be read, in the order asked for.
    keys : ndarray of uint8, shape (b, 16)
        Digests of the bytes that were decoded.
    batch : ndarray of uint8, shape (b, height, width, 3)
        A fresh array each time. b is ``batch_size`` less the unreadable ones, and may be 0.
    errors : dict
        {row: reason} of the unreadable ones.

    Notes
    -----
    Closing the iterator, or an exception in the consumer, stops the threads.

    Examples
    --------
    >>> X = np.zeros((5, 8, 8), "uint8")
    >>> [rows.tolist() for rows, *_ in decode_batches(X, range(5), Decoder((4, 4)), batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1 or depth < 1:
        raise ValueError(f"batch_size and depth must be at least 1; got {batch_size} and {depth}.")
    return _decode_batches(
        Images.of(images), np.asarray(rows, dtype=np.intp), decoder, int(batch_size), n_threads, depth
    )


def _decode_batches(
    images: Images, rows: np.ndarray, decoder: Decoder, batch_size: int, n_threads: int | None, depth: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]]:
    notes: dict[str, list[int]] = {}

    def work(part: np.ndarray, keys: np.ndarray, batch: np.ndarray) -> tuple[dict[int, str], list]:
        errors, seen = {}, []
        for j, row in enumerate(part.tolist()):
            try:
                key, batch[j], note = images.decode_noted(row, decoder)
                keys[j] = np.frombuffer(key, np.uint8)
                if note:
                    seen.append((note, row))
            except ImageReadError as e:
                errors[row] = e.reason
        return errors, seen

    with pool(n_threads) as executor:
        ahead: deque = deque()
        starts = iter(range(0, len(rows), batch_size))

        def submit() -> None:
            start = next(starts, None)
            if start is None:
                return
            part = rows[start : start + batch_size]
            keys = np.zeros((len(part), KEY_BYTES), np.uint8)
            batch = np.empty((len(part), *decoder.image_size, 3), np.uint8)
            pieces = [slice(j, j + _PIECE) for j in range(0, len(part), _PIECE)]
            futures = [executor.submit(work, part[p], keys[p], batch[p]) for p in pieces]
            ahead.append((part, keys, batch, futures))

        for _ in range(depth):
            submit()
        while ahead:
            part, keys, batch, futures = ahead.popleft()
            errors: dict[int, str] = {}
            for future in futures:
                bad, seen = future.result()
                errors.update(bad)
                for note, row in seen:
                    notes.setdefault(note, []).append(row)
            submit()
            if errors:
                good = np.array([row not in errors for row in part.tolist()], dtype=bool)
                part, keys, batch = part[good], keys[good], batch[good]
            yield part, keys, batch, errors
    for note, noted in notes.items():  # once, and not from a decoding thread
        warn(depth_warning(note, len(noted), images.name(noted[0])))


def check_images(X: Any, n_jobs: int | None = None) -> pandas.DataFrame:
    """Find the images that cannot be read, by decoding every one; no network is needed.

    Parameters
    ----------
    X : array-like
        Images in any form that `CNNFeatures` takes.
    n_jobs : int, optional
        Decoding threads; None or -1 for one a core, 8 at most.

    Returns
    -------
    pandas.DataFrame
        Only the bad ones: columns ``row``, ``image`` (path or place in ``X``) and ``reason``.

    Raises
    ------
    ImageInputError
        When ``X`` as a whole is not a batch of images.

    Examples
    --------
    >>> check_images([b"not an image"])["reason"].tolist()
    ['not an image in a known format']
    """
    import pandas

    images = Images.of(X)
    threads = default_threads() if n_jobs is None or n_jobs < 1 else n_jobs
    decoder = Decoder((8, 8), interpolation="nearest", decode="exact")
    found = [
        (row, images.name(row), reason)
        for *_, errors in decode_batches(images, range(len(images)), decoder, 16, threads)
        for row, reason in sorted(errors.items())
    ]
    return pandas.DataFrame(found, columns=["row", "image", "reason"])
