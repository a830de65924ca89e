"""`select`: cross-validated search over networks, sizes, layers, poolings and heads, with a report."""

from __future__ import annotations

import ast
import json
import os
import shlex
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlfeatures.cli import options as opt
from tlfeatures.cli.fitting import known_score
from tlfeatures.cli.images import labels_of, name_unreadable, paths_of, read_images
from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, show_json, show_table, shown, stderr_is_terminal, tell

if TYPE_CHECKING:
    from tlfeatures.selection import FeatureSearchCV
    from tlfeatures.sources import Source

_network = partial(typer.Option, rich_help_panel="Network")
_SHOWN = 10
_COLUMNS = ["score", "se", "network", "image_size", "resize", "layer", "pooling", "head", "settings", "width"]
_PIPE = "pipeline.joblib"


def select(
    context: typer.Context,
    source: opt.SourceName,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the report and the winner's pipeline."
        ),
    ] = None,
    models: Annotated[
        str, _network("--models", "-m", metavar="NAME,...", help="See `tlfeatures models`; or .keras files.")
    ] = "mobilenet",
    layers: Annotated[
        str,
        _network(
            metavar="auto|NAME,...",
            help="auto: the standard taps, and the last two and three joined; a+b joins layers of your own.",
        ),
    ] = "auto",
    poolings: Annotated[
        str, _network(metavar="NAME,...", help="avg, max, avgmax, gem or flatten.")
    ] = "avg,max",
    image_sizes: Annotated[
        str,
        _network(
            metavar="auto|N,...", help="auto: the network's default and half of it; or pixels, HxW, default."
        ),
    ] = "auto",
    resize: Annotated[str, _network(metavar="NAME,...", help="stretch, crop or pad.")] = "stretch,crop",
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="logreg, linear_svm, svm, ridge, knn; for numbers ridge, svr, linear. svm:C=1/10 sets a grid.",
        ),
    ] = None,
    cv: Annotated[int, typer.Option(metavar="K", min=2, help="Folds of cross-validation.")] = 5,
    scoring: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Any score of scikit-learn; by default accuracy, or r2 for numbers."
        ),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="best; or 1se: the cheapest within one standard error of the best."
        ),
    ] = "best",
    nested: Annotated[
        bool, typer.Option("--nested", help="Also score the choice itself, by nested cross-validation.")
    ] = False,
    prescreen: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cross-validate only the N most promising embeddings."),
    ] = None,
    prescreen_method: Annotated[
        str, typer.Option(metavar="NAME", help="logme, hscore or shrunk_hscore.")
    ] = "logme",
    dedupe_groups: Annotated[
        bool, typer.Option("--dedupe-groups", help="Keep copies and near-copies of images in one fold.")
    ] = False,
    duplicate_threshold: Annotated[
        float, typer.Option(metavar="X", help="Cosine from which images count as near-copies.")
    ] = 0.95,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="classification, regression, or auto: by what the labels are.")
    ] = "auto",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the shuffle of the folds.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Processes for the folds; -1 for all cores."),
    ] = None,
    weights: opt.Weights = "imagenet",
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
    """Find the network, size, layer, pooling and head that suit labelled images.

    Every image goes through every network once for each size; interrupted, the next run goes on from the
    store. The report is a page, index.html, with PNG, CSV and JSON files; beside it stands the winner,
    fitted on all images, as a pipeline for `predict` and `evaluate`. Unreadable images are left out and named.
    """
    from tlfeatures.selection import FeatureSearchCV

    if output is not None:
        _check_folder(output, source, force)
    images = read_images(source, path_column, target, groups, split_column, split, default_split="train")
    y = labels_of(images, source, target)
    search = FeatureSearchCV(
        [os.path.abspath(name) if name.endswith(".keras") else name for name in _names("--models", models)],
        layers=_parse_layers(layers),
        poolings=_names("--poolings", poolings),
        image_sizes=_parse_sizes(image_sizes),
        resize=_names("--resize", resize),
        heads=parse_heads(heads),
        cv=cv,
        scoring=None if scoring is None else known_score(scoring),
        rule=rule,
        nested=nested,
        prescreen=prescreen,
        prescreen_method=prescreen_method,
        dedupe_groups=dedupe_groups,
        duplicate_threshold=duplicate_threshold,
        task=task,
        weights=opt.parse_weights(weights),
        decode=decode,
        precision=precision,
        batch_size=batch_size,
        cache=opt.parse_cache(cache),
        on_error="nan",
        n_jobs=jobs,
        random_state=seed,
        verbose=int(stderr_is_terminal()),
    )
    search.fit(images.images, y, images.groups)
    name_unreadable(paths_of(images), search.unreadable_, "and are left out")
    about = _about(search, source, images, output)
    if output is not None:
        _write(search, output, context)
    if as_json:
        show_json(about)
    else:
        _show(search, about)


