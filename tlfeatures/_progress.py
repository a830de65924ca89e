"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["make_bar", "show_bytes"]


def make_bar(*columns: Any, in_bytes: bool = False, **options: Any) -> Progress:
    """Make a bar with the amount that is finished, further columns and the remaining time.

    Parameters
    ----------
    *columns : str or rich.progress.ProgressColumn
    in_bytes : bool, default=False
        Show the amount in bytes, instead of as a number of parts.
    **options
        Parameters of `rich.progress.Progress`.
    """
    from rich import progress
    from rich.console import Console

    amount = progress.DownloadColumn() if in_bytes else progress.MofNCompleteColumn()
    columns = ("{task.description}", progress.BarColumn(), amount, *columns, progress.TimeRemainingColumn())
    return progress.Progress(*columns, console=Console(stderr=True), **options)


@contextlib.contextmanager
def show_bytes(name: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show the progress of a download or copy while the block runs, if standard error is a terminal.

    Yields
    ------
    callable or None
        To call with the number of bytes that are finished, and the number of all bytes if it is known.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with make_bar(in_bytes=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
