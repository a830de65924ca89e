"""`select`: cross-validated search over networks, sizes, layers, poolings and heads, with a report."""

from __future__ import annotations

import ast
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import _options as opt
from tlfeatures.cli._duplicates import warn_of_duplicates, warn_of_label_conflicts
from tlfeatures.cli._extraction import get_paths, name_unreadable
from tlfeatures.cli._fit import known_score
from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, show_json, show_table, shown, tell

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.selection import FeatureSearchCV
    from tlfeatures.sources import Source

_network = partial(typer.Option, rich_help_panel="Network")
_ROWS = 10  # candidates in the table on the terminal
_COLUMNS = ["score", "se", "network", "image_size", "resize", "layer", "pooling", "head", "settings", "width"]
_PIPELINE = "pipeline.joblib"


@dataclass(frozen=True)
class SearchSpace:
    """What to search: networks, layers, poolings, sizes, ways to resize, and heads."""

    model: Annotated[
        str, _network("--model", "-m", metavar="NAME,...", help="See `tlfeatures models`; or .keras files.")
    ] = "mobilenet"
    layer: Annotated[
        str,
        _network(
            "--layer",
            "-l",
            metavar="auto|NAME,...",
            help="auto: the standard taps, and the last two and three concatenated; a+b concatenates your own.",
        ),
    ] = "auto"
    pooling: Annotated[str, _network(metavar="NAME,...", help="avg, max, avgmax, gem or flatten.")] = (
        "avg,max"
    )
    image_size: Annotated[
        str,
        _network(
            metavar="auto|N,...", help="auto: the network's default and half of it; or pixels, HxW, default."
        ),
    ] = "auto"
    resize: Annotated[str, _network(metavar="NAME,...", help="stretch, crop or pad.")] = "stretch,crop"
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="logreg, linear_svm, svm, ridge, knn; for regression ridge, svr, linear. svm:C=1/10 sets a grid.",
        ),
    ] = None

    def parameters(self) -> dict[str, Any]:
        """Parameters of `FeatureSearchCV`."""
        return {
            "models": [opt.parse_model(name) for name in _names("--model", self.model)],
            "layers": _parse_layers(self.layer),
            "poolings": _names("--pooling", self.pooling),
            "image_sizes": _parse_sizes(self.image_size),
            "resize": _names("--resize", self.resize),
            "heads": parse_heads(self.head),
        }


@dataclass(frozen=True)
class SearchOptions:
    """How candidates are scored and how the best is chosen."""

    cv: Annotated[int, typer.Option(metavar="K", min=2, help="Folds of cross-validation.")] = 5
    scoring: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for regression."
        ),
    ] = None
    rule: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="best; or 1se: the cheapest within one standard error of the best."
        ),
    ] = "best"
    nested: Annotated[
        bool, typer.Option("--nested", help="Also score the choice itself, by nested cross-validation.")
    ] = False
    prescreen: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cross-validate only the N most promising embeddings."),
    ] = None
    prescreen_method: Annotated[str, typer.Option(metavar="NAME", help="logme, hscore or shrunk_hscore.")] = (
        "logme"
    )
    dedupe_groups: Annotated[
        bool, typer.Option("--dedupe-groups", help="Keep duplicates and near-duplicates in one fold.")
    ] = False
    duplicate_threshold: Annotated[
        float, typer.Option(metavar="X", help="Cosine similarity from which images are near-duplicates.")
    ] = 0.95
    task: Annotated[
        str,
        typer.Option(metavar="NAME", help="classification, regression, or auto: inferred from the labels."),
    ] = "auto"
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed for shuffling the folds.")] = 0
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Processes for the folds; -1 for all cores."),
    ] = None

    def parameters(self) -> dict[str, Any]:
        """Parameters of `FeatureSearchCV`."""
        names = (
            "cv",
            "rule",
            "nested",
            "prescreen",
            "prescreen_method",
            "dedupe_groups",
            "duplicate_threshold",
            "task",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "scoring": None if self.scoring is None else known_score(self.scoring),
            "random_state": self.seed,
            "n_jobs": self.jobs,
        }


