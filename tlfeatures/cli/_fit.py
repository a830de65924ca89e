"""`fit`: train, cross-validate and save a head on embeddings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._duplicates import warn_of_duplicates, warn_of_label_conflicts
from tlfeatures.cli._extraction import (
    Tally,
    extract_images,
    get_paths,
    report_unreadable,
    require_readable_rows,
)
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._terminal import count, escape, show_json, show_text, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.evaluation import CrossValidation

DEFAULT_HEAD = {"classification": "svm", "regression": "ridge"}
DEFAULT_SCORING = {"classification": "accuracy", "regression": "r2"}
_MAX_CLASSES = 12  # classes whose sizes are printed


@dataclass(frozen=True)
class HeadOptions:
    """The head, and its cross-validation."""

    head: str | None = option(
        None,
        "logreg, linear_svm, svm (default), ridge or knn; for regression ridge (default), svr or linear.",
        metavar="NAME",
    )
    cv: int = option(5, "Number of folds; 0 for no cross-validation.", metavar="K", min=0)
    scoring: opt.Scoring = None
    task: opt.Task = "auto"


@expand_options
def fit(
    source: opt.TrainingSource,
    network: opt.NetworkOptions,
    compute: opt.ComputeOptions,
    options: HeadOptions,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.joblib", help="Save the pipeline to this file."),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Train a head on the embeddings of labelled images, cross-validate it, and save it.

    Unreadable images are left out and counted. Duplicate images are kept in one fold. The saved file is a
    scikit-learn Pipeline that predicts from image paths, for `predict`, `evaluate` and joblib.load. Its class
    probabilities are calibrated on held-out folds.
    """
    from tlfeatures.cli._outputs import check_output
    from tlfeatures.cli._saved_models import save_pipeline
    from tlfeatures.evaluation import check_groups, check_labels, make_folds
    from tlfeatures.heads import blas_threads, make_head

    if output is not None:
        check_output(output, (".joblib", ".pkl"), force)
    images = source.read()
    y, task = check_labels(source.get_labels(images), len(images), options.task)
    groups = check_groups(images.groups, len(images))
    # options are checked before the network runs
    head = options.head or DEFAULT_HEAD[task]
    estimator = make_head(head, task)
    scoring = check_scorer_name(options.scoring or DEFAULT_SCORING[task])
    if options.cv:
        make_folds(options.cv, y, groups, task, 0)
    cnn = opt.make_cnn(network, compute)
    cnn.fit(images.images)
    data = _embed(cnn, images, y, groups, source.source)
    with blas_threads(*data.features.shape):
        scores = data.cross_validate(estimator, options.cv, scoring, task) if options.cv else None
        if output is not None:
            groups = data.groups if scores is None else scores.duplicates.groups
            fitted = fit_head(estimator, task, data.features, data.y, groups)
            save_pipeline(output, cnn, fitted, data.keys)
    if scores is not None:
        warn_of_duplicates(scores.duplicates)
    conflicts = warn_of_label_conflicts(data.keys, data.y, data.paths)
    about = {
        "source": source.source,
        **_describe_model(cnn, head, task, data),
        "cv": None if scores is None else _describe_scores(scores),
        "label_conflicts": conflicts,
        "output": output,
    }
    if as_json:
        show_json(about)
    else:
        _show(about, data.tally)


@dataclass(frozen=True)
class _Data:
    """Embeddings, labels, groups, digests and paths of the readable images."""

    features: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    keys: np.ndarray
    paths: list[str]
    tally: Tally
    skipped: dict[str, str]

    def cross_validate(self, head: Any, cv: int, scoring: str, task: str) -> CrossValidation:
        """Score the head on folds that keep duplicate groups together."""
        from tlfeatures.evaluation import cross_validate_embeddings

        return cross_validate_embeddings(
            head, self.features, self.y, self.keys, groups=self.groups, cv=cv, scoring=scoring, task=task
        )


