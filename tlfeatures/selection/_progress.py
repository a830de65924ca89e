"""Progress of a search on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tlfeatures._progress import make_bar

__all__ = ["ProgressSteps", "show_progress"]


class ProgressSteps:
    """Named steps of a progress bar; nothing is shown if ``bar`` is None."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._task: Any = None

    def begin(self, description: str, total: int | None = None) -> None:
        """Begin a step of ``total`` parts; None if their number is unknown."""
        if self._bar is not None:
            self.end()
            self._task = self._bar.add_task(description, total=total)

    def advance(self, done: int = 1, total: int | None = None) -> None:
        """Advance the step by ``done`` of ``total`` parts."""
        if self._bar is not None:
            self._bar.update(self._task, advance=done, **({} if total is None else {"total": total}))

    def end(self) -> None:
        """Mark the current step as complete."""
        if self._task is not None:
            task = next(t for t in self._bar.tasks if t.id == self._task)
            self._bar.update(self._task, total=max(task.completed, 1), completed=max(task.completed, 1))
            self._task = None


@contextlib.contextmanager
def show_progress(verbose: int) -> Iterator[ProgressSteps]:
    """Show a progress bar for each step if ``verbose`` is above 0."""
    if not verbose:
        yield ProgressSteps()
        return
    from rich.progress import TimeElapsedColumn

    with make_bar(TimeElapsedColumn()) as bar:
        steps = ProgressSteps(bar)
        yield steps
        steps.end()
