"""`fit_streaming`: a pipeline of CNNFeatures and a head, without the matrix of embeddings in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from tlfeatures.distributed import EmbeddingRun
from tlfeatures.errors import InvalidParameterError
from tlfeatures.evaluation import check_groups, check_labels
from tlfeatures.extract import ImageCounts
from tlfeatures.features import CNNFeatures
from tlfeatures.images import Images, decoder_recipe
from tlfeatures.store import EmbeddingStore
from tlfeatures.streaming._head import StreamedHead, fit_head

__all__ = ["StreamedPipeline", "fit_streaming"]


@dataclass(frozen=True)
class StreamedPipeline:
    """A pipeline whose head was trained on batches.

    Attributes
    ----------
    pipeline : Pipeline
        The fitted steps "cnn", "scale" and "linear", or "estimator" if one was passed; predicts from images.
    training : StreamedHead
        Losses of the validation images, the best epoch or penalty, and the score at it.
    counts : ImageCounts
    errors : dict
        {row: reason} of the unreadable images, which were left out.
    """

    pipeline: Pipeline
    training: StreamedHead
    counts: ImageCounts
    errors: dict[int, str]


def fit_streaming(
    cnn: CNNFeatures,
    images: Any,
    y: Any,
    *,
    groups: Any = None,
    task: str = "auto",
    batch_size: int = 4096,
    **options: Any,
) -> StreamedPipeline:
    """Fit a pipeline of CNNFeatures and a linear head, without the matrix of embeddings in memory.

    Parameters
    ----------
    cnn : CNNFeatures
        It is fitted. Its ``cache`` must be a store, and its ``views`` None. With ``on_error="nan"``, unreadable images
        are left out, with a warning.
    images : images
        Either files and bytes, or pixels.
    y : array-like of shape (n,)
        Labels or numbers.
    groups : array-like of shape (n,), optional
        Images of one group are either trained on or validated on.
    task : {"auto", "classification", "regression"}, default="auto"
    batch_size : int, default=4096
        Number of rows that are in memory during a step of the training.
    **options
        Options of `fit_head`.

    Returns
    -------
    StreamedPipeline

    Raises
    ------
    ImageReadError, TransientReadError, StoreError
        As `tlfeatures.distributed.fill_store`.
    MissingRowsError
        If an image has changed in the meantime.
    ValueError
        As `fit_head`, or if no image can be read.

    Examples
    --------
    >>> import tempfile
    >>> X = np.zeros((40, 32, 32), "uint8")
    >>> X[:20, :16], X[20:, :, :16] = 200, 200
    >>> X += np.arange(40, dtype="uint8")[:, None, None]
    >>> cnn = CNNFeatures("tiny", image_size=32, cache=tempfile.mkdtemp())
    >>> result = fit_streaming(cnn, X, ["horizontal"] * 20 + ["vertical"] * 20, tol=0.1)
    >>> result.pipeline.predict(X[[0, 39]]).tolist()
    ['horizontal', 'vertical']
    """
    images = Images.of(images)
    encoded = images.encoded()
    if cnn.views is not None:
        raise InvalidParameterError(
            f"`views` must be None for `fit_streaming`, which reads stored rows; got {cnn.views!r}. Use "
            "`TrainOnViews`, or a pipeline in memory.",
            "views",
        )
    if encoded.any() != encoded.all():
        raise InvalidParameterError(
            "`images` must be either files and bytes, or pixels; got both. Save the pixels as files.",
            "images",
        )
    y, task = check_labels(y, len(images), task)
    groups = check_groups(groups, len(y))
    cnn.fit(images)
    run = EmbeddingRun(images, cnn)
    run.execute()
    rows = np.setdiff1d(np.arange(len(images)), list(run.errors))
    if not len(rows):
        raise ValueError("None of the images could be read; check_images(X) gives the reasons.")
    keys, _ = images.take(rows).keys(cnn._n_threads)
    decoder = decoder_recipe() if encoded.any() else {}
    store = EmbeddingStore.resolve(cnn.cache)
    read_batches = partial(store.batches, [recipe | decoder for recipe in cnn.recipes_], keys, batch_size)
    training = fit_head(
        read_batches, y[rows], task=task, groups=None if groups is None else groups[rows], **options
    )
    pipeline = Pipeline([("cnn", cnn), *training.head.steps])
    return StreamedPipeline(pipeline, training, run.counts, run.errors)
