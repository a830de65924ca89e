"""The command that reproduces the best pipeline of a search."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._groups import format_options

if TYPE_CHECKING:
    from tlfeatures.results import SearchResult

__all__ = ["best_command"]

_FIT_PARAMETERS = ("scoring", "weights", "decode", "max_value", "window", "views", "precision", "runtime")


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
        return None  # a head is an estimator, which no option can name
    values = [value for grid in grids for candidates in grid.values() for value in candidates]
    expressible = all(re.fullmatch(r"[\w.+-]+", str(value)) for value in values)
    if (
        not isinstance(options["cv"], int)
        or {"interpolation", "normalization"} & options.keys()
        or not expressible
    ):
        return None
    arguments = {
        "model": options["models"],
        "layer": layer if isinstance(layer, str) else "+".join(layer),
        "pooling": options["poolings"],
        "image_size": "default" if size is None else _join(size[0], "x"),
        "resize": options["resize"],
        "head": ",".join(_format_head(name, heads) for name in heads),
        "cv": options["cv"],
        "task": options["task"],
        "seed": options["random_state"],
        **{name: _join(options[name], ",") for name in _FIT_PARAMETERS if name in options},
    }
    return shlex.join(["tlfeatures", "select", *source, *format_options(arguments), "-o", "best"])


def _join(value: Any, separator: str) -> str:
    """Format the value of a parameter as the value of an option; None stands for random weights."""
    if value is None:
        return "random"
    return separator.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _format_head(name: str, heads: Any) -> str:
    grid = heads[name] if isinstance(heads, dict) else {}
    return ":".join([name, *(f"{key}={_join(values, '/')}" for key, values in grid.items())])
