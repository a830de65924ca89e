"""Epochs: schedule, validation, the best epoch, early stopping, a loss that is no number, and going on after a kill."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tlfeatures._warnings import warn
from tlfeatures.errors import TrainingStoppedWarning
from tlfeatures.finetune.checkpoint import Checkpoints
from tlfeatures.finetune.learner import Learner

__all__ = ["SCHEDULES", "Data", "Stage", "epoch_order", "rate_at", "run_stage"]

SCHEDULES = ("cosine", "step", "constant")
# what random numbers are drawn for; the numbers of a purpose depend on nothing that was drawn before
ORDER, MASKS, VIEWS, SPLIT, WEIGHTS, TEST_VIEWS = range(6)


def rate_at(schedule: str, done: float, warm: float = 0.05) -> float:
    """Part of the learning rate after ``done`` of all steps (0 to 1).

    "cosine" rises over the first twentieth and falls to nothing; "step" falls to a tenth at half and again at three
    quarters; "constant" stays.

    >>> [round(rate_at("cosine", d), 2) for d in (0.0, 0.05, 0.5, 1.0)], rate_at("step", 0.6)
    ([0.0, 1.0, 0.54, 0.0], 0.1)
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    if done < warm:
        return done / warm
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


def epoch_order(seed: int, stage: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """The rows of an epoch in the order of its batches."""
    return np.random.default_rng([seed, ORDER, stage, epoch]).permutation(rows)


class Data(NamedTuple):
    """What a stage learns from.

    ``batches(rows, batch_size, epoch)`` yields rows and inputs; epoch None is without augmentation.
    """

    batches: Callable[[np.ndarray, int, int | None], Iterator[tuple[np.ndarray, np.ndarray]]]
    y: np.ndarray
    weight: np.ndarray
    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class Stage:
    """How long and how fast."""

    name: str
    number: int
    epochs: int
    learning_rate: float
    schedule: str
    batch_size: int
    seed: int
    patience: int | None = None
    verbose: int = 0
    unit: float = 1.0  # of the distance in the history


@dataclass
class _Course:
    """Where a stage is."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: list[Any] | None = None  # weights
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0


def run_stage(
    learner: Learner, data: Data, stage: Stage, checkpoints: Checkpoints | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Train; leave the learner with the weights of the best epoch, which is the last one without validation.

    Returns
    -------
    history : list of dict
    best_epoch : int

    Raises
    ------
    FloatingPointError
        When the loss is no number before there is anything to go back to.
    """
    course = _Course()
    if checkpoints is not None:
        course = _resume(learner, stage, checkpoints)
    fresh = not course.history
    if fresh and stage.number > 0:  # the head alone may stay the best
        row = _row(stage, 0, math.nan, math.nan, 0.0)
        _note(course, learner, row, *_validate(learner, data, stage))
        if not len(data.validation):
            course.best = list(learner.weights)
        course.history.append(row)
    problem = None
    with _shown(stage) as show:
        for epoch in range(course.epoch + 1, stage.epochs + 1):
            if _is_over(course, stage):
                break
            start = time.perf_counter()
            try:
                loss, right, rate = _epoch(learner, data, stage, epoch)
                row = _row(stage, epoch, loss, right, rate)
                if not len(data.validation) and not learner.is_finite():  # else the validation tells
                    raise FloatingPointError(f"the weights were no numbers after epoch {epoch}")
                _note(course, learner, row, *_validate(learner, data, stage))
            except FloatingPointError as error:
                problem = error
                break
            row["seconds"] = time.perf_counter() - start
            course.history.append(row)
            course.epoch = epoch
            if not len(data.validation):
                course.best, course.best_epoch = list(learner.weights), epoch
            if checkpoints is not None:
                _save(learner, stage, checkpoints, course)
            show(row)
    if problem is not None:
        _give_up(problem, course, stage)
    elif stage.number > 0 and course.epoch and course.best_epoch == 0 and len(data.validation):
        _warn_of_no_gain(course, stage)
    if course.best is not None:
        learner.weights = course.best
    return course.history, course.best_epoch


def _epoch(learner: Learner, data: Data, stage: Stage, epoch: int) -> tuple[float, float, float]:
    losses, rights, order = [], [], epoch_order(stage.seed, stage.number, epoch, data.train)
    steps = _steps(learner, data, stage, epoch, order)
    for first in steps:
        some = [first, *itertools.islice(steps, learner.steps_at_once(first[0]) - 1)]
        x, y, w, rate, rngs = zip(*some, strict=True)
        shown = learner.train(np.stack(x), np.stack(y), np.stack(w), np.array(rate), list(rngs))
        losses.extend(shown[:, 0])
        rights.extend(shown[:, 1])
        last = rate[-1]
        if not np.isfinite(shown[:, 0]).all():
            i = int(np.argmin(np.isfinite(losses)))
            raise FloatingPointError(f"the loss was {losses[i]} in step {i + 1} of epoch {epoch}")
    n, size = len(order), stage.batch_size
    counts = np.minimum(size, n - np.arange(0, n, size))
    return (
        float(np.dot(losses, counts)) / n,
        float(np.dot(rights, counts)) / data.weight[order].sum(),
        last,
    )


def _steps(
    learner: Learner, data: Data, stage: Stage, epoch: int, order: np.ndarray
) -> Iterator[tuple[Any, ...]]:
    """Inputs, targets, weights, rate and generator of each step of an epoch."""
    size = stage.batch_size
    steps = -(-len(order) // size)
    for i, (rows, x) in enumerate(data.batches(order, size, epoch)):
        done = ((epoch - 1) * steps + i + 0.5) / (stage.epochs * steps)
        y, w = data.y[rows], data.weight[rows] / len(rows)
        if len(rows) < size and not learner.sees_padding:  # one shape for all
            here = np.resize(np.arange(len(rows)), size)
            x, y, w = x[here], y[here], np.concatenate([w, np.zeros(size - len(rows))])
        rng = np.random.default_rng([stage.seed, MASKS, stage.number, epoch, i])
        yield x, y, w.astype(np.float32), stage.learning_rate * rate_at(stage.schedule, done), rng


def _validate(learner: Learner, data: Data, stage: Stage) -> tuple[float, float]:
    if not len(data.validation):
        return math.nan, math.nan
    size = min(stage.batch_size, len(data.validation))
    losses, goods, weights = [], [], []
    for rows, x in data.batches(data.validation, size, None):
        here = np.resize(np.arange(len(rows)), size)
        z = learner.outputs(x[here])[: len(rows)]
        each, good = learner.losses(z, data.y[rows])
        losses.append(each)
        goods.append(good)
        weights.append(data.weight[rows])
    w = np.concatenate(weights)
    loss = float(np.average(np.concatenate(losses), weights=w))
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of the validation images was {loss}")
    return loss, float(np.average(np.concatenate(goods), weights=w)) * stage.unit


def _row(stage: Stage, epoch: int, loss: float, right: float, rate: float) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "epoch": epoch,
        "loss": loss,
        "metric": right * stage.unit,
        "val_loss": math.nan,
        "val_metric": math.nan,
        "learning_rate": rate,
        "seconds": 0.0,
    }


def _note(course: _Course, learner: Learner, row: dict[str, Any], loss: float, metric: float) -> None:
    """Write down the validation, and keep the weights when they are the best."""
    row["val_loss"], row["val_metric"] = loss, metric
    score = (metric if learner.classes else 0.0, -loss)  # accuracies of few images are often equal
    if score > course.best_score:
        course.best, course.best_score, course.best_epoch = list(learner.weights), score, row["epoch"]


def _is_over(course: _Course, stage: Stage) -> bool:
    return stage.patience is not None and course.epoch - course.best_epoch >= stage.patience


def _give_up(problem: FloatingPointError, course: _Course, stage: Stage) -> None:
    lower = stage.learning_rate / 10
    why = (
        f"Training of the {stage.name} stopped: {problem}. It went too far with a learning rate of "
        f"{stage.learning_rate:g}; try {lower:g}, or `precision='float32'` where it is another, and look for targets "
        "of extreme size or weight."
    )
    if course.best is None:
        raise FloatingPointError(
            f"{why} No epoch was complete, so there is nothing to go back to."
        ) from problem
    warn(f"{why} The weights are those of epoch {course.best_epoch}.", TrainingStoppedWarning)


def _warn_of_no_gain(course: _Course, stage: Stage) -> None:
    start, *later = (row["val_loss"] for row in course.history)
    if min(later) > start:
        warn(
            f"Training the {stage.name} never improved on its start: the validation loss was {start:.4f} before and "
            f"{min(later):.4f} at best. The weights are those of the start; try a lower `learning_rate` than "
            f"{stage.learning_rate:g}.",
            ConvergenceWarning,
        )


def _save(learner: Learner, stage: Stage, checkpoints: Checkpoints, course: _Course) -> None:
    apart = course.best is not None and course.best_epoch != course.epoch
    about = {
        "epoch": course.epoch,
        "step": learner.step,
        "history": course.history,
        "best_score": course.best_score,
        "best_epoch": course.best_epoch,
        "weights": len(learner.weights),
    }
    kept = [*learner.weights, *learner.moments, *(course.best if apart else ())]
    checkpoints.save(stage.name, about, learner.arrays(kept))


def _resume(learner: Learner, stage: Stage, checkpoints: Checkpoints) -> _Course:
    """Where the last whole checkpoint stands; the beginning where there is none."""
    found = checkpoints.load(stage.name)
    if found is None:
        return _Course()
    about, arrays = found
    tensors, n = learner.tensors(arrays), about["weights"]
    m = n + len(learner.moments)
    learner.weights, learner.moments, learner.step = tensors[:n], tensors[n:m], about["step"]
    best = tensors[m:] or list(learner.weights)
    return _Course(about["epoch"], about["history"], best, tuple(about["best_score"]), about["best_epoch"])


@contextlib.contextmanager
def _shown(stage: Stage) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line of progress on standard error, with the time left."""
    if not stage.verbose or not stage.epochs:
        yield lambda row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as progress:
        task = progress.add_task(f"{stage.name}, epochs", total=stage.epochs, state="")

        def show(row: dict[str, Any]) -> None:
            parts = [f"{k.replace('_', ' ')} {row[k]:.3f}" for k in ("loss", "val_loss") if row[k] == row[k]]
            progress.update(task, completed=row["epoch"], state=", ".join(parts))

        yield show
