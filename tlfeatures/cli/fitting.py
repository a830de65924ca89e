"""`fit`: embeddings once, a cross-validated head on them, and a pipeline that can be saved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import options as opt
from tlfeatures.cli.images import Tally, extract_images, name_unreadable, paths_of
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, show_json, shown, tell

if TYPE_CHECKING:
    import numpy as np

_SHOWN_CLASSES = 12


@opt.expand_options
def fit(
    source: opt.TrainingSource,
    network: opt.NetworkOptions,
    compute: opt.ComputeOptions,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.joblib", help="Where to save the pipeline.")
    ] = None,
    head: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="logreg, linear_svm, svm, ridge or knn; for numbers ridge, svr or linear."
        ),
    ] = "svm",
    cv: Annotated[int, typer.Option(metavar="K", min=0, help="Folds of cross-validation; 0 for none.")] = 5,
    scoring: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for numbers."
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="classification, regression, or auto: by what the labels are.")
    ] = "auto",
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Train a head on the embeddings of labelled images; say how good it is, and save it.

    Unreadable images are left out and counted. The file is a scikit-learn Pipeline, from image paths to
    predictions, that joblib.load brings back in any process that has tlfeatures.
    """
    from tlfeatures.cli.outputs import check_output
    from tlfeatures.evaluation import check_groups, check_labels, make_folds
    from tlfeatures.heads import blas_threads, make_head

    if output is not None:
        check_output(output, (".joblib", ".pkl"), force)
    images = source.read()
    y, task = check_labels(source.labels(images), len(images), task)
    groups_of = check_groups(images.groups, len(images))
    make_head(head, task)  # a wrong name must fail before the network runs
    scoring = known_score(scoring or ("accuracy" if task == "classification" else "r2"))
    if cv:
        make_folds(cv, y, groups_of, task, 0)
    cnn = opt.make_cnn(network, compute)
    cnn.fit(images.images)
    result = extract_images(cnn, images.images)
    tally = Tally.of(result)
    name_unreadable(paths_of(images), result.errors, "and are left out")
    kept = [row for row in range(len(images)) if row not in result.errors]
    if not kept:
        raise BadArgument(f"None of the images of {source.source!r} could be read.")
    features, y = result.features[kept], y[kept]
    groups_of = None if groups_of is None else groups_of[kept]
    with blas_threads(*features.shape):
        scores = _cross_validate(head, task, features, y, groups_of, cv, scoring)
        fitted = make_head(head, task).fit(features, y)
    if output is not None:
        cnn.set_params(verbose=0)
        save_pipeline(output, cnn, fitted)
    about = {
        "source": source.source,
        "task": task,
        "classes": _class_counts(y) if task == "classification" else None,
        "model": cnn.model,
        "layers": cnn.layers_,
        "pooling": cnn.pooling,
        "features": features.shape[1],
        "head": head,
        **dataclasses.asdict(tally),
        "skipped": {paths_of(images)[row]: reason for row, reason in result.errors.items()},
        "cv": scores,
        "output": output,
    }
    if as_json:
        show_json(about)
    else:
        _show(about, tally)


def _cross_validate(
    head: str, task: str, features: np.ndarray, y: np.ndarray, groups: Any, k: int, scoring: str
) -> dict[str, Any] | None:
    """Scores of the folds. The network is frozen, so embeddings made beforehand leak nothing."""
    from sklearn.model_selection import cross_val_score

    from tlfeatures.evaluation import make_folds
    from tlfeatures.heads import make_head

    if not k:
        return None
    folds = make_folds(k, y, groups, task, 0)
    scores = cross_val_score(
        make_head(head, task), features, y, cv=folds, scoring=scoring, error_score="raise"
    )
    return {
        "folds": k,
        "scoring": scoring,
        "mean": float(scores.mean()),
        "std": float(scores.std()),
        "scores": scores.tolist(),
    }


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


def save_pipeline(path: str, cnn: Any, head: Any) -> None:
    """Write a pipeline of a fitted transformer and a fitted head by joblib."""
    import joblib
    from sklearn.pipeline import Pipeline

    from tlfeatures.cli.outputs import replacing

    with replacing(path) as file:
        joblib.dump(Pipeline([("cnn", cnn), ("head", head)]), file)


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
        tell(
            f"{scores['folds']}-fold {scores['scoring']}: {scores['mean']:.4f} ± {scores['std']:.4f}  ({folds})",
            style="bold",
        )
    if about["output"]:
        tell(f"Saved {about['output']}.")
