"""Decision between a frozen pipeline and a fine-tuned network, on the same folds."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from tlfeatures._params import check_parameter
from tlfeatures._text import count
from tlfeatures._warnings import warn
from tlfeatures.calibration import fit_calibrated_pipeline
from tlfeatures.errors import DuplicateImagesWarning
from tlfeatures.evaluation import (
    DEFAULT_SCORING,
    Comparison,
    Duplicates,
    check_groups,
    check_labels,
    check_scorer_name,
    compare,
    find_duplicates,
    make_folds,
)
from tlfeatures.extract import Extracted
from tlfeatures.features import CNNFeatures, embed
from tlfeatures.finetune._curves import average_histories
from tlfeatures.finetune._parameters import SHARED_PARAMETERS
from tlfeatures.images import Images

__all__ = ["MODEL_NAMES", "FrozenOrFinetuned", "TrainingSummary", "fit_frozen_or_finetuned"]

MODEL_NAMES = {"frozen": "frozen pipeline", "finetuned": "fine-tuned network"}


@dataclass(frozen=True)
class TrainingSummary:
    """Training of a fine-tuned network, in one fit or as the mean over the folds.

    Attributes
    ----------
    n_fits : int
    is_final : bool
        Whether it is the fit on all images, and not the fits on the folds.
    history : DataFrame
        Loss and metrics of each epoch, the mean over the fits.
    stage : str
        Last stage: "head" or "network".
    metric : {"accuracy", "mae"}
    best_epochs : list of int
        Best epoch of the last stage of each fit.
    validation_scores : list of float
        Validation metric at the best epochs; NaN without validation images.
    """

    n_fits: int
    is_final: bool
    history: pandas.DataFrame
    stage: str
    metric: str
    best_epochs: list[int]
    validation_scores: list[float]

    def summary(self) -> dict[str, Any]:
        """Summarize the training in one dict.

        Returns
        -------
        dict
            "of", the fits that are summarized; "stage", "best_epochs", "metric" and "validation_scores".
        """
        of = "final training" if self.is_final else f"mean of {count(self.n_fits, 'fit')} on the folds"
        names = ("stage", "best_epochs", "metric", "validation_scores")
        return {"of": of, **{name: getattr(self, name) for name in names}}

    def describe(self) -> list[str]:
        """Describe the training: epochs and loss, and the best epochs with their validation scores.

        Returns
        -------
        list of str
            Two sentences.
        """
        counts = self.history[self.history["epoch"] > 0].groupby("stage", sort=False).size()
        epochs = [f"the {stage} for {count(n, 'epoch')}" for stage, n in counts.items()]
        best = ", ".join(map(str, self.best_epochs))
        best_text = f"Best epoch{'' if len(self.best_epochs) == 1 else 's'} of the {self.stage}: {best}"
        if np.isfinite(self.validation_scores).all():
            metric = "accuracy" if self.metric == "accuracy" else "mean absolute error"
            scores = ", ".join(f"{score:.4f}" for score in self.validation_scores)
            best_text += f"; validation {metric} {scores}."
        else:
            best_text += ", the last (no validation images)."
        loss = self.history["loss"].iloc[-1]
        return [f"Trained {' and '.join(epochs)} ({self.summary()['of']}); final loss {loss:.4f}.", best_text]


@dataclass(frozen=True)
class FrozenOrFinetuned:
    """Result of :func:`fit_frozen_or_finetuned`.

    Attributes
    ----------
    kept : {"frozen", "finetuned"}
    model : Pipeline or fine-tuned estimator
        The model that was kept, fitted on all images that could be read.
    task : {"classification", "regression"}
    comparison : Comparison or None
        Comparison of "frozen" and "finetuned"; None if ``cv`` is 0.
    duplicates : Duplicates
        ``duplicates.crossing`` counts the pairs split between the folds of the comparison.
    extracted : Extracted
        Frozen embeddings, reasons of unreadable images, and numbers of images.
    training : TrainingSummary or None
        None if no epoch was trained.
    """

    kept: Literal["frozen", "finetuned"]
    model: Any
    task: str
    comparison: Comparison | None
    duplicates: Duplicates
    extracted: Extracted
    training: TrainingSummary | None

    def summary(self) -> dict[str, Any]:
        """Summarize the comparison and the training in one dict.

        Returns
        -------
        dict
            "comparison", that of :class:`~tlfeatures.evaluation.Comparison` with the number of "folds" and the model to
            "keep", or None; "kept"; "history", a row for each epoch, and "training", or None.
        """
        comparison, training, about = self.comparison, self.training, None
        if comparison is not None:
            folds = len(comparison.folds) // comparison.n_repeats
            about = {"folds": folds, **comparison.summary(), "keep": comparison.best}
        history, summary = (training.history, training.summary()) if training else (None, None)
        return {"comparison": about, "kept": self.kept, "history": history, "training": summary}

    def describe(self) -> list[str]:
        """Describe the comparison, which model it prefers, and the training.

        Returns
        -------
        list of str
            Sentences; steps that were not done are not mentioned.
        """
        sentences = []
        if (comparison := self.comparison) is not None:
            preferred = "The difference is not significant, so the frozen pipeline is preferred."
            if comparison.significant:
                preferred = f"The {MODEL_NAMES[comparison.best]} is significantly better."
            sentences = [comparison.describe(), preferred]
        return sentences + (self.training.describe() if self.training else [])


def fit_frozen_or_finetuned(
    finetuned: Any,
    head: Any,
    X: Any,
    y: Any,
    *,
    keep: Literal["better", "frozen", "finetuned"] = "better",
    cv: int = 3,
    n_repeats: int | None = None,
    groups: Any = None,
    scoring: str | None = None,
    task: str = "auto",
    duplicate_threshold: float = 0.95,
) -> FrozenOrFinetuned:
    """Fit a fine-tuned network if it is significantly better than the frozen pipeline, and the pipeline otherwise.

    Both are compared on the same folds by :func:`~tlfeatures.compare`. Images that cannot be read are left out.

    Parameters
    ----------
    finetuned : FineTuneClassifier or FineTuneRegressor
        Unfitted estimator. The frozen pipeline uses its network, layers, pooling, decoding of images, and
        normalization; with ``normalization="data"``, that of the pretrained network.
    head : estimator
        Head of the frozen pipeline, such as ``make_head("svm")``.
    X : images
    y : array-like of shape (n,)
    keep : {"better", "frozen", "finetuned"}, default="better"
        Model to fit on all images.
    cv : int, default=3
        Number of folds; 0 for no comparison, after which "better" is the fine-tuned network.
    n_repeats : int, optional
        As in :func:`~tlfeatures.compare`.
    groups : array-like of shape (n,), optional
        Group of each image, such as a patient, which is not split.
    scoring : str, optional
        Name of a score of scikit-learn; "accuracy" or "r2" by default.
    task : {"auto", "classification", "regression"}, default="auto"
    duplicate_threshold : float, default=0.95
        Cosine similarity from which two images are near-duplicates. They are kept in one fold of the calibration of
        the frozen pipeline.

    Returns
    -------
    FrozenOrFinetuned

    Raises
    ------
    ValueError
        If a parameter, the labels, the groups or the folds cannot be used, before the network runs.

    Examples
    --------
    >>> from sklearn.svm import SVC
    >>> from tlfeatures import FineTuneClassifier
    >>> X = np.zeros((8, 32, 32, 3), "uint8")
    >>> X[::2, 8:24, 8:24] = 255
    >>> X += np.arange(8, dtype="uint8").reshape(8, 1, 1, 1)
    >>> tuned = FineTuneClassifier("tiny", image_size=32, epochs=1, start="linear", validation_fraction=0,
    ...                            random_state=0, cache=None)
    >>> result = fit_frozen_or_finetuned(tuned, SVC(), X, ["square", "empty"] * 4, cv=2, n_repeats=1)
    >>> result.kept, result.comparison.significant
    ('frozen', False)
    """
    check_parameter("keep", keep, ["better", "frozen", "finetuned"])
    n = len(Images.of(X))
    y, task = check_labels(y, n, task)
    groups = check_groups(groups, n)
    scoring = check_scorer_name(scoring or DEFAULT_SCORING[task])
    finetuned.check_params()
    if cv:
        make_folds(cv, y, groups, task, 0)  # raises an error before the network runs
    params = {name: getattr(finetuned, name) for name in SHARED_PARAMETERS}
    if isinstance(finetuned.normalization, str):  # "data" is not defined without training
        params["normalization"] = "auto"
    cnn = CNNFeatures(**params)
    with _temporary_store(cnn, finetuned):
        extracted = embed(cnn.fit(X), X, on_error="nan")
        rows = extracted.rows
        if not len(rows):
            raise ValueError("None of the images could be read; check_images(X) gives the reasons.")
        X, y, keys, features = (
            _safe_indexing(X, rows),
            y[rows],
            extracted.keys[rows],
            extracted.features[rows],
        )
        groups = None if groups is None else groups[rows]
        duplicates, comparison = find_duplicates(keys, features, duplicate_threshold, groups), None
        if cv:
            frozen = Pipeline([("cnn", clone(cnn).set_params(verbose=0)), ("head", head)])
            comparison = compare(
                {"frozen": frozen, "finetuned": finetuned}, X, y, cv=cv, n_repeats=n_repeats, groups=groups,
                scoring=scoring, task=task, attributes=("history_", "best_epoch_"),
            )  # fmt: skip
            _warn_of_duplicates(duplicates, comparison)
        if keep == "better":
            keep = comparison.best if comparison else "finetuned"
        if keep == "finetuned":
            model = finetuned.fit(X, y, groups=groups)
        else:
            model = fit_calibrated_pipeline(cnn, head, features, y, keys, duplicates.groups)
    if comparison is not None:
        scores = comparison.scores[keep].tolist()
        about = {"scoring": comparison.scoring, "folds": len(scores), "mean": comparison.pooled_scores[keep]}
        model.cv_scores_ = about | {"scores": scores}
    training = _summarize_training(finetuned if keep == "finetuned" else None, comparison)
    return FrozenOrFinetuned(keep, model, task, comparison, duplicates, extracted, training)


@contextlib.contextmanager
def _temporary_store(*estimators: Any) -> Iterator[None]:
    """Use a temporary store if there is none, because every fold needs the embeddings again."""
    if estimators[0].cache is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tlfeatures-") as folder:
        for estimator in estimators:
            estimator.set_params(cache=folder)
        try:
            yield
        finally:
            for estimator in estimators:
                estimator.set_params(cache=None)


def _warn_of_duplicates(duplicates: Duplicates, comparison: Comparison) -> None:
    if duplicates.count_crossing(comparison.folds):
        advice = "Pass `groups` to keep duplicates in one fold."
        warn(f"{duplicates.describe()} {advice}", DuplicateImagesWarning)


def _summarize_training(finetuned: Any, comparison: Comparison | None) -> TrainingSummary | None:
    """Summarize the fit on all images or, if ``finetuned`` is None, the fits on the folds."""
    if finetuned is not None:
        fits = [{"history_": finetuned.history_, "best_epoch_": finetuned.best_epoch_}]
    elif comparison is not None:
        fits = comparison.attributes["finetuned"]
    else:
        return None
    history = average_histories([fit["history_"] for fit in fits])
    if history.empty:  # no epochs
        return None
    metric = "accuracy" if "accuracy" in history else "mae"
    stage = history["stage"].iloc[-1]
    best = [fit["best_epoch_"] for fit in fits]
    scores = [
        _get_value(fit["history_"], stage, epoch, f"val_{metric}")
        for fit, epoch in zip(fits, best, strict=True)
    ]
    return TrainingSummary(len(fits), finetuned is not None, history, stage, metric, best, scores)


def _get_value(history: pandas.DataFrame, stage: str, epoch: int, column: str) -> float:
    values = history.loc[(history["stage"] == stage) & (history["epoch"] == epoch), column]
    return float(values.iloc[0]) if len(values) else np.nan
