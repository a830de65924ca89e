"""`select`: search over networks, sizes, layers, poolings and heads by cross-validation."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._duplicates import warn_of_duplicates, warn_of_label_conflicts
from tlfeatures.cli._extraction import get_paths, report_unreadable
from tlfeatures.cli._fit import DEFAULT_SCORING, check_scorer_name
from tlfeatures.cli._groups import expand_options, option
from tlfeatures.cli._parse import parse_heads, parse_image_size, parse_model, split_names
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, escape, show_json, show_table, show_text

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.selection import FeatureSearchCV

_N_SHOWN = 10  # candidates in the table on the terminal
_COLUMNS = ["score", "se", "network", "image_size", "resize", "layer", "pooling", "head", "settings", "width"]
_PIPELINE = "pipeline.joblib"


@dataclass(frozen=True)
class SearchSpace:
    """Networks, layers, poolings, image sizes, resize methods and heads to search."""

    panel: ClassVar[str] = "Network"

    model: str = option(
        "mobilenet", "Networks, see `tlfeatures models`, or .keras files.", "-m", metavar="NAME,..."
    )
    layer: str = option(
        "auto",
        "auto or standard: the standard layers, and the last two and three concatenated; fused: all standard layers, "
        "each scaled to the same total variance; a+b concatenates a and b.",
        "-l",
        metavar="auto|NAME,...",
    )
    pooling: str = option("avg,max", "avg, max, avgmax, gem or flatten.", metavar="NAME,...")
    image_size: str = option(
        "auto",
        "auto: the network's default and half of it; or N, HxW or default.",
        metavar="auto|N,...",
    )
    resize: str = option("stretch,crop", "stretch, crop or pad.", metavar="NAME,...")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FeatureSearchCV` for the embeddings."""
        return {
            "models": [parse_model(name) for name in split_names("--model", self.model)],
            "layers": _parse_layers(self.layer),
            "poolings": split_names("--pooling", self.pooling),
            "image_sizes": _parse_sizes(self.image_size),
            "resize": split_names("--resize", self.resize),
        }


