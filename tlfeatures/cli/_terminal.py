"""Terminal output: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["count", "show_json", "show_table", "shown", "stderr_is_terminal", "tell", "warn"]

_WIDE = 10_000  # columns when the output is not a terminal


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    # file names must not be interpreted as markup or emoji
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def tell(text: str = "", style: str | None = None) -> None:
    """Print a line of results without wrapping it."""
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
    """Print a table with right-aligned numbers; row ``best`` is bold."""
    from rich import box
    from rich.table import Table

    rows = [list(row) for row in rows]
    # rich would centre a title over the table
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
    """Print ``value`` as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Convert NumPy values and paths to JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable.")


def shown(text: str) -> str:
    """Escape characters that are not printable: line ends, escape sequences, undecodable bytes.

    >>> shown("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def count(n: int, what: str, plural: str | None = None) -> str:
    """Format a number with its noun.

    >>> count(1, "image"), count(1080, "image")
    ('1 image', '1,080 images')
    """
    return f"{n:,} {what if n == 1 else plural or what + 's'}"


def stderr_is_terminal() -> bool:
    """Whether standard error is a terminal, so that progress can be shown."""
    return sys.stderr.isatty()
