"""The progress bar of an extraction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tlfeatures._progress import make_bar
from tlfeatures.extract._spec import FeatureSpec

__all__ = ["show_progress"]


@contextlib.contextmanager
def show_progress(verbose: int, spec: FeatureSpec) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on standard error while the block runs, if ``verbose`` is not 0.

    Yields
    ------
    callable or None
        To call with the number of images that are finished, and the number of all images to compute.
    """
    if not verbose:
        yield None
        return
    with make_bar("{task.fields[rate]}", speed_estimate_period=10) as progress:
        task: Any = None

        def on_batch(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(spec.description.name, total=total, rate="")
            progress.update(task, advance=done, total=total)
            state = progress.tasks[0]
            speed = state.finished_speed or state.speed or state.completed / max(state.elapsed or 0, 1e-3)
            progress.update(task, rate=f"{speed:.0f} images/s")

        yield on_batch
