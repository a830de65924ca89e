"""One step of training as a pure function: AdamW with a rate for each layer, and what the loss is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tlfeatures._keras import keras, precise, to_numpy
from tlfeatures._keras.training import compile_forward, compile_training
from tlfeatures.finetune.network import is_batchnorm

__all__ = ["Learner"]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7  # as Keras's Adam
_TOGETHER = 16 << 20  # bytes of batches that go into one call
_HALF_SCALE = 1024.0  # gradients of float16 networks would vanish without


class Learner:
    """A model with the weights that it has now.

    Weights are lists of the backend's tensors, which nobody writes to: whoever keeps a list has a snapshot.

    Parameters
    ----------
    model : keras.Model
        To logits of classes, or to one standardized number. What is not trainable stays as it is.
    classes : bool
    factors : dict of str to float
        By layer, what the learning rate is multiplied with; 1 for those not in it.
    weight_decay : float
        Decoupled (Loshchilov and Hutter 2019), on kernels only.
    precision : str
    below : keras.Model, optional
        Frozen, from the input to that of ``model``; always in inference mode, with its dropout off.
    together : bool
        Many steps a call, as far as their inputs take little memory: for heads, whose step is shorter than a call.
    """

    def __init__(
        self,
        model: Any,
        classes: bool,
        factors: Mapping[str, float] | None = None,
        weight_decay: float = 0.0,
        precision: str = "float32",
        below: Any = None,
        together: bool = False,
    ) -> None:
        self.model, self.below, self.classes, self.precision = model, below, classes, precision
        self.weight_decay, self._together = weight_decay, together
        self._scale = _HALF_SCALE if precision == "float16" else 1.0
        trained, kept = model.trainable_variables, model.non_trainable_variables
        owners = {id(v): layer.name for layer in model.layers for v in getattr(layer, "variables", ())}
        self._factors = [(factors or {}).get(owners.get(id(v), ""), 1.0) for v in trained]
        self._decayed = [len(v.shape) > 1 for v in trained]
        self._seeds = [i for i, v in enumerate(kept) if "seed_generator" in v.path]
        moving = {
            id(v)
            for layer in model._flatten_layers()  # also those of the head, a model in the model
            if is_batchnorm(layer) and layer.trainable
            for v in layer.non_trainable_variables
        }
        self._moving = [i for i, v in enumerate(kept) if id(v) in moving]
        self._variables = [*trained, *(kept[i] for i in self._moving)]
        self._kept = len(kept)
        self._fixed = [_tensor(to_numpy(v)) for v in (*kept, *(below.variables if below else ()))]
        self._n = len(trained)
        self.weights = [_tensor(to_numpy(v)) for v in self._variables]
        self.moments = [keras().ops.zeros_like(w) for w in self.weights[: self._n]] * 2
        self.step = 0
        self._descend = compile_training(self._objective, self._update, together)
        self._forward = compile_forward(self._call)

    # -- what is compiled --------------------------------------------------------------------

    def _objective(
        self, trainable: Any, moving: Any, fixed: Any, x: Any, y: Any, w: Any, seeds: Any
    ) -> tuple[Any, Any]:
        ops = keras().ops
        fixed = self._with_moving(moving, fixed)
        for i, place in enumerate(self._seeds):
            fixed[place] = seeds[i]
        z, fixed = self._run(trainable, fixed, x, training=True)
        each, right = self._judge(y, z)
        loss = ops.sum(w * each)
        shown = ops.stack([loss, ops.sum(w * right)])
        return loss * self._scale, ([fixed[i] for i in self._moving], shown)

    def _judge(self, y: Any, z: Any) -> tuple[Any, Any]:
        """Loss of each row, and what the history shows beside it: right or wrong, or the distance."""
        ops = keras().ops
        if self.classes:
            each = keras().losses.sparse_categorical_crossentropy(y, z, from_logits=True)
            return each, ops.cast(ops.equal(ops.cast(ops.argmax(z, -1), "int32"), y), "float32")
        off = z[:, 0] - y
        return ops.square(off), ops.abs(off)

    def _update(self, trainable: Any, gradients: Any, moments: Any, rate: Any, step: Any) -> Any:
        ops = keras().ops
        first, second = moments[: self._n], moments[self._n :]
        pace = rate * ops.sqrt(1.0 - _BETA_2**step) / (1.0 - _BETA_1**step)
        weights, ms, vs = [], [], []
        for i, (w, g) in enumerate(zip(trainable, gradients, strict=True)):
            g = ops.cast(g, w.dtype) / self._scale
            m = first[i] + (g - first[i]) * (1 - _BETA_1)
            v = second[i] + (ops.square(g) - second[i]) * (1 - _BETA_2)
            by, fall = (ops.cast(value, w.dtype) * self._factors[i] for value in (pace, rate))
            if self.weight_decay and self._decayed[i]:
                w = w - w * (fall * self.weight_decay)
            weights.append(w - m * by / (ops.sqrt(v) + _EPSILON))
            ms.append(m)
            vs.append(v)
        return weights, ms + vs

    def _call(self, weights: Any, fixed: Any, x: Any) -> Any:
        fixed = self._with_moving(weights[self._n :], fixed)
        return self._run(weights[: self._n], fixed, x, training=False)[0]

    def _run(self, trainable: Any, fixed: Any, x: Any, training: bool) -> tuple[Any, Any]:
        x = keras().ops.cast(x, "float32")
        if self.below is not None:
            x, _ = self.below.stateless_call([], list(fixed[self._kept :]), x, training=False)
        z, fixed = self.model.stateless_call(trainable, list(fixed[: self._kept]), x, training=training)
        return keras().ops.cast(z, "float32"), fixed

    def _with_moving(self, moving: Any, fixed: Any) -> list[Any]:
        fixed = list(fixed)
        for place, value in zip(self._moving, moving, strict=True):
            fixed[place] = value
        return fixed

    # -- what the loop uses ------------------------------------------------------------------

    @property
    def sees_padding(self) -> bool:
        """Whether rows without weight would count: batch normalization takes their mean too."""
        return bool(self._moving)

    def is_finite(self) -> bool:
        """Whether all weights are numbers."""
        return all(np.isfinite(a.astype(np.float32)).all() for a in self.arrays(self.weights))

    def steps_at_once(self, x: np.ndarray) -> int:
        """How many batches like ``x`` may go into one call."""
        return max(1, _TOGETHER // x.nbytes) if self._together else 1

    def train(
        self,
        x: np.ndarray,
        y: np.ndarray,
        w: np.ndarray,
        rates: np.ndarray,
        rngs: list[np.random.Generator],
    ) -> np.ndarray:
        """Steps, of which each is a row: the loss, and the sum of what is right (k, 2), both weighted by ``w``."""
        seeds = np.stack([rng.integers(0, 2**32, (len(self._seeds), 2), dtype=np.uint32) for rng in rngs])
        weights, first = self.weights, np.float32(self.step + 1)
        with precise(self.precision):
            trainable, moving, self.moments, shown = self._descend(
                weights[: self._n], weights[self._n :], self.moments, self._fixed, first,
                rates.astype(np.float32), x, y, w, seeds,
            )  # fmt: skip
            self.weights = [*trainable, *moving]
            self.step += len(rates)
            return keras().ops.convert_to_numpy(shown)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Outputs of the model as it is now, in inference mode."""
        with precise(self.precision):
            return self._forward(self.weights, self._fixed, x)

    def losses(self, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in training, of outputs that are there: the loss of each row, and right or wrong, or the distance."""
        if not self.classes:
            off = z[:, 0].astype(np.float64) - y
            return off**2, np.abs(off)
        z = z.astype(np.float64)
        top = z.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):  # no number: the loop sees to it
            each = np.log(np.exp(z - top).sum(1)) + top[:, 0] - z[np.arange(len(y)), y]
        return each, (z.argmax(1) == y).astype(float)

    @staticmethod
    def arrays(tensors: list[Any]) -> list[np.ndarray]:
        """Tensors as arrays, for a checkpoint."""
        return [keras().ops.convert_to_numpy(t) for t in tensors]

    @staticmethod
    def tensors(arrays: list[np.ndarray]) -> list[Any]:
        """Arrays as tensors."""
        return [_tensor(a) for a in arrays]

    def write_back(self) -> None:
        """Give the model's variables the weights."""
        for variable, value in zip(self._variables, self.weights, strict=True):
            variable.assign(value)


def _tensor(array: np.ndarray) -> Any:
    return keras().ops.convert_to_tensor(np.asarray(array, order="C"), dtype=str(array.dtype))
