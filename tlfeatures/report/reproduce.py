"""The command and the Python code that find the winner again, and the versions that it was found with."""

from __future__ import annotations

import inspect
import os
import platform
import re
import shlex
from collections.abc import Sequence
from importlib import metadata
from numbers import Integral
from typing import Any

from tlfeatures import __version__

__all__ = ["command", "python_code", "versions", "winner_options"]

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "scipy", "pandas", "h5py", "pillow",
             "matplotlib")  # fmt: skip
# options of the search that say how its winner is fitted and scored, and the command's word for each
_KEPT = {"scoring": "--scoring", "weights": "--weights", "interpolation": None, "decode": "--decode",
         "precision": "--precision"}  # fmt: skip


def winner_options(search: Any) -> dict[str, Any] | None:
    """Options of a search whose only candidate is the winner; None where they cannot be written down.

    That is so for objects: a network, a callable for the score, folds given as rows, or a splitter that draws its
    folds anew each time or is not scikit-learn's.
    """
    best = dict(search.best_params_)
    head, layer = best.pop("head"), best["layer"]
    grid = {k.removeprefix(f"{head}__"): [_plain(v)] for k, v in best.items() if k.startswith(f"{head}__")}
    options = {
        "models": best["model"],
        "layers": [layer],
        "poolings": best["pooling"],
        "image_sizes": None if best["image_size"] is None else [best["image_size"]],
        "resize": best["resize"],
        "heads": {head: grid} if grid else [head],
        "cv": int(search.cv) if isinstance(search.cv, Integral) else search.cv,
        "task": search.task_,
        "random_state": int(search.seed_),
    }
    defaults = inspect.signature(type(search).__init__).parameters
    for name in _KEPT:
        value = getattr(search, name)
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if value != defaults[name].default:
            options[name] = value
    known = isinstance(options["models"], str) and _is_plain(options.get("scoring")) and _is_plain(grid)
    return options if known and (isinstance(options["cv"], int) or _is_written(options["cv"])) else None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _is_plain(value: Any) -> bool:
    """Whether Python reads back what it prints of a value."""
    if isinstance(value, dict):
        return _is_plain([*value, *value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def _is_written(cv: Any) -> bool:
    """Whether a splitter's text says which folds it makes."""
    ours = type(cv).__module__.startswith("sklearn.model_selection") and _is_plain(vars(cv))
    random = getattr(cv, "shuffle", hasattr(cv, "random_state"))
    return ours and not (random and cv.random_state is None)


def python_code(options: dict[str, Any], manifest: str | None, grouped: bool, texts: bool) -> str:
    """Code that ends with the winner's score and its fitted pipeline.

    Parameters
    ----------
    options : dict
        Of `winner_options`.
    manifest : str or None
        A CSV file with the columns image, true and, if ``grouped``, group; None: X and y are the reader's.
    grouped : bool
    texts : bool
        The labels are texts, even where they look like numbers.
    """
    lines = ["from tlfeatures import select", ""]
    if manifest is None:
        lines += [
            "# X, y: the images and labels that were searched, without the images that could not be read"
        ]
        lines += ["# groups: the search's groups_"] * grouped
    else:
        reading = f"pandas.read_csv({manifest!r}" + (", dtype={'true': str}" if texts else "")
        lines = ["import pandas", *lines, f"table = {reading}, keep_default_na=False)"]
        lines += ["X, y = table['image'].tolist(), table['true']"]
    groups = (["groups=table['group']"] if manifest else ["groups=groups"]) if grouped else []
    given = [*groups, *(f"{name}={value!r}" for name, value in options.items())]
    if hasattr(options["cv"], "split"):
        lines.insert(0, f"from sklearn.model_selection import {type(options['cv']).__name__}")
    lines += ["search = select(", "    X, y,", *(f"    {one}," for one in given), ")"]
    return "\n".join(
        [*lines, "search.best_score_      # the score", "search.best_estimator_  # the fitted pipeline"]
    )


def command(options: dict[str, Any], source: Sequence[str]) -> str | None:
    """The command that finds the winner again; None where it has no word for an option."""
    layer, heads = options["layers"][0], options["heads"]
    values = [v for grid in (heads.values() if isinstance(heads, dict) else ()) for v in grid.values()]
    sayable = all(re.fullmatch(r"[\w.+-]+", str(value)) for several in values for value in several)
    if not isinstance(options["cv"], int) or "interpolation" in options or not sayable:
        return None
    size = options["image_sizes"]
    words = ["tlfeatures", "select", *source, "--model", options["models"]]
    words += ["--layer", layer if isinstance(layer, str) else "+".join(layer)]
    words += ["--pooling", options["poolings"]]
    words += ["--image-size", "default" if size is None else _size(size[0]), "--resize", options["resize"]]
    words += [
        "--head",
        ",".join(_head(name, heads[name] if isinstance(heads, dict) else {}) for name in heads),
    ]
    words += ["--cv", str(options["cv"]), "--task", options["task"], "--seed", str(options["random_state"])]
    for name, word in _KEPT.items():
        if name in options:
            words += [word, "random" if options[name] is None else str(options[name])]
    return shlex.join([*words, "-o", "winner"])


def _size(size: Any) -> str:
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def _head(name: str, grid: dict[str, list[Any]]) -> str:
    return ":".join([name, *(f"{key}={'/'.join(map(str, values))}" for key, values in grid.items())])


def versions() -> dict[str, str]:
    """Versions of tlfeatures, Python and what computes and draws."""
    found = {"tlfeatures": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "system": platform.platform()}
