"""`evaluate`: score the predictions of a saved pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._extraction import (
    Tally,
    extract_images,
    get_paths,
    report_unreadable,
    require_readable_rows,
)
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._saved_models import SavedModel
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    import numpy as np

_COLUMNS = ("class", "precision", "recall", "f1", "images")
_N_SHOWN = 5  # labels in a message
_MAX_CLASSES = 30  # in the confusion matrix on the terminal


@dataclass(frozen=True)
class EvaluationSource(opt.SourceOptions):
    """Labelled test images."""

    default_split = ("test", "val")

    split: str | None = option(
        None,
        "test, val, train or all; by default test, or val if there is no test split.",
        metavar="NAME",
    )


@expand_options
def evaluate(
    model: SavedModel,
    source: EvaluationSource,
    as_json: opt.Json = False,
) -> None:
    """Score the predictions of a saved model on labelled images.

    Unreadable images are left out and counted. A warning is printed if images were used for training.
    """
    fitted = model.load()
    images = source.read()
    y = source.get_labels(images)
    name = source.source
    y = _check_numbers(y, name) if fitted.classes is None else _match_classes(y, fitted.classes, name)
    result = extract_images(fitted.cnn, images.images)
    skipped = report_unreadable(get_paths(images), result.errors, "and are left out")
    rows = require_readable_rows(result, name)
    y_pred, y = fitted.predict(result).values, y[rows]
    n_used = fitted.count_training_images(result.keys[rows])
    if n_used:
        warn(
            f"{n_used:,} of {count(len(rows), 'image')} were used for training, so the scores are too high; "
            "evaluate on other images."
        )
    scores = (
        _score_numbers(y, y_pred) if fitted.classes is None else _score_classes(y, y_pred, fitted.classes)
    )
    tally = Tally.of(result)
    about = {
        "source": name,
        "evaluated": len(rows),
        "used_for_training": n_used,
        **dataclasses.asdict(tally),
        "skipped": skipped,
        **scores,
    }
    if as_json:
        show_json(about)
    else:
        show_text(f"{tally}.")
        _show_scores(about)


def _match_classes(y: np.ndarray, classes: np.ndarray, source: str) -> np.ndarray:
    """Convert labels to the type of ``classes``: the folder "0" has the class 0 of a manifest."""
    import numpy as np

    if y.dtype.kind in "US" and classes.dtype.kind in "iufb":
        with contextlib.suppress(ValueError):
            y = y.astype(float)
    elif y.dtype.kind in "iufb" and classes.dtype.kind in "US":
        y = y.astype(str)
    same_type = (y.dtype.kind in "US") == (classes.dtype.kind in "US")
    is_class = np.isin(y, classes) if same_type else np.zeros(len(y), bool)
    others = ", ".join(map(str, np.unique(y[~is_class])[:_N_SHOWN].tolist()))
    if not is_class.any():
        names = ", ".join(map(str, classes[:12].tolist())) + (", ..." if len(classes) > 12 else "")
        raise BadArgument(
            f"No label of {source!r} is a class of this pipeline: {others}; expected {names}. Name another --target."
        )
    if not is_class.all():
        warn(
            f"The labels of {int((~is_class).sum()):,} of {count(len(y), 'image')} are not classes of this pipeline "
            f"({others}); their predictions count as wrong."
        )
    return y


def _check_numbers(y: np.ndarray, source: str) -> np.ndarray:
    if y.dtype.kind not in "iufb":
        raise BadArgument(
            f"This pipeline predicts numbers; the labels of {source!r} are texts, such as {y.tolist()[0]!r}. "
            "Name another --target."
        )
    return y


def _score_classes(y: np.ndarray, y_pred: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    import numpy as np
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    labels = np.union1d(y, classes)
    scores = precision_recall_fscore_support(y, y_pred, labels=labels, zero_division=0)
    _, recall, _, support = scores
    columns = (labels.tolist(), *(values.tolist() for values in scores))
    return {
        "task": "classification",
        "accuracy": float(accuracy_score(y, y_pred)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "classes": [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)],
        "confusion_matrix": confusion_matrix(y, y_pred, labels=labels).tolist(),
    }


def _score_numbers(y: np.ndarray, y_pred: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    return {
        "task": "regression",
        "r2": float(r2_score(y, y_pred)) if len(y) > 1 else None,
        "mae": float(mean_absolute_error(y, y_pred)),
        "rmse": float(root_mean_squared_error(y, y_pred)),
    }


def _show_scores(about: dict[str, Any]) -> None:
    n = count(about["evaluated"], "image")
    if about["task"] == "regression":
        r2 = "not defined" if about["r2"] is None else f"{about['r2']:.4f}"
        show_text(f"R2 {r2}, MAE {about['mae']:.4g}, RMSE {about['rmse']:.4g} on {n}", style="bold")
        return
    show_text(
        f"accuracy {about['accuracy']:.4f}, balanced accuracy {about['balanced_accuracy']:.4f} on {n}\n",
        style="bold",
    )
    rows = about["classes"]
    show_table(list(rows[0]), [[str(row["class"]), *list(row.values())[1:]] for row in rows])
    names = [str(row["class"]) for row in rows]
    if len(names) <= _MAX_CLASSES:
        show_text()
        show_table(
            ["true \\ predicted", *names],
            [[name, *counts] for name, counts in zip(names, about["confusion_matrix"], strict=True)],
        )
