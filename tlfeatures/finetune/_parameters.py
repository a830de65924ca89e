"""Parameters of both fine-tune estimators, and their validation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np

from tlfeatures._image_estimator import ImageEstimator, LayerParameters
from tlfeatures._keras import is_callback
from tlfeatures._params import (
    Constraint,
    boolean,
    check_parameters,
    describe_value,
    instance_of,
    integer,
    number,
    path,
)
from tlfeatures.errors import InvalidParameterError
from tlfeatures.finetune._augment import check_augment
from tlfeatures.finetune._head_model import check_head
from tlfeatures.finetune._linear_start import LinearStart

__all__ = ["SHARED_PARAMETERS", "TTA_ERROR", "FineTuneParameters"]

# parameters that CNNFeatures has too
SHARED_PARAMETERS = {field.name for cls in (ImageEstimator, LayerParameters) for field in fields(cls)}

TTA_ERROR = (
    "`tta` must be 0 without `augment`, because it averages augmented views; got {}. Set augment, or tta=0."
)


def _is_name_or_number(value: Any) -> bool:
    return isinstance(value, (str, Integral)) and not isinstance(value, bool)


def _are_callbacks(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_callback, value))


@dataclass(kw_only=True, eq=False, repr=False)
class FineTuneParameters(ImageEstimator, LayerParameters):
    """Parameters of both estimators, and their validation."""

    train_from: str | int = "head"
    head: Any = ()
    start: LinearStart | Literal["linear"] | None = None
    head_epochs: int = 20
    epochs: int = 20
    head_learning_rate: float = 1e-3
    learning_rate: float | None = None
    layer_decay: float = 1.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    weight_decay: float = 1e-4
    train_batchnorm: bool = False
    augment: Mapping[str, Any] | None = None
    tta: int = 0
    validation_fraction: float = 0.1
    patience: int | None = None
    checkpoint_dir: str | os.PathLike[str] | None = None
    callbacks: Sequence[Any] | None = None
    on_error: Literal["raise", "drop"] = "raise"
    random_state: Any = None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ImageEstimator._parameter_constraints,
        **LayerParameters._layer_constraints,
        "train_from": [
            Constraint("the name of a layer, 'head', 'all' or a number of blocks", _is_name_or_number)
        ],
        "normalization": [*ImageEstimator._parameter_constraints["normalization"], "data"],
        "epochs": [integer(minimum=0)],
        "head_epochs": [integer(minimum=0)],
        "learning_rate": [None, number(above=0)],
        "head_learning_rate": [number(above=0)],
        "layer_decay": [number(above=0)],
        "schedule": ["cosine", "step", "constant"],
        "weight_decay": [number(minimum=0)],
        "train_batchnorm": [boolean()],
        "tta": [integer(minimum=0)],
        "validation_fraction": [number(minimum=0, below=1)],
        "patience": [None, integer(minimum=1)],
        "checkpoint_dir": [None, path("a path to a folder")],
        "callbacks": [None, Constraint("a list of keras.callbacks.Callback", _are_callbacks)],
        "start": [None, "linear", instance_of(LinearStart, "a value set by from_pipeline")],
        "on_error": ["raise", "drop"],
        "random_state": [None, integer(minimum=0), instance_of(np.random.RandomState)],
    }

    def _seed(self) -> int:
        if self.random_state is None:
            if self.checkpoint_dir is not None:
                raise ValueError(
                    "checkpoint_dir needs a random_state, because no later run can resume from checkpoints of a random "
                    "seed; got random_state=None. Pass random_state=0, for example."
                )
            return int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(self.random_state.randint(1 << 31))

    def check_params(self) -> None:
        """Validate the parameters without loading the network; `fit` calls this first.

        Raises
        ------
        ValueError
            If a parameter is invalid.
        """
        check_parameters(self)
        if self.patience is not None and not self.validation_fraction:
            raise InvalidParameterError(
                f"`patience` must be None without validation images; got {self.patience}. "
                "Pass validation_fraction=0.1, for example, or patience=None.",
                parameter="patience",
            )
        if not check_augment(self.augment) and self.tta:
            raise InvalidParameterError(TTA_ERROR.format(self.tta), parameter="tta")
        if check_head(self.head) != () and self.start is not None:
            raise InvalidParameterError(
                "`head` must be () with `start`, which sets the weights of the output layer, so that there are no "
                f"hidden layers; got {describe_value(self.head)}. Pass head=(), or start=None.",
                parameter="head",
            )
