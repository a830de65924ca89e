"""Check the links within the built site: the file and the part of the page of each link must exist.

python docs/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the names of its parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.parts: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect the attributes of an element."""
        values = dict(attributes)
        self.parts |= {values[name] or "" for name in ("id", "name") if name in values}
        self.links |= {values[name] or "" for name in ("href", "src") if name in values}


def find_broken_links(folder: Path) -> list[str]:
    """Return a line for each link to a file, or to a part of a page, that does not exist.

    Parameters
    ----------
    folder : Path
        Folder of the site.
    """
    pages = {
        path.resolve(): Page(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if path.relative_to(folder).parts[0] != "_static"
    }
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue  # of another site, or data in the page
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            part = unquote(address.fragment)
            if not target.exists() or (part and target in pages and part not in pages[target].parts):
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return broken


def main() -> int:
    """Print the broken links of a folder; return 1 if there are any."""
    broken = find_broken_links(Path(sys.argv[1]))
    sys.stderr.write("".join(f"broken link: {line}\n" for line in broken))
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
