"""Code that reproduces the best pipeline, and the versions of the packages that it used."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from tlfeatures import __version__
from tlfeatures.results import SearchResult

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "scikit-learn", "scipy", "pandas", "h5py", "pillow",
             "matplotlib")  # fmt: skip


def make_python_code(result: SearchResult, folder: str | os.PathLike[str]) -> str | None:
    """Make Python code that reproduces the best score and the fitted pipeline.

    If all images are files and each has an out-of-fold prediction, the code reads their paths and labels from
    ``tables/predictions.csv`` in ``folder``; otherwise, the user defines ``X`` and ``y``. Returns None if the
    parameters cannot be written as text.
    """
    if result.options is None:
        return None
    imports, options = result.format_options()
    groups = []
    if result.reads_back:
        path = os.path.join(folder, "tables", "predictions.csv")
        text_labels = result.classes is not None and result.classes.dtype.kind in "US"
        dtype = (
            ", dtype={'true': str}" if text_labels else ""
        )  # the labels stay text even if they look like numbers
        imports.insert(0, "import pandas")
        data = [
            f"table = pandas.read_csv({path!r}{dtype}, keep_default_na=False)",
            "X, y = table['image'].tolist(), table['true']",
        ]
        groups = ["groups=table['group']"] * result.has_groups
    else:
        data = ["# X, y: the images and labels of the search, without the images that could not be read"]
        if result.has_groups:
            data.append("# groups: the attribute groups_ of the original search")
            groups = ["groups=groups"]
    call = ["search = select(", "    X, y,", *(f"    {argument}," for argument in [*groups, *options]), ")"]
    end = ["search.best_score_      # the score", "search.best_estimator_  # the fitted pipeline"]
    return "\n".join([*imports, "", *data, *call, *end])


def get_versions() -> dict[str, str]:
    """Return the versions of tlfeatures, Python, the operating system and the packages used."""
    installed = {"tlfeatures": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**installed, "system": platform.platform()}
