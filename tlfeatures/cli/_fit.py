"""`fit`: embeddings once, a cross-validated head on them, and a pipeline that can be saved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._duplicates import warn_of_duplicates, warn_of_label_conflicts
from tlfeatures.cli._extraction import Tally, extract_images, get_paths, name_unreadable
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, shown, tell, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.evaluation import CrossValidation

_SHOWN_CLASSES = 12


@dataclass(frozen=True)
class HeadOptions:
    """The estimator on the embeddings, and how it is scored."""

    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="logreg, linear_svm, svm, ridge or knn; for regression ridge, svr or linear. By default svm or ridge.",
        ),
    ] = None
    cv: Annotated[int, typer.Option(metavar="K", min=0, help="Folds of cross-validation; 0 for none.")] = 5
    scoring: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for regression."
        ),
    ] = None
    task: Annotated[
        str,
        typer.Option(metavar="NAME", help="classification, regression, or auto: inferred from the labels."),
    ] = "auto"


@opt.expand_options
def fit(
    source: opt.TrainingSource,
    network: opt.NetworkOptions,
    compute: opt.ComputeOptions,
    options: HeadOptions,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.joblib", help="Where to save the pipeline.")
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Train a head on the embeddings of labelled images, cross-validate it, and save it.

    Unreadable images are left out and counted. Duplicate images are kept in one fold. The file is a
    scikit-learn Pipeline from image paths to predictions, for `predict`, `evaluate` and joblib.load. Its
    class probabilities are calibrated on held-out folds.
    """
    from tlfeatures.cli._outputs import check_output
    from tlfeatures.cli._saved_models import save_pipeline
    from tlfeatures.evaluation import check_groups, check_labels, make_folds
    from tlfeatures.heads import blas_threads, make_head

    if output is not None:
        check_output(output, (".joblib", ".pkl"), force)
    images = source.read()
    y, task = check_labels(source.labels(images), len(images), options.task)
    groups = check_groups(images.groups, len(images))
    head = options.head or ("svm" if task == "classification" else "ridge")
    estimator = make_head(head, task)  # a wrong name must fail before the network runs
    scoring = known_score(options.scoring or ("accuracy" if task == "classification" else "r2"))
    if options.cv:
        make_folds(options.cv, y, groups, task, 0)
    cnn = opt.make_cnn(network, compute)
    cnn.fit(images.images)
    data = _embed(cnn, images, y, groups, source.source)
    with blas_threads(*data.features.shape):
        scores = data.cross_validate(estimator, options.cv, scoring, task) if options.cv else None
        if output is not None:
            together = data.groups if scores is None else scores.duplicates.groups
            fitted = fit_head(estimator, task, data.features, data.y, together)
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
    """Embeddings of the readable images, with all that belongs to them."""

    features: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    keys: np.ndarray
    paths: list[str]
    tally: Tally
    skipped: dict[str, str]

    def cross_validate(self, head: Any, cv: int, scoring: str, task: str) -> CrossValidation:
        """Score the head on folds that keep duplicates together."""
        from tlfeatures.evaluation import cross_validate_embeddings

        return cross_validate_embeddings(
            head, self.features, self.y, self.keys, groups=self.groups, cv=cv, scoring=scoring, task=task
        )


def _embed(cnn: Any, images: Any, y: np.ndarray, groups: np.ndarray | None, source: str) -> _Data:
    result, paths = extract_images(cnn, images.images), get_paths(images)
    name_unreadable(paths, result.errors, "and are left out")
    rows = [row for row in range(len(images)) if row not in result.errors]
    if not rows:
        raise BadArgument(f"None of the images of {source!r} could be read.")
    return _Data(
        result.features[rows],
        y[rows],
        None if groups is None else groups[rows],
        result.keys[rows],
        [paths[row] for row in rows],
        Tally.of(result),
        {paths[row]: reason for row, reason in result.errors.items()},
    )


def fit_head(head: Any, task: str, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Any:
    """Fit a head on all images, with calibrated probabilities unless its own are or a class is too small."""
    from sklearn.linear_model import LogisticRegression

    from tlfeatures.calibration import CalibratedHead

    if task == "regression" or isinstance(head[-1], LogisticRegression):
        return head.fit(X, y)
    try:
        return CalibratedHead(head).fit(X, y, groups=groups)
    except ValueError as error:
        warn(f"no class probabilities, only decision values: {error}")
        return head.fit(X, y)


def known_score(name: str) -> str:
    """``name``, which must be one of scikit-learn's scores."""
    from sklearn.metrics import get_scorer_names

    from tlfeatures.errors import UnknownNameError

    if name not in (known := get_scorer_names()):
        raise UnknownNameError.of(
            "score", name, known, "`sklearn.metrics.get_scorer_names()` for all of them"
        )
    return name


def _class_counts(y: np.ndarray) -> dict[str, int]:
    import numpy as np

    names, sizes = np.unique(y, return_counts=True)
    return {str(name): int(size) for name, size in zip(names, sizes, strict=True)}


def _describe_model(cnn: Any, head: str, task: str, data: _Data) -> dict[str, Any]:
    return {
        "task": task,
        "classes": _class_counts(data.y) if task == "classification" else None,
        "model": cnn.model,
        "layers": cnn.layers_,
        "pooling": cnn.pooling,
        "features": data.features.shape[1],
        "head": head,
        **dataclasses.asdict(data.tally),
        "skipped": data.skipped,
    }


def _describe_scores(result: CrossValidation) -> dict[str, Any]:
    found = result.duplicates
    return {
        "folds": len(result.scores),
        "scoring": result.scoring,
        "mean": float(result.scores.mean()),
        "std": float(result.scores.std()),
        "scores": result.scores.tolist(),
        "uncorrected": None if result.uncorrected is None else result.uncorrected.tolist(),
        "duplicates": {
            "pairs": len(found.pairs),
            "exact": int(found.exact.sum()),
            "in_different_folds": found.crossing,
        },
    }


def _show(about: dict[str, Any], tally: Tally) -> None:
    tell(f"{tally}.")
    if about["classes"] is not None:
        sizes = [f"{shown(name)} {size:,}" for name, size in about["classes"].items()]
        more = ", ..." if len(sizes) > _SHOWN_CLASSES else ""
        tell(f"{count(len(sizes), 'class', 'classes')}: {', '.join(sizes[:_SHOWN_CLASSES])}{more}.")
    tell(
        f"{about['model']}, {', '.join(about['layers'])}, {about['pooling']}: "
        f"{count(about['features'], 'feature')}; head {about['head']} ({about['task']})."
    )
    if scores := about["cv"]:
        folds = " ".join(f"{score:.3f}" for score in scores["scores"])
        grouped = "" if scores["uncorrected"] is None else ", duplicates kept together"
        tell(
            f"{scores['folds']}-fold {scores['scoring']}: {scores['mean']:.4f} ± {scores['std']:.4f}  "
            f"({folds}){grouped}",
            style="bold",
        )
    if about["output"]:
        tell(f"Saved {about['output']}.")
