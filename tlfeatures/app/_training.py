"""Training images of a model: their embeddings, and the training images that are nearest to an image."""

from __future__ import annotations

import functools
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from tlfeatures.errors import ImageReadError
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.images import Decoder, Images
from tlfeatures.sources import Source

__all__ = ["TrainingImages"]

_SIDE, _LARGE_SIDE = 160, 640  # pixels of a thumbnail and of a large one


class TrainingImages:
    """Training images with their embeddings, which are read from the store or computed and stored.

    Parameters
    ----------
    cnn : CNNFeatures
        Fitted, with the store of the embeddings.
    source : Source

    Attributes
    ----------
    names : list of str
        Paths relative to the source.
    labels, current : ndarray of object, shape (n,)
        Labels of the source, and those after changes on the page; None where an image has no label.
    split : ndarray of str, shape (n,), or None
    rows : ndarray of int, shape (m,)
        Rows of the images that could be read.
    is_for_training : ndarray of bool, shape (m,)
        Whether each of these images is in the split "train"; all are if there is no such split.
    embeddings : ndarray of float32, shape (m, d)
    keys : ndarray of uint8, shape (m, 16)
        Digests of these images.

    Raises
    ------
    ImageReadError
        If no image can be read.
    """

    def __init__(self, cnn: CNNFeatures, source: Source) -> None:
        self.images, self.names, self.paths = Images.of(source.images), source.names, source.paths
        self.labels, self.split = np.full(len(source), None, object), source.split
        if source.y is not None:
            self.labels[:] = source.y.tolist()
        self.current = self.labels.copy()
        extracted = embed(cnn, self.images, on_error="nan")
        self.rows = extracted.rows
        if not len(self.rows):
            failures = [(self.images.name(row), reason) for row, reason in extracted.errors.items()]
            raise ImageReadError.of(failures, len(self.images))
        self.embeddings, self.keys = extracted.features[self.rows], extracted.keys[self.rows]
        is_train = np.full(len(self), True) if self.split is None else self.split == "train"
        self.is_for_training = is_train[self.rows] if is_train.any() else np.full(len(self.rows), True)
        self._mean = self.embeddings.mean(axis=0)
        self._directions = _normalize(self.embeddings - self._mean)
        self._decoding = {"max_value": cnn.max_value, "window": cnn.window}
        self._small = functools.lru_cache(2048)(functools.partial(self._make_thumbnail, side=_SIDE))
        self._large = functools.lru_cache(32)(functools.partial(self._make_thumbnail, side=_LARGE_SIDE))

    def __len__(self) -> int:
        return len(self.images)

    def find_nearest(self, embedding: np.ndarray, key: np.ndarray, n: int = 6) -> list[dict[str, Any]]:
        """Find the training images whose centered embeddings have the largest cosine; equal files are left out."""
        similarities = self._directions @ _normalize((embedding - self._mean)[None])[0]
        similarities[(self.keys == key).all(axis=1) | ~self.is_for_training] = -np.inf
        count = min(n + 1, len(similarities))
        nearest = np.argpartition(-similarities, count - 1)[:count]
        nearest = nearest[np.argsort(-similarities[nearest], kind="stable")][:n]
        return [
            {
                "row": int(self.rows[i]),
                "name": os.path.basename(self.names[self.rows[i]]),
                "label": self.current[self.rows[i]],
                "similarity": float(similarities[i]),
            }
            for i in nearest
            if np.isfinite(similarities[i])
        ]

    def thumbnail(self, row: int, is_large: bool = False) -> bytes:
        """Return a JPEG file of a training image, whose longer side has 160 or 640 pixels.

        Raises
        ------
        ImageReadError
            If the image cannot be read.
        """
        return (self._large if is_large else self._small)(row)

    def make_tag(self, row: int, is_large: bool = False) -> str:
        """Return the entity tag (ETag) of a thumbnail, which depends on the content of the image."""
        i = int(np.searchsorted(self.rows, row))
        is_readable = i < len(self.rows) and self.rows[i] == row
        return f'"{self.keys[i].tobytes().hex() if is_readable else "none"}-{_LARGE_SIDE if is_large else _SIDE}"'

    def _make_thumbnail(self, row: int, side: int) -> bytes:
        width, height = self.images.size(row)
        scale = side / max(width, height)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        decoder = Decoder(size, **self._decoding)
        buffer = io.BytesIO()
        Image.fromarray(self.images.decode_with_note(row, decoder)[1]).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _normalize(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
