"""Write the pages of the API reference: one for each module in the tables of ``api.md``.

The names that a row of the table mentions are those that the page documents; a row without names stands for all names
of its module.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROW = re.compile(r"^\| `(tlfeatures\.\w+)` \| (.*)", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write ``reference/*.rst`` before the pages are read, and add them to the contents of ``api.md``."""
    app.connect("config-inited", write_pages)
    app.connect("source-read", add_contents)
    app.connect("autodoc-skip-member", skip_inherited)
    return {"parallel_read_safe": True}


def list_names(table: str) -> dict[str, list[str]]:
    """Return the documented names of each module; each object belongs to the first module that has it.

    Parameters
    ----------
    table : str
        Text of ``api.md``.
    """
    modules = {"tlfeatures": "", **dict(ROW.findall(table))}
    documented: set[int] = set()
    names = {}
    for module_name, text in modules.items():
        module = importlib.import_module(module_name)
        public = [name for name in module.__all__ if not name.startswith("__")]
        mentioned = [name for name in dict.fromkeys(re.findall(r"`(\w+)`", text)) if name in public]
        own = [name for name in mentioned or public if id(getattr(module, name)) not in documented]
        documented |= {id(getattr(module, name)) for name in own}
        names[module_name] = own
    return names


def list_results(table: str) -> list[str]:
    """Return the names of the classes that users do not make: they describe attributes and no parameters.

    Parameters
    ----------
    table : str
        Text of ``api.md``.
    """
    results = []
    for module, names in list_names(table).items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            text = inspect.getdoc(value) or ""
            if inspect.isclass(value) and "\nAttributes\n---" in text and "\nParameters\n---" not in text:
                results.append(f"{module}.{name}")
    return results


def write_pages(app: Sphinx, config: Any) -> None:
    """Write one page for each module."""
    names = list_names(Path(app.srcdir, "api.md").read_text("utf-8"))
    folder = Path(app.srcdir, "reference")
    folder.mkdir(exist_ok=True)
    for module, members in names.items():
        lines = [module, "=" * len(module), "", f".. automodule:: {module}", "   :no-members:", ""]
        if members:
            lines += [
                f".. currentmodule:: {module}",
                "",
                ".. autosummary::",
                "   :toctree: names/",
                "   :nosignatures:",
                "",
            ]
            lines += [f"   {member}" for member in sorted(members)]
        text = "\n".join(lines) + "\n"
        path = folder / f"{module}.rst"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the pages of the modules to the contents of ``api.md``."""
    if page == "api":
        pages = [f"reference/{module}" for module in list_names(source[0])]
        source[0] += "\n```{toctree}\n:hidden:\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"


def skip_inherited(app: Sphinx, kind: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out members that scikit-learn and Python define, and the setters of metadata requests."""
    module = getattr(inspect.unwrap(member), "__module__", "") if callable(member) else ""
    is_request = name.startswith("set_") and name.endswith("_request")
    return True if is_request or (module or "").split(".")[0] in ("sklearn", "builtins") else None
