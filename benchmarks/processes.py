"""Speed of several processes that compute embeddings of one recipe at the same time into one store.

    python benchmarks/processes.py [--quick] [--json PATH]

A network that takes 100 ms for each batch of 32 images on any machine: images per second of 1, 2 and 4 processes
while all are computing, divided by those of one process. "disjoint": each has images of its own. "same": all have the
same images, in the same order, and each image must be computed once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import arguments, child, interleaved, median_ratio, report
from _sleeping_network import SleepingNetwork

from tlfeatures import EmbeddingStore
from tlfeatures.extract import FeatureSpec, extract

BATCH = 32
SECONDS = 0.1
SHARES = {1: 1.0, 2: 1.85, 4: 3.5}


def compute(folder: str, seed: int, count: int) -> dict[str, int]:
    """Extract the embeddings of random images; return the number of images that this process computed."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), "u1")
    os.makedirs(f"{folder}/times", exist_ok=True)
    spec = FeatureSpec.make(SleepingNetwork(SECONDS, f"{folder}/times"), None, "avg")
    result = extract(images, spec, store=EmbeddingStore(f"{folder}/store"), batch_size=BATCH, n_threads=1)
    if not np.allclose(result.features, images.mean(axis=(1, 2)), atol=1e-3):
        raise SystemExit("rows are wrong")
    return {"computed": result.computed}


def images_per_second(n_processes: int, is_disjoint: bool, count: int) -> float:
    """Return the images per second of all processes while all of them are computing."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(n_processes) as pool:
        seeds = range(n_processes) if is_disjoint else [0] * n_processes
        futures = [
            pool.submit(child, __file__, "compute", folder=folder, seed=seed, count=count) for seed in seeds
        ]
        computed = sum(future.result()["computed"] for future in futures)
        if computed != count * len(set(seeds)):
            raise SystemExit(f"{computed} images were computed; expected {count * len(set(seeds))}")
        files = sorted(Path(folder, "times").iterdir())
        times = [list(map(float, file.read_text().split())) for file in files]
    start, stop = max(own[0] for own in times), min(own[-1] for own in times)
    n_batches = sum(start < end <= stop for own in times for end in own)
    return n_batches * BATCH / max(stop - start, SECONDS)  # 0 if one ended before another began


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "processes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(compute(**json.loads(args.options))))
        return
    n_processes = (1, 2) if args.quick else tuple(SHARES)
    sides = {}
    for n in n_processes:
        # enough for processes that start some seconds apart
        n_disjoint, n_same = (2560, 2560) if args.quick else (6400, 6400 * n)
        sides[f"disjoint_{n}"] = lambda n=n, count=n_disjoint: images_per_second(n, True, count)
        if n > 1:
            sides[f"same_{n}"] = lambda n=n, count=n_same: images_per_second(n, False, count)
    speeds = interleaved(sides, 1)
    figures = {f"{name}_images_per_s": statistics.median(values) for name, values in speeds.items()}
    targets = {}
    for name in sides:
        if name != "disjoint_1":
            figures[f"{name}_times_one"] = median_ratio(speeds[name], speeds["disjoint_1"])
            targets[f"{name}_times_one"] = (">=", SHARES[int(name[-1])])
    report("processes", args, figures, targets, batch=BATCH, batch_seconds=SECONDS)


if __name__ == "__main__":
    main()
