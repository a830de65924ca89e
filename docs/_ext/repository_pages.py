"""Include pages of the repository that are outside of ``docs/``: the notebooks, the changelog, the card of "tiny"."""

from __future__ import annotations

import base64
import json
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
    app.connect("source-read", add_cards)
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


def add_cards(app: Sphinx, page: str, source: list[str]) -> None:
    """Add a card with the first figure of each notebook to the page of the notebooks, in the order of its contents."""
    if page != "notebooks":
        return
    cards = []
    for name in re.findall(r"^notebooks/(\w+)$", source[0], re.MULTILINE):
        notebook = json.loads(Path(app.srcdir, "notebooks", f"{name}.ipynb").read_text("utf-8"))
        cells = notebook["cells"]
        lines = "".join(cells[0]["source"]).splitlines()
        images = (
            output.get("data", {}).get("image/png") for cell in cells for output in cell.get("outputs", ())
        )
        figure = Path(app.srcdir, "notebooks", f"{name}.png")
        figure.write_bytes(base64.b64decode(next(filter(None, images))))
        card = f":::{{grid-item-card}} {lines[0].lstrip('# ')}\n:link: notebooks/{name}\n:link-type: doc\n"
        cards.append(f"{card}:img-bottom: notebooks/{name}.png\n:::\n")
    grid = "\n::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n".join(cards) + "::::\n"
    source[0] = source[0].replace("\n```{toctree}\n:maxdepth: 1\n", grid + "\n```{toctree}\n:hidden:\n", 1)
