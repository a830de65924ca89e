"""Counts and times of a service, in the text format of Prometheus."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from itertools import accumulate

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Counts of the values up to each bound, and the sum of all values."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def format(self, name: str, labels: str) -> list[str]:
        """Format the lines of one series."""
        totals = list(accumulate(self.counts))
        bounds = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        lines = [
            f'{name}_bucket{{{labels},le="{bound}"}} {n}' for bound, n in zip(bounds, totals, strict=True)
        ]
        return [*lines, f"{name}_sum{{{labels}}} {self.sum:.6f}", f"{name}_count{{{labels}}} {totals[-1]}"]


class Metrics:
    """Counts and times of a service.

    Each worker has its own, with its process id as a label.

    Parameters
    ----------
    paths : iterable of str, optional
        Paths that are counted separately; others are counted as "other", so that clients cannot add series.

    Examples
    --------
    >>> metrics = Metrics(["/v1/predict"])
    >>> metrics.add_request("/v1/predict", 200, 0.02)
    >>> [line for line in metrics.format().splitlines() if line.startswith("tlfeatures_requests_total")]
    ['tlfeatures_requests_total{worker="...",path="/v1/predict",status="200"} 1']
    """

    def __init__(self, paths: tuple[str, ...] | list[str] = ()) -> None:
        self.paths = set(paths)
        self.queue_length = 0
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._images: Counter[str] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._batches = Histogram(_SIZES)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        path = path if path in self.paths else "other"
        with self._lock:
            self._requests[path, status] += 1
            self._seconds.setdefault(path, Histogram(_SECONDS)).add(seconds)

    def add_images(self, outcome: str, n: int) -> None:
        """Count images by their outcome, "ok" or "error"."""
        with self._lock:
            self._images[outcome] += n

    def add_batch(self, size: int) -> None:
        """Count a batch that the network computed."""
        with self._lock:
            self._batches.add(size)

    def format(self) -> str:
        """Return the text of the answer to ``GET /metrics``."""
        worker = f'worker="{os.getpid()}"'
        with self._lock:
            lines = ["# TYPE tlfeatures_requests_total counter"]
            lines += [
                f'tlfeatures_requests_total{{{worker},path="{path}",status="{status}"}} {n}'
                for (path, status), n in sorted(self._requests.items())
            ]
            lines += ["# TYPE tlfeatures_images_total counter"]
            lines += [
                f'tlfeatures_images_total{{{worker},outcome="{outcome}"}} {n}'
                for outcome, n in sorted(self._images.items())
            ]
            lines += [
                "# TYPE tlfeatures_queue_images gauge",
                f"tlfeatures_queue_images{{{worker}}} {self.queue_length}",
            ]
            lines += ["# TYPE tlfeatures_batch_images histogram"]
            lines += self._batches.format("tlfeatures_batch_images", worker)
            lines += ["# TYPE tlfeatures_request_seconds histogram"]
            for path, histogram in sorted(self._seconds.items()):
                lines += histogram.format("tlfeatures_request_seconds", f'{worker},path="{path}"')
        return "\n".join(lines) + "\n"
