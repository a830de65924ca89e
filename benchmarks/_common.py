"""Helpers of the benchmarks: generated photographs, alternating measurements, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIGNS = Path(__file__).parents[1].parent / "shared" / "data" / "signs"
START = time.perf_counter()


def progress(message: str) -> None:
    """Print to standard error what is measured, and the seconds since the start."""
    print(f"{time.perf_counter() - START:6.0f} s  {message}", file=sys.stderr, flush=True)


def arguments(doc: str, name: str) -> argparse.ArgumentParser:
    """Make a parser with ``--quick`` and ``--json``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smoke test, too small for meaningful figures")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / f"{name}.json")
    return parser


def photographs(
    folder: str | os.PathLike[str],
    count: int,
    size: tuple[int, int] = (500, 375),
    quality: int = 90,
    classes: int = 0,
    seed: int = 0,
    grain: float = 5,
) -> list[str]:
    """Write ``count`` JPEG files of ``size`` (width, height): crops of scikit-learn's two photographs.

    ``grain`` is the sensor noise in grey levels. The default gives file sizes as from a camera, a low value file
    sizes as from a smartphone, which smooths its images. With ``classes``, the tint and the source of file i depend
    on its class ``i % classes``, so that a network can distinguish most classes.
    """
    progress(f"writing {count} photographs of {size[0]} x {size[1]} pixels")
    from sklearn.datasets import load_sample_images

    sources = [Image.fromarray(image) for image in load_sample_images().images]
    noise = np.random.default_rng(seed).normal(0, grain, (size[1] + 64, size[0] + 64, 1)).astype("f4")
    os.makedirs(folder, exist_ok=True)

    def write(i: int) -> str:
        rng = np.random.default_rng([seed, i])
        style = i % classes if classes else int(rng.integers(1 << 16))
        source = sources[style % 2]
        width = rng.uniform(0.35, 0.6) * source.width
        box = np.array([rng.random() * (source.width - width), 0, 0, 0])
        height = min(width * size[1] / size[0], source.height)
        box[1] = rng.random() * (source.height - height)
        box[2:] = box[0] + width, box[1] + height
        image = source.resize(size, Image.Resampling.BICUBIC, tuple(box))
        pixels = np.asarray(image, "f4")
        tint = np.random.default_rng([seed, style]).uniform(0.75, 1.2, 3) + rng.normal(0, 0.06, 3)
        top, left = rng.integers(64, size=2)
        pixels = pixels * tint.astype("f4") + noise[top : top + size[1], left : left + size[0]]
        path = os.path.join(folder, f"{i:05}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype("u1")).save(path, quality=quality)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return list(executor.map(write, range(count)))


def write_copies(paths: Sequence[str], folder: str | os.PathLike[str], count: int) -> list[str]:
    """Copy JPEG files in turn until there are ``count`` copies, whose bytes all differ; return their paths."""
    os.makedirs(folder, exist_ok=True)
    copies = [os.path.join(folder, f"{i:06}.jpg") for i in range(count)]
    for i, copy in enumerate(copies):
        # decoders ignore bytes after the end of the image
        Path(copy).write_bytes(Path(paths[i % len(paths)]).read_bytes() + i.to_bytes(8, "big"))
    return copies


def mobilenet_weights(folder: str | os.PathLike[str], alpha: float = 0.75) -> str:
    """Return the path of MobileNet's ImageNet weights if they are on this machine, or else of random weights."""
    from tlfeatures.networks import find_network, find_weights

    path = find_weights(find_network(f"mobilenet_{alpha:g}"), top=False, image_size=(224, 224))
    if path is not None:
        return str(path)
    import keras

    path = os.path.join(folder, "random.weights.h5")
    keras.applications.MobileNet(alpha=alpha, include_top=False, weights=None).save_weights(path)
    return path


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure the sides in turn, ``rounds`` times, so that changes of the machine's speed affect all of them."""
    readings: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        for name, side in sides.items():
            progress(f"round {i + 1} of {rounds}: {name}")
            readings[name].append(side())
    return readings


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall-clock seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over the rounds of ``above / below``."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def child(file: str, task: str, **kwargs: Any) -> dict[str, float]:
    """Run ``file --child task --options JSON`` in a new process; return its last line, parsed as JSON."""
    progress(f"{task} in a new process")
    command = [sys.executable, file, "--child", task, "--options", json.dumps(kwargs)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{task} {kwargs} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


class Worker:
    """A new process that runs ``file --child OPTIONS``, loads one side of a comparison and works only when it is asked.

    The process calls `serve` after loading, so that sides with different settings of libraries can be measured in turn.

    Parameters
    ----------
    file : str
    options : mapping
        JSON values for the process.
    environment : mapping
        Additional environment variables.
    log : path
        File for standard error of the process.
    """

    def __init__(
        self, file: str, options: Mapping[str, Any], environment: Mapping[str, str], log: Path
    ) -> None:
        self.log = log
        with open(log, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, file, "--child", json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
        self._read()

    def measure(self) -> float:
        """Return the result of the next call of the work in the process."""
        print(file=self._process.stdin, flush=True)
        return float(self._read())

    def stop(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        for line in self._process.stdout:
            if line.startswith(_ANSWER):  # libraries print lines too
                return line.removeprefix(_ANSWER)
        raise SystemExit(f"The process failed:\n{self.log.read_text()}")


_ANSWER = "benchmark: "


def serve(work: Callable[[], float]) -> None:
    """Call ``work`` whenever the parent's `Worker` asks, until it stops."""
    print(_ANSWER, flush=True)
    for _ in sys.stdin:
        print(f"{_ANSWER}{work()}", flush=True)


def processor() -> str:
    """Return the model of the processor, such as "AMD EPYC", or its architecture if the system does not name it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def report(
    name: str,
    args: argparse.Namespace,
    figures: Mapping[str, float],
    targets: Mapping[str, tuple[str, float]],
    **notes: Any,
) -> None:
    """Print figures with their targets, (">=" or "<=", value), and write the JSON file."""
    environment = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - START),
    }
    print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in {**notes, **environment}.items()) + "\n")
    for figure, value in figures.items():
        line = f"{figure:44} {value:12,.3f}"
        if figure in targets:
            relation, bound = targets[figure]
            met = value >= bound if relation == ">=" else value <= bound
            line += f"   target {relation} {bound:g}: {'met' if met else 'MISSED'}"
        print(line)
    result = {
        "benchmark": name,
        "quick": args.quick,
        **notes,
        **environment,
        "targets": {figure: target for figure, target in targets.items() if figure in figures},
        "figures": figures,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n")
