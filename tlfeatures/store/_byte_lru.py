"""A cache with a limit of its size in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["ByteLRU"]


class ByteLRU:
    """Cache of the most recently used values with a limit of their total ``nbytes``; the last value always stays."""

    def __init__(self, limit: int) -> None:
        self.limit, self.total = limit, 0
        # values with their sizes when added
        self.values: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, name: str):
        """Return a value, which becomes the most recently used one; None if it is absent."""
        with self.lock:
            if name not in self.values:
                return None
            self.values.move_to_end(name)
            return self.values[name][0]

    def put(self, name: str, value) -> None:
        """Add or replace a value, and drop the least recently used ones above the limit."""
        with self.lock:
            self._drop(name)
            self.values[name] = value, value.nbytes
            self.total += value.nbytes
            while self.total > self.limit and len(self.values) > 1:
                self._drop(next(iter(self.values)))

    def drop(self, name: str) -> None:
        """Drop a value if it is there."""
        with self.lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if (old := self.values.pop(name, None)) is not None:
            self.total -= old[1]
