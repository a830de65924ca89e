"""Threads that decode images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

__all__ = ["count_threads", "make_pool"]


def count_threads() -> int:
    """Return the number of decoding threads: the cores that this process may use, at most 8."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return min(8, cores)


@contextlib.contextmanager
def make_pool(n_threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """Make a thread pool whose waiting tasks are cancelled when the block ends, also after an exception."""
    executor = ThreadPoolExecutor(n_threads or count_threads(), thread_name_prefix="tlfeatures-decode")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
