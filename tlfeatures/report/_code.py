"""Code that reproduces the best pipeline, and the versions it was found with."""

from __future__ import annotations

import math
import os
import platform
from importlib import import_module, metadata
from typing import Any

from tlfeatures import __version__
from tlfeatures.results import SearchResult

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "scipy", "pandas", "h5py", "pillow",
             "matplotlib")  # fmt: skip


def python_code(result: SearchResult, folder: str | os.PathLike[str]) -> str | None:
    """Return code that ends with the best score and its fitted pipeline.

    If all images are files, the code reads them and their labels from ``tables/predictions.csv`` in ``folder``;
    otherwise ``X`` and ``y`` are left to the reader. None if the parameters cannot be written as text.
    """
    options = result.options
    if options is None:
        return None
    imports, groups = ["from tlfeatures import select"], []
    if hasattr(options["cv"], "split"):
        imports.insert(0, f"from sklearn.model_selection import {type(options['cv']).__name__}")
    imports = [
        *sorted({line for value in _estimators(options["heads"]) for line in _imports(value)}),
        *imports,
    ]
    if result.reads_back:
        path = os.path.join(folder, "tables", "predictions.csv")
        text_labels = result.classes is not None and result.classes.dtype.kind in "US"
        dtype = ", dtype={'true': str}" if text_labels else ""  # even if the labels look like numbers
        imports.insert(0, "import pandas")
        data = [
            f"table = pandas.read_csv({path!r}{dtype}, keep_default_na=False)",
            "X, y = table['image'].tolist(), table['true']",
        ]
        groups = ["groups=table['group']"] * result.has_groups
    else:
        data = ["# X, y: the images and labels of the search, without the images that could not be read"]
        if result.has_groups:
            data, groups = [*data, "# groups: the search's groups_"], ["groups=groups"]
    arguments = [*groups, *(f"{name}={_format(value)}" for name, value in options.items())]
    call = ["search = select(", "    X, y,", *(f"    {argument}," for argument in arguments), ")"]
    end = ["search.best_score_      # the score", "search.best_estimator_  # the fitted pipeline"]
    return "\n".join([*imports, "", *data, *call, *end])


def _estimators(heads: Any) -> list[Any]:
    """Return the estimators among the heads, which are named by strings otherwise."""
    return (
        [value for value in heads.values() if hasattr(value, "get_params")] if isinstance(heads, dict) else []
    )


def _imports(estimator: Any) -> list[str]:
    """Return the import statements that the ``repr`` of an estimator needs."""
    parts = [estimator, *estimator.get_params(deep=True).values()]
    kinds = {type(part) for part in parts if hasattr(part, "get_params")}
    return [f"from {_public_module(kind)} import {kind.__name__}" for kind in kinds]


def _public_module(kind: type) -> str:
    """Return the package that exports a class of a private module, such as sklearn.svm for sklearn.svm._classes."""
    module = kind.__module__.split("._")[0]
    return module if getattr(import_module(module), kind.__name__, None) is kind else kind.__module__


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_format(item)}" for key, item in value.items()) + "}"
    # without this parameter scikit-learn abbreviates long texts
    return value.__repr__(N_CHAR_MAX=math.inf) if hasattr(value, "get_params") else repr(value)


def versions() -> dict[str, str]:
    """Return the versions of tlfeatures, Python, the system and the packages that compute and draw."""
    installed = {"tlfeatures": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**installed, "system": platform.platform()}
