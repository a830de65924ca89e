"""`finetune`: train a network, and keep it if it is significantly better than the frozen pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, Options, option
from tlfeatures.cli._messages import report_unreadable, save_fitted
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._parse import parse_hidden_layers
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.finetune import FrozenOrFinetuned, TrainingSummary


class StepOptions(opt.ComputeOptions):
    """Options of the extraction; the batch size is also that of the optimizer."""

    batch_size: int = option(32, "Images per step.", min=1)


class TrainingOptions(Options, panel="Training"):
    """Options of the training, with the names and meanings of the parameters of `FineTuneClassifier`."""

    train_from: str = option(
        "head", "First layer to train; head: only the head; all: all layers; a number N: the top N blocks."
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
        None,
        "Learning rate of the last stage; by default 0.001 for the head alone, otherwise 0.0003, "
        "or less with --linear-start and fewer than 150 images.",
    )
    layer_decay: float = option(1.0, "Learning rate of each block, relative to the block above it.")
    schedule: str = option("cosine", "Schedule of the learning rate: cosine, step or constant.")
    weight_decay: float = option(1e-4, "Weight decay of AdamW.")
    augment: str | None = option(
        None,
        "Augmentations such as flip=horizontal,crop=4: crop (pixels); flip (horizontal, vertical or "
        "horizontal_and_vertical); rotation (fraction of a turn); zoom, brightness, contrast, saturation, hue "
        "(relative change) or color (the last four together).",
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


class ComparisonOptions(Options, panel="Comparison"):
    """Comparison of the fine-tuned network with the frozen pipeline."""

    frozen: str | None = option(None, "Head of the frozen pipeline: a name, as for --head of `fit`.")
    cv: int = option(3, "Number of folds; 0 for no comparison.", metavar="K", min=0)
    n_repeats: int | None = option(
        None,
        "Repeats with different folds; by default more than one for fewer than 500 images.",
        "--repeats",
        min=1,
    )
    scoring: str | None = option(None, opt.SCORING)
    task: str = option("auto", opt.TASK)
    keep: str = option("better", "Model to save: better, finetuned or frozen.")


class FileOptions(opt.OutputOptions):
    """Output files and formats."""

    output: str | None = option(None, opt.SAVED, "-o", metavar="FILE.tlf")
    force: bool = option(False, "Overwrite an existing file.")
    show_augmentations: str | None = option(
        None, "Draw augmented views of some images and exit.", metavar="FILE.png"
    )
    curves: str | None = option(None, "Draw the loss and the score of each epoch.", metavar="FILE.png")
    whole: bool = option(False, "Save all weights, not only those that training changed.")

    def check(self) -> None:
        """Raise an error if an output file cannot be written."""
        check_output(self.output, (".tlf", ".keras-bundle", ".joblib"), self.force)
        check_output(self.curves, (".png",), force=True, option="--curves")
        check_output(self.show_augmentations, (".png",), force=True, option="--show-augmentations")


def finetune(
    source: opt.TrainingSource,
    network: opt.NetworkOptions,
    compute: StepOptions,
    training: TrainingOptions,
    comparison: ComparisonOptions,
    files: FileOptions,
) -> None:
    """Train a head and the top layers of a network on labelled images.

    Training has two stages: first the head on stored embeddings, then the head together with the layers from
    --train-from on. If only the head is trained, there is one stage. The fine-tuned network and the frozen pipeline
    (embeddings and a head, as `fit` trains it) are compared on the same folds. The network is kept if it is
    significantly better (p < 0.05), and the frozen pipeline otherwise. Loading the saved file runs no code, unless it
    is a pipeline with the suffix .joblib.
    """
    from tlfeatures.evaluation import check_labels
    from tlfeatures.finetune import MODEL_NAMES, fit_frozen_or_finetuned
    from tlfeatures.heads import DEFAULT_HEAD, make_head

    files.check()
    images = source.read()
    if files.show_augmentations is not None:
        tuned = _make_finetune("classification", network, compute, training)
        _draw_views(tuned, images.images, files.show_augmentations)
        return
    y, task = check_labels(images.get_labels(), len(images), comparison.task)
    tuned = _make_finetune(task, network, compute, training)
    parameters = comparison.parameters() | {"task": task, "groups": images.groups}
    head = parameters.pop("frozen") or DEFAULT_HEAD[task]
    result = fit_frozen_or_finetuned(tuned, make_head(head, task), images.images, y, **parameters)
    skipped = report_unreadable(images.paths, result.extracted.errors)
    if result.duplicates.crossing:
        warn(f"{result.duplicates.describe()} Pass --groups to keep duplicates in one fold.")
    if files.curves is not None:
        _draw_curves(result.training, files.curves)
    if files.output is not None:
        save_fitted(result.model, files.output, whole=files.whole)
    counts = result.extracted.counts
    if files.as_json:
        show_json(
            {
                "source": source.source,
                "task": task,
                "model": tuned.model,
                "train_from": training.train_from,
                "epochs": training.epochs,
                **vars(counts),
                "summary": str(counts),
                "skipped": skipped,
                "head": head,
                **result.summary(),
                "output": files.output,
            }
        )
        return
    show_text(f"{counts}.")
    _show(result, head)
    if files.output:
        show_text(f"Saved the {MODEL_NAMES[result.kept]}: {files.output}.")


def _make_finetune(
    task: str, network: opt.NetworkOptions, compute: StepOptions, training: TrainingOptions
) -> Any:
    """Make the estimator that the options describe."""
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor

    parameters = {**network.parameters(), **compute.parameters(), **training.parameters()}
    if task == "classification":
        return FineTuneClassifier(**parameters)
    if parameters.pop("class_weight") is not None:
        raise BadArgument(
            "--balanced needs classes; the labels are numbers. Omit it, or pass --task classification."
        )
    return FineTuneRegressor(**parameters)


def _draw_views(tuned: Any, images: Any, path: str) -> None:
    from tlfeatures._files import write_file

    if not tuned.augment:
        raise BadArgument(
            "--show-augmentations needs --augment, such as crop=4,flip=horizontal,rotation=0.05."
        )
    write_file(path, tuned.draw_augmentations(images))
    show_text(f"Saved {path}: each row has an image and augmented views of it.")


def _draw_curves(training: TrainingSummary | None, path: str) -> None:
    from tlfeatures._files import write_file
    from tlfeatures.finetune import draw_curves

    if training is None:
        warn(f"no epoch was trained: {path} is not written. Pass --cv 2 or more, or --keep finetuned.")
    else:
        write_file(path, draw_curves(training.history))


def _show(result: FrozenOrFinetuned, head: str) -> None:
    """Print the score of both models on each fold, and describe the comparison and the training."""
    comparison = result.comparison
    if comparison is not None:
        table = comparison.score_table()
        table[comparison.scoring] = [f"frozen, {head}", "fine-tuned"]
        show_table(table, best=int(comparison.best == "finetuned"))
    show_text(*result.describe())
    if comparison is not None and comparison.best == result.kept == "frozen" and comparison.difference > 0:
        show_text("To train and save the network nevertheless, pass --keep finetuned.")
