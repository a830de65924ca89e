"""Compilation of a model for one stage of training: optimizer, loss, metric and steps per call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlfeatures._keras import keras

if TYPE_CHECKING:
    from tlfeatures.finetune._stage import Stage

__all__ = ["compile_model"]

_LOSS_SCALE = 1024.0  # without it, gradients of float16 networks would underflow
_CLIP_NORM = 1.0  # as in the Trainer of Hugging Face
_BYTES_PER_CALL = 16 << 20  # total size of the batches that one call trains on
_MANY_STEPS = 200  # with fewer steps, compiling a loop takes longer than it saves


def compile_model(model: Any, layers: list[Any], stage: Stage, steps: int) -> Any:
    """Compile a model for a stage and return its learning rate, a schedule of Keras or a number.

    Parameters
    ----------
    model : keras.Model
    layers : list of keras.Layer
        All layers of the model, nested layers last.
    stage : Stage
    steps : int
        Number of steps per epoch.
    """
    from tlfeatures._keras.training import LayerwiseAdamW, make_schedule

    rate = make_schedule(stage.schedule, stage.learning_rate, max(1, stage.epochs) * steps)
    kwargs = {
        "learning_rate": rate,
        "weight_decay": stage.weight_decay,
        "loss_scale_factor": _LOSS_SCALE if stage.precision == "float16" else None,
        # without it, single batches can ruin a network whose batch normalization is frozen
        "global_clipnorm": _CLIP_NORM if stage.number > 0 else None,
    }
    trainable = model.trainable_variables
    factors = _rate_factors(trainable, layers, stage.factors or {})
    if set(factors) == {1.0}:
        optimizer = keras().optimizers.AdamW(**kwargs)
    else:
        optimizer = LayerwiseAdamW(factors=factors, **kwargs)
    optimizer.exclude_from_weight_decay(var_list=[v for v in trainable if len(v.shape) < 2])
    optimizer.build(trainable)
    losses, metrics = keras().losses, keras().metrics
    if stage.classes:
        loss: Any = losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = metrics.SparseCategoricalAccuracy(name="accuracy")
    else:
        loss, metric = losses.MeanSquaredError(), metrics.MeanAbsoluteError(name="mae")
    model.compile(
        optimizer,
        loss,
        weighted_metrics=[metric],
        steps_per_execution=_steps_per_execution(stage, steps),
        auto_scale_loss=False,
    )
    return rate


def _rate_factors(variables: list[Any], layers: list[Any], factors: Mapping[str, float]) -> list[float]:
    """Return the factor of the learning rate for each variable."""
    by_variable: dict[int, float] = {}
    for layer in layers:
        if layer.name in factors:
            for variable in layer.variables:
                by_variable.setdefault(id(variable), factors[layer.name])
    return [by_variable.get(id(v), 1.0) for v in variables]


def _steps_per_execution(stage: Stage, steps: int) -> int:
    from tlfeatures._keras.training import supports_many_steps

    if stage.row_bytes is None or stage.epochs * steps < _MANY_STEPS or not supports_many_steps():
        return 1
    max_steps = max(1, _BYTES_PER_CALL // (stage.row_bytes * stage.batch_size))
    # a divisor, so that the last call of an epoch ends with the epoch
    return max(n for n in range(1, min(steps, max_steps) + 1) if steps % n == 0)