@opt.expand_options
def select(
    context: typer.Context,
    source: opt.TrainingSource,
    space: SearchSpace,
    options: SearchOptions,
    compute: opt.ComputeOptions,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the report and the best pipeline."),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
) -> None:
    """Find the network, size, layer, pooling and head that suit labelled images.

    Every image goes through every network once for each size; after an interruption the next run resumes from
    the store. The report is a page, index.html, with PNG, CSV and JSON files. The best pipeline, fitted on all
    images, is saved beside it for `predict` and `evaluate`. Unreadable images are left out and named.
    """
    from tlfeatures.selection import FeatureSearchCV

    if output is not None:
        _check_folder(output, source.source, force)
    images = source.read()
    y = source.labels(images)
    search = FeatureSearchCV(
        **space.parameters(), **options.parameters(), **compute.parameters(), on_error="nan"
    )
    search.fit(images.images, y, images.groups)
    name_unreadable(get_paths(images), search.unreadable_, "and are left out")
    warn_of_duplicates(search.duplicates_, " --dedupe-groups uses such folds throughout.")
    readable = [get_paths(images)[row] for row in search.rows_]
    conflicts = warn_of_label_conflicts(search.fitted_images_.keys, y[search.rows_], readable)
    summary = _summarize(search, source.source, images, output) | {"label_conflicts": conflicts}
    if output is not None:
        _write(search, y, output, context)
    if as_json:
        show_json(summary)
    else:
        _show(search, summary)


