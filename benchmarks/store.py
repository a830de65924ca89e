"""How fast the embedding store writes, opens and gathers, beside one plain ``.npy`` file.

    python benchmarks/store.py [--folder DIR] [--quick] [--json PATH]

100,000 and 1,000,000 rows of 512 float32. Each reading is made in a new process, the best of a few;
"cold" ones with the files evicted from the page cache. "open" reads and verifies every segment and says
which keys are present: what a resumed job does first. "again" asks the same of a process that knows.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _common import arguments, child, progress, report

from tlfeatures.store import EmbeddingStore

WIDTH = 512
BATCH = 64  # rows at a time, as a network gives them
RECIPE = {"network": "benchmark", "width": WIDTH, "dtype": "float32"}
TARGETS = {
    "cold_open_s": ("<=", 1.0),
    "gather_rows_per_s": (">=", 150_000),
    "large_cold_open_s": ("<=", 10.0),
}


def blocks(rows: int, size: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Seeded keys and rows, block by block: the large case never lies in memory."""
    for start in range(0, rows, size):
        rng, n = np.random.default_rng(start), min(size, rows - start)
        yield rng.integers(0, 256, (n, 16), "u1"), rng.random((n, WIDTH), "f4")


def write(root: str, rows: int) -> float:
    """Seconds that a writer takes for all rows."""
    spent = 0.0
    with EmbeddingStore(root).writer(RECIPE, on_failure="raise") as writer:
        for keys, features in blocks(rows):
            start = time.perf_counter()
            for i in range(0, len(keys), BATCH):
                writer.add(keys[i : i + BATCH], [features[i : i + BATCH]])
            spent += time.perf_counter() - start
        start = time.perf_counter()
    return spent + time.perf_counter() - start


def write_plain(root: str, rows: int) -> float:
    """Seconds that one ``.npy`` file takes, synced too."""
    table = np.concatenate([features for _, features in blocks(rows)])
    start = time.perf_counter()
    with open(os.path.join(root, "plain.npy"), "wb") as file:
        np.save(file, table)
        os.fsync(file.fileno())
    return time.perf_counter() - start


def evict(folder: str) -> None:
    """Drop the page cache of every file below a folder, so that reading it is cold."""
    for path in Path(folder).rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def peak_mb() -> float:
    """Peak memory of this process; NaN where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def read(task: str, root: str, rows: int) -> dict[str, float]:
    """One reading, timed in this process."""
    keys = np.concatenate([keys for keys, _ in blocks(rows)])
    order = np.random.default_rng(1).permutation(rows)
    store, result, before = EmbeddingStore(root), {}, peak_mb()
    start = time.perf_counter()
    if task == "plain":
        table = np.load(os.path.join(root, "plain.npy"))
        result["open_s"] = time.perf_counter() - start
        start = time.perf_counter()
        table = table[order]
        return {**result, "gather_s": time.perf_counter() - start}
    present = store.contains(RECIPE, keys)
    result["open_s"] = time.perf_counter() - start
    result["open_extra_mb"] = peak_mb() - before
    start = time.perf_counter()
    store.contains(RECIPE, keys)
    result["again_s"] = time.perf_counter() - start
    if not present.all():
        raise SystemExit("rows are missing")
    if task == "gather":
        start = time.perf_counter()
        gathered, present = store.get(RECIPE, keys[order])
        result["gather_s"] = time.perf_counter() - start
        place = np.argsort(order)
        wanted = next(features for _, features in blocks(rows))
        if not present.all() or not np.array_equal(gathered[place[: len(wanted)]], wanted):
            raise SystemExit("rows differ")
    return result


def reading(task: str, root: str, rows: int, cold: bool, repeats: int = 5) -> dict[str, float]:
    """Best of a few new processes: other work on the machine only ever adds time."""
    runs = []
    for _ in range(repeats):
        if cold:
            evict(root)
        runs.append(child(__file__, task, root=root, rows=rows))
    return {name: min(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = arguments(__doc__, "store")
    parser.add_argument("--folder", help="where to write 2.5 GB; by default the system's temporary folder")
    args = parser.parse_args()
    rows, large = (5_000, 20_000) if args.quick else (100_000, 1_000_000)
    folder = tempfile.mkdtemp(dir=args.folder)
    figures = {}
    try:
        root = os.path.join(folder, "small")
        progress(f"writing {rows} rows")
        figures["write_s"] = write(root, rows)
        figures["plain_write_s"] = write_plain(root, rows)
        cold, plain_cold = (reading(task, root, rows, True) for task in ("gather", "plain"))
        warm, plain = (reading(task, root, rows, False) for task in ("gather", "plain"))
        figures |= {
            "write_rows_per_s": rows / figures["write_s"],
            "write_ratio_to_plain": figures["write_s"] / figures["plain_write_s"],
            "cold_open_s": cold["open_s"],
            "open_s": warm["open_s"],
            "plain_cold_open_s": plain_cold["open_s"],
            "open_again_s": warm["again_s"],
            "open_extra_mb": warm["open_extra_mb"],
            "gather_rows_per_s": rows / warm["gather_s"],
            "plain_load_and_gather_rows_per_s": rows / (plain["open_s"] + plain["gather_s"]),
            "gather_ratio_to_plain": (plain["open_s"] + plain["gather_s"]) / warm["gather_s"],
        }
        start = time.perf_counter()
        EmbeddingStore(root).compact()
        figures["compact_s"] = time.perf_counter() - start
        compacted = reading("gather", root, rows, False)
        figures["compacted_open_s"] = compacted["open_s"]
        figures["compacted_gather_rows_per_s"] = rows / compacted["gather_s"]
        root = os.path.join(folder, "large")
        progress(f"writing {large} rows")
        figures["large_write_s"] = write(root, large)
        cold, warm = (reading("open", root, large, c, repeats=3) for c in (True, False))
        figures |= {
            "large_cold_open_s": cold["open_s"],
            "large_open_s": warm["open_s"],
            "large_open_again_s": warm["again_s"],
            "large_open_extra_mb": warm["open_extra_mb"],
        }
    finally:
        shutil.rmtree(folder)
    report("store", args, figures, TARGETS, rows=rows, large=large, width=WIDTH)


if __name__ == "__main__":
    if "--child" in sys.argv:
        task, options = sys.argv[2], json.loads(sys.argv[4])
        print(json.dumps(read(task, **options)))
    else:
        main()
