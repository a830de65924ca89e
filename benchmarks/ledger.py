"""Time and memory with which a job of many images resumes from its ledger.

    python benchmarks/ledger.py [--images 100000000] [--folder DIR] [--quick] [--json PATH]

The ledger is made by the library's own class, with random digests, for work units of 1,024 images; 100 million images
take 3.3 GB on disk. A new process then does what a resumed job does: it opens the ledger, computes the id of each unit
from the paths of its images, reads its record and compares the sizes and times of all files with it. The listing of the
files is excluded: their paths are those of one million files under another recipe for each million, and their sizes and
times are given. Memory is the peak of the process minus that before, after the listing was made.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from _common import arguments, child, progress, report

from tlfeatures.distributed import WorkUnit, cut_units
from tlfeatures.distributed._ledger import Ledger, UnitRecord
from tlfeatures.images import Images
from tlfeatures.store import EmbeddingStore

LISTING = 1_000_000
RECIPE = {"network": "benchmark", "width": 512, "dtype": "float32"}
UNITS_PER_COMMIT = 4  # of 8 MB
LEFT = 100  # units that are not in the ledger
TARGETS = {"resume_s": ("<=", 60.0), "memory_mb": ("<=", 1000.0)}


def list_images(n: int) -> Images:
    """Return images with paths of the length that is usual in large data sets."""
    return Images.of([f"/data/images/train/part-{i // 10_000:04d}/{i:010d}-photograph.jpg" for i in range(n)])


def iterate_units(images: Images, n: int) -> Iterator[WorkUnit]:
    """Iterate over the units of ``n`` images, a million at a time."""
    for block, start in enumerate(range(0, n, LISTING)):
        part = images if n - start >= len(images) else images.take(np.arange(n - start))
        yield from cut_units(part, [RECIPE | {"block": block}])


def make_stamps(unit: WorkUnit) -> np.ndarray:
    """Return sizes and times of change for the images of a unit."""
    rows = np.arange(unit.start, unit.stop)
    return np.stack([100_000 + rows, 1_700_000_000_000_000_000 + rows], axis=1)


def write(folder: str, n: int) -> dict[str, float]:
    """Write the ledger of ``n`` images without its last units; return seconds and bytes."""
    ledger = Ledger(EmbeddingStore(folder), RECIPE)
    units = list(iterate_units(list_images(min(n, LISTING)), n))[:-LEFT]
    start = time.perf_counter()
    for i in range(0, len(units), UNITS_PER_COMMIT):
        records = []
        for unit in units[i : i + UNITS_PER_COMMIT]:
            keys = np.frombuffer(os.urandom(16 * (unit.stop - unit.start)), np.uint8).reshape(-1, 16)
            records.append((unit.id, UnitRecord(keys, make_stamps(unit), {})))
        ledger.append(records)
    seconds = time.perf_counter() - start
    ledger.close()
    size = sum(os.path.getsize(os.path.join(ledger.folder, name)) for name in os.listdir(ledger.folder))
    return {"seconds": seconds, "bytes": size}


def resume(folder: str, n: int) -> dict[str, float]:
    """Find the units that are not in the ledger; return seconds, megabytes and their number."""
    images, seconds_listing = list_images(min(n, LISTING)), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    ledger = Ledger(EmbeddingStore(folder), RECIPE)
    opened = time.perf_counter() - start
    places, left = {}, 0
    for i, unit in enumerate(iterate_units(images, n)):
        since = time.process_time()
        stamps = make_stamps(unit)
        seconds_listing += time.process_time() - since
        match = ledger.find(unit.id, stamps) if unit.id in ledger else None
        if match is not None and match[2].all():
            places[i] = match[0]
        else:
            left += 1
    seconds = {
        "resume_s": time.perf_counter() - start - seconds_listing,
        "resume_cpu_s": time.process_time() - cpu - seconds_listing,
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"open_s": opened, **seconds, "memory_mb": memory / 1024, "left": left}


def main() -> None:
    """Measure, print and write the figures."""
    if "--child" in sys.argv:
        task, options = sys.argv[sys.argv.index("--child") + 1], json.loads(sys.argv[-1])
        print(json.dumps({"write": write, "resume": resume}[task](**options)))
        return
    parser = arguments(__doc__, "ledger")
    parser.add_argument("--images", type=int, default=100_000_000)
    parser.add_argument("--folder", help="where the ledger is written; by default a temporary folder")
    args = parser.parse_args()
    n = 200_000 if args.quick else args.images
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        written = child(__file__, "write", folder=folder, n=n)
        progress(f"{written['bytes'] / 1e9:.2f} GB written")
        resumed = child(__file__, "resume", folder=folder, n=n)
    if resumed.pop("left") != LEFT:
        raise SystemExit("the units that are not in the ledger were not found")
    figures = {"ledger_gb": written["bytes"] / 1e9, "append_images_per_s": n / written["seconds"], **resumed}
    report("ledger", args, figures, TARGETS, images=n)


if __name__ == "__main__":
    main()
