"""One stage of training by ``keras.Model.fit``, with the best epoch, early stopping and checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tlfeatures._keras import keras, to_numpy
from tlfeatures._keras.frozen import precise
from tlfeatures._warnings import warn
from tlfeatures.errors import TrainingStoppedWarning
from tlfeatures.finetune._checkpoint import Checkpoints
from tlfeatures.finetune._compile import compile_model
from tlfeatures.finetune._progress import show_progress

__all__ = ["Data", "Stage", "epoch_order", "run_stage"]

# Purposes of random numbers. They are part of the seed, so that numbers for different purposes are independent.
ORDER, MASKS, VIEWS, SPLIT, WEIGHTS, TEST_VIEWS = range(6)


def epoch_order(seed: int, stage: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Return the rows of an epoch in the order of its batches."""
    return np.random.default_rng([seed, ORDER, stage, epoch]).permutation(rows)


class Data(NamedTuple):
    """Training and validation data of a stage.

    ``inputs(rows, batch_size, epoch)`` returns a function from the number of a batch to its inputs; if ``epoch`` is
    None, they are not augmented.
    """

    inputs: Callable[[np.ndarray, int, int | None], Callable[[int], np.ndarray]]
    y: np.ndarray
    weight: np.ndarray
    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class Stage:
    """Parameters of a stage of training."""

    name: str
    number: int
    epochs: int
    learning_rate: float
    schedule: str
    batch_size: int
    seed: int
    classes: bool
    weight_decay: float = 0.0
    patience: int | None = None
    verbose: int = 0
    unit: float = 1.0  # factor by which the absolute error is multiplied in the history
    precision: str | None = "float32"  # None does not change the backend's settings
    factors: Mapping[str, float] | None = None  # factors of the learning rate by layer
    # size of an input, from which the number of steps per call is computed; None for one step per call
    row_bytes: int | None = None
    callbacks: Sequence[Any] = ()


