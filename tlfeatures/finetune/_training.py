"""Training of a head on stored embeddings, and of the top layers of a network."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from tlfeatures._keras import keras, keras_version
from tlfeatures.finetune._checkpoint import Checkpoints
from tlfeatures.finetune._fitted_network import FittedNetwork
from tlfeatures.finetune._head_model import build_head
from tlfeatures.finetune._preparation import Preparation
from tlfeatures.finetune._stage import VIEWS, WEIGHTS, Data, Stage, run_stage
from tlfeatures.finetune._trunk import (
    Trunk,
    build_trainable,
    first_trained,
    freeze,
    frozen_copy,
    rate_factors,
)
from tlfeatures.fingerprints import array_key, recipe_digest
from tlfeatures.networks import model_digest

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

_HEAD_RATE, _NETWORK_RATE = 1e-3, 3e-4  # default learning rates
_MANY_IMAGES = 150  # with fewer, a fitted head is trained at a lower rate; chosen on 24 to 180 images


class Training(Preparation):
    """One fit: preparation, the stages, and the fitted network."""

    def run(self) -> FittedNetwork:
        """Train, and return the network with its head."""
        params = self.params
        self.prepare()
        start = self._start()
        outputs = 1 if self.classes is None else len(self.classes)
        tap = self.plan.description.taps[0]
        seed = int(np.random.default_rng([self.seed, WEIGHTS]).integers(1 << 31))
        self.head = build_head(params.head, self.plan.width, tap.shape, outputs, seed, start)
        self.checkpoints = self._checkpoints()
        if not self.head_alone:
            # raises an error for an invalid train_from before the head is trained
            trunk, first = self._trunk()
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
        decoding = dataclasses.asdict(self.plan.decoder)
        return FittedNetwork(trunk_source, self.head, self._columns(), decoding, self.plan.backbone.precision)

    def _checkpoints(self) -> Checkpoints | None:
        if self.params.checkpoint_dir is None:
            return None
        params = {
            name: value
            for name, value in self.params.get_params(deep=False).items()
            if name not in _NOT_IN_DIGEST
        }
        keys = self.images.keys(self.params._n_threads)[0]
        arrays = (keys, self.y, self.sample_weight, self.groups)
        digest = recipe_digest(
            {
                "format": 4,
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
        rate = (params.learning_rate or _HEAD_RATE) if self.head_alone else params.head_learning_rate
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
            epochs=params.epochs, learning_rate=params.learning_rate or self._network_rate(),
            factors=rate_factors(trunk, self._standard_taps, params.layer_decay),
            precision=self.plan.backbone.precision,
        )  # fmt: skip

    def _network_rate(self) -> float:
        """Return the default learning rate of a network; lower if few images could only harm a fitted head."""
        return _NETWORK_RATE * (1 if self.params.start is None else min(1, len(self.train) / _MANY_IMAGES))

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

    def _columns(self) -> list[tuple[int, str, int | None]]:
        layers = list(dict.fromkeys(tap.layer for tap in self.plan.description.taps))
        return [(layers.index(c.tap.layer), c.part, c.tap.n_prefix) for c in self.plan.columns]


def _regularization(layer: Any) -> dict[str, Any]:
    """Return the regularizers and constraints of a layer, which its digest leaves out."""
    config = layer.get_config()
    settings = {key: value for key, value in config.items() if key.endswith(("_regularizer", "_constraint"))}
    return json.loads(json.dumps(settings, default=repr))
