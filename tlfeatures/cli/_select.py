"""`select`: search over networks, sizes, layers, poolings and heads by cross-validation."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._best_command import best_command, list_arguments
from tlfeatures.cli._groups import Options, expand_options, option
from tlfeatures.cli._messages import report_images, warn_of_duplicates
from tlfeatures.cli._outputs import check_writable
from tlfeatures.cli._parse import parse_heads, parse_image_size, parse_model, split_names
from tlfeatures.cli._search_summary import show_search, summarize_search
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import show_json, show_text

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.selection import FeatureSearchCV

_PIPELINE = "pipeline.joblib"


@dataclass(frozen=True)
class SearchSpace(Options):
    """Networks, layers, poolings, image sizes, resize methods and heads to search."""

    panel: ClassVar[str] = "Network"

    models: str = option(
        "mobilenet",
        "Networks, see `tlfeatures models`, or .keras files.",
        "--model",
        "-m",
        metavar="NAME,...",
    )
    layers: str = option(
        "auto",
        "auto or standard: the standard layers, and the last two and three concatenated; fused: all standard layers, "
        "each scaled to the same total variance; a+b concatenates a and b.",
        "--layer",
        "-l",
        metavar="auto|NAME,...",
    )
    poolings: str = option("avg,max", "avg, max, avgmax, gem or flatten.", "--pooling", metavar="NAME,...")
    image_sizes: str = option(
        "auto",
        "auto: the network's default and half of it; or N, HxW or default.",
        "--image-size",
        metavar="auto|N,...",
    )
    resize: str = option("stretch,crop", "stretch, crop or pad.", metavar="NAME,...")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FeatureSearchCV` for the embeddings."""
        return {
            "models": [parse_model(name) for name in split_names("--model", self.models)],
            "layers": _parse_layers(self.layers),
            "poolings": split_names("--pooling", self.poolings),
            "image_sizes": _parse_sizes(self.image_sizes),
            "resize": split_names("--resize", self.resize),
        }


@dataclass(frozen=True)
class SearchOptions(Options):
    """Heads, cross-validation and choice of the best candidate."""

    heads: str | None = option(
        None,
        "logreg, linear_svm, svm, ridge, knn; for regression ridge, svr, linear. svm:C=1/10 is a grid.",
        "--head",
        metavar="NAME,...",
    )
    cv: int = option(5, "Number of folds.", metavar="K", min=2)
    scoring: opt.Scoring = None
    rule: str = option(
        "best", "best, or 1se: the cheapest network within one standard error of the best.", metavar="NAME"
    )
    nested: bool = option(False, "Estimate the score of the selection by nested cross-validation.")
    prescreen: int | None = option(
        None, "Cross-validate only the N embeddings with the best prescreen scores.", metavar="N", min=1
    )
    prescreen_method: str = option("logme", "logme, hscore or shrunk_hscore.", metavar="NAME")
    dedupe_groups: bool = option(False, "Keep duplicates and near-duplicates in one fold.")
    duplicate_threshold: float = option(
        0.95, "Cosine similarity from which images are near-duplicates.", metavar="X"
    )
    task: opt.Task = "auto"
    random_state: int = option(0, "Seed for shuffling the folds.", "--seed", metavar="N", min=0)
    n_jobs: int | None = option(
        None, "Number of parallel processes; -1 for all cores.", "--jobs", "-j", metavar="N"
    )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FeatureSearchCV` for the selection."""
        return super().parameters() | {"heads": parse_heads(self.heads)}


@dataclass(frozen=True)
class ReportOptions:
    """Output of `select`."""

    output: str | None = option(
        None, "Save the report and the best pipeline in this folder.", "-o", metavar="DIR"
    )
    force: opt.Force = False
    as_json: opt.Json = False


@expand_options
def select(
    context: typer.Context,
    source: opt.TrainingSource,
    space: SearchSpace,
    options: SearchOptions,
    compute: opt.ComputeOptions,
    files: ReportOptions,
) -> None:
    """Find the best network, image size, layer, pooling and head for labelled images.

    Each image passes through each network once per size; an interrupted search resumes from the store. The report
    is an HTML page, index.html, with PNG, CSV and JSON files. The best pipeline, fitted on all images, is saved
    beside it for `predict` and `evaluate`. Unreadable images are left out and listed.
    """
    from tlfeatures.selection import FeatureSearchCV

    if files.output is not None:
        _check_folder(files.output, source.source, files.force)
    images = source.read()
    y = images.get_labels()
    search = FeatureSearchCV(
        **space.parameters(), **options.parameters(), **compute.parameters(), on_error="nan"
    )
    search.fit(images.images, y, images.groups)
    about_images = report_images(search, images, y)
    warn_of_duplicates(search.duplicates_, " --dedupe-groups uses such folds throughout.")
    summary = {"source": source.source, **summarize_search(search), **about_images, "output": files.output}
    if files.output is not None:
        _write(search, y, files.output, context)
    if files.as_json:
        show_json(summary)
        return
    show_search(search, summary)
    if files.output is not None:
        show_text(f"Saved {os.path.join(files.output, 'index.html')} and {_PIPELINE}.")


def _check_folder(path: str, source: str, force: bool) -> None:
    """Raise an error if the report cannot be written into a folder, or would overwrite files of others."""
    inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(source), ""))
    if os.path.isdir(source) and inside:
        raise BadArgument(
            f"-o {path!r} is in the folder of the images, so its figures would be read as images. Name another folder."
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadArgument(f"-o {path!r} is a file; name a folder for the report.")
    check_writable(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path)), f"-o {path!r}")
    from tlfeatures.report import is_report
    from tlfeatures.saved_models import is_saved_pipeline

    page, pipeline = os.path.join(path, "index.html"), os.path.join(path, _PIPELINE)
    ours = {page: is_report(page), os.path.join(path, "report.json"): is_report(page)}
    ours[pipeline] = os.path.isfile(pipeline) and is_saved_pipeline(pipeline)
    for file, is_ours in ours.items():
        if os.path.lexists(file) and not (is_ours or force):
            raise BadArgument(
                f"{file!r} exists and was not written by this command. Name another folder, or pass --force."
            )


def _parse_layers(text: str) -> Any:
    if text == "auto":
        return "auto"
    return [name.split("+") if "+" in name else name for name in split_names("--layer", text)]


def _parse_sizes(text: str) -> Any:
    if text == "auto":
        return "auto"
    names = split_names("--image-size", text)
    return [None if name == "default" else parse_image_size(name) for name in names]


def _write(search: FeatureSearchCV, y: np.ndarray, folder: str, context: typer.Context) -> None:
    """Write the report and the best pipeline."""
    from tlfeatures.report import write_report
    from tlfeatures.saved_models import save_pipeline

    source = list_arguments(context, {"source", "path_column", "target", "groups", "split_column", "split"})
    result = search.result()
    write_report(
        result,
        folder,
        command=shlex.join(["tlfeatures", "select", *list_arguments(context)]),
        best_command=best_command(result, folder, source),
    )
    save_pipeline(search.calibrated_pipeline(y), os.path.join(folder, _PIPELINE))
