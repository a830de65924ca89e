"""Buffered writing of rows for several recipes at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from tlfeatures._warnings import warn
from tlfeatures.errors import StoreError, StoreWarning
from tlfeatures.store._segment import check_rows

if TYPE_CHECKING:
    from tlfeatures.store._store import EmbeddingStore

__all__ = ["StoreWriter"]

COMMIT_BYTES = 8 << 20  # size of the pending rows of one recipe at which they are written
PENDING_BYTES = 64 << 20  # the same for all recipes together
COMMIT_SECONDS = 60.0


class StoreWriter:
    """Buffer rows and publish them about every 8 MB or 60 s, and on closing.

    As a context manager it publishes pending rows at the end of the block, also after an exception or a
    KeyboardInterrupt. Use `EmbeddingStore.writer` to make one.

    Parameters
    ----------
    store : EmbeddingStore
        The store that the rows are written to.
    recipes : sequence of dict
        One recipe for each array that is passed to `add`.
    on_failure : {"warn", "raise"}
        On a failed write, issue one `StoreWarning` and write nothing more, or raise a `StoreError`.
    """

    def __init__(
        self, store: EmbeddingStore, recipes: Sequence[dict[str, Any]], on_failure: str = "warn"
    ) -> None:
        if on_failure not in ("warn", "raise"):
            raise ValueError(f"`on_failure` must be 'warn' or 'raise'; got {on_failure!r}.")
        self.store = store
        self.recipes = list(recipes)
        self.on_failure = on_failure
        self.failed = False
        self._pending: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in self.recipes]
        self._since = time.monotonic()

    @property
    def is_empty(self) -> bool:
        """Whether all rows that were added are published."""
        return not any(self._pending)

    def add(self, keys: np.ndarray, features: Sequence[np.ndarray]) -> None:
        """Add rows: ``keys`` uint8 (n, 16), and for each recipe a float32 (n, d) array, which is copied.

        Raises
        ------
        ValueError
            If the arrays do not fit the recipes.
        StoreError
            When a write fails and ``on_failure`` is "raise"; the rows stay pending.
        """
        if len(features) != len(self.recipes):
            raise ValueError(
                f"`features` must have one array per recipe, {len(self.recipes)} in total; got {len(features)}."
            )
        rows = [check_rows(r, keys, f) for r, f in zip(self.recipes, features, strict=True)]
        if self.failed or not len(keys):
            return
        for pending, (k, f) in zip(self._pending, rows, strict=True):
            pending.append((np.array(k), np.array(f)))
        sizes = [sum(f.nbytes for _, f in pending) for pending in self._pending]
        due = time.monotonic() - self._since >= COMMIT_SECONDS
        if due or max(sizes, default=0) >= COMMIT_BYTES or sum(sizes) >= PENDING_BYTES:
            self.commit()

    def commit(self) -> None:
        """Publish all pending rows now.

        Raises
        ------
        StoreError
            When a write fails and ``on_failure`` is "raise"; the rows stay pending.
        """
        try:
            for recipe, pending in zip(self.recipes, self._pending, strict=True):
                if pending and not self.failed:
                    keys, features = zip(*pending, strict=True)
                    self.store.publish(recipe, np.concatenate(keys), np.concatenate(features))
                    pending.clear()
        except StoreError as error:
            if self.on_failure == "raise":
                raise
            self.failed = True
            for pending in self._pending:
                pending.clear()
            warn(f"{error}. Results are correct, but will be recomputed next time.", StoreWarning)
        self._since = time.monotonic()

    def close(self) -> None:
        """Publish pending rows, as `commit` does."""
        self.commit()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except StoreError as failure:
            if error is None:
                raise
            if not isinstance(error, StoreError):  # the first error is more important
                warn(str(failure), StoreWarning)
