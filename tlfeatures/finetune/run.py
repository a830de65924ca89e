"""One training from images to a network with its head: stored embeddings first, then the chosen top."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._keras import keras_version
from tlfeatures._warnings import warn
from tlfeatures.errors import ImageReadError, RandomWeightsWarning, UnreadableImagesWarning
from tlfeatures.evaluation import split_validation
from tlfeatures.extract import FeatureSpec, extract
from tlfeatures.finetune.augment import Augmenter
from tlfeatures.finetune.checkpoint import Checkpoints
from tlfeatures.finetune.head import LinearStart, build_head, check_head, linear_start
from tlfeatures.finetune.learner import Learner
from tlfeatures.finetune.loop import SPLIT, VIEWS, WEIGHTS, Data, Stage, run_stage
from tlfeatures.finetune.net import Net
from tlfeatures.finetune.network import Trunk, divide, first_trained, freeze, frozen_copy, join, rate_factors
from tlfeatures.finetune.pixels import Pixels
from tlfeatures.finetune.sample_weights import training_weights
from tlfeatures.fingerprints import array_key, recipe_digest
from tlfeatures.images import Images
from tlfeatures.networks import Backbone, model_digest
from tlfeatures.store import EmbeddingStore

__all__ = ["Training"]


@dataclass
class Training:
    """The state of one fit.

    Parameters
    ----------
    given : estimator
        Its parameters are read, and nothing is written to it.
    images : Images
    y : ndarray
        Codes of classes, or numbers.
    classes : ndarray or None
    """

    given: Any
    images: Images
    y: np.ndarray
    classes: np.ndarray | None
    seed: int
    sample_weight: np.ndarray | None
    groups: np.ndarray | None
    target: tuple[float, float] | None = None  # mean and standard deviation of the numbers
    history: list[dict[str, Any]] = field(default_factory=list)
    start_pipeline: Any = None
    best_epoch: int = 0
    warned: bool = False

    def run(self) -> Net:
        """Train."""
        given = self.given
        self.store = EmbeddingStore.resolve(given.cache)
        self.augmenter = Augmenter(given.augment)
        head = check_head(given.head)
        self.head_alone = given.train_from == "head" or (
            given.train_from == 0 and given.train_from is not False
        )
        self.plan = self._plan(self._normalization())
        self._check_images()
        self.train, self.validation = self._split(self.rows)
        if self.classes is None:  # of what is learned from, not of what is left out
            shift, unit = float(self.y[self.rows].mean()), float(self.y[self.rows].std()) or 1.0
            self.target, self.y = (shift, unit), ((self.y - shift) / unit).astype(np.float32)
        self.weight = self._scattered(
            training_weights(
                self.y[self.rows], self.classes, getattr(given, "class_weight", None),
                None if self.sample_weight is None else self.sample_weight[self.rows],
                np.searchsorted(self.rows, self.train),
            )
        )  # fmt: skip
        start = self._start(head)
        outputs = 1 if self.classes is None else len(self.classes)
        tap = self.plan.description.taps[0]
        seed = int(np.random.default_rng([self.seed, WEIGHTS]).integers(1 << 31))
        self.head = build_head(given.head, self.plan.width, tap.shape, outputs, seed, start)
        self.checkpoints = self._checkpoints()
        if not self.head_alone:
            trunk, first = self._trunk()  # a wrong train_from must fail before the head is trained
        if self.head_alone or start is None:
            self._train_head(given.epochs if self.head_alone else given.head_epochs)
        if self.head_alone:
            make = functools.partial(frozen_copy, self.plan)
            backbone = self.plan.backbone  # ImageNet's weights are the same later on; others may not be
            made = make if backbone.spec and backbone.weights == "imagenet" else make()
        else:
            self._train_network(trunk, first)
            made = trunk.model
        return Net(made, self.head, self._columns(), self._decoding(), self.plan.backbone.precision)

    # -- before training ---------------------------------------------------------------------

    def _plan(self, normalization: Any) -> FeatureSpec:
        given = self.given
        backbone = Backbone(given.model, given.weights, given.image_size, normalization, given.precision)
        if given.weights is None:
            warn(
                f"{backbone.name} has random weights: there is no transfer to learn from. Leave out `weights=None` for "
                "ImageNet's.",
                RandomWeightsWarning,
            )
        layers = [given.layer] if isinstance(given.layer, str) else given.layer
        pooling = "flatten" if callable(given.head) else given.pooling
        plan = FeatureSpec.make(
            backbone, layers, pooling, self.store,
            resize=given.resize, interpolation=given.interpolation, decode=given.decode,
            max_value=given.max_value,
        )  # fmt: skip
        if callable(given.head) and (
            len(plan.description.taps) > 1 or len(plan.description.taps[0].shape) != 3
        ):
            raise ValueError(
                "A callable head takes one feature map; name one layer that has a map, instead of "
                f"{[tap.layer for tap in plan.description.taps]}."
            )
        return plan

    def _normalization(self) -> Any:
        """The parameter, or the mean and standard deviation of the training images."""
        self.errors: dict[int, str] | None = None
        if not isinstance(self.given.normalization, str) or self.given.normalization != "data":
            return self.given.normalization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomWeightsWarning)
            plan = self._plan(((0.0,) * 3, (1.0,) * 3))
        self.pixels = Pixels(self.images, plan.decoder, self._threads)
        self.errors = self.pixels.unreadable()
        return self.pixels.mean_std(self._split(self._readable())[0])

    @property
    def _threads(self) -> int | None:
        return None if self.given.n_jobs == -1 else self.given.n_jobs

    def _check_images(self) -> None:
        """Find the unreadable ones before training, and have the embeddings where the head needs them."""
        if not hasattr(self, "pixels"):
            self.pixels = Pixels(self.images, self.plan.decoder, self._threads)
        if self._needs_embeddings:
            _ = self.embeddings
        elif self.errors is None:
            self.errors = self.pixels.unreadable()
        self.rows = self._readable()
        self.digests = self.images.keys(self._threads)[0][self.rows]

    @property
    def _needs_embeddings(self) -> bool:
        given = self.given
        if given.start == "linear":
            return True
        if self.head_alone:
            return not self.augmenter and given.epochs > 0
        return given.start is None and given.head_epochs > 0

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Of all images, out of the store; NaN where one cannot be read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadableImagesWarning)  # said below, once
            found = extract(
                self.images, self.plan, store=self.store, batch_size=self.given.batch_size,
                n_threads=self._threads, on_error="nan", verbose=self.given.verbose,
            )  # fmt: skip
        self.errors = found.errors
        return found.features

    def _readable(self) -> np.ndarray:
        errors = self.errors or {}
        if errors:
            first = next(iter(sorted(errors)))
            name, reason = self.images.name(first), errors[first]
            if self.given.on_error == "raise":
                failures = [(self.images.name(row), errors[row]) for row in sorted(errors)]
                hint = "on_error='drop' trains without them; check_images(X) lists them all."
                raise ImageReadError.of(failures, len(self.images), hint)
            self._warn_once(
                f"{len(errors)} of {len(self.images)} images could not be read and are left out. The first is "
                f"{name!r}: {reason}. See check_images(X) for all."
            )
        rows = np.setdiff1d(np.arange(len(self.images)), np.array(sorted(errors), dtype=int))
        if not len(rows):
            raise ValueError("None of the images could be read.")
        self._check_classes(rows, "could be read")
        if self.sample_weight is not None:  # no weight is as good as not there, above all when validating
            rows = rows[self.sample_weight[rows] > 0]
            if not len(rows):
                raise ValueError("sample_weight is 0 everywhere; expected some weights above 0.")
            self._check_classes(
                rows, "has a sample_weight above 0; leave the class out, or give it some weight"
            )
        return rows

    def _warn_once(self, text: str) -> None:
        if not self.warned:
            warn(text, UnreadableImagesWarning)
        self.warned = True

    def _check_classes(self, rows: np.ndarray, what: str) -> None:
        if self.classes is not None and (lost := set(range(len(self.classes))) - set(self.y[rows].tolist())):
            raise ValueError(f"No image of class {self.classes.tolist()[min(lost)]!r} {what}.")

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups = None if self.groups is None else self.groups[rows]
        train, validation = split_validation(
            self.y[rows], self.classes, groups, self.given.validation_fraction, [self.seed, SPLIT]
        )
        return rows[train], rows[validation]

    def _scattered(self, weight: np.ndarray) -> np.ndarray:
        everywhere = np.zeros(len(self.images))
        everywhere[self.rows] = weight
        return everywhere

    def _start(self, head: Any) -> LinearStart | None:
        start = self.given.start
        if start is None:
            return None
        if head != ():
            raise ValueError(
                "start sets the weights of the output layer, so there can be no hidden layers; got "
                f"head={self.given.head!r}. Pass head=(), or start=None."
            )
        if isinstance(start, str) and start == "linear":
            self.start_pipeline = self._fit_linear()
            start = linear_start([self.start_pipeline])
        elif not isinstance(start, LinearStart):
            raise ValueError(
                f"start={start!r}; expected None, 'linear' (a linear head fitted on the stored embeddings), or what "
                "from_pipeline sets."
            )
        if (start.classes is None) != (self.classes is None) or (
            start.classes is not None and not np.array_equal(start.classes, self.classes)
        ):
            of = "numbers" if start.classes is None else start.classes.tolist()
            raise ValueError(
                f"The pipeline was fitted on {of}, and y holds "
                f"{'numbers' if self.classes is None else self.classes.tolist()}; give the same labels."
            )
        if start.coef.shape[1] != self.plan.width:
            raise ValueError(
                f"The pipeline's head takes {start.coef.shape[1]} features and this network gives {self.plan.width}; "
                "give the model, layer, pooling and image_size that it was fitted with."
            )
        if self.classes is not None:
            return start
        shift, unit = self.target  # the network learns the standardized target
        return LinearStart(start.coef / unit, (start.intercept - shift) / unit)

    def _fit_linear(self) -> Any:
        """The head of the two-stage method: linear, on the stored embeddings of the training images."""
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        X, weight = self.embeddings[self.train].astype(np.float64), self.weight[self.train]
        if self.classes is not None:
            model, y = LogisticRegression(max_iter=2000), self.classes[self.y[self.train]]
        else:
            shift, unit = self.target
            model, y = RidgeCV(alphas=np.logspace(0, 6, 13)), self.y[self.train] * unit + shift
        pipeline = make_pipeline(StandardScaler(), model)
        return pipeline.fit(X, y, **{f"{name}__sample_weight": weight for name, _ in pipeline.steps})

    def _checkpoints(self) -> Checkpoints | None:
        if self.given.checkpoint_dir is None:
            return None
        params = {
            k: v for k, v in self.given.get_params(deep=False).items()
            if k not in ("model", "head", "start", "cache", "n_jobs", "verbose", "checkpoint_dir", "random_state")
        }  # fmt: skip
        keys, _ = self.images.keys(self._threads)
        arrays = (keys, self.y, self.sample_weight, self.groups)
        digest = recipe_digest(
            {
                "estimator": type(self.given).__name__,
                "params": json.loads(json.dumps(params, default=repr)),
                "recipes": [column.recipe for column in self.plan.columns],
                "head": model_digest(self.head),  # its first weights, and so the seed
                "data": [None if a is None else array_key(a).hex() for a in arrays],
                "classes": None if self.classes is None else [str(c) for c in self.classes.tolist()],
                "seed": self.seed,
                "keras": keras_version(),
            }
        )
        return Checkpoints(self.given.checkpoint_dir, digest)

    # -- training ----------------------------------------------------------------------------

    def _train_head(self, epochs: int) -> None:
        if not epochs:
            return
        given = self.given
        learner = Learner(
            self.head, self.classes is not None, weight_decay=given.weight_decay,
            together=not callable(given.head),  # XLA is slow with convolutions in a loop
        )  # fmt: skip
        batches = self._augmented_embeddings() if self.augmenter and self.head_alone else self._stored
        rate = given.learning_rate or 1e-3 if self.head_alone else given.head_learning_rate
        self._stage("head", 0, epochs, rate, learner, batches)

    def _train_network(self, trunk: Trunk, first: int) -> None:
        given = self.given
        if not given.epochs:
            return
        below, cut = divide(trunk, first)
        learner = Learner(
            join(trunk.model, self._columns(), self.head, cut), self.classes is not None,
            rate_factors(trunk, self._standard_taps, given.layer_decay), given.weight_decay,
            self.plan.backbone.precision, below,
        )  # fmt: skip
        self._stage("network", 1, given.epochs, given.learning_rate or 3e-4, learner, self._pictures)

    @property
    def _standard_taps(self) -> tuple[str, ...]:
        return self.plan.backbone.spec.taps if self.plan.backbone.spec else ()

    def _trunk(self) -> tuple[Trunk, int]:
        given, trunk = self.given, Trunk.of(self.plan)
        first = first_trained(trunk, given.train_from, self._standard_taps, self.plan.backbone.name)
        freeze(trunk, first, given.train_batchnorm)
        return trunk, first

    def _stage(
        self, name: str, number: int, epochs: int, rate: float, learner: Learner, batches: Any
    ) -> None:
        given = self.given
        stage = Stage(
            name, number, epochs, rate, given.schedule, min(given.batch_size, len(self.train)),
            self.seed, given.patience, given.verbose, self.target[1] if self.target else 1.0,
        )  # fmt: skip
        data = Data(batches, self.y, self.weight, self.train, self.validation)
        history, self.best_epoch = run_stage(learner, data, stage, self.checkpoints)
        self.history += history
        learner.write_back()

    def _stored(
        self, rows: np.ndarray, size: int, epoch: int | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, self.embeddings[part]

    def _pictures(
        self, rows: np.ndarray, size: int, epoch: int | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i, (part, batch) in enumerate(self.pixels.batches(rows, size)):
            if epoch is not None and self.augmenter:
                batch = self.augmenter(batch, [self.seed, VIEWS, epoch, i])
            yield part, batch

    def _augmented_embeddings(self) -> Any:
        """Views of the pictures go through the frozen network anew in every epoch."""
        run = self.plan.backbone.compile([(c.tap, c.part) for c in self.plan.columns], self.plan.description)

        def batches(
            rows: np.ndarray, size: int, epoch: int | None
        ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for part, batch in self._pictures(rows, size, epoch):
                here = np.resize(np.arange(len(part)), size)
                yield part, np.concatenate(run(batch[here]), axis=1)[: len(part)]

        return batches

    # -- afterwards --------------------------------------------------------------------------

    def _columns(self) -> list[tuple[int, str]]:
        layers = list(dict.fromkeys(tap.layer for tap in self.plan.description.taps))
        return [(layers.index(c.tap.layer), c.part) for c in self.plan.columns]

    def _decoding(self) -> dict[str, Any]:
        decoder = self.plan.decoder
        return {
            "image_size": list(decoder.image_size),
            "resize": decoder.resize,
            "interpolation": decoder.interpolation,
            "decode": decoder.decode,
            "max_value": decoder.max_value,
        }
