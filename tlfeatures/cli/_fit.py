"""`fit`: train, cross-validate and save a head on embeddings; a search with one candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._groups import BadArgument, Options, option
from tlfeatures.cli._messages import report_images, report_unreadable, save_fitted
from tlfeatures.cli._outputs import check_output
from tlfeatures.cli._terminal import escape, show_json, show_text, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.extract import ImageCounts
    from tlfeatures.features import CNNFeatures
    from tlfeatures.selection import FeatureSearchCV
    from tlfeatures.sources import Source

_MAX_CLASSES = 12  # classes whose sizes are printed


class FitOptions(Options):
    """The head and its cross-validation."""

    head: str | None = option(
        None,
        "logreg, linear_svm, svm (default), ridge or knn; for regression ridge (default), svr or linear.",
    )
    cv: int | None = option(
        None, "Number of folds; by default 5, and 0 for no cross-validation.", metavar="K", min=0
    )
    scoring: str | None = option(None, opt.SCORING)
    task: str = option("auto", opt.TASK)
    stream: bool = option(
        False,
        "For more embeddings than fit in memory: train a linear head on batches of them, and report its score on "
        "held-out images instead of cross-validation.",
    )

    def check(self, network: opt.EmbeddingOptions, files: FitOutput) -> None:
        """Raise an error if options of cross-validation are used with --stream."""
        names = self.list_changed("head", "scoring", "cv")
        names += network.list_changed("views") + files.list_changed("conformal")
        if self.stream and names:
            raise BadArgument(
                f"{names[0]} cannot be used with --stream, which trains a linear head without cross-validation. Leave "
                "out one of them."
            )


class FitOutput(opt.OutputOptions):
    """Output of `fit`."""

    output: str | None = option(None, opt.SAVED, "-o", metavar="FILE.tlf")
    conformal: float | None = option(
        None,
        "Accepted error rate, such as 0.1. `predict` then adds sets of classes, or intervals, that miss the truth at "
        "about this rate or less, and reports unusual images.",
        metavar="RATE",
    )
    per_class: bool = option(False, "Make the error rate of --conformal hold for each class.")

    def check(self) -> None:
        """Raise an error, before any work is done, if the file cannot be written or --conformal cannot be used."""
        from tlfeatures.saved_models import PICKLES, is_saved_pipeline

        check_output(self.output, (".tlf", *PICKLES), self.force, is_saved_pipeline)
        if self.conformal is None:
            if self.per_class:
                raise BadArgument(
                    "--per-class needs --conformal; pass the error rate, such as --conformal 0.1."
                )
        elif not 0 < self.conformal < 1:
            raise BadArgument(
                f"--conformal must be above 0 and below 1; got {self.conformal:g}. It is the accepted share of errors, "
                "such as 0.1 for 10%."
            )
        elif self.output is None:
            raise BadArgument("--conformal needs -o FILE.tlf, because it changes only the saved pipeline.")


def fit(
    source: opt.TrainingSource,
    network: opt.EmbeddingOptions,
    compute: opt.FrozenOptions,
    options: FitOptions,
    files: FitOutput,
) -> None:
    """Train a head on the embeddings of labelled images, cross-validate it, and save it.

    A head is a scikit-learn classifier or regressor. Unreadable images are left out and counted. Duplicate images are
    kept in one fold. The saved file is a scikit-learn Pipeline that predicts from image paths; `predict`, `evaluate`
    and tlfeatures.load read it. Its class probabilities are calibrated on held-out folds.
    """
    files.check()
    options.check(network, files)
    images = source.read()
    fit_head = _fit_stream if options.stream else _fit_search
    about, counts = fit_head(images, network, compute, options, files)
    about = {"source": source.source, **about, "output": files.output}
    if files.as_json:
        show_json(about)
    else:
        _show(about, str(counts))


def _fit_search(
    images: Source,
    network: opt.EmbeddingOptions,
    compute: opt.FrozenOptions,
    options: FitOptions,
    files: FitOutput,
) -> tuple[dict[str, Any], ImageCounts]:
    """Cross-validate the head and save the calibrated pipeline; return its scores."""
    y = images.get_labels()
    search = _make_search(y, network, compute, options).fit(images.images, y, images.groups)
    about_images = report_images(search, images, y)
    counts = search.image_counts()
    about = {
        **_describe(search.task_, y[search.rows_], search.best_estimator_[0], search.best_params_["head"]),
        "cv": _describe_folds(search) if search.folds_ else None,
        **vars(counts),
        **about_images,
    }
    if files.output is not None:
        pipeline = search.calibrated_pipeline(y, conformal=files.conformal, per_class=files.per_class)
        save_fitted(pipeline, files.output)
        if files.conformal is not None:
            rates = {"error_rate": files.conformal, "per_class": files.per_class}
            about["conformal"] = rates | pipeline[-1].out_of_fold_
    if search.duplicates_.crossing:
        warn(search.duplicates_.describe())
    return about, counts


def _make_search(
    y: np.ndarray, network: opt.EmbeddingOptions, compute: opt.FrozenOptions, options: FitOptions
) -> FeatureSearchCV:
    """Make a search with one candidate."""
    from tlfeatures.evaluation import check_labels
    from tlfeatures.heads import DEFAULT_HEAD
    from tlfeatures.selection import FeatureSearchCV

    _, task = check_labels(y, len(y), options.task)
    candidate = network.parameters()
    return FeatureSearchCV(
        candidate["model"],
        layers=candidate["layer"] and [candidate["layer"]],
        poolings=[candidate["pooling"]],
        image_sizes=[candidate["image_size"]],
        resize=[candidate["resize"]],
        views=candidate["views"],
        heads={options.head or DEFAULT_HEAD[task]: {}},
        cv=5 if options.cv is None else options.cv,
        scoring=options.scoring,
        task=task,
        learning_curve=False,
        **compute.parameters(),
        on_error="nan",
    )


def _fit_stream(
    images: Source,
    network: opt.EmbeddingOptions,
    compute: opt.FrozenOptions,
    options: FitOptions,
    files: FitOutput,
) -> tuple[dict[str, Any], ImageCounts]:
    """Train on batches of stored embeddings and save the pipeline; return its score on held-out images."""
    import numpy as np

    from tlfeatures.streaming import fit_streaming

    y = images.get_labels()
    cnn = opt.make_cnn(network, compute).set_params(on_error="nan")
    result = fit_streaming(cnn, images.images, y, groups=images.groups, task=options.task)
    cnn.set_params(on_error="raise")
    skipped = report_unreadable(images.paths, result.errors)
    if files.output is not None:
        save_fitted(result.pipeline, files.output)
    training = result.training
    about = {
        **_describe(training.task, np.delete(y, list(result.errors)), cnn, "linear"),
        "cv": None,
        "validation": training.summary(),
        **vars(result.counts),
        "skipped": skipped,
    }
    return about, result.counts


def _describe(task: str, y: np.ndarray, cnn: CNNFeatures, head: str) -> dict[str, Any]:
    """Describe a fitted pipeline and its training images."""
    import numpy as np

    classes = None
    if task == "classification":
        names, sizes = np.unique(y, return_counts=True)
        classes = dict(zip(map(str, names.tolist()), sizes.tolist(), strict=True))
    about = {"task": task, "classes": classes, "model": cnn.model, "pooling": cnn.pooling, "head": head}
    return about | {"layers": cnn.layers_, "features": cnn.n_features_out_}


def _describe_folds(search: FeatureSearchCV) -> dict[str, Any]:
    """Return the scores on the folds, with duplicates kept in one fold if possible."""
    summary, grouped = search.summary(), search.grouped_fold_scores_
    scores = search.fold_scores_ if grouped is None else grouped
    return {
        **{name: summary[name] for name in ("folds", "scoring", "duplicates")},
        "mean": scores.mean(),
        "std": scores.std(),
        "scores": scores,
        "uncorrected": None if grouped is None else search.fold_scores_,
    }


def _show(about: dict[str, Any], counts: str) -> None:
    show_text(f"{counts}.")
    if (classes := about["classes"]) is not None:
        sizes = [f"{escape(name)} {size:,}" for name, size in classes.items()]
        more = ", ..." if len(sizes) > _MAX_CLASSES else ""
        show_text(f"{count(len(sizes), 'class', 'classes')}: {', '.join(sizes[:_MAX_CLASSES])}{more}.")
    show_text(
        f"{about['model']}, {', '.join(about['layers'])}, {about['pooling']}: "
        f"{count(about['features'], 'feature')}; head {about['head']} ({about['task']})."
    )
    if scores := about["cv"]:
        folds = " ".join(f"{score:.3f}" for score in scores["scores"])
        grouped = "" if scores["uncorrected"] is None else ", duplicates kept in one fold"
        show_text(
            f"{scores['folds']}-fold {scores['scoring']}: {scores['mean']:.4f} ± {scores['std']:.4f}  "
            f"({folds}){grouped}",
            style="bold",
        )
    if conformal := about.get("conformal"):
        show_text(_describe_conformal(conformal))
    if validation := about.get("validation"):
        show_text(
            f"{validation['scoring']} on {count(validation['images'], 'held-out image')}: {validation['score']:.4f}",
            style="bold",
        )
    if about["output"]:
        show_text(f"Saved {about['output']}.")


def _describe_conformal(about: dict[str, Any]) -> str:
    """Describe the sets or intervals of the training images, from heads that were not trained on them."""
    from tlfeatures.trust import describe_coverage

    per_class = about["per_class"] and "interval_width" not in about
    text = f"Error rate {about['error_rate']:g}{' for each class' if per_class else ''}"
    if "coverage" not in about:
        return f"{text}: there are too few independent images to measure it out of fold."
    return f"{text}: out of fold, {describe_coverage(about)}."
