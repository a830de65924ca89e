"""Options of `finetune`, in groups, and the estimator that they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import Options, option
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._parse import parse_hidden_layers
from tlfeatures.cli._session import BadArgument

__all__ = ["ComparisonOptions", "FileOptions", "StepOptions", "TrainingOptions", "make_finetune"]


@dataclass(frozen=True)
class StepOptions(opt.ComputeOptions):
    """Options of the extraction; the batch size is also that of the optimizer."""

    batch_size: int = option(32, "Images per step.", min=1)


@dataclass(frozen=True)
class TrainingOptions(Options):
    """Options of the training, with the names and meanings of the parameters of `FineTuneClassifier`."""

    panel: ClassVar[str] = "Training"

    train_from: str = option(
        "head", "First layer to train, head for the head alone, or number of top blocks to train."
    )
    head: str = option(
        "",
        "Widths of hidden layers of the head; values below 1 are dropout rates.",
        metavar="N,...",
        parse=parse_hidden_layers,
    )
    epochs: int = option(20, "Number of epochs of the last stage.", min=0)
    head_epochs: int = option(
        20, "Number of epochs of the first stage, the head alone, if there are two.", min=0
    )
    start: bool = option(
        False,
        "Start from a linear head fitted by scikit-learn instead of the first stage.",
        "--linear-start",
        parse=lambda is_set: "linear" if is_set else None,
    )
    head_learning_rate: float = option(1e-3, "Learning rate of the first stage.")
    learning_rate: float | None = option(
        None, "Learning rate of the last stage; by default 0.001 for the head alone, otherwise 0.0003."
    )
    layer_decay: float = option(1.0, "Factor of the learning rate from each block to the block below.")
    schedule: str = option("cosine", "Schedule of the learning rate: cosine, step or constant.")
    weight_decay: float = option(1e-4, "Weight decay of AdamW.")
    augment: str | None = option(
        None, "Augmentations, such as crop=4,flip=horizontal,rotation=0.05,color=0.2."
    )
    tta: int = option(0, "Number of augmented views to average for each prediction.", min=0)
    class_weight: bool = option(
        False,
        "Weight classes inversely to their sizes.",
        "--balanced",
        parse=lambda is_set: "balanced" if is_set else None,
    )
    normalization: str = option(
        "auto", "auto: as in pretraining; data: mean and standard deviation of the training images."
    )
    validation_fraction: float = option(0.1, "Fraction of the images for validation.")
    patience: int | None = option(None, "Stop a stage after N epochs without improvement.", min=1)
    checkpoint_dir: str | None = option(
        None,
        "Folder of checkpoints, from which an interrupted training resumes.",
        "--checkpoints",
        metavar="DIR",
    )
    random_state: int = option(0, "Seed of all random numbers.", "--seed", min=0)


@dataclass(frozen=True)
class ComparisonOptions(Options):
    """Comparison of the fine-tuned network with the frozen pipeline."""

    panel: ClassVar[str] = "Comparison"

    frozen: str | None = option(None, "Head of the frozen pipeline: a name, as for --head of `fit`.")
    cv: int = option(3, "Number of folds; 0 for no comparison.", metavar="K", min=0)
    n_repeats: int | None = option(
        None, "Repeats with other folds; by default more than one below 500 images.", "--repeats", min=1
    )
    scoring: str | None = option(None, opt.SCORING)
    task: str = option("auto", opt.TASK)
    keep: str = option("better", "Model to save: better, finetuned or frozen.")


@dataclass(frozen=True)
class FileOptions(opt.OutputOptions):
    """Output files and formats."""

    output: str | None = option(
        None,
        "Save the model to this file; its suffix is .keras-bundle or .joblib, whichever model is kept.",
        "-o",
        metavar="FILE",
    )
    force: bool = option(False, "Overwrite an existing file.")
    show_augmentations: str | None = option(
        None, "Draw augmented views of some images and exit.", metavar="FILE.png"
    )
    curves: str | None = option(None, "Draw the loss and the score of each epoch.", metavar="FILE.png")
    whole: bool = option(False, "Save all weights, not only those that training changed.")

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
