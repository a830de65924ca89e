"""Options of `finetune`, in groups, and how they become an estimator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._session import BadArgument

__all__ = ["ComparisonOptions", "FileOptions", "StepOptions", "TrainingOptions", "make_finetune"]

_SUFFIXES = (".keras-bundle", ".joblib")
_training = partial(typer.Option, rich_help_panel="Training")
_compare = partial(typer.Option, rich_help_panel="Comparison")


@dataclass(frozen=True)
class StepOptions(opt.ComputeOptions):
    """As for all commands, but the batch size also is that of the optimizer."""

    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images in a step.", rich_help_panel="Network")
    ] = 32


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained and how; fields with the names of `FineTuneClassifier` mean the same."""

    train_from: Annotated[
        str, typer.Option(metavar="LAYER|head|all|N", help="First trained layer, or the number of blocks.")
    ] = "head"
    head: Annotated[
        str, typer.Option(metavar="N,...", help="Widths of hidden layers; below 1: dropout; by default none.")
    ] = ""
    epochs: Annotated[int, _training(metavar="N", min=0)] = 20
    head_epochs: Annotated[int, _training(metavar="N", min=0, help="Of the first stage.")] = 20
    linear_start: Annotated[
        bool, _training("--linear-start", help="A fitted linear head instead of the first stage.")
    ] = False
    head_learning_rate: Annotated[float, _training(metavar="X", help="Of the first stage.")] = 1e-3
    learning_rate: Annotated[
        float | None, _training(metavar="X", help="By default 0.001 for the head alone, else 0.0003.")
    ] = None
    layer_decay: Annotated[
        float, _training(metavar="X", help="Factor of the learning rate for each block below.")
    ] = 1.0
    schedule: Annotated[str, _training(metavar="NAME", help="cosine, step or constant.")] = "cosine"
    weight_decay: Annotated[float, _training(metavar="X")] = 1e-4
    augment: Annotated[
        str | None,
        _training(metavar="NAME=X,...", help="Such as crop=4,flip=horizontal,rotation=0.05,color=0.2."),
    ] = None
    tta: Annotated[
        int, _training(metavar="N", min=0, help="Augmented views averaged for each prediction.")
    ] = 0
    balanced: Annotated[bool, _training("--balanced", help='class_weight="balanced".')] = False
    normalization: Annotated[
        str, _training(metavar="NAME", help="auto, or data: mean and deviation of the training images.")
    ] = "auto"
    validation_fraction: Annotated[float, _training(metavar="X")] = 0.1
    patience: Annotated[
        int | None, _training(metavar="N", min=1, help="Epochs without improvement before a stage ends.")
    ] = None
    checkpoints: Annotated[
        str | None, _training(metavar="DIR", help="Resume from here after interruption.")
    ] = None
    seed: Annotated[int, _training(metavar="N", min=0)] = 0

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FineTuneClassifier` and `FineTuneRegressor` for the training."""
        names = (
            "epochs", "head_epochs", "head_learning_rate", "learning_rate", "layer_decay", "schedule",
            "weight_decay", "tta", "normalization", "validation_fraction", "patience",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "train_from": int(self.train_from) if self.train_from.isdigit() else self.train_from,
            "head": parse_hidden_layers(self.head),
            "start": "linear" if self.linear_start else None,
            "augment": parse_augment(self.augment),
            "checkpoint_dir": self.checkpoints,
            "random_state": self.seed,
        }


@dataclass(frozen=True)
class ComparisonOptions:
    """How the fine-tuned network is compared with the frozen pipeline, and which of them is kept."""

    frozen: Annotated[
        str, _compare(metavar="NAME", help="Head of the frozen pipeline to compare with, as in `fit`.")
    ] = ""
    cv: Annotated[int, _compare(metavar="K", min=0, help="Folds of the comparison; 0 for none.")] = 3
    repeats: Annotated[
        int | None,
        _compare(
            metavar="N", min=1, help="Times to draw the folds; by default more than once below 500 images."
        ),
    ] = None
    scoring: Annotated[
        str | None,
        _compare(metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for numbers."),
    ] = None
    task: Annotated[
        str, _compare(metavar="NAME", help="classification, regression, or auto: inferred from the labels.")
    ] = "auto"
    keep: Annotated[str, _compare(metavar="NAME", help="What to save: better, finetuned or frozen.")] = (
        "better"
    )

    def __post_init__(self) -> None:
        if self.keep not in ("better", "finetuned", "frozen"):
            raise BadArgument(f"--keep {self.keep!r}; expected better, finetuned or frozen.")


@dataclass(frozen=True)
class FileOptions:
    """What is written and printed."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to save what is kept, under exactly this name: .keras-bundle or .joblib. "
            "`predict` recognizes by its content which of the two it is.",
        ),
    ] = None
    show_augmentations: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Only draw augmented views of some images, and exit."),
    ] = None
    curves: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw loss and accuracy over the epochs.")
    ] = None
    whole: Annotated[
        bool, typer.Option("--whole", help="Save all of the network, not only what training changed.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False
    as_json: opt.Json = False

    def check(self) -> None:
        """Refuse, before any work is done, files that could not be written in the end."""
        if self.output is not None:
            check_output(self.output, _SUFFIXES, force=True)
            if os.path.exists(self.output) and not self.force:
                raise BadArgument(
                    f"-o {self.output!r} exists. Name another file, or pass --force to replace it."
                )
        for option, path in (("--curves", self.curves), ("--show-augmentations", self.show_augmentations)):
            if path is not None:
                check_output(path, (".png",), True, option)


def make_finetune(
    task: str, network: opt.NetworkOptions, compute: StepOptions, training: TrainingOptions
) -> Any:
    """Make the estimator that the options describe, with checked parameters."""
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor

    parameters = {
        "model": opt.parse_model(network.model),
        "layer": opt.parse_layers(network.layer),
        "pooling": network.pooling,
        "image_size": opt.parse_image_size(network.image_size),
        "resize": network.resize,
        **compute.parameters(),
        **training.parameters(),
    }
    if task == "classification":
        estimator = FineTuneClassifier(**parameters, class_weight="balanced" if training.balanced else None)
    elif training.balanced:
        raise BadArgument("--balanced is for classes; these labels are numbers.")
    else:
        estimator = FineTuneRegressor(**parameters)
    estimator.check_params()
    return estimator


def parse_hidden_layers(text: str) -> tuple[float, ...]:
    """Parse widths of hidden layers and dropout rates.

    >>> parse_hidden_layers("256,0.5")
    (256, 0.5)
    """
    try:
        return tuple(float(part) if "." in part else int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise BadArgument(f"--head {text!r}; expected widths such as 128 or 256,0.5.") from None


def parse_augment(text: str | None) -> dict[str, Any] | None:
    """Parse names and strengths of augmentations.

    >>> parse_augment("crop=4,flip=horizontal")
    {'crop': 4, 'flip': 'horizontal'}
    """
    if not text:
        return None
    steps: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise BadArgument(f"--augment {text!r}; expected NAME=X, such as crop=4,flip=horizontal.")
        try:
            steps[name] = int(value) if name == "crop" else float(value)
        except ValueError:
            steps[name] = value
    return steps
