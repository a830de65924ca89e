"""Training of a head on stored embeddings, and of the top layers of a network."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._keras import keras, keras_version
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
from tlfeatures.finetune._checkpoint import Checkpoints
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._head_model import LinearStart, build_head, check_head, linear_start, takes_map
from tlfeatures.finetune._pixels import Pixels
from tlfeatures.finetune._sample_weights import training_weights
from tlfeatures.finetune._stage import SPLIT, VIEWS, WEIGHTS, Data, Stage, run_stage
from tlfeatures.finetune._trunk import (
    Trunk,
    build_trainable,
    first_trained,
    freeze,
    frozen_copy,
    rate_factors,
)
from tlfeatures.fingerprints import array_key, recipe_digest
from tlfeatures.images import Images
from tlfeatures.networks import Backbone, model_digest
from tlfeatures.store import EmbeddingStore

__all__ = ["Training"]

# Parameters that do not change the result, or that the digest of a checkpoint contains in another form.
_NOT_IN_DIGEST = {
    "model",
    "head",
    "start",
    "cache",
    "n_jobs",
    "verbose",
    "checkpoint_dir",
    "random_state",
    "callbacks",
}


@dataclass
class Training:
    """State of one fit.

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

    def run(self) -> FittedNetwork:
        """Train, and return the network with its head."""
        params = self.params
        self.store = EmbeddingStore.resolve(params.cache)
        self.augmenter = Augmenter(params.augment)
        head = check_head(params.head)
        self.head_alone = params.train_from == "head" or (
            params.train_from == 0 and params.train_from is not False
        )
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
        start = self._start(head)
        outputs = 1 if self.classes is None else len(self.classes)
        tap = self.plan.description.taps[0]
        seed = int(np.random.default_rng([self.seed, WEIGHTS]).integers(1 << 31))
        self.head = build_head(params.head, self.plan.width, tap.shape, outputs, seed, start)
        self.checkpoints = self._checkpoints()
        if not self.head_alone:
            trunk, first = (
                self._trunk()
            )  # raises an error for an invalid train_from before the head is trained
        if self.head_alone or start is None:
            self._train_head(params.epochs if self.head_alone else params.head_epochs)
        if self.head_alone:
            build = functools.partial(frozen_copy, self.plan)
            backbone = self.plan.backbone
            # the network is built on first use, unless its weights could change until then
            trunk_source = build if backbone.spec and backbone.weights == "imagenet" else build()
        else:
            self._train_network(trunk, first)
            trunk_source = trunk.model
        return FittedNetwork(
            trunk_source, self.head, self._columns(), self._decoding(), self.plan.backbone.precision
        )

    # -- before training ---------------------------------------------------------------------

    def _plan(self, normalization: Any) -> FeatureSpec:
        params = self.params
        backbone = Backbone(params.model, params.weights, params.image_size, normalization, params.precision)
        if params.weights is None:
            warn(
                f"{backbone.name} has random weights, so pretraining has no effect. Leave out `weights=None` for the "
                "weights of ImageNet.",
                RandomWeightsWarning,
            )
        layers = [params.layer] if isinstance(params.layer, str) else params.layer
        pooling = "flatten" if takes_map(params.head) else params.pooling
        plan = FeatureSpec.make(
            backbone, layers, pooling, self.store,
            resize=params.resize, interpolation=params.interpolation, decode=params.decode,
            max_value=params.max_value, window=params.window,
        )  # fmt: skip
        taps = plan.description.taps
        if takes_map(params.head) and (len(taps) > 1 or len(taps[0].shape) != 3):
            raise InvalidParameterError(
                "`layer` must be one layer with a feature map if `head` is a callable or has Keras layers; got "
                f"{[tap.layer for tap in taps]}. Pass another layer, or the widths of hidden layers as head.",
                parameter="layer",
            )
        return plan

    def _normalization(self) -> Any:
        """Return the parameter, or the mean and standard deviation of the training images."""
        self.errors: dict[int, str] | None = None
        if not isinstance(self.params.normalization, str) or self.params.normalization != "data":
            return self.params.normalization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomWeightsWarning)
            plan = self._plan(((0.0,) * 3, (1.0,) * 3))
        self.pixels = Pixels(self.images, plan.decoder, self._threads)
        self.errors = self.pixels.find_unreadable()
        return self.pixels.mean_std(self._split(self._readable())[0])

    @property
    def _threads(self) -> int | None:
        return None if self.params.n_jobs == -1 else self.params.n_jobs

    def _check_images(self) -> None:
        """Find unreadable images before training, and compute embeddings if the head needs them."""
        if not hasattr(self, "pixels"):
            self.pixels = Pixels(self.images, self.plan.decoder, self._threads)
        if self._needs_embeddings:
            _ = self.embeddings
        elif self.errors is None:
            self.errors = self.pixels.find_unreadable()
        self.rows = self._readable()
        self.digests = self.images.keys(self._threads)[0][self.rows]

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
                n_threads=self._threads, on_error="nan", verbose=self.params.verbose,
            )  # fmt: skip
        self.errors = extracted.errors
        return extracted.features

    def _readable(self) -> np.ndarray:
        errors = self.errors or {}
        if errors:
            first = next(iter(sorted(errors)))
            name, reason = self.images.name(first), errors[first]
            if self.params.on_error == "raise":
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

    def _start(self, head: Any) -> LinearStart | None:
        start = self.params.start
        if start is None:
            return None
        if head != ():
            raise ValueError(
                "start sets the weights of the output layer, so head must have no hidden layers; got "
                f"head={self.params.head!r}. Pass head=(), or start=None."
            )
        if isinstance(start, str) and start == "linear":
            self.start_pipeline = self._fit_linear()
            start = linear_start([self.start_pipeline])
        elif not isinstance(start, LinearStart):
            raise ValueError(
                f"start={start!r}; expected None, 'linear' (a linear head fitted on the stored embeddings), or a value "
                "set by from_pipeline."
            )
        if (start.classes is None) != (self.classes is None) or (
            start.classes is not None and not np.array_equal(start.classes, self.classes)
        ):
            fitted_on = "numbers" if start.classes is None else start.classes.tolist()
            raise ValueError(
                f"The pipeline was fitted on {fitted_on}, and y contains "
                f"{'numbers' if self.classes is None else self.classes.tolist()}; pass the same labels."
            )
        if start.coef.shape[1] != self.plan.width:
            raise ValueError(
                f"The head of the pipeline expects {start.coef.shape[1]} features; got {self.plan.width} from this "
                "network. Pass the model, layer, pooling and image_size that the pipeline was fitted with."
            )
        if self.classes is not None:
            return start
        mean, std = self.target  # the network predicts the standardized target
        return LinearStart(start.coef / std, (start.intercept - mean) / std)

    def _fit_linear(self) -> Any:
        """Fit a linear head on the stored embeddings of the training images."""
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        X, weight = self.embeddings[self.train].astype(np.float64), self.weight[self.train]
        if self.classes is not None:
            model, y = LogisticRegression(max_iter=2000), self.classes[self.y[self.train]]
        else:
            mean, std = self.target
            model, y = RidgeCV(alphas=np.logspace(0, 6, 13)), self.y[self.train] * std + mean
        pipeline = make_pipeline(StandardScaler(), model)
        return pipeline.fit(X, y, **{f"{name}__sample_weight": weight for name, _ in pipeline.steps})

    def _checkpoints(self) -> Checkpoints | None:
        if self.params.checkpoint_dir is None:
            return None
        params = {
            name: value
            for name, value in self.params.get_params(deep=False).items()
            if name not in _NOT_IN_DIGEST
        }
        keys = self.images.keys(self._threads)[0]
        arrays = (keys, self.y, self.sample_weight, self.groups)
        digest = recipe_digest(
            {
                "format": 2,
                "estimator": type(self.params).__name__,
                "params": json.loads(json.dumps(params, default=repr)),
                "recipes": [column.recipe for column in self.plan.columns],
                "head": model_digest(self.head),  # includes the initial weights
                "regularization": [_regularization(layer) for layer in self.head.layers],
                "data": [None if a is None else array_key(a).hex() for a in arrays],
                "classes": None if self.classes is None else [str(c) for c in self.classes.tolist()],
                "seed": self.seed,
                "keras": keras_version(),
            }
        )
        return Checkpoints(self.params.checkpoint_dir, digest)

    # -- training ----------------------------------------------------------------------------

    def _train_head(self, epochs: int) -> None:
        if not epochs:
            return
        params, views = self.params, self.augmenter and self.head_alone
        rate = params.learning_rate or 1e-3 if self.head_alone else params.head_learning_rate
        model = keras().Model(self.head.inputs, self.head.outputs)  # the head itself stays uncompiled
        self._run_stage(
            "head", 0, model, self._embedded_views if views else self._stored,
            epochs=epochs, learning_rate=rate, row_bytes=4 * self.plan.width,
            precision=None if views else "float32",  # set by the frozen network
        )  # fmt: skip

    def _train_network(self, trunk: Trunk, first: int) -> None:
        params = self.params
        if not params.epochs:
            return
        self._run_stage(
            "network", 1, build_trainable(trunk, first, self._columns(), self.head), self._views,
            epochs=params.epochs, learning_rate=params.learning_rate or 3e-4,
            factors=rate_factors(trunk, self._standard_taps, params.layer_decay),
            precision=self.plan.backbone.precision,
        )  # fmt: skip

    @property
    def _standard_taps(self) -> tuple[str, ...]:
        return self.plan.backbone.spec.taps if self.plan.backbone.spec else ()

    def _trunk(self) -> tuple[Trunk, int]:
        params, trunk = self.params, Trunk.of(self.plan)
        first = first_trained(trunk, params.train_from, self._standard_taps, self.plan.backbone.name)
        freeze(trunk, first, params.train_batchnorm)
        return trunk, first

    def _run_stage(self, name: str, number: int, model: Any, inputs: Any, **kwargs: Any) -> None:
        params = self.params
        stage = Stage(
            name, number, schedule=params.schedule, batch_size=min(params.batch_size, len(self.train)),
            seed=self.seed, classes=self.classes is not None, weight_decay=params.weight_decay,
            patience=params.patience, verbose=params.verbose, unit=self.target[1] if self.target else 1.0,
            callbacks=copy.deepcopy(list(params.callbacks or ())), **kwargs,
        )  # fmt: skip
        data = Data(inputs, self.y, self.weight, self.train, self.validation)
        history, self.best_epoch = run_stage(model, data, stage, self.checkpoints)
        self.history += history

    def _stored(self, rows: np.ndarray, size: int, epoch: int | None) -> Callable[[int], np.ndarray]:
        return lambda i: self.embeddings[rows[i * size : (i + 1) * size]]

    def _views(self, rows: np.ndarray, size: int, epoch: int | None) -> Callable[[int], np.ndarray]:
        read = self.pixels.read_batches(rows, size)

        def load(i: int) -> np.ndarray:
            batch = read(i)
            if epoch is not None and self.augmenter:
                batch = self.augmenter(batch, [self.seed, VIEWS, epoch, i])
            return batch

        return load

    def _embedded_views(self, rows: np.ndarray, size: int, epoch: int | None) -> Callable[[int], np.ndarray]:
        """Compute the embeddings of random views of all images before the epoch."""
        load, embeddings = self._views(rows, size, epoch), []
        for i in range(-(-len(rows) // size)):
            batch = load(i)
            padded = np.resize(np.arange(len(batch)), size)
            embeddings.append(np.concatenate(self._frozen(batch[padded]), axis=1)[: len(batch)])
        return embeddings.__getitem__

    @cached_property
    def _frozen(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        return self.plan.backbone.compile([(c.tap, c.part) for c in self.plan.columns], self.plan.description)

    # -- result --------------------------------------------------------------------------

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
            "window": decoder.window,
        }


def _regularization(layer: Any) -> dict[str, Any]:
    """Return the regularizers and constraints of a layer, which its digest leaves out."""
    config = layer.get_config()
    settings = {key: value for key, value in config.items() if key.endswith(("_regularizer", "_constraint"))}
    return json.loads(json.dumps(settings, default=repr))
