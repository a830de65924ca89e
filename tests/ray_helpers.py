"""Networks without Keras and a fatal image for the tests of `RayEngine`; worker processes import this module too."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from tlfeatures import CNNFeatures
from tlfeatures.distributed import Engine, RayEngine, UnitResult, embed_images
from tlfeatures.errors import TransientReadError
from tlfeatures.extract import Extracted, FeatureSpec
from tlfeatures.networks import Backbone, Description, Tap

FATAL_IMAGE = b"qoif, but the decoder ends the process"
_device = threading.Lock()


def _install_fatal_decoder() -> None:
    """Make the decoder of QOI files end the process at `FATAL_IMAGE`, as a fault in a C library would."""
    Image.init()
    original, accept = Image.OPEN["QOI"]

    def open_or_exit(file: IO[bytes], name: str) -> Any:
        content = file.read()
        if content == FATAL_IMAGE:
            os._exit(139)
        return original(io.BytesIO(content), name)

    Image.OPEN["QOI"] = open_or_exit, accept


_install_fatal_decoder()


class PlainNetwork(Backbone):
    """A network whose embedding repeats the mean color; a batch takes at least ``seconds``.

    Two threads of a process wait for each other, as they do for a real device.
    """

    def __init__(self, seconds: float = 0.0, width: int = 3) -> None:
        super().__init__("tiny", "bundled", 32, "auto", "float32")
        self.seconds, self.width = seconds, width

    def describe(self, layers: Sequence[str] | None = None, store: object = None) -> Description:
        return Description("plain", self._spec_size(), "none", (Tap("mean", (self.width,), "plain"),))

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        def run(batch: np.ndarray) -> list[np.ndarray]:
            with _device:
                time.sleep(self.seconds)
            colors = batch.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
            return [np.tile(colors, self.width // 3) for _ in outputs]

        return run


class NetworkThatCannotLoad(PlainNetwork):
    """A network that ends every process but the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()

    def describe(self, layers: Sequence[str] | None = None, store: object = None) -> Description:
        if os.getpid() != self.process:
            os._exit(1)
        return super().describe(layers, store)


class NetworkDuringOutage(PlainNetwork):
    """A network that fails at batches of grey images as the storage does during an outage."""

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        run = super().compile(outputs, description)

        def run_or_fail(batch: np.ndarray) -> list[np.ndarray]:
            if (batch == 128).all(axis=(1, 2, 3)).any():
                raise TransientReadError(5, "input/output error, in 4 attempts", "grey.png")
            return run(batch)

        return run_or_fail


class PlainFeatures(CNNFeatures):
    """Features of `PlainNetwork`; 64 images fill a batch of the store."""

    def _specify(self, *args: Any) -> FeatureSpec:
        return FeatureSpec.make(PlainNetwork(seconds=0.05, width=3 * 10_923), None, "avg")


class AnnouncingEngine:
    """An engine that prints the number of images of each result."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, *args: Any) -> Generator[UnitResult]:
        for result in self.engine.run(*args):
            print(len(result.rows), flush=True)
            yield result


def embed_folder(folder: str, cache: str, engine: Engine | None = None) -> Extracted:
    """Embed the images of a folder."""
    paths = sorted(str(path) for path in Path(folder).iterdir())
    return embed_images(paths, PlainFeatures(cache=cache, batch_size=4), engine, unit_size=8)


def drive(address: str, folder: str, cache: str) -> None:
    """Embed the images of a folder on a cluster, and print the progress."""
    embed_folder(folder, cache, AnnouncingEngine(RayEngine(address, workers=2, cpus=0.5)))
