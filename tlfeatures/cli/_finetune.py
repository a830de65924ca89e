"""`finetune`: train a network, and keep it if it is significantly better than the frozen pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._duplicates import warn_of_split_pairs
from tlfeatures.cli._extraction import (
    Tally,
    extract_images,
    get_paths,
    report_unreadable,
    require_readable_rows,
)
from tlfeatures.cli._finetune_options import (
    ComparisonOptions,
    FileOptions,
    StepOptions,
    TrainingOptions,
    make_finetune,
)
from tlfeatures.cli._fit import DEFAULT_HEAD, DEFAULT_SCORING, check_scorer_name, fit_head
from tlfeatures.cli._groups import expand_options
from tlfeatures.cli._parse import parse_augment
from tlfeatures.cli._saved_models import save_pipeline
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    import numpy as np
    import pandas

    from tlfeatures.evaluation import Comparison

_NAMES = {"frozen": "frozen pipeline", "finetuned": "fine-tuned network"}
_MAX_FOLDS = 5  # folds in the table; of more, only the lowest and the highest score
_DUPLICATE_THRESHOLD = 0.95  # as in `fit`


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
    files.check()
    images = source.read()
    if files.show_augmentations is not None:
        _draw_views(images, network, compute, training, files.show_augmentations)
        return
    about = _run(source, images, network, compute, training, comparison, files)
    if files.as_json:
        show_json(about)
    else:
        _show(about)


def _run(
    source: opt.TrainingSource,
    images: Any,
    network: opt.NetworkOptions,
    compute: StepOptions,
    training: TrainingOptions,
    comparison: ComparisonOptions,
    files: FileOptions,
) -> dict[str, Any]:
    """Compare, train and save; return the results to print."""
    from tlfeatures.evaluation import check_groups, check_labels, make_folds
    from tlfeatures.heads import make_head

    y, task = check_labels(source.get_labels(images), len(images), comparison.task)
    groups = check_groups(images.groups, len(images))
    tuned = make_finetune(task, network, compute, training)
    head = make_head(comparison.frozen or DEFAULT_HEAD[task], task)
    scoring = check_scorer_name(comparison.scoring or DEFAULT_SCORING[task])
    if comparison.cv:
        make_folds(comparison.cv, y, groups, task, 0)  # raises an error before the network runs
    cnn = opt.make_cnn(network, compute)
    with _stored_embeddings(cnn, tuned):
        cnn.fit(images.images)
        extracted = extract_images(cnn, images.images)
        skipped = report_unreadable(get_paths(images), extracted.errors, "and are left out")
        rows = require_readable_rows(extracted, source.source)
        X, y = images.take(rows).images, y[rows]
        groups = None if groups is None else groups[rows]
        result = _compare(cnn, head, tuned, X, y, groups, task, scoring, comparison)
        _warn_of_duplicates(extracted.keys[rows], extracted.features[rows], result)
        kept = comparison.keep
        if kept == "better":
            kept = result.best if result else "finetuned"
        if kept == "finetuned":
            tuned.fit(X, y, groups=groups)
    history, training_summary = _get_history(tuned, kept, result)
    _draw_curves(history, files.curves)
    if files.output is not None:
        if kept == "finetuned":
            tuned.set_params(verbose=0).save(files.output, whole=files.whole)
        else:
            fitted = fit_head(head, task, extracted.features[rows], y, groups)
            save_pipeline(files.output, cnn, fitted, extracted.keys[rows])
    tally = Tally.of(extracted)
    return {
        "source": source.source, "task": task, "model": tuned.model, "train_from": training.train_from,
        "epochs": training.epochs, **dataclasses.asdict(tally), "summary": str(tally),
        "skipped": skipped,
        "head": head.steps[-1][0], "comparison": _describe(result, comparison.cv), "kept": kept,
        "history": None if history is None else history.to_dict("records"),
        "training": training_summary, "output": files.output,
    }  # fmt: skip


@contextlib.contextmanager
def _stored_embeddings(cnn: Any, tuned: Any) -> Iterator[None]:
    """Use a temporary store if the user chose none, because every fold needs the embeddings again."""
    if cnn.cache is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tlfeatures-") as folder:
        cnn.set_params(cache=folder)
        tuned.set_params(cache=folder)
        try:
            yield
        finally:
            cnn.set_params(cache=None)
            tuned.set_params(cache=None)


def _compare(
    cnn: Any,
    head: Any,
    tuned: Any,
    X: Any,
    y: np.ndarray,
    groups: np.ndarray | None,
    task: str,
    scoring: str,
    options: ComparisonOptions,
) -> Comparison | None:
    from sklearn.base import clone
    from sklearn.pipeline import Pipeline

    from tlfeatures.evaluation import compare

    if not options.cv:
        return None
    return compare(
        {"frozen": Pipeline([("cnn", clone(cnn).set_params(verbose=0)), ("head", head)]), "finetuned": tuned},
        X,
        y,
        cv=options.cv,
        n_repeats=options.repeats,
        groups=groups,
        scoring=scoring,
        task=task,
        attributes=("history_", "best_epoch_"),
    )


def _warn_of_duplicates(keys: np.ndarray, features: np.ndarray, result: Comparison | None) -> None:
    from tlfeatures.evaluation import find_duplicates

    if result is None:
        return
    duplicates = find_duplicates(keys, features, _DUPLICATE_THRESHOLD)
    if duplicates.count_crossing(result.folds):
        warn_of_split_pairs(
            duplicates, "both scores may be too high. Pass --groups to keep duplicates in one fold."
        )


def _describe(result: Comparison | None, cv: int) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "folds": cv, "repeats": result.n_repeats, "scoring": result.scoring,
        **{name: scores.tolist() for name, scores in result.scores.items()}, "pooled": result.pooled_scores,
        "difference": result.difference, "interval": list(result.interval), "p_value": result.p_value,
        "test": result.test, "significant": result.significant, "keep": result.best,
    }  # fmt: skip


def _get_history(
    tuned: Any, kept: str, result: Comparison | None
) -> tuple[pandas.DataFrame | None, dict[str, Any] | None]:
    """Return the history of the final training, or the mean over the folds, and its best epochs."""
    from tlfeatures.finetune import average_histories

    if kept == "finetuned":
        fits = [{"history_": tuned.history_, "best_epoch_": tuned.best_epoch_}]
    elif result is not None:
        fits = result.attributes["finetuned"]
    else:
        return None, None
    history = average_histories([fit["history_"] for fit in fits])
    if history.empty:  # no epochs
        return None, None
    metric = "accuracy" if "accuracy" in history else "mae"
    stage = history["stage"].iloc[-1]
    best = [fit["best_epoch_"] for fit in fits]
    scores = [
        _get_value(fit["history_"], stage, epoch, f"val_{metric}")
        for fit, epoch in zip(fits, best, strict=True)
    ]
    return history, {
        "of": "final training" if kept == "finetuned" else f"mean of {count(len(fits), 'fit')} on the folds",
        "stage": stage,
        "best_epochs": best,
        "metric": metric,
        "validation_scores": scores,
    }


def _get_value(history: pandas.DataFrame, stage: str, epoch: int, column: str) -> float | None:
    values = history.loc[(history["stage"] == stage) & (history["epoch"] == epoch), column]
    return float(values.iloc[0]) if len(values) and math.isfinite(values.iloc[0]) else None


def _draw_curves(history: pandas.DataFrame | None, path: str | None) -> None:
    if path is None:
        return
    if history is None:
        warn(f"no epoch was trained: {path} is not written. Pass --cv 2 or more, or --keep finetuned.")
        return
    from tlfeatures.cli._outputs import replacing
    from tlfeatures.finetune import draw_curves

    with replacing(path) as file:
        file.write(draw_curves(history))


def _draw_views(
    images: Any, network: opt.NetworkOptions, compute: StepOptions, training: TrainingOptions, path: str
) -> None:
    from tlfeatures.cli._outputs import replacing

    if not parse_augment(training.augment):
        raise BadArgument(
            "--show-augmentations needs --augment, such as crop=4,flip=horizontal,rotation=0.05."
        )
    tuned = make_finetune("classification", network, compute, training)
    png = tuned.draw_augmentations(images.images)
    with replacing(path) as file:
        file.write(png)
    show_text(f"Saved {path}: each row has an image and augmented views of it.")


def _show(about: dict[str, Any]) -> None:
    show_text(f"{about['summary']}.")
    if about["comparison"]:
        _show_comparison(about["comparison"], about["head"], about["kept"])
    if about["history"]:
        _show_history(about["history"], about["training"])
    if about["output"]:
        show_text(f"Saved the {_NAMES[about['kept']]}: {about['output']}.")


def _show_comparison(comparison: dict[str, Any], head: str, kept: str) -> None:
    n = len(comparison["frozen"])
    names = [f"fold {i + 1}" for i in range(n)] if n <= _MAX_FOLDS else ["lowest fold", "highest fold"]
    rows = []
    for name, side in ((f"frozen, {head}", "frozen"), ("fine-tuned", "finetuned")):
        scores = comparison[side] if n <= _MAX_FOLDS else [min(comparison[side]), max(comparison[side])]
        rows.append([name, *scores, comparison["pooled"][side]])
    show_table(
        [comparison["scoring"], *names, "all folds"], rows, best=int(comparison["keep"] == "finetuned")
    )
    low, high = comparison["interval"]
    p_value = f"p = {comparison['p_value']:.4f}" if comparison["p_value"] >= 0.0001 else "p < 0.0001"
    repeats = f", {comparison['repeats']} repeats" if comparison["repeats"] > 1 else ""
    show_text(
        f"Difference {comparison['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}, {p_value} "
        f"({comparison['test']}{repeats})."
    )
    if not comparison["significant"]:
        verdict = "The difference is not significant, so the frozen pipeline is preferred."
    else:
        verdict = f"The {_NAMES[comparison['keep']]} is significantly better."
    show_text(verdict)
    if comparison["keep"] == kept == "frozen" and comparison["difference"] > 0:
        show_text("To train and save the network nevertheless, pass --keep finetuned.")


def _show_history(history: list[dict[str, Any]], training: dict[str, Any]) -> None:
    stages = dict.fromkeys(row["stage"] for row in history)
    epochs = {name: sum(r["stage"] == name and r["epoch"] > 0 for r in history) for name in stages}
    trained = " and ".join(f"the {name} for {count(n, 'epoch')}" for name, n in epochs.items())
    show_text(f"Trained {trained} ({training['of']}); final loss {history[-1]['loss']:.4f}.")
    best, scores = training["best_epochs"], training["validation_scores"]
    which = f"Best {'epoch' if len(best) == 1 else 'epochs'} of the {training['stage']}: {', '.join(map(str, best))}"
    if any(score is None for score in scores):
        show_text(f"{which}, the last (no validation images).")
    else:
        name = "accuracy" if training["metric"] == "accuracy" else "mean absolute error"
        show_text(f"{which}; validation {name} {', '.join(f'{score:.4f}' for score in scores)}.")
