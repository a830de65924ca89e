"""`fit`: train, cross-validate and save a head on embeddings; a search with one candidate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._messages import report_images, warn_of_duplicates
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import count, escape, show_json, show_text

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.extract import ImageCounts
    from tlfeatures.selection import FeatureSearchCV

_MAX_CLASSES = 12  # classes whose sizes are printed


@dataclass(frozen=True)
class FitOptions:
    """The head, its cross-validation, and the file of the pipeline."""

    head: str | None = option(
        None,
        "logreg, linear_svm, svm (default), ridge or knn; for regression ridge (default), svr or linear.",
        metavar="NAME",
    )
    cv: int = option(5, "Number of folds; 0 for no cross-validation.", metavar="K", min=0)
    scoring: opt.Scoring = None
    task: opt.Task = "auto"
    output: str | None = option(None, "Save the pipeline to this file.", "-o", metavar="FILE.joblib")
    force: opt.Force = False
    as_json: opt.Json = False


@expand_options
def fit(
    source: opt.TrainingSource, network: opt.NetworkOptions, compute: opt.ComputeOptions, options: FitOptions
) -> None:
    """Train a head on the embeddings of labelled images, cross-validate it, and save it.

    Unreadable images are left out and counted. Duplicate images are kept in one fold. The saved file is a
    scikit-learn Pipeline that predicts from image paths, for `predict`, `evaluate` and joblib.load. Its class
    probabilities are calibrated on held-out folds.
    """
    from tlfeatures.extract import ImageCounts
    from tlfeatures.saved_models import is_saved_pipeline, save_pipeline

    check_output(options.output, (".joblib", ".pkl"), options.force, is_saved_pipeline)
    images = source.read()
    y = images.get_labels()
    search = _make_search(y, network, compute, options)
    search.fit(images.images, y, images.groups)
    about_images = report_images(search, images, y)
    if options.output is not None:
        save_pipeline(search.calibrated_pipeline(y), options.output)
    warn_of_duplicates(search.duplicates_)
    run = search.timings_.iloc[0]
    keys, n_unreadable = search.fitted_images_.keys, len(search.unreadable_)
    counts = ImageCounts.of(keys, n_unreadable, int(run["computed"]), float(run["seconds"]))
    about = {
        "source": source.source,
        **_describe_model(search, y[search.rows_]),
        **dataclasses.asdict(counts),
        **about_images,
        "cv": _describe_scores(search) if options.cv else None,
        "output": options.output,
    }
    if options.as_json:
        show_json(about)
    else:
        _show(about, counts)


def _make_search(
    y: np.ndarray, network: opt.NetworkOptions, compute: opt.ComputeOptions, options: FitOptions
) -> FeatureSearchCV:
    """Make a search with one candidate."""
    from tlfeatures.evaluation import check_labels
    from tlfeatures.heads import DEFAULT_HEAD
    from tlfeatures.selection import FeatureSearchCV

    _, task = check_labels(y, len(y), options.task)
    of_network = network.parameters()
    layer = of_network["layer"]
    return FeatureSearchCV(
        of_network["model"],
        layers=None if layer is None else [layer],
        poolings=[of_network["pooling"]],
        image_sizes=[of_network["image_size"]],
        resize=[of_network["resize"]],
        heads={options.head or DEFAULT_HEAD[task]: {}},
        cv=options.cv,
        scoring=options.scoring,
        task=task,
        learning_curve=False,
        **compute.parameters(),
        on_error="nan",
    )


def _describe_model(search: FeatureSearchCV, y: np.ndarray) -> dict[str, Any]:
    import numpy as np

    cnn, params = search.best_estimator_[0], search.best_params_
    names, sizes = np.unique(y, return_counts=True)
    classes = dict(zip(map(str, names.tolist()), sizes.tolist(), strict=True))
    return {
        "task": search.task_,
        "classes": classes if search.task_ == "classification" else None,
        "model": params["model"],
        "layers": cnn.layers_,
        "pooling": params["pooling"],
        "features": cnn.n_features_out_,
        "head": params["head"],
    }


def _describe_scores(search: FeatureSearchCV) -> dict[str, Any]:
    from tlfeatures.evaluation import DEFAULT_SCORING

    duplicates, grouped = search.duplicates_, search.grouped_fold_scores_
    on_folds = search.fold_scores_
    scores = on_folds if grouped is None else grouped
    return {
        "folds": len(scores),
        "scoring": search.scoring or DEFAULT_SCORING[search.task_],
        "mean": scores.mean(),
        "std": scores.std(),
        "scores": scores,
        "uncorrected": None if grouped is None else on_folds,
        "duplicates": {
            "pairs": len(duplicates.pairs),
            "exact": int(duplicates.exact.sum()),
            "in_different_folds": duplicates.crossing,
        },
    }


def _show(about: dict[str, Any], counts: ImageCounts) -> None:
    show_text(f"{counts}.")
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
