"""One BLAS thread in blocks that may overlap."""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController

__all__ = ["one_blas_thread"]


class _OneBlasThread:
    """One thread for BLAS from the first of overlapping blocks, which may be in several threads, to the last one.

    ``threadpool_limits`` alone would raise the number of threads at the end of the first block, and leave one thread at
    the end of the last: BLAS has one number for the whole process. OpenMP has one for each thread.
    """

    def __init__(self) -> None:
        self._lock, self._n_blocks = threading.Lock(), 0
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_blocks:
                self._limits = ThreadpoolController().select(user_api="blas").limit(limits=1)
            self._n_blocks += 1

    def __exit__(self, *args: object) -> None:
        with self._lock:
            self._n_blocks -= 1
            if not self._n_blocks:
                _clear_controlling_thread()
                self._limits.restore_original_limits()
                _clear_controlling_thread()


def _clear_controlling_thread() -> None:
    """Let any thread set the limit of OpenBLAS; from threadpoolctl 3.8 on, only the first one that did so can."""
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


one_blas_thread = _OneBlasThread()