def _check_folder(path: str, source: str, force: bool) -> None:
    """Refuse, before any work is done, a folder in which other files would be written over."""
    inside = os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(source), ""))
    if os.path.isdir(source) and inside:
        raise BadArgument(
            f"-o {path!r} is in the folder of the images: its pictures would be taken for more. Name another."
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise BadArgument(f"-o {path!r} is a file; name a folder for the report.")
    above = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(above):
        raise BadArgument(f"-o {path!r}: there is no folder {above!r}; make it first.")
    if not os.access(path if os.path.isdir(path) else above, os.W_OK):
        raise PermissionError(13, "No permission to write into the folder of -o", path)
    if force or _is_report(os.path.join(path, "index.html")):
        return
    for name in ("index.html", "report.json", _PIPE):
        if os.path.lexists(file := os.path.join(path, name)):
            raise BadArgument(
                f"{file!r} exists and was not written by this command. Name another folder, or pass --force."
            )


def _is_report(page: str) -> bool:
    from tlfeatures.report.page import MARK

    try:
        with open(page, encoding="utf-8", errors="replace") as file:
            return MARK in file.read(2000)
    except FileNotFoundError:
        return False


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadArgument(f"{option} {text!r} holds an empty name; expected names with commas between them.")
    return names


def _parse_layers(text: str) -> Any:
    if text == "auto":
        return "auto"
    return [name.split("+") if "+" in name else name for name in _names("--layers", text)]


def _parse_sizes(text: str) -> Any:
    if text == "auto":
        return "auto"
    return [
        None if name == "default" else opt.parse_image_size(name) for name in _names("--image-sizes", text)
    ]


def parse_heads(text: str | None) -> list[str] | dict[str, dict[str, list[Any]] | None] | None:
    """Heads, with grids where they are given.

    >>> parse_heads("ridge,svm:C=1/10"), parse_heads("ridge")
    ({'ridge': None, 'svm': {'C': [1, 10]}}, ['ridge'])
    """
    if text is None:
        return None
    heads: dict[str, dict[str, list[Any]] | None] = {}
    for one in _names("--heads", text):
        name, *settings = one.split(":")
        grid = {}
        for setting in settings:
            key, equals, values = setting.partition("=")
            if not (key and equals and values):
                raise BadArgument(
                    f"--heads {one!r}: {setting!r} is no setting; expected such as svm:C=1/10, values with / between."
                )
            grid[key] = [_literal(value) for value in values.split("/")]
        heads[name] = grid or None
    return heads if any(heads.values()) else list(heads)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _write(search: FeatureSearchCV, folder: str, context: typer.Context) -> None:
    import joblib

    from tlfeatures.cli.outputs import replacing
    from tlfeatures.report import write_report

    source = _words(context, {"source", "path_column", "target", "groups", "split_column", "split"})
    write_report(
        search, folder, source=source, command=shlex.join(["tlfeatures", "select", *_words(context)])
    )
    search.best_estimator_[0].set_params(verbose=0)
    with replacing(os.path.join(folder, _PIPE)) as file:
        joblib.dump(search.best_estimator_, file)


def _words(context: typer.Context, only: set[str] | None = None) -> list[str]:
    """The arguments and options that were given, as they were given."""
    arguments, options = [], []
    for parameter in context.command.params:
        name, value = parameter.name, context.params.get(parameter.name)
        given = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if not given or (only is not None and name not in only):
            continue
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options += [parameter.opts[0], str(value)]
    return [*arguments, *options]


def _about(search: FeatureSearchCV, source: str, images: Source, output: str | None) -> dict[str, Any]:
    table, best = search.table(), search.best_index_
    results, nested = search.cv_results_, getattr(search, "nested_scores_", None)
    paths = paths_of(images)
    copies = search.duplicates_
    return {
        "source": source,
        "task": search.task_,
        "images": len(images),
        "unreadable": len(search.unreadable_),
        "skipped": {paths[row]: reason for row, reason in search.unreadable_.items()},
        "candidates": len(table),
        "folds": search.n_splits_,
        "scoring": search.scoring or ("accuracy" if search.task_ == "classification" else "r2"),
        "best": {
            "params": search.best_params_,
            "score": search.best_score_,
            "ci": [float(results[f"ci_{end}_test_score"][best]) for end in ("low", "high")],
            "features": int(results["width"][best]),
            "scores": [float(results[f"split{i}_test_score"][best]) for i in range(search.n_splits_)],
        },
        "metrics": search.metrics_,
        "nested": None if nested is None else nested.tolist(),
        "prescreen_correlation": search.prescreen_correlation_,
        "copies": {"pairs": len(copies.pairs), "in_different_folds": copies.crossing,
                   "score_together": copies.score_together},
        "recommendation": search.regime_.recommendation,
        "evidence": [list(pair) for pair in search.regime_.evidence],
        "timings": [{k: None if v != v else v for k, v in row.items()} for row in search.timings_.to_dict("records")],
        "top": table.head(_SHOWN)[_COLUMNS].to_dict("records"),
        "output": output,
    }  # fmt: skip


def _show(search: FeatureSearchCV, about: dict[str, Any]) -> None:
    from tlfeatures.report.summaries import possible

    classes = (
        f" in {count(len(search.classes_), 'class', 'classes')}" if about["task"] == "classification" else ""
    )
    computed = int(search.timings_["computed"].fillna(0).sum())
    seconds = search.timings_["seconds"].sum()
    tell(
        f"{count(about['images'], 'image')}{classes}, {count(about['candidates'], 'candidate')}; "
        f"{count(computed, 'pass', 'passes')} of an image through a network, {seconds:.1f} s in all.\n"
    )
    _show_top(search, about)
    best, score = about["best"], about["best"]["score"]
    params = ", ".join(shown(value) for value in _listed(best["params"]))
    low, high = (possible(bound, about["scoring"]) for bound in best["ci"])
    tell(f"\n{params}", style="bold")
    tell(
        f"{about['folds']}-fold {about['scoring']}: {score:.4f}, 95% interval {low:.4f} to {high:.4f}.",
        style="bold",
    )
    if about["nested"]:
        mean = sum(about["nested"]) / len(about["nested"])
        tell(f"Nested: what is chosen without a fold scores {mean:.4f} on it.")
    for sentence, figures in about["evidence"]:
        tell(f"{sentence} ({shown(figures)})")
    if about["output"]:
        tell(f"Saved {os.path.join(about['output'], 'index.html')} and {_PIPE}.")


def _show_top(search: FeatureSearchCV, about: dict[str, Any]) -> None:
    """The best candidates; what is the same for all is left to the line on the winner."""
    table = search.table()
    names = [
        name for name in ("network", "image_size", "resize", "layer", "pooling") if table[name].nunique() > 1
    ]
    rows = []
    for row in about["top"]:
        settings = ",".join(f"{key}={value}" for key, value in json.loads(row["settings"]).items())
        head = f"{row['head']} {settings}".strip()
        rows.append([row["score"], row["se"], *(row[name] for name in names), head, row["width"]])
    titles = [about["scoring"], "se", *("size" if name == "image_size" else name for name in names)]
    best = table["candidate"].tolist().index(search.best_index_)
    show_table([*titles, "head", "features"], rows, best=best)


def _listed(params: dict[str, Any]) -> Iterator[str]:
    """The winner's parameters in words."""
    for name, value in params.items():
        if name == "image_size":
            if value is not None:
                yield f"{value if isinstance(value, int) else 'x'.join(map(str, value))} pixels"
        elif "__" in name:
            yield f"{name.split('__', 1)[1]}={value}"
        else:
            yield "+".join(value) if isinstance(value, list) else str(value)
