"""Preparation of a training: the recipe, readable images, embeddings, the split and the linear start."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import (
    ImageReadError,
    InvalidParameterError,
    RandomWeightsWarning,
    UnreadableImagesWarning,
)
from tlfeatures.evaluation import split_validation
from tlfeatures.extract import FeatureSpec, extract
from tlfeatures.finetune._augment import Augmenter
from tlfeatures.finetune._head_model import takes_map
from tlfeatures.finetune._linear_start import LinearStart, check_start, fit_linear, linear_start
from tlfeatures.finetune._pixels import Pixels
from tlfeatures.finetune._sample_weights import training_weights
from tlfeatures.finetune._stage import SPLIT
from tlfeatures.images import Images
from tlfeatures.store import EmbeddingStore

__all__ = ["Preparation"]


@dataclass
class Preparation:
    """State of one fit before its stages.

    Parameters
    ----------
    params : estimator
        Estimator with the parameters; it is not changed.
    images : Images
    y : ndarray of shape (n,)
        Codes of classes, or numbers.
    classes : ndarray or None
        None for regression.
    seed : int
    sample_weight : ndarray of shape (n,) or None
    groups : ndarray of shape (n,) or None
    """

    params: Any
    images: Images
    y: np.ndarray
    classes: np.ndarray | None
    seed: int
    sample_weight: np.ndarray | None
    groups: np.ndarray | None
    target: tuple[float, float] | None = None  # mean and standard deviation of y, for regression
    history: list[dict[str, Any]] = field(default_factory=list)
    start_pipeline: Any = None
    best_epoch: int = 0
    warned: bool = False

    def prepare(self) -> None:
        """Find the readable images, compute embeddings if the head needs them, and split the images."""
        params = self.params
        self.store = EmbeddingStore.resolve(params.cache)
        self.augmenter = Augmenter(params.augment)
        self.head_alone = params.train_from in ("head", 0)
        self.plan = self._plan(self._normalization())
        self._check_images()
        self.train, self.validation = self._split(self.rows)
        if self.classes is None:  # standardized by the images that are used
            mean, std = float(self.y[self.rows].mean()), float(self.y[self.rows].std()) or 1.0
            self.target, self.y = (mean, std), ((self.y - mean) / std).astype(np.float32)
        self.weight = self._expand(
            training_weights(
                self.y[self.rows], self.classes, getattr(params, "class_weight", None),
                None if self.sample_weight is None else self.sample_weight[self.rows],
                np.searchsorted(self.rows, self.train),
            )
        )  # fmt: skip

    def _plan(self, normalization: Any) -> FeatureSpec:
        params = self.params
        pooling = "flatten" if takes_map(params.head) else params.pooling
        plan = params._specify(params.layer, pooling, normalization, self.store)
        taps = plan.description.taps
        if takes_map(params.head) and (len(taps) > 1 or len(taps[0].shape) != 3):
            raise InvalidParameterError(
                "`layer` must be one layer with a feature map if `head` is a callable or has Keras layers; got "
                f"{[tap.layer for tap in taps]}. Pass another layer, or the widths of hidden layers as head.",
                parameter="layer",
            )
        return plan

    def _normalization(self) -> Any:
        """Return ``normalization``; if it is "data", the mean and standard deviation of the training images."""
        self.errors: dict[int, str] | None = None
        if not isinstance(self.params.normalization, str) or self.params.normalization != "data":
            return self.params.normalization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomWeightsWarning)
            plan = self._plan(((0.0,) * 3, (1.0,) * 3))
        self.pixels = Pixels(self.images, plan.decoder, self.params._n_threads)
        self.errors = self.pixels.find_unreadable()
        return self.pixels.mean_std(self._split(self._readable())[0])

    def _check_images(self) -> None:
        """Find unreadable images before training, and compute embeddings if the head needs them."""
        if not hasattr(self, "pixels"):
            self.pixels = Pixels(self.images, self.plan.decoder, self.params._n_threads)
        if self._needs_embeddings:
            _ = self.embeddings
        elif self.errors is None:
            self.errors = self.pixels.find_unreadable()
        self.rows = self._readable()
        self.digests = self.images.keys(self.params._n_threads)[0][self.rows]

    @property
    def _needs_embeddings(self) -> bool:
        params = self.params
        if params.start == "linear":
            return True
        if self.head_alone:
            return not self.augmenter and params.epochs > 0
        return params.start is None and params.head_epochs > 0

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Embeddings of all images, from the store or computed; NaN for unreadable images."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableImagesWarning)  # `_readable` warns
            extracted = extract(
                self.images, self.plan, store=self.store, batch_size=self.params.batch_size,
                n_threads=self.params._n_threads, on_error="nan", verbose=self.params.verbose,
            )  # fmt: skip
        self.errors = extracted.errors
        return extracted.features

    def _readable(self) -> np.ndarray:
        errors = self.errors or {}
        if errors:
            failures = [(self.images.name(row), errors[row]) for row in sorted(errors)]
            if self.params.on_error == "raise":
                hint = "on_error='drop' trains without them; check_images(X) lists them all."
                raise ImageReadError.of(failures, len(self.images), hint)
            name, reason = failures[0]
            self._warn_once(
                f"{len(errors)} of {len(self.images)} images could not be read and are left out. The first is "
                f"{name!r}: {reason}. See check_images(X) for all."
            )
        rows = np.setdiff1d(np.arange(len(self.images)), np.array(sorted(errors), dtype=int))
        if not len(rows):
            raise ValueError("None of the images could be read.")
        self._check_classes(rows, "could be read")
        if self.sample_weight is not None:  # images with a weight of 0 are left out
            rows = rows[self.sample_weight[rows] > 0]
            if not len(rows):
                raise ValueError("sample_weight is 0 everywhere; expected some weights above 0.")
            self._check_classes(
                rows, "has a sample_weight above 0; remove the class, or increase its weights"
            )
        return rows

    def _warn_once(self, text: str) -> None:
        if not self.warned:
            warn(text, UnreadableImagesWarning)
        self.warned = True

    def _check_classes(self, rows: np.ndarray, condition: str) -> None:
        if self.classes is not None and (
            missing := set(range(len(self.classes))) - set(self.y[rows].tolist())
        ):
            raise ValueError(f"No image of class {self.classes.tolist()[min(missing)]!r} {condition}.")

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups = None if self.groups is None else self.groups[rows]
        train, validation = split_validation(
            self.y[rows], self.classes, groups, self.params.validation_fraction, [self.seed, SPLIT]
        )
        return rows[train], rows[validation]

    def _expand(self, weight: np.ndarray) -> np.ndarray:
        """Return the weights of all images, with 0 for those that are left out."""
        all_weights = np.zeros(len(self.images))
        all_weights[self.rows] = weight
        return all_weights

    def _start(self) -> LinearStart | None:
        start = self.params.start
        if start is None:
            return None
        if not isinstance(start, LinearStart):
            X, y = self.embeddings[self.train], self.y[self.train]
            y = self.classes[y] if self.target is None else y * self.target[1] + self.target[0]
            self.start_pipeline = fit_linear(X, y, self.weight[self.train], self.classes is not None)
            start = linear_start([self.start_pipeline])
        check_start(start, self.classes, self.plan.width)
        if self.target is None:
            return start
        mean, std = self.target  # the network predicts the standardized target
        return LinearStart(start.coef / std, (start.intercept - mean) / std)
