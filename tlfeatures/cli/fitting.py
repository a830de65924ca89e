"""`fit`: embeddings once, a cross-validated head on them, and a pipeline that can be saved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import options as opt
from tlfeatures.cli.images import Tally, extract_images, labels_of, name_unreadable, paths_of, read_images
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, show_json, shown, tell

if TYPE_CHECKING:
    import numpy as np

_SHOWN_CLASSES = 12


def fit(
    source: opt.SourceName,
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
    model: opt.Model = "mobilenet",
    layer: opt.Layer = None,
    pooling: opt.Pooling = "avg",
    weights: opt.Weights = "imagenet",
    image_size: opt.ImageSize = None,
    resize: opt.Resize = "stretch",
    decode: opt.Decode = "scaled",
    precision: opt.Precision = "float32",
    batch_size: opt.BatchSize = 32,
    cache: opt.Cache = "auto",
    path_column: opt.PathColumn = None,
    target: opt.Target = None,
    groups: opt.Groups = None,
    split_column: opt.SplitColumn = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="train (where there are splits), val, test or all.", rich_help_panel="Source"
        ),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Train a head on the embeddings of labelled images; say how good it is, and save it.

    Unreadable images are left out and counted. The file is a scikit-learn Pipeline, from image paths to
    predictions, that joblib.load brings back in any process that has tlfeatures.
    """
    from tlfeatures.cli.outputs import check_output
    from tlfeatures.heads import blas_threads, infer_task, make_head

    if output is not None:
        check_output(output, (".joblib", ".pkl"), force)
    images = read_images(source, path_column, target, groups, split_column, split, default_split="train")
    y = labels_of(images, source, target)
    task = infer_task(y) if task == "auto" else task
    make_head(head, task)  # a wrong name must fail before the network runs
    scoring = known_score(scoring or ("accuracy" if task == "classification" else "r2"))
    make_folds(task, y, images.groups, cv)
    cnn = opt.make_cnn(
        model, layer, pooling, weights, image_size, resize, decode, precision, batch_size, cache
    )
    cnn.fit(images.images)
    result = extract_images(cnn, images.images)
    tally = Tally.of(result)
    name_unreadable(paths_of(images), result.errors, "and are left out")
    kept = [row for row in range(len(images)) if row not in result.errors]
    if not kept:
        raise BadArgument(f"None of the images of {source!r} could be read.")
    features, y, used = result.features[kept], y[kept], images.take(kept)
    with blas_threads(*features.shape):
        scores = _cross_validate(head, task, features, y, used.groups, cv, scoring)
        fitted = make_head(head, task).fit(features, y)
    if output is not None:
        cnn.set_params(verbose=0)
        _save(output, cnn, fitted)
    about = {
        "source": source,
        "task": task,
        "classes": _class_counts(y) if task == "classification" else None,
        "model": cnn.model,
        "layers": cnn.layers_,
        "pooling": pooling,
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


def make_folds(
    task: str, y: np.ndarray, groups: np.ndarray | None, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train and to test on, k times; none for k = 0.

    Shuffled with a fixed seed. Classes are spread evenly; groups stay whole.

    Raises
    ------
    BadArgument
        When there are fewer members than folds, or a single class.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    classes = task == "classification"
    if classes:
        names, sizes = np.unique(y, return_counts=True)
        if len(names) < 2:
            raise BadArgument(
                f"All {count(len(y), 'image')} are of one class, {names[0]!s}; a head needs two or more. "
                "Give a source with more classes, or another --target."
            )
    elif y.dtype.kind not in "iufb":
        raise BadArgument(
            f"--task regression needs numbers as labels; these are texts, such as {y.tolist()[0]!r}."
        )
    if k == 0:
        return []
    if k == 1:
        raise BadArgument("--cv 1 leaves nothing to train on; expected 2 folds or more, or 0 for none.")
    if classes and sizes.min() < k:
        few = int(sizes.min())
        raise BadArgument(
            f"Class {str(names[sizes.argmin()])!r} has {count(few, 'image')}, fewer than the {k} folds of --cv. "
            + (f"Use --cv {few}, or add images." if few > 1 else "Add images, or use --cv 0.")
        )
    if len(y) < k:
        raise BadArgument(
            f"{count(len(y), 'image')} are fewer than the {k} folds of --cv. Use fewer, or --cv 0."
        )
    if groups is not None and (n := len(np.unique(groups))) < k:
        raise BadArgument(
            f"There are {count(n, 'group')}, fewer than the {k} folds of --cv"
            + (f". Use --cv {n}." if n > 1 else ". Name another column with --groups, or use --cv 0.")
        )
    if groups is None:
        splitter = (StratifiedKFold if classes else KFold)(k, shuffle=True, random_state=0)
    else:
        splitter = (StratifiedGroupKFold if classes else GroupKFold)(k, shuffle=True, random_state=0)
    folds = list(splitter.split(np.zeros(len(y)), y, groups))
    if classes and any(len(np.unique(y[train])) < 2 for train, _ in folds):
        raise BadArgument(
            "Some fold would train on one class: too few groups hold the others. Use fewer folds."
        )
    return folds


def _cross_validate(
    head: str, task: str, features: np.ndarray, y: np.ndarray, groups: Any, k: int, scoring: str
) -> dict[str, Any] | None:
    """Scores of the folds. The network is frozen, so embeddings made beforehand leak nothing."""
    from sklearn.model_selection import cross_val_score

    from tlfeatures.heads import make_head

    folds = make_folds(task, y, groups, k)
    if not folds:
        return None
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


def _save(path: str, cnn: Any, head: Any) -> None:
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