def _check_folder(path: str, source: str, force: bool) -> None:
    """Refuse, before any work is done, a folder in which files of others would be overwritten."""
    inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(source), ""))
    if os.path.isdir(source) and inside:
        raise BadArgument(
            f"-o {path!r} is in the folder of the images, where its figures would count as images. Name another folder."
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadArgument(f"-o {path!r} is a file; name a folder for the report.")
    above = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(above):
        raise BadArgument(f"-o {path!r}: there is no folder {above!r}; make it first.")
    if not os.access(path if os.path.isdir(path) else above, os.W_OK):
        raise PermissionError(13, "No permission to write into the folder of -o", path)
    from tlfeatures.report import is_report

    if force or is_report(os.path.join(path, "index.html")):
        return
    for name in ("index.html", "report.json", _PIPELINE):
        if os.path.lexists(file := os.path.join(path, name)):
            raise BadArgument(
                f"{file!r} exists and was not written by this command. Name another folder, or pass --force."
            )


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadArgument(f"{option} {text!r} contains an empty name; expected names separated by commas.")
    return names


def _parse_layers(text: str) -> Any:
    if text == "auto":
        return "auto"
    return [name.split("+") if "+" in name else name for name in _names("--layer", text)]


def _parse_sizes(text: str) -> Any:
    if text == "auto":
        return "auto"
    return [
        None if name == "default" else opt.parse_image_size(name) for name in _names("--image-size", text)
    ]


def parse_heads(text: str | None) -> list[str] | dict[str, dict[str, list[Any]] | None] | None:
    """Parse names of heads with optional grids.

    >>> parse_heads("ridge,svm:C=1/10"), parse_heads("ridge")
    ({'ridge': None, 'svm': {'C': [1, 10]}}, ['ridge'])
    """
    if text is None:
        return None
    heads: dict[str, dict[str, list[Any]] | None] = {}
    for one in _names("--head", text):
        name, *settings = one.split(":")
        grid = {}
        for setting in settings:
            key, equals, values = setting.partition("=")
            if not (key and equals and values):
                raise BadArgument(
                    f"--head {one!r}: {setting!r} is not a setting; expected for example svm:C=1/10 for two values."
                )
            grid[key] = [_literal(value) for value in values.split("/")]
        heads[name] = grid or None
    return heads if any(heads.values()) else list(heads)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _write(search: FeatureSearchCV, y: np.ndarray, folder: str, context: typer.Context) -> None:
    from sklearn.base import clone

    from tlfeatures.cli._best_command import best_command
    from tlfeatures.cli._fit import fit_head
    from tlfeatures.cli._saved_models import save_pipeline
    from tlfeatures.report import write_report

    source = _words(context, {"source", "path_column", "target", "groups", "split_column", "split"})
    result = search.result()
    write_report(
        result,
        folder,
        command=shlex.join(["tlfeatures", "select", *_words(context)]),
        best_command=best_command(result, folder, source),
    )
    head = clone(search.best_estimator_[1:])
    fitted = fit_head(head, search.task_, search.embeddings(), y[search.rows_], search.duplicates_.groups)
    path = os.path.join(folder, _PIPELINE)
    save_pipeline(path, search.best_estimator_[0], fitted, search.fitted_images_.keys)


def _words(context: typer.Context, only: set[str] | None = None) -> list[str]:
    """Return the arguments and options of the command line, all or only some, as the user typed them."""
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


def _summarize(search: FeatureSearchCV, source: str, images: Source, output: str | None) -> dict[str, Any]:
    """Return the facts that are printed, and all of `--json`."""
    table, paths = search.table(), get_paths(images)
    nested = getattr(search, "nested_scores_", None)
    return {
        "source": source,
        "task": search.task_,
        "images": len(images),
        "unreadable": len(search.unreadable_),
        "skipped": {paths[row]: reason for row, reason in search.unreadable_.items()},
        "candidates": len(table),
        "folds": search.n_splits_,
        "scoring": search.scoring or ("accuracy" if search.task_ == "classification" else "r2"),
        "best": _summarize_best(search),
        "metrics": search.metrics_,
        "nested": None if nested is None else nested.tolist(),
        "prescreen_correlation": search.prescreen_correlation_,
        "copies": {
            "pairs": len(search.duplicates_.pairs),
            "in_different_folds": search.duplicates_.crossing,
            "score_together": search.duplicates_.score_together,
        },
        "recommendation": search.regime_.recommendation,
        "evidence": [list(pair) for pair in search.regime_.evidence],
        "timings": [
            {name: None if value != value else value for name, value in row.items()}
            for row in search.timings_.to_dict("records")
        ],
        "top": table.head(_ROWS)[_COLUMNS].to_dict("records"),
        "output": output,
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
    tell(
        f"{count(summary['images'], 'image')}{classes}, {count(summary['candidates'], 'candidate')}; "
        f"{count(computed, 'pass', 'passes')} of an image through a network, {seconds:.1f} s in all.\n"
    )
    _show_top(search, summary)
    best = summary["best"]
    params = ", ".join(shown(value) for value in _describe(best["params"]))
    tell(f"\n{params}", style="bold")
    score, (low, high), without = best["score"], best["ci"], ""
    if (grouped := search.grouped_score_) is not None:
        score, low, high = grouped.mean, grouped.low, grouped.high
        without = f" Duplicates are kept in one fold; split between folds they give {best['score']:.4f}."
    tell(
        f"{summary['folds']}-fold {summary['scoring']}: {score:.4f}, 95% interval {low:.4f} to {high:.4f}.{without}",
        style="bold",
    )
    if summary["nested"]:
        mean = sum(summary["nested"]) / len(summary["nested"])
        tell(f"Nested cross-validation, which scores the choice itself: {mean:.4f}.")
    for sentence, figures in summary["evidence"]:
        tell(f"{sentence} ({shown(figures)})")
    if summary["output"]:
        tell(f"Saved {os.path.join(summary['output'], 'index.html')} and {_PIPELINE}.")


def _show_top(search: FeatureSearchCV, summary: dict[str, Any]) -> None:
    """Print the best candidates, without the columns that are equal for all."""
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


def _describe(params: dict[str, Any]) -> Iterator[str]:
    """Describe each parameter of the best candidate in words."""
    for name, value in params.items():
        if name == "image_size":
            if value is not None:
                yield f"{value if isinstance(value, int) else 'x'.join(map(str, value))} pixels"
        elif "__" in name:
            yield f"{name.split('__', 1)[1]}={value}"
        else:
            yield "+".join(value) if isinstance(value, list) else str(value)
