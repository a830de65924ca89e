"""A bounded queue of images that a thread processes in batches."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from tlfeatures.app._metrics import Metrics

__all__ = ["BatchQueue", "QueueFull", "list_batch_sizes"]

_logger = logging.getLogger("tlfeatures.app")


class QueueFull(Exception):
    """The images do not fit into the queue; the argument is the number of seconds after which to try again."""


class _Item(NamedTuple):
    task: Hashable
    image: Any
    future: asyncio.Future[Any]


def list_batch_sizes(largest: int) -> list[int]:
    """List the numbers of images for which the network is compiled: powers of two, and the largest.

    >>> list_batch_sizes(24)
    [1, 2, 4, 8, 16, 24]
    """
    return [*(1 << i for i in range((largest - 1).bit_length())), largest]


class BatchQueue:
    """A bounded queue of images that a thread processes in batches.

    When the first image arrives, the thread waits until ``batch_size`` images are in the queue, but at most
    ``max_wait`` seconds. It then takes the largest number of images for which the network is compiled, so that no
    batch needs padding; the rest stay in the queue for the next batch.

    Parameters
    ----------
    compute : callable
        Function from a task and a list of images to a list of results, called in the thread of the queue.
    batch_size : int
    capacity : int
        Largest number of images that wait.
    metrics : Metrics, optional
    max_wait : float, default=0.01
        In seconds.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, list[Any]], Sequence[Any]],
        batch_size: int,
        capacity: int,
        metrics: Metrics | None = None,
        max_wait: float = 0.01,
    ) -> None:
        self.compute, self.capacity, self.max_wait = compute, capacity, max_wait
        self.sizes = list_batch_sizes(batch_size)
        self.metrics = metrics or Metrics()
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_per_image = 0.0  # a moving average
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tlfeatures-batches", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Compute the images that wait, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def submit(self, task: Hashable, images: Sequence[Any]) -> list[Any]:
        """Wait for the results of images; a result may be an exception, which is not raised.

        Parameters
        ----------
        task : hashable
            What to compute. A batch contains images of one task.
        images : sequence

        Raises
        ------
        QueueFull
            If the images do not fit into the queue, or the queue is stopping.
        """
        loop = asyncio.get_running_loop()
        items = [_Item(task, image, loop.create_future()) for image in images]
        with self._changed:
            self._items = deque(item for item in self._items if not item.future.cancelled())
            if self._stopping or len(self._items) + len(items) > self.capacity:
                seconds = len(self._items) * self._seconds_per_image
                raise QueueFull(min(60, max(1, math.ceil(seconds))))
            self._items.extend(items)
            self.metrics.queue_length = len(self._items)
            self._changed.notify_all()
        try:
            return [await item.future for item in items]
        finally:  # if the client has disconnected, its waiting images are not computed
            for item in items:
                item.future.cancel()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if not batch:
                continue
            start = time.perf_counter()
            results = self._compute_with_fallback(batch[0].task, [item.image for item in batch])
            self.metrics.add_batch(len(batch))
            seconds = (time.perf_counter() - start) / len(batch)
            self._seconds_per_image += (seconds - self._seconds_per_image) / 8
            _set_results(batch, results)

    def _take(self) -> list[_Item] | None:
        """Wait for images of one task, and take as many as the network computes at once.

        Return None after `stop`, when the queue is empty. The list is empty if all clients have disconnected.
        """
        largest = self.sizes[-1]
        with self._changed:
            while not self._items:
                if self._stopping:
                    return None
                self._changed.wait()
            deadline = time.monotonic() + self.max_wait
            while len(self._items) < largest and not self._stopping:
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if not self._items:
                return []
            task = self._items[0].task
            waiting = [item for item in self._items if item.task == task and not item.future.cancelled()]
            n = max((size for size in self.sizes if size <= len(waiting)), default=0)
            batch = waiting[:n]
            chosen = set(map(id, batch))
            self._items = deque(
                item for item in self._items if id(item) not in chosen and not item.future.cancelled()
            )
            self.metrics.queue_length = len(self._items)
            return batch

    def _compute_with_fallback(self, task: Hashable, images: list[Any]) -> Sequence[Any]:
        """Compute a batch.

        After an unexpected error, compute each image separately, so that one bad image does not fail the others.
        """
        try:
            return self.compute(task, images)
        except Exception as error:
            if len(images) > 1:
                return [self._compute_with_fallback(task, [image])[0] for image in images]
            _logger.exception("an image could not be processed")
            return [error]


def _set_results(batch: list[_Item], results: Sequence[Any]) -> None:
    loops: dict[Any, list[tuple[asyncio.Future[Any], Any]]] = {}
    for item, result in zip(batch, results, strict=True):
        loops.setdefault(item.future.get_loop(), []).append((item.future, result))
    for loop, pairs in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if not future.done():
            future.set_result(result)
