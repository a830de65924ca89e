"""A network that occupies its device for a fixed time; the workers of Ray import this module too."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures.networks import Backbone, Description, Tap


class SleepingNetwork(Backbone):
    """A network whose embedding is the mean color, and which takes ``seconds`` for each batch.

    Two threads of a process wait for each other, as they do for a GPU. Each process writes the time after each batch
    to a file in ``folder``.
    """

    def __init__(self, seconds: float, folder: str) -> None:
        super().__init__("tiny", "bundled", 32, "auto", "float32")
        self.seconds, self.folder = seconds, folder

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "device"}

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Describe the only tap."""
        return Description("sleeping", self._spec_size(), "none", (Tap("mean", (3,), "sleeping"),))

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return the function from batches of pixels to mean colors."""
        device = self.__dict__.setdefault("device", threading.Lock())
        times = Path(self.folder, str(os.getpid()))

        def run(batch: np.ndarray) -> list[np.ndarray]:
            with device, open(times, "a") as file:
                time.sleep(self.seconds)
                file.write(f"{time.monotonic()}\n")
            return [batch.mean(axis=(1, 2), dtype="f8").astype("f4") for _ in outputs]

        return run