@dataclass(frozen=True)
class SearchOptions:
    """Heads, cross-validation and choice of the best candidate."""

    head: str | None = option(
        None,
        "logreg, linear_svm, svm, ridge, knn; for regression ridge, svr, linear. svm:C=1/10 is a grid.",
        metavar="NAME,...",
    )
    cv: int = option(5, "Number of folds.", metavar="K", min=2)
    scoring: opt.Scoring = None
    rule: str = option(
        "best",
        "best, or 1se: the cheapest network within one standard error of the best.",
        metavar="NAME",
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
    seed: int = option(0, "Seed for shuffling the folds.", metavar="N", min=0)
    jobs: int | None = option(None, "Number of parallel processes; -1 for all cores.", "-j", metavar="N")

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `FeatureSearchCV` for the selection."""
        if self.scoring is not None:
            check_scorer_name(self.scoring)
        parameters = dataclasses.asdict(self)
        parameters["random_state"] = parameters.pop("seed")
        parameters["n_jobs"] = parameters.pop("jobs")
        parameters["heads"] = parse_heads(parameters.pop("head"))
        return parameters


@expand_options
def select(
    context: typer.Context,
    source: opt.TrainingSource,
    space: SearchSpace,
    options: SearchOptions,
    compute: opt.ComputeOptions,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Save the report and the best pipeline in this folder."
        ),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Find the best network, image size, layer, pooling and head for labelled images.

    Each image passes through each network once per size; an interrupted search resumes from the store. The report
    is an HTML page, index.html, with PNG, CSV and JSON files. The best pipeline, fitted on all images, is saved
    beside it for `predict` and `evaluate`. Unreadable images are left out and listed.
    """
    from tlfeatures.selection import FeatureSearchCV

    if output is not None:
        _check_folder(output, source.source, force)
    images = source.read()
    y = source.get_labels(images)
    search = FeatureSearchCV(
        **space.parameters(), **options.parameters(), **compute.parameters(), on_error="nan"
    )
    search.fit(images.images, y, images.groups)
    paths = get_paths(images)
    skipped = report_unreadable(paths, search.unreadable_, "and are left out")
    warn_of_duplicates(search.duplicates_, " --dedupe-groups uses such folds throughout.")
    readable = [paths[row] for row in search.rows_]
    conflicts = warn_of_label_conflicts(search.fitted_images_.keys, y[search.rows_], readable)
    summary = {"source": source.source, **_summarize(search), "skipped": skipped, "output": output}
    summary["label_conflicts"] = conflicts
    if output is not None:
        _write(search, y, output, context)
    if as_json:
        show_json(summary)
    else:
        _show(search, summary)


def _check_folder(path: str, source: str, force: bool) -> None:
    """Raise an error if the report cannot be written into a folder, or would overwrite files of others."""
    inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(source), ""))
    if os.path.isdir(source) and inside:
        raise BadArgument(
            f"-o {path!r} is in the folder of the images, so its figures would be read as images. Name another folder."
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadArgument(f"-o {path!r} is a file; name a folder for the report.")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise BadArgument(f"-o {path!r}: the folder {parent!r} does not exist; make it first.")
    if not os.access(path if os.path.isdir(path) else parent, os.W_OK):
        raise PermissionError(13, "No permission to write into the folder of -o", path)
    from tlfeatures.report import is_report

    if force or is_report(os.path.join(path, "index.html")):
        return
    for name in ("index.html", "report.json", _PIPELINE):
        if os.path.lexists(file := os.path.join(path, name)):
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
    from sklearn.base import clone

    from tlfeatures.cli._best_command import best_command
    from tlfeatures.cli._fit import fit_head
    from tlfeatures.cli._saved_models import save_pipeline
    from tlfeatures.report import write_report

    source = _list_arguments(context, {"source", "path_column", "target", "groups", "split_column", "split"})
    result = search.result()
    write_report(
        result,
        folder,
        command=shlex.join(["tlfeatures", "select", *_list_arguments(context)]),
        best_command=best_command(result, folder, source),
    )
    head = clone(search.best_estimator_[1:])
    fitted = fit_head(head, search.task_, search.embeddings(), y[search.rows_], search.duplicates_.groups)
    path = os.path.join(folder, _PIPELINE)
    save_pipeline(path, search.best_estimator_[0], fitted, search.fitted_images_.keys)


def _list_arguments(context: typer.Context, only: set[str] | None = None) -> list[str]:
    """Return the arguments and options that the user passed; all, or those of the parameters ``only``."""
    arguments, options = [], []
    for parameter in context.command.params:
        name, value = parameter.name, context.params.get(parameter.name)
        source = getattr(context.get_parameter_source(name), "name", "")
        if source != "COMMANDLINE" or (only is not None and name not in only):
            continue
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options += [parameter.opts[0], str(value)]
    return [*arguments, *options]


def _summarize(search: FeatureSearchCV) -> dict[str, Any]:
    """Return the results to print."""
    table = search.table()
    return {
        "task": search.task_,
        "images": len(search.rows_) + len(search.unreadable_),
        "unreadable": len(search.unreadable_),
        "candidates": len(table),
        "folds": search.n_splits_,
        "scoring": search.scoring or DEFAULT_SCORING[search.task_],
        "best": _summarize_best(search),
        "metrics": search.metrics_,
        "nested": getattr(search, "nested_scores_", None),
        "prescreen_correlation": search.prescreen_correlation_,
        "copies": {
            "pairs": len(search.duplicates_.pairs),
            "in_different_folds": search.duplicates_.crossing,
            "score_together": search.duplicates_.score_together,
        },
        "recommendation": search.regime_.recommendation,
        "evidence": search.regime_.evidence,
        "timings": search.timings_.to_dict("records"),
        "top": table.head(_N_SHOWN)[_COLUMNS].to_dict("records"),
    }


def _summarize_best(search: FeatureSearchCV) -> dict[str, Any]:
    results, best = search.cv_results_, search.best_index_
    return {
        "params": search.best_params_,
        "score": search.best_score_,
        "ci": [float(results[f"ci_{end}_test_score"][best]) for end in ("low", "high")],
        "features": int(results["width"][best]),
        "scores": [float(results[f"split{i}_test_score"][best]) for i in range(search.n_splits_)],
    }


def _show(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    classes = (
        f" in {count(len(search.classes_), 'class', 'classes')}"
        if summary["task"] == "classification"
        else ""
    )
    computed = int(search.timings_["computed"].fillna(0).sum())
    seconds = search.timings_["seconds"].sum()
    show_text(
        f"{count(summary['images'], 'image')}{classes}, {count(summary['candidates'], 'candidate')}; "
        f"{count(computed, 'pass', 'passes')} of an image through a network, {seconds:.1f} s in total.\n"
    )
    _show_top(search, summary)
    best = summary["best"]
    params = ", ".join(escape(value) for value in _format_params(best["params"]))
    show_text(f"\n{params}", style="bold")
    score, (low, high), note = best["score"], best["ci"], ""
    if (grouped := search.grouped_score_) is not None:
        score, low, high = grouped.mean, grouped.low, grouped.high
        note = f" Duplicates are kept in one fold; without this, the score is {best['score']:.4f}."
    show_text(
        f"{summary['folds']}-fold {summary['scoring']}: {score:.4f}, 95% interval {low:.4f} to {high:.4f}.{note}",
        style="bold",
    )
    if summary["nested"] is not None:
        show_text(f"Nested cross-validation, which scores the selection: {summary['nested'].mean():.4f}.")
    for sentence, figures in summary["evidence"]:
        show_text(f"{sentence} ({escape(figures)})")
    if summary["output"]:
        show_text(f"Saved {os.path.join(summary['output'], 'index.html')} and {_PIPELINE}.")


def _show_top(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the best candidates, without the columns that have one value."""
    table = search.table()
    names = [
        name for name in ("network", "image_size", "resize", "layer", "pooling") if table[name].nunique() > 1
    ]
    rows = []
    for row in summary["top"]:
        settings = ",".join(f"{key}={value}" for key, value in json.loads(row["settings"]).items())
        head = f"{row['head']} {settings}".strip()
        rows.append([row["score"], row["se"], *(row[name] for name in names), head, row["width"]])
    titles = [summary["scoring"], "se", *("size" if name == "image_size" else name for name in names)]
    best = table["candidate"].tolist().index(search.best_index_)
    show_table([*titles, "head", "features"], rows, best=best)


def _format_params(params: dict[str, Any]) -> Iterator[str]:
    """Format each parameter of the best candidate."""
    for name, value in params.items():
        if name == "image_size":
            if value is not None:
                yield f"{value if isinstance(value, int) else 'x'.join(map(str, value))} pixels"
        elif name == "fused":
            yield "fused"
        elif "__" in name:
            yield f"{name.split('__', 1)[1]}={value}"
        else:
            yield "+".join(value) if isinstance(value, list) else str(value)
