"""`finetune`: train a network, and keep it if it is significantly better than the frozen pipeline."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._finetune_options import (
    ComparisonOptions,
    FileOptions,
    StepOptions,
    TrainingOptions,
    make_finetune,
)
from tlfeatures.cli._groups import expand_options
from tlfeatures.cli._messages import report_unreadable, warn_of_split_pairs
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.evaluation import Comparison
    from tlfeatures.finetune import FrozenOrFinetuned, TrainingSummary

_NAMES = {"frozen": "frozen pipeline", "finetuned": "fine-tuned network"}
_MAX_FOLDS = 5  # folds in the table; of more, only the lowest and the highest score


@expand_options
def finetune(
    source: opt.TrainingSource,
    network: opt.NetworkOptions,
    compute: StepOptions,
    training: TrainingOptions,
    comparison: ComparisonOptions,
    files: FileOptions,
) -> None:
    """Train a head and the top layers of a network on labelled images.

    The fine-tuned network and the frozen pipeline are compared on the same folds. The network is kept if it is
    significantly better (p < 0.05), and the frozen pipeline otherwise. A fine-tuned network is saved as a bundle,
    which runs no code when it is loaded; a frozen pipeline is saved by joblib.
    """
    from tlfeatures.evaluation import check_labels
    from tlfeatures.finetune import fit_frozen_or_finetuned
    from tlfeatures.heads import DEFAULT_HEAD, make_head

    files.check()
    images = source.read()
    if files.show_augmentations is not None:
        tuned = make_finetune("classification", network, compute, training)
        _draw_views(tuned, images.images, files.show_augmentations)
        return
    y, task = check_labels(images.get_labels(), len(images), comparison.task)
    tuned = make_finetune(task, network, compute, training)
    parameters = comparison.parameters() | {"task": task, "groups": images.groups}
    head = parameters.pop("frozen") or DEFAULT_HEAD[task]
    result = fit_frozen_or_finetuned(tuned, make_head(head, task), images.images, y, **parameters)
    skipped = report_unreadable(images.paths, result.extracted.errors)
    if result.duplicates.crossing:
        warn_of_split_pairs(
            result.duplicates, "both scores may be too high. Pass --groups to keep duplicates in one fold."
        )
    _draw_curves(result.training, files.curves)
    if files.output is not None:
        _save(result, files.output, files.whole)
    about = {
        "source": source.source,
        "task": task,
        "model": tuned.model,
        "train_from": training.train_from,
        "epochs": training.epochs,
        **dataclasses.asdict(result.extracted.counts),
        "summary": str(result.extracted.counts),
        "skipped": skipped,
        "head": head,
        "comparison": _describe(result.comparison, comparison.cv),
        "kept": result.kept,
        "history": result.training and result.training.history,
        "training": _describe_training(result.training),
        "output": files.output,
    }
    if files.as_json:
        show_json(about)
    else:
        _show(about)


def _draw_views(tuned: Any, images: Any, path: str) -> None:
    from tlfeatures._files import replace_file

    if not tuned.augment:
        raise BadArgument(
            "--show-augmentations needs --augment, such as crop=4,flip=horizontal,rotation=0.05."
        )
    with replace_file(path) as file:
        file.write(tuned.draw_augmentations(images))
    show_text(f"Saved {path}: each row has an image and augmented views of it.")


def _draw_curves(training: TrainingSummary | None, path: str | None) -> None:
    from tlfeatures._files import replace_file
    from tlfeatures.finetune import draw_curves

    if path is not None and training is None:
        warn(f"no epoch was trained: {path} is not written. Pass --cv 2 or more, or --keep finetuned.")
    elif path is not None:
        with replace_file(path) as file:
            file.write(draw_curves(training.history))


def _save(result: FrozenOrFinetuned, path: str, whole: bool) -> None:
    from tlfeatures.saved_models import save_pipeline

    if result.kept == "finetuned":
        result.model.set_params(verbose=0).save(path, whole=whole)
    else:
        save_pipeline(result.model, path)


def _describe(result: Comparison | None, cv: int) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "folds": cv, "repeats": result.n_repeats, "scoring": result.scoring, **result.scores,
        "pooled": result.pooled_scores, "difference": result.difference, "interval": result.interval,
        "p_value": result.p_value, "test": result.test, "significant": result.significant, "keep": result.best,
    }  # fmt: skip


def _describe_training(training: TrainingSummary | None) -> dict[str, Any] | None:
    if training is None:
        return None
    of = "final training" if training.is_final else f"mean of {count(training.n_fits, 'fit')} on the folds"
    names = ("stage", "best_epochs", "metric", "validation_scores")
    return {"of": of} | {name: getattr(training, name) for name in names}


def _show(about: dict[str, Any]) -> None:
    show_text(f"{about['summary']}.")
    if about["comparison"]:
        _show_comparison(about["comparison"], about["head"], about["kept"])
    if about["training"]:
        _show_training(about["history"].to_dict("records"), about["training"])
    if about["output"]:
        show_text(f"Saved the {_NAMES[about['kept']]}: {about['output']}.")


def _show_comparison(comparison: dict[str, Any], head: str, kept: str) -> None:
    n = len(comparison["frozen"])
    names = [f"fold {i + 1}" for i in range(n)] if n <= _MAX_FOLDS else ["lowest fold", "highest fold"]
    rows = []
    for name, side in ((f"frozen, {head}", "frozen"), ("fine-tuned", "finetuned")):
        scores = comparison[side].tolist()
        scores = scores if n <= _MAX_FOLDS else [min(scores), max(scores)]
        rows.append([name, *scores, comparison["pooled"][side]])
    best = int(comparison["keep"] == "finetuned")
    show_table([comparison["scoring"], *names, "all folds"], rows, best=best)
    low, high = comparison["interval"]
    p_value = f"p = {comparison['p_value']:.4f}" if comparison["p_value"] >= 0.0001 else "p < 0.0001"
    repeats = f", {comparison['repeats']} repeats" if comparison["repeats"] > 1 else ""
    show_text(
        f"Difference {comparison['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}, {p_value} "
        f"({comparison['test']}{repeats})."
    )
    if comparison["significant"]:
        show_text(f"The {_NAMES[comparison['keep']]} is significantly better.")
    else:
        show_text("The difference is not significant, so the frozen pipeline is preferred.")
    if comparison["keep"] == kept == "frozen" and comparison["difference"] > 0:
        show_text("To train and save the network nevertheless, pass --keep finetuned.")


def _show_training(history: list[dict[str, Any]], training: dict[str, Any]) -> None:
    stages = dict.fromkeys(row["stage"] for row in history)
    epochs = {name: sum(r["stage"] == name and r["epoch"] > 0 for r in history) for name in stages}
    trained = " and ".join(f"the {name} for {count(n, 'epoch')}" for name, n in epochs.items())
    show_text(f"Trained {trained} ({training['of']}); final loss {history[-1]['loss']:.4f}.")
    best, scores = training["best_epochs"], training["validation_scores"]
    which = f"Best {'epoch' if len(best) == 1 else 'epochs'} of the {training['stage']}: {', '.join(map(str, best))}"
    if not all(map(math.isfinite, scores)):
        show_text(f"{which}, the last (no validation images).")
    else:
        name = "accuracy" if training["metric"] == "accuracy" else "mean absolute error"
        show_text(f"{which}; validation {name} {', '.join(f'{score:.4f}' for score in scores)}.")
