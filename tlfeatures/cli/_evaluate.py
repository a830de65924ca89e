"""`evaluate`: score the predictions of a saved pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import option
from tlfeatures.cli._messages import report_unreadable
from tlfeatures.cli._terminal import show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.evaluation import ClassificationScores

_MAX_CLASSES = 30  # largest number of classes for which the confusion matrix is printed


class EvaluationSource(opt.SourceOptions):
    """Labelled test images."""

    default_split = ("test", "val")

    split: str | None = option(
        None, "test, val, train or all; by default test, or val if there is no test split.", metavar="NAME"
    )


def evaluate(model: opt.SavedModel, source: EvaluationSource, as_json: opt.Json = False) -> None:
    """Score the predictions of a saved model on labelled images.

    Unreadable images are left out and counted. A warning is printed if some of them were used for
    training.
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
    if as_json:
        show_json({"source": source.source, **result.summary(), "skipped": skipped})
        return
    show_text(f"{extracted.counts}.")
    scores, *coverage = result.describe()
    show_text(scores, style="bold")
    show_text(*coverage)
    if fitted.classes is not None:
        _show_classes(result.scores)


def _show_classes(scores: ClassificationScores) -> None:
    import pandas

    names = scores.classes["class"].astype(str).tolist()
    show_text("")
    show_table(scores.classes.assign(**{"class": names}))
    if len(names) <= _MAX_CLASSES:
        confusions = pandas.DataFrame(scores.confusion_matrix, columns=names)
        confusions.insert(0, "true \\ predicted", names)
        show_text("")
        show_table(confusions)
