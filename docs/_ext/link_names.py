"""Link names of the library in the guides to the reference, and color commands as those of a shell."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from reference_pages import list_names
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Change the guides after they were read."""
    app.connect("doctree-read", change_guide)
    return {"parallel_read_safe": True}


def change_guide(app: Sphinx, document: nodes.document) -> None:
    """Change a page that is written in Markdown."""
    if not document["source"].endswith((".md", ".ipynb")):
        return
    for block in document.findall(nodes.literal_block):
        if "language" not in block:
            block["language"] = "bash"
    if app.env.docname == "commands":
        return  # commands have the names of functions
    targets = find_targets(app)
    for literal in list(document.findall(nodes.literal)):
        target = targets.get(literal.astext().removesuffix("()"))
        if target and not isinstance(literal.parent, nodes.reference | addnodes.pending_xref | nodes.title):
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=False
            )
            link["refdoc"] = app.env.docname
            literal.replace_self(link)
            link += literal


def find_targets(app: Sphinx) -> dict[str, str]:
    """Return the full name by each text that stands for it: with its module, and alone if it is unique."""
    if not hasattr(app, "tlfeatures_targets"):
        table = Path(app.srcdir, "api.md").read_text("utf-8")
        targets: dict[str, str] = {}
        for module, names in list_names(table).items():
            targets[module] = module
            for name in names:
                targets[f"{module}.{name}"] = f"{module}.{name}"
                targets.setdefault(name, f"{module}.{name}")
        app.tlfeatures_targets = targets  # type: ignore[attr-defined]
    return app.tlfeatures_targets  # type: ignore[attr-defined]
