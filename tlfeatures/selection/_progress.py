"""What is running, done and remaining, on standard error; silent unless asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

__all__ = ["Steps", "progress"]


class Steps:
    """Named steps with a count each; without a bar it only forwards."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._task: Any = None

    def begin(self, what: str, total: int | None = None) -> None:
        """A new step of ``total`` parts; None when unknown."""
        if self._bar is not None:
            self.end()
            self._task = self._bar.add_task(what, total=total)

    def advance(self, done: int = 1, total: int | None = None) -> None:
        """``done`` more parts of the step, of which there are ``total``."""
        if self._bar is not None:
            self._bar.update(self._task, advance=done, **({} if total is None else {"total": total}))

    def end(self) -> None:
        """The step is over."""
        if self._task is not None:
            task = next(t for t in self._bar.tasks if t.id == self._task)
            self._bar.update(self._task, total=max(task.completed, 1), completed=max(task.completed, 1))
            self._task = None


@contextlib.contextmanager
def progress(verbose: int) -> Iterator[Steps]:
    """A bar for each step when ``verbose`` is above 0."""
    if not verbose:
        yield Steps()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        steps = Steps(bar)
        yield steps
        steps.end()
