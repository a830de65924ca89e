"""Speed of Ray workers compared with one process, and their additional CPU time.

    python benchmarks/distributed.py [--quick] [--json PATH]

A network that takes 100 ms for each batch of 32 images on any machine: images per second of 1, 2 and 4 workers
of `RayEngine` divided by those of `LocalEngine`, while all workers are running. Then MobileNet 0.75: CPU
seconds of all processes of a run on Ray, for each image, divided by those of a run in one process; both store their
rows, and the difference between a long and a short run excludes the time to start. Needs Linux and ``tlfeatures[ray]``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
from _common import (
    arguments,
    child,
    interleaved,
    median_ratio,
    mobilenet_weights,
    photographs,
    report,
    write_copies,
)
from _sleeping_network import SleepingNetwork
from PIL import Image

from tlfeatures import CNNFeatures
from tlfeatures.distributed import Job, LocalEngine, RayEngine, cut_units, embed_images
from tlfeatures.extract import FeatureSpec

BATCH = 32
UNIT = 64
SECONDS = 0.1
SHARES = {1: 0.95, 2: 1.85, 4: 3.5}
CPU_RATIO = 1.10


def images_per_second(engine: Any, paths: list[str]) -> float:
    """Return the images per second of an engine with the sleeping network while all of its workers are running."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job.make(paths, FeatureSpec.make(SleepingNetwork(SECONDS, folder), None, "avg"), BATCH, 1)
        for _ in engine.run(job, cut_units(job.images, job.recipes, UNIT)):
            pass
        times = [list(map(float, file.read_text().split())) for file in Path(folder).iterdir()]
    start, stop = max(own[0] for own in times), min(own[-1] for own in times)
    n_batches = sum(start < end <= stop for own in times for end in own)
    return n_batches * BATCH / max(stop - start, SECONDS)  # 0 if one ended before another began


class MeteredEngine:
    """An engine that measures the CPU seconds of this process and its descendants until the last result."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, 0.0

    def run(self, *args: Any) -> Iterator[Any]:
        """Compute work units."""
        for result in self.engine.run(*args):
            self.seconds = cpu_seconds()
            yield result


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants, from ``/proc``."""
    parents, ticks = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # the process has ended
                continue
            parents[int(folder.name)], ticks[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def embed(side: str, folder: str, count: int, cnn: dict[str, Any]) -> dict[str, float]:
    """Embed the first ``count`` images into a new store with one worker or in this process."""
    paths = sorted(map(str, Path(folder).iterdir()))[:count]
    engine = MeteredEngine(RayEngine("local", workers=1, cpus=2) if side == "ray" else LocalEngine())
    with tempfile.TemporaryDirectory() as cache:
        embed_images(paths, CNNFeatures(cache=cache, n_jobs=2, **cnn), engine, unit_size=256)
    return {"cpu_s": engine.seconds}


def measure_workers(quick: bool, folder: str) -> dict[str, float]:
    """Return the images per second of the sleeping network."""
    import ray

    rng = np.random.default_rng(0)
    os.makedirs(folder)
    counts = (1, 2) if quick else tuple(SHARES)
    for i in range(UNIT * (12 if quick else 80)):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), "u1")).save(f"{folder}/{i:05}.png")
    paths = sorted(map(str, Path(folder).iterdir()))
    ray.init(
        "local",
        num_cpus=len(SHARES),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        sides = {"local": lambda: images_per_second(LocalEngine(), paths)}
        for count in counts:
            engine = RayEngine(workers=count, cpus=0.5)
            sides[f"workers_{count}"] = lambda engine=engine: images_per_second(engine, paths)
        speeds = interleaved(sides, 1 if quick else 2)
    finally:
        ray.shutdown()
    figures = {f"{name}_images_per_s": statistics.median(values) for name, values in speeds.items()}
    for count in counts:
        figures[f"workers_{count}_times_local"] = median_ratio(speeds[f"workers_{count}"], speeds["local"])
    return figures


def measure_cpu(quick: bool, folder: str) -> dict[str, float]:
    """Return the CPU milliseconds of an image with MobileNet 0.75."""
    n_few, n_images = (8, 40) if quick else (256, 2048)
    cnn = {
        "model": "mobilenet_0.75",
        "weights": mobilenet_weights(folder),
        "image_size": 64 if quick else 224,
    }
    images = os.path.join(folder, "images")
    write_copies(photographs(os.path.join(folder, "one"), 1), images, n_images)

    def measure(side: str, count: int) -> float:
        return child(__file__, side, folder=images, count=count, cnn=cnn)["cpu_s"]

    figures = {}
    for side in ("local", "ray"):
        few = 0.0 if quick else measure(side, n_few)
        figures[f"{side}_cpu_ms"] = (measure(side, n_images) - few) / (n_images - n_few) * 1000
    return {**figures, "cpu_ratio": figures["ray_cpu_ms"] / figures["local_cpu_ms"]}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "distributed")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        print(json.dumps(embed(args.child, **json.loads(args.options))))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_workers(args.quick, os.path.join(folder, "small"))
        figures |= measure_cpu(args.quick, folder)
    targets = {f"workers_{count}_times_local": (">=", share) for count, share in SHARES.items()}
    targets["cpu_ratio"] = ("<=", CPU_RATIO)
    report(
        "distributed", args, figures, targets, batch=BATCH, batch_seconds=SECONDS, network="mobilenet_0.75"
    )


if __name__ == "__main__":
    main()
