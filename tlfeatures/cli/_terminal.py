"""Terminal output: results on standard output, messages on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tlfeatures._json import to_json

__all__ = ["escape", "show_json", "show_table", "show_text", "stderr_is_terminal", "warn", "warn_of_list"]

_WIDE = 10_000  # columns when the output is not a terminal


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    # file names must not be interpreted as markup or emoji
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def show_text(*lines: str, style: str | None = None) -> None:
    """Print lines on standard output without wrapping them."""
    for line in lines:
        _console().print(line, style=style, soft_wrap=True)


def warn(text: str, kind: str = "warning: ") -> None:
    """Print one line on standard error."""
    from rich.text import Text

    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    style = {"error: ": "bold red", "warning: ": "yellow"}.get(kind, "")
    _console(stderr=True).print(Text.assemble((kind, style), escape(line)), soft_wrap=True)


def warn_of_list(heading: str, items: Sequence[str], limit: int) -> None:
    """Print a warning with the first ``limit`` items, one per line, and the number of the others."""
    warn(heading)
    for item in items[:limit]:
        warn(item, "  ")
    if len(items) > limit:
        warn(f"and {len(items) - limit:,} more", "  ")


def show_table(table: Any, best: int | None = None) -> None:
    """Print a DataFrame, or a list of dicts, with right-aligned numbers, "seconds" to a tenth; row ``best`` is bold."""
    from rich import box
    from rich.table import Table

    rows = table.to_dict("records") if hasattr(table, "columns") else list(table)
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0] if rows else ():
        right = any(isinstance(row[name], (int, float)) for row in rows)
        grid.add_column(name, justify="right" if right else "left", overflow="fold")
    for i, row in enumerate(rows):
        cells = [_format_cell(value, name) for name, value in row.items()]
        grid.add_row(*cells, style="bold" if i == best else None)
    _console().print(grid)


def _format_cell(value: Any, column: str) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.1f}" if column == "seconds" else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def show_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    sys.stdout.write(json.dumps(to_json(value), indent=2) + "\n")


def escape(text: str) -> str:
    """Escape characters that are not printable: line ends, escape sequences, undecodable bytes.

    >>> escape("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def stderr_is_terminal() -> bool:
    """Return whether standard error is a terminal, so that progress can be shown."""
    return sys.stderr.isatty()