def run_stage(
    model: Any, data: Data, stage: Stage, checkpoints: Checkpoints | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Train a model and restore the weights of the best epoch; without validation images, those of the last epoch.

    Parameters
    ----------
    model : keras.Model
        Model from the inputs to the logits of classes, or to the standardized target.
    data : Data
    stage : Stage
    checkpoints : Checkpoints or None

    Returns
    -------
    history : list of dict
    best_epoch : int

    Raises
    ------
    FloatingPointError
        If the loss is not finite before there are weights to restore.
    """
    run = _StageRun(model, data, stage, checkpoints)
    run.fit()
    return run.history, run.best_epoch


@dataclass
class _StageRun:
    model: Any
    data: Data
    stage: Stage
    checkpoints: Checkpoints | None
    epoch: int = 0
    is_over: bool = False  # whether training stopped before the last epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[np.ndarray] | None = None  # weights of the best epoch
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    problem: str = ""

    def fit(self) -> None:
        """Resume or start, train, and set the weights of the best epoch."""
        from tlfeatures._keras import training

        with self._settings(), training.quiet_tracing(), training.preserved_random_state():
            self._rate = compile_model(self.model, self._layers, self.stage, self._steps)
            self._resume()
            if not self.history and self.stage.number > 0:  # the weights before training may be the best
                self._record_start()
            if not self.is_over and self.epoch < self.stage.epochs:
                with show_progress(self.stage.name, self.stage.epochs, self.stage.verbose) as self._show:
                    self._run()
        if self.problem:
            self._warn_or_raise()
        elif self.stage.number > 0 and self.epoch and self.best_epoch == 0 and self._validates:
            self._warn_without_gain()
        if self.best is not None:
            _assign(self._variables, self.best)

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        return precise(self.stage.precision) if self.stage.precision else contextlib.nullcontext()

    # -- arguments of Keras -----------------------------------------------------------------

    @cached_property
    def _layers(self) -> list[Any]:
        """All layers, nested layers last."""
        return list(self.model._flatten_layers())

    @property
    def _steps(self) -> int:
        return -(-len(self.data.train) // self.stage.batch_size)

    @property
    def _validates(self) -> bool:
        return len(self.data.validation) > 0

    def _training_batches(self) -> Any:
        stage, train = self.stage, self.data.train

        def open_epoch(epoch: int) -> Callable[[int], Any]:
            rows = epoch_order(stage.seed, stage.number, epoch, train)
            return self._batches(rows, self.data.weight, epoch)

        from tlfeatures._keras.training import EpochBatches

        return EpochBatches(open_epoch, self._steps, self.epoch + 1, stage.epochs)

    @cached_property
    def _validation(self) -> Any:
        from tlfeatures._keras.training import EpochBatches

        rows, weight = self.data.validation, self.data.weight
        batches = self._batches(rows, weight / weight[rows].mean(), None)
        return EpochBatches(lambda epoch: batches, -(-len(rows) // self.stage.batch_size))

    def _batches(self, rows: np.ndarray, weight: np.ndarray, epoch: int | None) -> Callable[[int], Any]:
        size, inputs = self.stage.batch_size, self.data.inputs(rows, self.stage.batch_size, epoch)

        def load(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            part = rows[i * size : (i + 1) * size]
            return inputs(i), self.data.y[part], weight[part].astype(np.float32)

        return load

    def _run(self) -> None:
        hooks = keras().callbacks.LambdaCallback
        first = hooks(
            on_epoch_begin=self._begin_epoch,
            on_epoch_end=self._end_epoch,
            on_train_batch_end=self._check_loss,
        )
        last = hooks(on_epoch_end=self._save)  # called after the user's callbacks, which may stop training
        train = self._training_batches()
        try:
            self.model.fit(
                train, epochs=self.stage.epochs, initial_epoch=self.epoch, steps_per_epoch=self._steps,
                shuffle=False, verbose=0, validation_data=self._validation if self._validates else None,
                callbacks=[first, *self.stage.callbacks, last],
            )  # fmt: skip
        except Exception:
            for batches in (train, *([self._validation] if self._validates else ())):
                if batches.error is not None:
                    raise batches.error from None
            raise

    # -- epochs ------------------------------------------------------------

    def _begin_epoch(self, epoch: int, logs: Any = None) -> None:
        from tlfeatures._keras.training import seed_random_layers

        self._started = time.perf_counter()
        seed_random_layers(self.model, [self.stage.seed, MASKS, self.stage.number, epoch + 1])

    def _check_loss(self, batch: int, logs: Any = None) -> None:
        if not self.problem and not math.isfinite(loss := float(logs["loss"])):
            self.problem = f"the loss was {loss} in epoch {self.epoch + 1}"
            self.model.stop_training = True

    def _end_epoch(self, epoch: int, logs: Any) -> None:
        """Add to the logs, which the user's callbacks also receive, and keep the weights if they are the best."""
        metric = self._metric
        for name in (metric, f"val_{metric}"):
            if name in logs:
                logs[name] *= self.stage.unit
        logs["learning_rate"] = self._learning_rate()
        self._check_finite(epoch + 1, logs)
        if self.problem:
            self.model.stop_training = True
            return
        self.epoch = epoch + 1
        row = self._row(self.epoch, logs) | {"seconds": time.perf_counter() - self._started}
        self.history.append(row)
        self._keep_best(row)
        self._show(row)
        patience = self.stage.patience
        if patience is not None and self.epoch - self.best_epoch >= patience:
            self.model.stop_training = True

    def _check_finite(self, epoch: int, logs: Any) -> None:
        if self.problem:
            return
        if self._validates:
            if not math.isfinite(logs["val_loss"]):
                self.problem = f"the loss of the validation images was {logs['val_loss']}"
        elif not all(np.isfinite(a).all() for a in _arrays(self._variables)):
            self.problem = f"the weights were not finite after epoch {epoch}"

    def _record_start(self) -> None:
        logs = {}
        if self._validates:
            scores = self.model.evaluate(self._validation, return_dict=True, verbose=0)
            logs = {f"val_{name}": value for name, value in scores.items()}
            logs[f"val_{self._metric}"] *= self.stage.unit
        row = self._row(0, {"loss": math.nan, self._metric: math.nan, "learning_rate": 0.0, **logs})
        self.history.append(row)
        self._keep_best(row)

    def _row(self, epoch: int, logs: Mapping[str, float]) -> dict[str, Any]:
        row: dict[str, Any] = {"stage": self.stage.name, "epoch": epoch}
        for name in ("loss", self._metric, "val_loss", f"val_{self._metric}", "learning_rate"):
            row[name.replace(self._metric, "metric")] = float(logs.get(name, math.nan))
        return {**row, "seconds": 0.0}

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Keep the weights if this epoch is the best; without validation images, always."""
        score = (float(row["epoch"]), 0.0)
        if self._validates:
            score = (row["val_metric"] if self.stage.classes else 0.0, -row["val_loss"])
        if score > self.best_score:
            self.best, self.best_score, self.best_epoch = _arrays(self._variables), score, row["epoch"]

    @property
    def _metric(self) -> str:
        return "accuracy" if self.stage.classes else "mae"

    def _learning_rate(self) -> float:
        """Return the learning rate of the last step."""
        optimizer = self.model.optimizer
        if not callable(self._rate):
            return float(
                keras().ops.convert_to_numpy(optimizer.learning_rate)
            )  # a callback may have changed it
        return float(keras().ops.convert_to_numpy(self._rate(int(to_numpy(optimizer.iterations)) - 1)))

    # -- checkpoints -------------------------------------------------------------------------

    @cached_property
    def _variables(self) -> list[Any]:
        """Variables that training can change: not those of a frozen network, nor the seeds of random layers."""
        from tlfeatures._keras.training import InferenceMode

        frozen = {
            id(v) for layer in self._layers if isinstance(layer, InferenceMode) for v in layer.variables
        }
        return [v for v in self.model.variables if id(v) not in frozen and "seed_generator" not in v.path]

    def _save(self, epoch: int, logs: Any = None) -> None:
        if self.checkpoints is None or self.problem:
            return
        save_best = self.best is not None and self.best_epoch != self.epoch
        state = {
            "epoch": self.epoch,
            "is_over": bool(self.model.stop_training),
            "history": self.history,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
        }
        arrays = _arrays([*self._variables, *self.model.optimizer.variables])
        self.checkpoints.save(self.stage.name, state, [*arrays, *(self.best if save_best else ())])

    def _resume(self) -> None:
        """Restore the last complete checkpoint, if there is one."""
        checkpoint = self.checkpoints.load(self.stage.name) if self.checkpoints is not None else None
        if checkpoint is None:
            return
        state, arrays = checkpoint
        n, variables = len(self._variables), [*self._variables, *self.model.optimizer.variables]
        _assign(variables, arrays[: len(variables)])
        self.best = arrays[len(variables) :] or arrays[:n]
        self.best_score, self.best_epoch = tuple(state["best_score"]), state["best_epoch"]
        self.epoch, self.is_over, self.history = state["epoch"], state["is_over"], state["history"]

    # -- warnings ----------------------------------------------------------------------------

    def _warn_or_raise(self) -> None:
        stage = self.stage
        text = (
            f"Training of the {stage.name} stopped: {self.problem}. It diverged with a learning rate of "
            f"{stage.learning_rate:g}. Try {stage.learning_rate / 10:g}, or precision='float32' if you passed "
            "another precision, and check y and the sample weights for extreme values."
        )
        if self.best is None:
            raise FloatingPointError(f"{text} No epoch was completed, so there are no weights to restore.")
        warn(f"{text} The weights are those of epoch {self.best_epoch}.", TrainingStoppedWarning)

    def _warn_without_gain(self) -> None:
        start, *later = (row["val_loss"] for row in self.history)
        if min(later) > start:
            warn(
                f"Training the {self.stage.name} did not improve the validation loss: it was {start:.4f} before and at "
                f"best {min(later):.4f} after an epoch. The weights before training are kept. Try a learning_rate "
                f"below {self.stage.learning_rate:g}.",
                ConvergenceWarning,
            )


def _arrays(variables: list[Any]) -> list[np.ndarray]:
    """Copy variables to arrays, as float32 if NumPy lacks their type."""
    arrays = (np.array(to_numpy(v)) for v in variables)
    return [a.astype(np.float32) if a.dtype.kind == "V" else a for a in arrays]


def _assign(variables: list[Any], arrays: list[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
