"""Options of `finetune`, in groups, and the estimator that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, option
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._parse import parse_augment, parse_hidden_layers
from tlfeatures.cli._session import BadArgument

__all__ = ["ComparisonOptions", "FileOptions", "StepOptions", "TrainingOptions", "make_finetune"]


@dataclass(frozen=True)
class StepOptions(opt.ComputeOptions):
    """Options of the extraction; the batch size is also that of the optimizer."""

    batch_size: int = option(32, "Images per step.", metavar="N", min=1)


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of the training, with the names and meanings of the parameters of `FineTuneClassifier`."""

    panel: ClassVar[str] = "Training"

    train_from: str = option(
        "head", "First layer to train, or number of top blocks to train.", metavar="LAYER|head|all|N"
    )
    head: str = option("", "Widths of hidden layers; values below 1 are dropout rates.", metavar="N,...")
    epochs: int = option(20, "Number of epochs.", metavar="N", min=0)
    head_epochs: int = option(
        20, "Number of epochs of the first stage, which trains the head.", metavar="N", min=0
    )
    start: bool = option(
        False, "Start from a fitted linear head instead of the first stage.", "--linear-start"
    )
    head_learning_rate: float = option(1e-3, "Learning rate of the first stage.", metavar="X")
    learning_rate: float | None = option(
        None, "By default 0.001 if only the head is trained, otherwise 0.0003.", metavar="X"
    )
    layer_decay: float = option(
        1.0, "Factor of the learning rate from each block to the block below.", metavar="X"
    )
    schedule: str = option("cosine", "cosine, step or constant.", metavar="NAME")
    weight_decay: float = option(1e-4, "Weight decay of AdamW.", metavar="X")
    augment: str | None = option(
        None, "Augmentations, such as crop=4,flip=horizontal,rotation=0.05,color=0.2.", metavar="NAME=X,..."
    )
    tta: int = option(0, "Number of augmented views to average for each prediction.", metavar="N", min=0)
    class_weight: bool = option(False, "Weight classes inversely to their sizes.", "--balanced")
    normalization: str = option(
        "auto", "auto, or data: mean and standard deviation of the training images.", metavar="NAME"
    )
    validation_fraction: float = option(0.1, "Fraction of the images for validation.", metavar="X")
    patience: int | None = option(
        None, "Stop a stage after N epochs without improvement.", metavar="N", min=1
    )
    checkpoint_dir: str | None = option(
        None,
        "Folder of checkpoints, from which an interrupted training resumes.",
        "--checkpoints",
        metavar="DIR",
    )
    random_state: int = option(0, "Seed of all random numbers.", "--seed", metavar="N", min=0)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FineTuneClassifier` and `FineTuneRegressor`."""
        return super().parameters() | {
            "train_from": int(self.train_from) if self.train_from.isdigit() else self.train_from,
            "head": parse_hidden_layers(self.head),
            "start": "linear" if self.start else None,
            "augment": parse_augment(self.augment),
            "class_weight": "balanced" if self.class_weight else None,
        }


@dataclass(frozen=True)
class ComparisonOptions(Options):
    """Comparison of the fine-tuned network with the frozen pipeline."""

    panel: ClassVar[str] = "Comparison"

    frozen: str | None = option(
        None, "Head of the frozen pipeline to compare with, as in `fit`.", metavar="NAME"
    )
    cv: int = option(3, "Number of folds; 0 for no comparison.", metavar="K", min=0)
    n_repeats: int | None = option(
        None,
        "Repeats with different folds; by default more than one below 500 images.",
        "--repeats",
        metavar="N",
        min=1,
    )
    scoring: opt.Scoring = None
    task: opt.Task = "auto"
    keep: str = option("better", "Model to save: better, finetuned or frozen.", metavar="NAME")


@dataclass(frozen=True)
class FileOptions:
    """Output files and formats."""

    output: str | None = option(
        None,
        "Save the model to this file, with the suffix .keras-bundle or .joblib. `predict` recognizes either "
        "format by its content.",
        "-o",
        metavar="FILE",
    )
    show_augmentations: str | None = option(
        None, "Draw augmented views of some images and exit.", metavar="FILE.png"
    )
    curves: str | None = option(None, "Draw the loss and the score of each epoch.", metavar="FILE.png")
    whole: bool = option(False, "Save all weights, not only those that training changed.")
    force: bool = option(False, "Overwrite an existing file.")
    as_json: opt.Json = False

    def check(self) -> None:
        """Raise an error if an output file cannot be written."""
        check_output(self.output, (".keras-bundle", ".joblib"), self.force)
        check_output(self.curves, (".png",), force=True, option="--curves")
        check_output(self.show_augmentations, (".png",), force=True, option="--show-augmentations")


def make_finetune(
    task: str, network: opt.NetworkOptions, compute: StepOptions, training: TrainingOptions
) -> Any:
    """Make the estimator that the options describe, and check its parameters."""
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor

    parameters = {**network.parameters(), **compute.parameters(), **training.parameters()}
    if task == "classification":
        estimator: Any = FineTuneClassifier(**parameters)
    elif parameters.pop("class_weight") is None:
        estimator = FineTuneRegressor(**parameters)
    else:
        raise BadArgument(
            "--balanced needs classes; the labels are numbers. Omit it, or pass --task classification."
        )
    estimator.check_params()
    return estimator
