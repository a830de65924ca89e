"""The command that the user ran, and the command that reproduces the best pipeline of its search."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from tlfeatures.results import SearchResult

__all__ = ["best_command", "list_arguments"]

_OPTIONS = {
    "scoring": "--scoring",
    "weights": "--weights",
    "decode": "--decode",
    "max_value": "--max-value",
    "window": "--window",
    "precision": "--precision",
}


def best_command(result: SearchResult, folder: str | os.PathLike[str], source: Sequence[str]) -> str | None:
    """Return the `select` command whose only candidate is the best one; None if options cannot express it.

    Parameters
    ----------
    result : SearchResult
        Result of the search.
    folder : path
        Folder of the report. If all images are files, its ``tables/predictions.csv`` is the source of the command.
    source : sequence of str
        Source and its options as the user passed them, for other images.
    """
    options = result.options
    if options is None:
        return None
    if result.reads_back:
        manifest = os.path.join(folder, "tables", "predictions.csv")
        source = [manifest, "--path-column", "image", "--target", "true"]
        source += ["--groups", "group"] if result.has_groups else []
    elif result.grouped_duplicates:
        return None  # the near-duplicates depend on the other candidates
    layer, heads, size = options["layers"][0], options["heads"], options["image_sizes"]
    grids = heads.values() if isinstance(heads, dict) else ()
    if not all(isinstance(grid, dict) for grid in grids):
        return None  # a head is an estimator without a name
    values = [value for grid in grids for candidates in grid.values() for value in candidates]
    expressible = all(re.fullmatch(r"[\w.+-]+", str(value)) for value in values)
    if not isinstance(options["cv"], int) or "interpolation" in options or not expressible:
        return None
    words = ["tlfeatures", "select", *source, "--model", options["models"]]
    words += ["--layer", layer if isinstance(layer, str) else "+".join(layer)]
    words += ["--pooling", options["poolings"]]
    words += ["--image-size", "default" if size is None else _format_size(size[0])]
    words += ["--resize", options["resize"]]
    words += ["--head", ",".join(_format_head(name, heads) for name in heads)]
    words += ["--cv", str(options["cv"]), "--task", options["task"], "--seed", str(options["random_state"])]
    for name, option in _OPTIONS.items():
        if name in options:
            words += [option, _format_value(options[name])]
    return shlex.join([*words, "-o", "best"])


def list_arguments(context: typer.Context, only: set[str] | None = None) -> list[str]:
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


def _format_value(value: Any) -> str:
    if value is None:
        return "random"
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _format_size(size: Any) -> str:
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def _format_head(name: str, heads: Any) -> str:
    grid = heads[name] if isinstance(heads, dict) else {}
    return ":".join([name, *(f"{key}={'/'.join(map(str, values))}" for key, values in grid.items())])
