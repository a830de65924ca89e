"""Include pages of the repository that are outside of ``docs/``: the notebooks, the changelog, the card of "tiny"."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# page of the site -> file in the repository
PAGES = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "tiny": "tlfeatures/networks/tiny.md",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy the pages before the pages are read, and change the links to them."""
    app.connect("config-inited", copy_pages)
    app.connect("source-read", change_links)
    return {"parallel_read_safe": True}


def copy_pages(app: Sphinx, config: Any) -> None:
    """Copy the pages and the notebooks, with the outputs that are stored in them, if they have changed."""
    source, root = Path(app.srcdir), Path(app.srcdir).parent
    copies = {source / "repository" / f"{page}.md": root / path for page, path in PAGES.items()}
    copies |= {source / "notebooks" / path.name: path for path in root.glob("notebooks/*.ipynb")}
    for copy, original in copies.items():
        copy.parent.mkdir(exist_ok=True)
        if not copy.is_file() or copy.read_bytes() != original.read_bytes():
            shutil.copyfile(original, copy)


def change_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Change links to files outside of ``docs/`` to links to their copies."""
    text, folder = source[0], Path(page).parent
    up = "../" * len(folder.parts)
    if folder.name == "repository":
        original = Path(PAGES[Path(page).name])
        text = re.sub(r"\]\(docs/", "](../", text)
        if original.parent.parts:
            text = text.replace("](" + "../" * len(original.parent.parts) + "docs/", "](../")
    for name, path in PAGES.items():
        text = re.sub(rf"\]\((\.\./)*{re.escape(path)}", f"]({up}repository/{name}.md", text)
    source[0] = re.sub(r"\]\((\.\./)+notebooks/", f"]({up}notebooks/", text)
