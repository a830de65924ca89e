"""Record of the images of a fitted search: paths, digests and a few thumbnails, but not the caller's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures.extract import check_recipes
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Decoder, Images
from tlfeatures.store import EmbeddingStore

__all__ = ["FittedImages", "worst_predictions"]

_N_WORST = 12
_SIDE = 160  # pixels of a stored thumbnail


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
        Thumbnails that a report shows of images that are not files, by row.
    embeddings : ndarray of float32, shape (n, d), or None
        Embeddings of the best candidate, kept only if there is no store.
    decoding : dict
        ``max_value`` and ``window`` of :class:`~tlfeatures.images.Decoder`.
    """

    paths: list[str | None]
    keys: np.ndarray
    thumbnails: dict[int, np.ndarray]
    embeddings: np.ndarray | None
    decoding: dict[str, Any]

    @classmethod
    def of(
        cls,
        images: Images,
        keys: np.ndarray,
        shown: Sequence[int],
        store: EmbeddingStore | None,
        embeddings: np.ndarray,
        **decoding: Any,
    ) -> FittedImages:
        """Make the record of ``images``; ``shown`` are the rows whose thumbnails are kept."""
        paths = images.paths()
        decoder = Decoder((_SIDE, _SIDE), "pad", **decoding)
        thumbnails = {
            int(row): images.decode_with_note(row, decoder)[1] for row in shown if paths[row] is None
        }
        return cls(paths, keys.copy(), thumbnails, embeddings if store is None else None, decoding)

    def thumbnail(self, row: int, side: int) -> np.ndarray:
        """Return a thumbnail, read from the file or scaled from the stored one; uint8 (side, side, 3)."""
        if self.paths[row] is not None:
            images, row = Images.of(self.paths), int(row)
        elif row in self.thumbnails:
            images, row = Images.of(self.thumbnails[row][None]), 0
        else:
            raise ValueError(
                f"Image {row} was passed as an array, which the search does not keep; thumbnails are kept only of the "
                f"worst mistakes, rows {sorted(self.thumbnails)}. Show X[search.rows_[{row}]] instead."
            )
        return images.decode_with_note(row, Decoder((side, side), "pad", **self.decoding))[1]

    def load_embeddings(self, cnn: CNNFeatures) -> np.ndarray:
        """Load the embeddings of all images from memory, from the store, or from the files."""
        if self.embeddings is not None:
            return self.embeddings
        store = EmbeddingStore.resolve(cnn.cache)
        if store is not None:
            spec = cnn._make_spec()
            check_recipes(cnn.recipes_, [column.recipe for column in spec.columns])
            views = [
                [store.get(column.recipe, self.keys) for column in view.columns] for view in spec.by_view()
            ]
            if all(rows.all() for blocks in views for _, rows in blocks):
                return np.mean([np.concatenate([x for x, _ in blocks], axis=1) for blocks in views], axis=0)
        if None in self.paths:
            raise ValueError(
                "The store no longer has the embeddings of these images, and images passed as arrays are not kept. "
                "Call search.best_estimator_['cnn'].transform(X[search.rows_])."
            )
        return cnn.transform(self.paths)


def worst_predictions(
    predictions: pandas.DataFrame,
    probabilities: np.ndarray | None,
    decision_values: np.ndarray | None,
    classes: np.ndarray | None,
    n: int = _N_WORST,
) -> pandas.DataFrame:
    """Return the n worst predictions, the worst first.

    Their ``margin`` is the lead of the predicted class over the true one in probability or, without
    probabilities, in decision value; for regression (``classes`` None) it is the absolute error.
    """
    true, predicted = predictions["true"].to_numpy(), predictions["predicted"].to_numpy()
    if classes is None:
        margin = np.abs(predicted - true)
        wrong = margin > 0
    else:
        wrong, margin = true != predicted, np.zeros(len(predictions))
        values = decision_values if probabilities is None else probabilities
        if values is not None and values.ndim == 1:  # positive values mean the second of two classes
            margin = 2 * np.abs(values)
        elif values is not None and values.shape[1] == len(classes):
            rows = np.arange(len(predictions))
            of_predicted, of_true = (
                values[rows, np.searchsorted(classes, labels)] for labels in (predicted, true)
            )
            margin = of_predicted - of_true
    worst = np.flatnonzero(wrong)
    worst = worst[np.argsort(-np.nan_to_num(margin[worst]), kind="stable")][:n]
    return predictions.iloc[worst].assign(margin=margin[worst])
