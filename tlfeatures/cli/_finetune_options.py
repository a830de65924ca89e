"""Options of `finetune`, in groups, and the estimator that they describe."""

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
    """Options of the extraction; the batch size is also that of the optimizer."""

    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images per step.", rich_help_panel="Network")
    ] = 32


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the training, with the names and meanings of the parameters of `FineTuneClassifier`."""

    train_from: Annotated[
        str,
        typer.Option(
            metavar="LAYER|head|all|N", help="First layer to train, or number of top blocks to train."
        ),
    ] = "head"
    head: Annotated[
        str, typer.Option(metavar="N,...", help="Widths of hidden layers; values below 1 are dropout rates.")
    ] = ""
    epochs: Annotated[int, _training(metavar="N", min=0, help="Number of epochs.")] = 20
    head_epochs: Annotated[
        int, _training(metavar="N", min=0, help="Number of epochs of the first stage, which trains the head.")
    ] = 20
    linear_start: Annotated[
        bool, _training("--linear-start", help="Start from a fitted linear head instead of the first stage.")
    ] = False
    head_learning_rate: Annotated[float, _training(metavar="X", help="Learning rate of the first stage.")] = (
        1e-3
    )
    learning_rate: Annotated[
        float | None,
        _training(metavar="X", help="By default 0.001 if only the head is trained, otherwise 0.0003."),
    ] = None
    layer_decay: Annotated[
        float, _training(metavar="X", help="Factor of the learning rate from each block to the block below.")
    ] = 1.0
    schedule: Annotated[str, _training(metavar="NAME", help="cosine, step or constant.")] = "cosine"
    weight_decay: Annotated[float, _training(metavar="X", help="Weight decay of AdamW.")] = 1e-4
    augment: Annotated[
        str | None,
        _training(
            metavar="NAME=X,...",
            help="Augmentations, such as crop=4,flip=horizontal,rotation=0.05,color=0.2.",
        ),
    ] = None
    tta: Annotated[
        int, _training(metavar="N", min=0, help="Number of augmented views to average for each prediction.")
    ] = 0
    balanced: Annotated[bool, _training("--balanced", help="Weight classes inversely to their sizes.")] = (
        False
    )
    normalization: Annotated[
        str,
        _training(metavar="NAME", help="auto, or data: mean and standard deviation of the training images."),
    ] = "auto"
    validation_fraction: Annotated[
        float, _training(metavar="X", help="Fraction of the images for validation.")
    ] = 0.1
    patience: Annotated[
        int | None,
        _training(metavar="N", min=1, help="Stop a stage after N epochs without improvement."),
    ] = None
    checkpoints: Annotated[
        str | None,
        _training(metavar="DIR", help="Folder of checkpoints, from which an interrupted training resumes."),
    ] = None
    seed: Annotated[int, _training(metavar="N", min=0, help="Seed of all random numbers.")] = 0

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FineTuneClassifier` and `FineTuneRegressor`."""
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
    """Comparison of the fine-tuned network with the frozen pipeline."""

    frozen: Annotated[
        str, _compare(metavar="NAME", help="Head of the frozen pipeline to compare with, as in `fit`.")
    ] = ""
    cv: Annotated[int, _compare(metavar="K", min=0, help="Number of folds; 0 for no comparison.")] = 3
    repeats: Annotated[
        int | None,
        _compare(
            metavar="N",
            min=1,
            help="Repeats with different folds; by default more than one below 500 images.",
        ),
    ] = None
    scoring: Annotated[
        str | None,
        _compare(
            metavar="NAME", help="Any scorer of scikit-learn; by default accuracy, or r2 for regression."
        ),
    ] = None
    task: Annotated[
        str, _compare(metavar="NAME", help="classification, regression, or auto: inferred from the labels.")
    ] = "auto"
    keep: Annotated[str, _compare(metavar="NAME", help="Model to save: better, finetuned or frozen.")] = (
        "better"
    )

    def __post_init__(self) -> None:
        if self.keep not in ("better", "finetuned", "frozen"):
            raise BadArgument(f"--keep {self.keep!r}; expected better, finetuned or frozen.")


@dataclass(frozen=True)
class FileOptions:
    """Output files and formats."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Save the model to this file, with the suffix .keras-bundle or .joblib. `predict` recognizes "
            "either format by its content.",
        ),
    ] = None
    show_augmentations: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Draw augmented views of some images and exit."),
    ] = None
    curves: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw the loss and the score of each epoch.")
    ] = None
    whole: Annotated[
        bool, typer.Option("--whole", help="Save all weights, not only those that training changed.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False
    as_json: opt.Json = False

    def check(self) -> None:
        """Raise an error if an output file cannot be written."""
        if self.output is not None:
            check_output(self.output, _SUFFIXES, force=True)
            if os.path.exists(self.output) and not self.force:
                raise BadArgument(
                    f"-o {self.output!r} exists. Name another file, or pass --force to overwrite it."
                )
        for option, path in (("--curves", self.curves), ("--show-augmentations", self.show_augmentations)):
            if path is not None:
                check_output(path, (".png",), True, option)


def make_finetune(
    task: str, network: opt.NetworkOptions, compute: StepOptions, training: TrainingOptions
) -> Any:
    """Make the estimator that the options describe, and check its parameters."""
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor

    parameters = {
        **network.parameters(),
        **compute.parameters(),
        **training.parameters(),
    }
    if task == "classification":
        estimator = FineTuneClassifier(**parameters, class_weight="balanced" if training.balanced else None)
    elif training.balanced:
        raise BadArgument(
            "--balanced needs classes; the labels are numbers. Omit it, or pass --task classification."
        )
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
        raise BadArgument(
            f"--head {text!r}; expected widths and dropout rates, such as 128 or 256,0.5."
        ) from None


def parse_augment(text: str | None) -> dict[str, Any] | None:
    """Parse the names and strengths of augmentations.

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
