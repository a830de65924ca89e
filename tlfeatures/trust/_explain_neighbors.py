"""The nearest training images of each class."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from tlfeatures.features import CNNFeatures, embed
from tlfeatures.images import Images
from tlfeatures.trust._explain_values import HeadValues

if TYPE_CHECKING:
    import pandas

__all__ = ["TrainingEmbeddings"]


class TrainingEmbeddings:
    """Training images with their embeddings, which are read from the store if they are there.

    Parameters
    ----------
    cnn : CNNFeatures
        Fitted transformer.
    X : images
    y : array-like of shape (n,)

    Raises
    ------
    ValueError
        If there is not one label for each image, or no image can be read.
    """

    def __init__(self, cnn: CNNFeatures, X: Any, y: Any) -> None:
        if X is None or y is None:
            raise ValueError(
                "`X_train` and `y_train` must be passed together: images, and the label of each image."
            )
        self.images, self.y = Images.of(X), np.asarray(y)
        if self.y.shape != (len(self.images),):
            raise ValueError(
                f"`y_train` must have one label for each of the {len(self.images)} images of `X_train`; got the shape "
                f"{self.y.shape}."
            )
        extracted = embed(cnn, self.images, on_error="nan")
        self.rows, self.keys = extracted.rows, extracted.keys
        self.embeddings = extracted.features
        if not len(self.rows):
            raise ValueError(
                "None of the images of `X_train` could be read; check_images(X_train) gives the reasons."
            )

    def find_nearest(
        self, values: HeadValues, rows: np.ndarray, embeddings: np.ndarray, keys: np.ndarray, n_neighbors: int
    ) -> pandas.DataFrame:
        """Find the nearest training images of each class.

        Distances are Euclidean distances between the inputs of the last step of the head.

        Returns
        -------
        DataFrame
            Columns: "row", the row of the explained image; "label", "training_row" and "image", the label, row and path
            (or position) of the training image; "rank", from 1; and "distance". Training images identical to the
            explained image are left out.
        """
        import pandas

        labels = self.y[self.rows].astype(object)
        groups = np.zeros(len(labels), int)  # one group for regression
        if values.classes is not None:
            groups = np.unique(labels.astype(str), return_inverse=True)[1]
        train, test = (
            np.asarray(values.transform(x), float) for x in (self.embeddings[self.rows], embeddings)
        )
        records = []
        chunks = pairwise_distances_chunked(test, train)
        for row, key, distances in zip(
            rows.tolist(), keys, itertools.chain.from_iterable(chunks), strict=True
        ):
            is_different = (self.keys[self.rows] != key).any(axis=1)
            for group in range(groups.max() + 1):
                members = np.flatnonzero((groups == group) & is_different)
                nearest = members[np.argsort(distances[members], kind="stable")[:n_neighbors]]
                for rank, j in enumerate(nearest, start=1):
                    training_row = int(self.rows[j])
                    name = self.images.name(training_row)
                    records.append((row, labels[j], rank, training_row, name, distances[j]))
        columns = ["row", "label", "rank", "training_row", "image", "distance"]
        return pandas.DataFrame(records, columns=columns)
