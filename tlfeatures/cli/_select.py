"""`select`: search over networks, sizes, layers, poolings and heads by cross-validation."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

import typer

from tlfeatures._text import count
from tlfeatures.cli import _options as opt
from tlfeatures.cli._best_command import best_command
from tlfeatures.cli._groups import Options, option
from tlfeatures.cli._messages import report_images
from tlfeatures.cli._outputs import check_existing, check_report_folder
from tlfeatures.cli._parse import parse_names
from tlfeatures.cli._terminal import escape, show_json, show_table, show_text, warn

if TYPE_CHECKING:
    from tlfeatures.selection import FeatureSearchCV

_PIPELINE = "pipeline.tlf"


class SearchSpace(Options, panel="Network"):
    """Networks, layers, poolings, image sizes, resize modes and heads to search."""

    models: str = option(
        "mobilenet", "Networks, as listed by `tlfeatures models`, or .keras files.", "--model", "-m"
    )
    layers: str = option(
        "auto",
        "auto or standard: each standard layer, and the last two and the last three concatenated; fused: all standard "
        "layers, each scaled to the same total variance; a+b: a and b concatenated.",
        "--layer",
        "-l",
    )
    poolings: str = option(
        "avg,max",
        "avg, max, avgmax, gem, flatten; for vision transformers also cls, clsavg.",
        "--pooling",
    )
    image_sizes: str = option(
        "auto",
        "Sides, or height x width, in pixels. default: the size of the network; auto: this and about half of it.",
        "--image-size",
    )
    resize: str = option("stretch,crop", "stretch, crop or pad.", metavar="NAME,...", parse=parse_names)
    views: str | None = option(None, opt.VIEWS)


class SearchOptions(Options):
    """Heads, cross-validation and choice of the best candidate."""

    heads: str | None = option(
        None,
        "logreg, linear_svm, svm, ridge, knn; for regression ridge, svr, linear. svm:C=1/10 is a grid of two values.",
        "--head",
    )
    cv: int = option(5, "Number of folds.", metavar="K", min=2)
    scoring: str | None = option(None, opt.SCORING)
    rule: str = option(
        "best", "best, or 1se: the cheapest network within one standard error of the best score."
    )
    search: str = option(
        "auto",
        "exhaustive: score every candidate on all images; halving: compare them on growing subsets first; "
        "auto: halving for more than 2,000 images.",
    )
    first_subset: int = option(
        1000, "Images of the first subset of a search by halving.", metavar="N", min=10
    )
    nested: bool = option(False, "Score the selection itself by nested cross-validation.")
    prescreen: int | None = option(
        None, "Cross-validate only the N embeddings with the best prescreen scores.", min=1
    )
    prescreen_method: str = option("logme", "Prescreen score: logme, hscore or shrunk_hscore.")
    dedupe_groups: bool = option(False, "Keep duplicates and near-duplicates in one fold.")
    duplicate_threshold: float = option(0.95, "Cosine similarity from which images are near-duplicates.")
    task: str = option("auto", opt.TASK)
    random_state: int = option(0, "Seed for shuffling the folds.", "--seed", min=0)
    n_jobs: int | None = option(None, "Number of parallel processes; -1 for all cores.", "--jobs", "-j")


class ReportOptions(opt.OutputOptions):
    """Output of `select`."""

    output: str | None = option(
        None, "Save the report and the best pipeline in this folder.", "-o", metavar="DIR"
    )

    def check(self, source: str) -> None:
        """Raise an error if the report cannot be written, or would overwrite files that are not of this command."""
        if self.output is None:
            return
        from tlfeatures.report import is_report
        from tlfeatures.saved_models import is_saved_pipeline

        check_report_folder(self.output, source, self.force, is_report)
        check_existing(os.path.join(self.output, _PIPELINE), self.force, is_saved_pipeline)


def select(
    context: typer.Context,
    source: opt.TrainingSource,
    space: SearchSpace,
    options: SearchOptions,
    compute: opt.FrozenOptions,
    files: ReportOptions,
) -> None:
    """Find the best network, image size, layer, pooling and head for labelled images.

    All combinations are compared by cross-validation. Each image passes through each network once for each image size
    and resize mode, and an interrupted search resumes from the store. The report is an HTML page, index.html, with
    PNG, CSV and JSON files. The best pipeline, fitted on all images, is saved beside it for `predict` and `evaluate`.
    Unreadable images are left out and listed.
    """
    from tlfeatures.report import write_report
    from tlfeatures.saved_models import save_pipeline
    from tlfeatures.selection import FeatureSearchCV

    files.check(source.source)
    images = source.read()
    y = images.get_labels()
    search = FeatureSearchCV(
        **space.parameters(), **options.parameters(), **compute.parameters(), on_error="nan"
    )
    search.fit(images.images, y, images.groups)
    about_images = report_images(search, images, y)
    if search.duplicates_.crossing:
        advice = "--dedupe-groups uses such folds throughout."
        if search.duplicates_.grouped_score is None:
            advice = "If they are not duplicates, pass a higher --duplicate-threshold."
        warn(f"{search.duplicates_.describe()} {advice}")
    summary = {"source": source.source, **search.summary(), **about_images, "output": files.output}
    if files.output is not None:
        result = search.result()
        command = shlex.join(["tlfeatures", *context.obj])
        best = best_command(result, files.output, source.arguments())
        write_report(result, files.output, command=command, best_command=best)
        save_pipeline(search.calibrated_pipeline(y), os.path.join(files.output, _PIPELINE))
    if files.as_json:
        show_json(summary)
        return
    _show_search(search, summary)
    if files.output is not None:
        show_text(f"Saved {os.path.join(files.output, 'index.html')} and {_PIPELINE}.")


def _show_search(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the table of the best candidates, then the best pipeline with its score."""
    is_classifier = summary["task"] == "classification"
    classes = f" in {count(len(search.classes_), 'class', 'classes')}" if is_classifier else ""
    computed = int(search.timings_["computed"].fillna(0).sum())
    seconds = search.timings_["seconds"].sum()
    show_text(
        f"{count(summary['images'], 'image')}{classes}, {count(summary['candidates'], 'candidate')}; "
        f"{count(computed, 'forward pass', 'forward passes')}, {seconds:.1f} s in total.\n"
    )
    for row in search.halving_.itertuples():
        if row.eliminated:
            what = f"{row.eliminated:,} of {count(row.candidates, 'candidate')}"
            show_text(f"Eliminated on {count(row.images, 'image')}: {what}.")
    _show_top(search, summary)
    best, score, *evidence = map(escape, search.describe())
    show_text("", best, score, style="bold")
    show_text(*evidence)


def _show_top(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the best candidates; columns in which all candidates have the same value are left out."""
    table, top = search.table(), summary["top"]
    varying = [
        name for name in ("network", "image_size", "resize", "layer", "pooling") if table[name].nunique() > 1
    ]
    settings = top["settings"].map(lambda text: ",".join(f"{k}={v}" for k, v in json.loads(text).items()))
    top = top.assign(head=(top["head"] + " " + settings).str.strip())
    titles = {"score": summary["scoring"], "image_size": "size", "width": "features"}
    best = table["candidate"].tolist().index(search.best_index_)
    show_table(top[["score", "se", *varying, "head", "width"]].rename(columns=titles), best=best)
