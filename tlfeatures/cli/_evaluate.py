"""`evaluate`: score the predictions of a saved pipeline."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    import numpy as np
    import pandas

_MAX_CLASSES = 30  # in the confusion matrix on the terminal


@dataclass(frozen=True)
class EvaluationSource(opt.SourceOptions):
    """Labelled test images."""

    default_split = ("test", "val")

    split: str | None = option(
        None, "test, val, train or all; by default test, or val if there is no test split.", metavar="NAME"
    )


@expand_options
def evaluate(model: opt.SavedModel, source: EvaluationSource, as_json: opt.Json = False) -> None:
    """Score the predictions of a saved model on labelled images.

    Unreadable images are left out and counted. A warning is printed if images were used for training.
    """
    fitted = model.load()
    images = source.read()
    result = fitted.evaluate(images.images, images.get_labels())
    extracted = result.predictions.extracted
    skipped = report_unreadable(images.paths, extracted.errors)
    n, n_used = len(result.predictions.rows), result.n_used_for_training
    if n_used:
        warn(
            f"{n_used:,} of {count(n, 'image')} were used for training, so the scores are too high; evaluate on "
            "other images."
        )
    scores = vars(result.scores)
    about = {
        "source": source.source,
        "task": "regression" if fitted.classes is None else "classification",
        "evaluated": n,
        "used_for_training": n_used,
        **dataclasses.asdict(extracted.counts),
        "skipped": skipped,
        **scores,
    }
    if as_json:
        show_json(about)
        return
    show_text(f"{extracted.counts}.")
    if fitted.classes is None:
        r2 = f"{scores['r2']:.4f}" if n > 1 else "not defined"
        text = f"R2 {r2}, MAE {scores['mae']:.4g}, RMSE {scores['rmse']:.4g} on {count(n, 'image')}"
        show_text(text, style="bold")
    else:
        _show_classes(n, **scores)


def _show_classes(
    n: int, accuracy: float, balanced_accuracy: float, classes: pandas.DataFrame, confusion_matrix: np.ndarray
) -> None:
    text = f"accuracy {accuracy:.4f}, balanced accuracy {balanced_accuracy:.4f} on {count(n, 'image')}\n"
    show_text(text, style="bold")
    classes = classes.assign(**{"class": classes["class"].astype(str)})
    show_table(classes)
    if len(names := classes["class"].tolist()) <= _MAX_CLASSES:
        show_text()
        rows = zip(names, confusion_matrix.tolist(), strict=True)
        show_table(
            {"true \\ predicted": name, **dict(zip(names, counts, strict=True))} for name, counts in rows
        )