def _embed(cnn: Any, images: Any, y: np.ndarray, groups: np.ndarray | None, source: str) -> _Data:
    result, paths = extract_images(cnn, images.images), get_paths(images)
    skipped = report_unreadable(paths, result.errors, "and are left out")
    rows = require_readable_rows(result, source)
    return _Data(
        features=result.features[rows],
        y=y[rows],
        groups=None if groups is None else groups[rows],
        keys=result.keys[rows],
        paths=[paths[row] for row in rows],
        tally=Tally.of(result),
        skipped=skipped,
    )


def fit_head(head: Any, task: str, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Any:
    """Fit a head on all images, and calibrate its class probabilities.

    Logistic regression and regressors are not calibrated. If a class has too few images for calibration, a warning is
    printed, and the head has decision values only.
    """
    from sklearn.linear_model import LogisticRegression

    from tlfeatures.calibration import CalibratedHead

    if task == "regression" or isinstance(head[-1], LogisticRegression):
        return head.fit(X, y)
    try:
        return CalibratedHead(head).fit(X, y, groups=groups)
    except ValueError as error:
        warn(f"no class probabilities, only decision values: {error}")
        return head.fit(X, y)


def check_scorer_name(name: str) -> str:
    """Return ``name``, or raise UnknownNameError if scikit-learn has no such scorer."""
    from sklearn.metrics import get_scorer_names

    from tlfeatures.errors import UnknownNameError

    names = get_scorer_names()
    if name not in names:
        raise UnknownNameError.of(
            "scorer", name, names, "`sklearn.metrics.get_scorer_names()` for all of them"
        )
    return name


def _count_classes(y: np.ndarray) -> dict[str, int]:
    import numpy as np

    names, sizes = np.unique(y, return_counts=True)
    return {str(name): int(size) for name, size in zip(names, sizes, strict=True)}


def _describe_model(cnn: Any, head: str, task: str, data: _Data) -> dict[str, Any]:
    return {
        "task": task,
        "classes": _count_classes(data.y) if task == "classification" else None,
        "model": cnn.model,
        "layers": cnn.layers_,
        "pooling": cnn.pooling,
        "features": data.features.shape[1],
        "head": head,
        **dataclasses.asdict(data.tally),
        "skipped": data.skipped,
    }


def _describe_scores(result: CrossValidation) -> dict[str, Any]:
    duplicates = result.duplicates
    return {
        "folds": len(result.scores),
        "scoring": result.scoring,
        "mean": float(result.scores.mean()),
        "std": float(result.scores.std()),
        "scores": result.scores.tolist(),
        "uncorrected": None if result.uncorrected is None else result.uncorrected.tolist(),
        "duplicates": {
            "pairs": len(duplicates.pairs),
            "exact": int(duplicates.exact.sum()),
            "in_different_folds": duplicates.crossing,
        },
    }


def _show(about: dict[str, Any], tally: Tally) -> None:
    show_text(f"{tally}.")
    if about["classes"] is not None:
        sizes = [f"{escape(name)} {size:,}" for name, size in about["classes"].items()]
        more = ", ..." if len(sizes) > _MAX_CLASSES else ""
        show_text(f"{count(len(sizes), 'class', 'classes')}: {', '.join(sizes[:_MAX_CLASSES])}{more}.")
    show_text(
        f"{about['model']}, {', '.join(about['layers'])}, {about['pooling']}: "
        f"{count(about['features'], 'feature')}; head {about['head']} ({about['task']})."
    )
    if scores := about["cv"]:
        folds = " ".join(f"{score:.3f}" for score in scores["scores"])
        grouped = "" if scores["uncorrected"] is None else ", duplicates kept together"
        show_text(
            f"{scores['folds']}-fold {scores['scoring']}: {scores['mean']:.4f} ± {scores['std']:.4f}  "
            f"({folds}){grouped}",
            style="bold",
        )
    if about["output"]:
        show_text(f"Saved {about['output']}.")
