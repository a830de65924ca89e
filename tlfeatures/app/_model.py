"""A saved model that answers requests: predictions, embeddings and explanation maps of images in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures import __version__
from tlfeatures.app._answers import describe_map, describe_predictions
from tlfeatures.app._problems import Problem
from tlfeatures.app._provisional import ProvisionalHead
from tlfeatures.app._queue import list_batch_sizes
from tlfeatures.app._training import TrainingImages
from tlfeatures.errors import ImageReadError, SavedModelError
from tlfeatures.features import embed
from tlfeatures.images import Images
from tlfeatures.predictions import FittedModel
from tlfeatures.saved_models import load_model
from tlfeatures.sources import Source
from tlfeatures.trust import explain

__all__ = ["ServedModel", "find_model_file"]

_SAVED_BY_SEARCH = ("pipeline.tlf", "pipeline.joblib")
_SUFFIXES = (".tlf", ".joblib", ".pkl")


def find_model_file(path: str | os.PathLike[str]) -> str:
    """Return the path of a saved model; in the folder of a search, the pipeline that is saved there.

    Raises
    ------
    SavedModelError
        If the folder contains no model, or several models and none is named ``pipeline.tlf`` or ``pipeline.joblib``.
    """
    folder = Path(path)
    if not folder.is_dir():
        return os.fspath(path)
    for name in _SAVED_BY_SEARCH:
        if (folder / name).exists():
            return str(folder / name)
    files = [file for file in folder.iterdir() if file.suffix in _SUFFIXES]
    if len(files) == 1:
        return str(files[0])
    raise SavedModelError(
        f"The folder {os.fspath(path)!r} must contain one saved model, as `tlfeatures select -o` writes it. "
        "Pass the path of the model file instead."
    )


class ServedModel:
    """A saved model that answers requests.

    The embeddings of the images in requests are not stored.

    Parameters
    ----------
    path : path
        A saved pipeline, the folder of a search, or a saved fine-tuned network. Loading a pickle can run code: load
        only files you trust.
    batch_size : int, optional
        Number of images that the network computes at once; by default the batch size of the model, but at most 32.
    max_pixels : int, default=100_000_000
        Images with more pixels are not decoded.

    Raises
    ------
    SavedModelError
        If the file does not contain a model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        max_pixels: int = 100_000_000,
    ) -> None:
        self.path = find_model_file(path)
        self.fitted: FittedModel = load_model(self.path, cache=None, verbose=0)
        cnn = self.fitted.cnn
        self.batch_size = min(cnn.batch_size, 32) if batch_size is None else batch_size
        cnn.set_params(batch_size=self.batch_size)
        self.max_pixels = max_pixels
        self.use(self.fitted)
        self.reason_without_maps: str | None = None  # None if the model has explanation maps
        self.training: TrainingImages | None = None

    def use(self, fitted: FittedModel) -> None:
        """Use another head for all later requests; ``trained`` is the last one that is not provisional.

        Parameters
        ----------
        fitted : FittedModel
            Model with the same network.
        """
        if not isinstance(fitted.head[-1], ProvisionalHead):
            self.trained = fitted
        self.fitted = fitted

    def load_training_images(self, source: Source, **params: Any) -> None:
        """Load the training images, whose embeddings are read from the store or computed and stored.

        Parameters
        ----------
        source : Source
        **params
            ``cache`` and ``verbose`` of :class:`~tlfeatures.CNNFeatures`; by default those of the model.
        """
        self.training = TrainingImages(load_model(self.path, **params).cnn, source)

    def warm_up(self, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile the network for each batch size, so that the first request is answered as fast as others.

        Parameters
        ----------
        report : callable, optional
            Called with the number of finished steps and the total number of steps.
        """
        sizes = list_batch_sizes(self.batch_size)
        images = _make_noise(self.batch_size)
        report(0, len(sizes) + 1)
        for i, size in enumerate(sizes):
            self.predict(images[:size])
            report(i + 1, len(sizes) + 1)
        try:
            explain(self.fitted.pipeline, images[:1])
        except (ValueError, TypeError) as error:
            # the layer has no spatial positions, or the head has no values to explain
            self.reason_without_maps = str(error)
        report(len(sizes) + 1, len(sizes) + 1)

    def compute(self, task: Any, images: list[bytes]) -> Sequence[Any]:
        """Compute a task for images.

        Parameters
        ----------
        task : tuple
            ("predict",), ("page",) for predictions with the nearest training images, ("embed",), or ("explain", label).
        images : list of bytes
            Contents of image files.

        Returns
        -------
        sequence of dict or Problem
            In the order of the images; a `Problem` for an image that cannot be read.
        """
        kind, *options = task
        if kind in ("predict", "page"):
            return self.predict(images, with_neighbors=kind == "page")
        return self.embed(images) if kind == "embed" else [self.explain(image, *options) for image in images]

    def predict(self, images: list[bytes], with_neighbors: bool = False) -> list[Any]:
        """Predict the images.

        Parameters
        ----------
        images : list of bytes
            Contents of image files.
        with_neighbors : bool, default=False
            Whether to find the nearest training images.

        Returns
        -------
        list of dict or Problem
            In the order of the images; a `Problem` for an image that cannot be read.
        """

        def run(part: list[bytes]) -> list[Any]:
            fitted = self.fitted  # another thread may change it
            predictions = fitted.predict(part)
            results = describe_predictions(predictions)
            if isinstance(fitted.head[-1], ProvisionalHead):
                for row in predictions.rows.tolist():
                    results[row]["provisional"] = True
            if with_neighbors and self.training is not None:
                extracted = predictions.extracted
                for row in predictions.rows.tolist():
                    nearest = self.training.find_nearest(extracted.features[row], extracted.keys[row])
                    results[row]["neighbors"] = nearest
            return results

        return self._answer(images, run)

    def embed(self, images: list[bytes]) -> list[Any]:
        """Compute the embeddings of the images.

        Parameters
        ----------
        images : list of bytes
            Contents of image files.

        Returns
        -------
        list of dict or Problem
            In the order of the images: dicts with the embedding as a list of floats, or a `Problem` for an image that
            cannot be read.
        """

        def run(part: list[bytes]) -> list[Any]:
            extracted = embed(self.fitted.cnn, part, on_error="nan")
            results: list[Any] = [{"embedding": row} for row in extracted.features.tolist()]
            for row, reason in extracted.errors.items():
                results[row] = Problem.unreadable(reason)
            return results

        return self._answer(images, run)

    def explain(self, image: bytes, label: str | None = None) -> Any:
        """Compute the explanation map of an image.

        Parameters
        ----------
        image : bytes
            Content of an image file.
        label : str, optional
            Class; by default the predicted one.

        Returns
        -------
        dict or Problem
            The explanation map, the explained value and the constant; see :class:`~tlfeatures.trust.Explanations`.
        """
        return self._answer([image], lambda part: [self._explain(part, label)])[0]

    def _explain(self, images: list[bytes], label: str | None) -> Any:
        if self.reason_without_maps is not None:
            return Problem(422, "no-maps", self.reason_without_maps)
        try:
            result = explain(self.fitted.pipeline, images, label=label)
        except ImageReadError as error:
            return Problem.unreadable(error.reason)
        except ValueError as error:
            return Problem(422, "invalid-label", str(error))
        return describe_map(result)

    def _answer(self, images: list[bytes], run: Callable[[list[bytes]], list[Any]]) -> list[Any]:
        """Return the results of the images within the pixel limit, and problems for the others."""
        results: list[Any] = [self._check(image) for image in images]
        rows = [row for row, problem in enumerate(results) if problem is None]
        if rows:
            for row, result in zip(rows, run([images[row] for row in rows]), strict=True):
                results[row] = result
        return results

    def _check(self, image: bytes) -> Problem | None:
        """Return the problem of an image whose header cannot be read, or states too many pixels."""
        if not image:
            return Problem.unreadable("the file is empty")
        try:
            width, height = Images.of([image]).size(0)
        except ImageReadError as error:
            return Problem.unreadable(error.reason)
        if width * height <= self.max_pixels:
            return None
        detail = (
            f"The image has {width} x {height} pixels; at most {self.max_pixels:,} are decoded. Resize it."
        )
        return Problem(413, "too-many-pixels", detail)

    def about(self) -> dict[str, Any]:
        """Describe the model: network, layers, input, head, classes, what it can compute, and versions.

        Returns
        -------
        dict
            The answer of ``GET /v1/model``.
        """
        cnn, head = self.fitted.cnn, self.fitted.head
        recipe = cnn.recipes_[0]
        classes = self.fitted.classes
        last_step = head[-1]
        return {
            "name": Path(self.path).name,
            "task": "regression" if classes is None else "classification",
            "classes": None if classes is None else classes.tolist(),
            "network": recipe["network"],
            "layers": list(cnn.layers_),
            "pooling": cnn.pooling,
            "image_size": list(recipe["image_size"]),
            "resize": recipe["resize"],
            "n_features": int(cnn.n_features_out_),
            "head": [type(step).__name__ for _, step in head.steps],
            "confidence": self.fitted.confidence,
            "error_rate": getattr(last_step, "error_rate", None),
            "maps": self.reason_without_maps is None,
            "batch_size": self.batch_size,
            "version": __version__,
        }


def _make_noise(n: int) -> list[bytes]:
    """Make images that all differ, because equal ones are computed once."""
    from PIL import Image

    rng, images = np.random.default_rng(0), []
    for _ in range(n):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype="uint8")).save(buffer, "PNG")
        images.append(buffer.getvalue())
    return images
