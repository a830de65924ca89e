"""`evaluate`: predictions of a saved pipeline against labels."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._extraction import Tally, extract_images, get_paths, name_unreadable
from tlfeatures.cli._saved_models import SavedModel
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, tell, warn

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class EvaluationSource(opt.SourceOptions):
    """Labelled images to test on."""

    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="test, val, train or all; by default test if the source has splits, or else val.",
            rich_help_panel="Source",
        ),
    ] = None

    default_split = ("test", "val")


@opt.expand_options
def evaluate(
    model: SavedModel,
    source: EvaluationSource,
    as_json: opt.Json = False,
) -> None:
    """Compare the predictions of a saved model with labels.

    Unreadable images are left out and counted. A warning says how many of the images the model was trained on.
    """
    fitted = model.load()
    images = source.read()
    y = source.labels(images)
    name = source.source
    y = _as_numbers(y, name) if fitted.classes is None else _like(y, fitted.classes, name)
    result = extract_images(fitted.cnn, images.images)
    paths, tally = get_paths(images), Tally.of(result)
    name_unreadable(paths, result.errors, "and are left out")
    found = fitted.predict(result)
    if not len(found.rows):
        raise BadArgument(f"None of the images of {name!r} could be read.")
    used = fitted.count_training_images(result.keys[found.rows])
    if used:
        warn(
            f"{used:,} of {count(len(found.rows), 'image')} were used for training, so the figures below are too good "
            "to be true for other images."
        )
    y = y[found.rows]
    figures = (
        _number_figures(y, found.values)
        if fitted.classes is None
        else _class_figures(y, found.values, fitted.classes)
    )
    about = {
        "source": name,
        "evaluated": len(found.rows),
        "used_for_training": used,
        **dataclasses.asdict(tally),
        "skipped": {paths[row]: reason for row, reason in result.errors.items()},
        **figures,
    }
    if as_json:
        show_json(about)
    else:
        tell(f"{tally}.")
        _show_figures(about)


def _like(y: np.ndarray, classes: np.ndarray, source: str) -> np.ndarray:
    """Labels of the kind of ``classes``: a folder's "0" is a manifest's 0."""
    import numpy as np

    if y.dtype.kind in "US" and classes.dtype.kind in "iufb":
        with contextlib.suppress(ValueError):
            y = y.astype(float)
    elif y.dtype.kind in "iufb" and classes.dtype.kind in "US":
        y = y.astype(str)
    known = (
        np.isin(y, classes)
        if (y.dtype.kind in "US") == (classes.dtype.kind in "US")
        else np.zeros(len(y), bool)
    )
    others = ", ".join(map(str, np.unique(y[~known])[:5].tolist()))
    names = ", ".join(map(str, classes[:12].tolist())) + (", ..." if len(classes) > 12 else "")
    if not known.any():
        raise BadArgument(
            f"No label of {source!r} is a class of this pipeline: {others}; expected {names}. Name another --target."
        )
    if not known.all():
        warn(
            f"{count(int((~known).sum()), 'image')} of {len(y):,} have a label that this pipeline has never seen "
            f"({others}), and count as wrong."
        )
    return y


def _as_numbers(y: np.ndarray, source: str) -> np.ndarray:
    if y.dtype.kind not in "iufb":
        raise BadArgument(
            f"This pipeline predicts numbers; the labels of {source!r} are texts, such as {y.tolist()[0]!r}. "
            "Name another --target."
        )
    return y


def _class_figures(y: np.ndarray, predictions: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    import numpy as np
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    labels = np.union1d(y, classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        y, predictions, labels=labels, zero_division=0
    )
    return {
        "task": "classification",
        "accuracy": float(accuracy_score(y, predictions)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "classes": [
            {"class": name, "precision": p, "recall": r, "f1": f, "images": n}
            for name, p, r, f, n in zip(
                labels.tolist(),
                precision.tolist(),
                recall.tolist(),
                f1.tolist(),
                support.tolist(),
                strict=True,
            )
        ],
        "confusion_matrix": confusion_matrix(y, predictions, labels=labels).tolist(),
    }


def _number_figures(y: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    return {
        "task": "regression",
        "r2": float(r2_score(y, predictions)) if len(y) > 1 else None,
        "mae": float(mean_absolute_error(y, predictions)),
        "rmse": float(root_mean_squared_error(y, predictions)),
    }


def _show_figures(about: dict[str, Any]) -> None:
    n = count(about["evaluated"], "image")
    if about["task"] == "regression":
        r2 = "not defined" if about["r2"] is None else f"{about['r2']:.4f}"
        tell(f"R2 {r2}, MAE {about['mae']:.4g}, RMSE {about['rmse']:.4g} on {n}", style="bold")
        return
    tell(
        f"accuracy {about['accuracy']:.4f}, balanced accuracy {about['balanced_accuracy']:.4f} on {n}\n",
        style="bold",
    )
    rows = about["classes"]
    show_table(list(rows[0]), [[str(row["class"]), *list(row.values())[1:]] for row in rows])
    names = [str(row["class"]) for row in rows]
    if len(names) <= 30:
        tell()
        show_table(
            ["true \\ predicted", *names],
            [[name, *counts] for name, counts in zip(names, about["confusion_matrix"], strict=True)],
        )
