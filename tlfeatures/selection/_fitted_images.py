"""What a fitted search keeps of its images: paths, digests and a few thumbnails, never the caller's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures.features import CNNFeatures
from tlfeatures.images import Decoder, Images
from tlfeatures.store import EmbeddingStore

__all__ = ["FittedImages", "worst_mistakes"]

_SIDE = 160  # pixels of a kept thumbnail


@dataclass(frozen=True)
class FittedImages:
    """Record of the images that a search was fitted on.

    Attributes
    ----------
    paths : list of str or None
        None for images that are not files.
    keys : ndarray of uint8, shape (n, 16)
        Digests of the images' content.
    thumbnails : dict of int to ndarray of uint8, shape (160, 160, 3)
        Images that are not files, by row: those that a report shows.
    embeddings : ndarray of float32, shape (n, d), or None
        Embeddings of the best candidate, kept only where neither files nor a store can give them again.
    """

    paths: list[str | None]
    keys: np.ndarray
    thumbnails: dict[int, np.ndarray]
    embeddings: np.ndarray | None

    @classmethod
    def of(
        cls,
        images: Images,
        keys: np.ndarray,
        shown: Sequence[int],
        store: EmbeddingStore | None,
        embeddings: np.ndarray,
    ) -> FittedImages:
        """Make the record of ``images``; ``shown`` are the rows whose thumbnails are kept."""
        paths = images.paths()
        decoder = Decoder((_SIDE, _SIDE), "pad")
        thumbnails = {int(row): images.decode(row, decoder)[1] for row in shown if paths[row] is None}
        keep_embeddings = store is None and None in paths
        return cls(paths, keys.copy(), thumbnails, embeddings if keep_embeddings else None)

    def thumbnail(self, row: int, side: int) -> np.ndarray:
        """Read a file again, or scale a kept thumbnail; uint8 (side, side, 3)."""
        if self.paths[row] is not None:
            images, row = Images.of(self.paths), int(row)
        elif row in self.thumbnails:
            images, row = Images.of(self.thumbnails[row][None]), 0
        else:
            raise ValueError(
                f"Image {row} was passed as an array, which the search does not keep; thumbnails are kept only of the "
                f"worst mistakes, rows {sorted(self.thumbnails)}. Show X[search.rows_[{row}]] instead."
            )
        return images.decode(row, Decoder((side, side), "pad"))[1]

    def load_embeddings(self, cnn: CNNFeatures) -> np.ndarray:
        """Get the embeddings of all images from memory, from the store, or from the files."""
        if self.embeddings is not None:
            return self.embeddings
        store = EmbeddingStore.resolve(cnn.cache)
        if store is not None:
            blocks, in_store = zip(*(store.get(recipe, self.keys) for recipe in cnn.recipes_), strict=True)
            if all(rows.all() for rows in in_store):
                return np.concatenate(blocks, axis=1)
        if None in self.paths:
            raise ValueError(
                "The store no longer has the embeddings of these images, and images passed as arrays are not kept. "
                "Call search.best_estimator_['cnn'].transform(X[search.rows_])."
            )
        return cnn.transform(self.paths)


def worst_mistakes(
    oof: pandas.DataFrame, proba: np.ndarray | None, decision: np.ndarray | None, classes: Any, n: int = 12
) -> np.ndarray:
    """Rows of ``oof`` with the n worst mistakes, the worst first.

    Parameters
    ----------
    oof : DataFrame
        Out-of-fold predictions, with the columns true and predicted.
    proba, decision : ndarray or None
        Probabilities and decision values of the same rows, where the head has them.
    classes : ndarray or None
        None for regression, where a mistake is measured by its absolute error.
    n : int
    """
    true, predicted = oof["true"].to_numpy(), oof["predicted"].to_numpy()
    if classes is None:
        error = np.abs(predicted - true)
        wrong = error > 0
    else:
        wrong, error = true != predicted, np.zeros(len(oof))
        values = decision if proba is None else proba
        if values is not None and values.ndim == 1:  # the sign decides between two classes
            error = np.abs(values)
        elif values is not None and values.shape[1] == len(classes):
            rows = np.arange(len(oof))
            guess, truth = (np.searchsorted(classes, labels) for labels in (predicted, true))
            error = values[rows, guess] - values[rows, truth]
    mistakes = np.flatnonzero(wrong)
    return mistakes[np.argsort(-np.nan_to_num(error[mistakes]), kind="stable")][:n]
