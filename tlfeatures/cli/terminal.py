"""What is seen: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["count", "show_json", "show_table", "shown", "stderr_is_terminal", "tell", "warn"]

_WIDE = 10_000  # columns where no terminal wraps the lines


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    # file names are no markup, no emoji and no numbers to colour
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def tell(text: str = "", style: str | None = None) -> None:
    """Print a line of results; long ones are left to the terminal to wrap."""
    _console().print(text, style=style, soft_wrap=True)


def warn(text: str, kind: str = "warning: ") -> None:
    """Print one line on standard error."""
    from rich.text import Text

    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    style = {"error: ": "bold red", "warning: ": "yellow"}.get(kind, "")
    _console(stderr=True).print(Text.assemble((kind, style), shown(line)), soft_wrap=True)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, best: int | None = None
) -> None:
    """Print a table; numbers stand right, row ``best`` is bold."""
    from rich import box
    from rich.table import Table

    rows = [list(row) for row in rows]
    # a title would be centred over the table
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for j, name in enumerate(columns):
        right = any(isinstance(row[j], (int, float)) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*map(_cell, row), style="bold" if i == best else None)
    if title:
        tell(title, style="bold")
    _console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else shown(str(value))


def show_json(value: Any) -> None:
    """Print a JSON text, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, and paths, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def shown(text: str) -> str:
    """``text`` without what could move a terminal's cursor: line ends, escapes, undecodable bytes.

    >>> shown("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def count(n: int, what: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "image"), count(1080, "image")
    ('1 image', '1,080 images')
    """
    return f"{n:,} {what if n == 1 else plural or what + 's'}"


def stderr_is_terminal() -> bool:
    """Whether progress can be shown."""
    return sys.stderr.isatty()
