"""Progress of a training on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tlfeatures._progress import make_bar

__all__ = ["show_progress"]


@contextlib.contextmanager
def show_progress(stage: str, epochs: int, verbose: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show progress and the remaining time on standard error."""
    if not verbose:
        yield lambda row: None
        return
    with make_bar("{task.fields[state]}", speed_estimate_period=600) as progress:
        task = progress.add_task(f"{stage}, epochs", total=epochs, state="")

        def show(row: dict[str, Any]) -> None:
            parts = [f"{k.replace('_', ' ')} {row[k]:.3f}" for k in ("loss", "val_loss") if row[k] == row[k]]
            progress.update(task, completed=row["epoch"], state=", ".join(parts))

        yield show
