"""Speed at which the embedding store writes, opens and gathers rows, compared with one ``.npy`` file.

    python benchmarks/store.py [--folder DIR] [--quick] [--json PATH]
    python benchmarks/store.py --rows 10000000
    python benchmarks/store.py --batches

100,000 and 1,000,000 rows of 512 float32. Each figure is the best of a few new processes; for "cold" ones, the
files are evicted from the page cache. "open" looks up which keys are present, as a resumed job does first. "again"
repeats the lookup in the same process.

With ``--rows N``, N rows of 8 float32 in segments of 4,096 are opened by their index file, and, for comparison, by
reading the keys of all segments as without an index file. Then a million random keys are looked up, and a segment of
1,000 rows is added and found. Memory is private memory, without mapped files.

With ``--batches``, 1,000,000 rows of 256 float32 in segments of 8 MB are read in batches of 4,096: shuffled in a new
process, which verifies each segment; shuffled again; and in the order of the files. Speeds are by the clock; the time
of the processor, of all threads, is given for each row. Memory is the peak of the process minus that before, with the
keys.
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
BATCH = 64  # rows per batch, as from a network
RECIPE = {"network": "benchmark", "width": WIDTH, "dtype": "float32"}
NARROW = {"network": "benchmark", "width": 8, "dtype": "float32"}
LOOKUPS = 1_000_000
MEDIUM = {"network": "benchmark", "width": 256, "dtype": "float32"}
ROWS_TARGETS = {
    "open_s": ("<=", 1.0),
    "open_private_mb": ("<=", 200),
    "lookup_s": ("<=", 2.0),
    "add_s": ("<=", 0.2),
}
BATCHES_TARGETS = {"shuffled_rows_per_s": (">=", 500_000), "extra_mb": ("<=", 600)}
TARGETS = {
    "cold_open_s": ("<=", 1.0),
    "gather_rows_per_s": (">=", 150_000),
    "large_cold_open_s": ("<=", 10.0),
}


def make_blocks(rows: int, size: int = 4096) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield seeded keys and rows in blocks, because all rows of the large case would not fit into memory."""
    for start in range(0, rows, size):
        rng, n = np.random.default_rng(start), min(size, rows - start)
        yield rng.integers(0, 256, (n, 16), "u1"), rng.random((n, WIDTH), "f4")


def write(root: str, rows: int) -> float:
    """Return the seconds that a writer takes for all rows."""
    spent = 0.0
    with EmbeddingStore(root).writer(RECIPE, on_failure="raise") as writer:
        for keys, features in make_blocks(rows):
            start = time.perf_counter()
            for i in range(0, len(keys), BATCH):
                writer.add(keys[i : i + BATCH], [features[i : i + BATCH]])
            spent += time.perf_counter() - start
        start = time.perf_counter()
    return spent + time.perf_counter() - start


def write_plain(root: str, rows: int) -> float:
    """Return the seconds for writing and syncing one ``.npy`` file."""
    table = np.concatenate([features for _, features in make_blocks(rows)])
    start = time.perf_counter()
    with open(os.path.join(root, "plain.npy"), "wb") as file:
        np.save(file, table)
        os.fsync(file.fileno())
    return time.perf_counter() - start


def evict(folder: str) -> None:
    """Evict every file below a folder from the page cache."""
    for path in Path(folder).rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def peak_mb() -> float:
    """Return the peak memory of this process; NaN if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def read(task: str, root: str, rows: int) -> dict[str, float]:
    """Make one measurement in this process."""
    keys = np.concatenate([keys for keys, _ in make_blocks(rows)])
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
        position = np.argsort(order)
        expected = next(features for _, features in make_blocks(rows))
        if not present.all() or not np.array_equal(gathered[position[: len(expected)]], expected):
            raise SystemExit("rows differ")
    return result


def measure_best(task: str, root: str, rows: int, cold: bool, repeats: int = 5) -> dict[str, float]:
    """Return the minimum over a few new processes, because other work on the machine can only add time."""
    runs = []
    for _ in range(repeats):
        if cold:
            evict(root)
        runs.append(child(__file__, task, root=root, rows=rows))
    return {name: min(run[name] for run in runs) for name in runs[0]}


def private_mb() -> float:
    """Return the private memory of this process, without mapped files; NaN if the system does not report it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def make_narrow_block(start: int, size: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Make the keys and rows of one segment."""
    rng = np.random.default_rng(start)
    return rng.integers(0, 256, (size, 16), "u1"), rng.random((size, NARROW["width"]), "f4")


def read_narrow(task: str, root: str, rows: int) -> dict[str, float]:
    """Open a store with many rows in this process, look up random keys, and add a segment."""
    store = EmbeddingStore(root)
    blocks = np.random.default_rng(0).integers(0, rows // 4096, min(250, rows // 4096)) * 4096
    keys = np.concatenate([make_narrow_block(int(start))[0] for start in blocks])
    keys = np.random.default_rng(1).permutation(keys)[:LOOKUPS]
    store.contains(RECIPE, keys[:1])  # imports
    before, start = private_mb(), time.perf_counter()
    store.contains(NARROW, keys[:1])
    result = {"open_s": time.perf_counter() - start, "open_private_mb": private_mb() - before}
    if task == "narrow_without_index":
        return result
    start = time.perf_counter()
    present = store.contains(NARROW, keys)
    result["lookup_s"], result["lookups"] = time.perf_counter() - start, len(keys)
    new = np.random.default_rng(os.getpid()).integers(0, 256, (1000, 16), "u1")
    start = time.perf_counter()
    store.publish(NARROW, new, np.zeros((1000, NARROW["width"]), "f4"))
    is_stored = store.contains(NARROW, new)
    result["add_s"] = time.perf_counter() - start
    if not present.all() or not is_stored.all():
        raise SystemExit("rows are missing")
    return result


def measure_rows(folder: str, rows: int) -> dict[str, float]:
    """Measure a store of many rows with and without its index file."""
    root = os.path.join(folder, "narrow")
    progress(f"writing {rows} rows")
    store = EmbeddingStore(root)
    for start in range(0, rows - 4095, 4096):
        store.publish(NARROW, *make_narrow_block(start))
    progress("reading the keys of all segments")
    plain = child(__file__, "narrow_without_index", root=root, rows=rows)
    progress("mapping the index file")
    mapped = measure_best("narrow", root, rows, False, repeats=3)
    return {
        "segments": rows // 4096,
        "without_index_open_s": plain["open_s"],
        **mapped,
        "open_ratio": mapped["open_s"] / plain["open_s"],
    }


def make_medium_block(start: int, size: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Make the keys and rows of one segment."""
    rng = np.random.default_rng(start)
    return rng.integers(0, 256, (size, 16), "u1"), rng.random((size, MEDIUM["width"]), "f4")


def read_batches(task: str, root: str, rows: int) -> dict[str, float]:
    """Read all rows in batches in this process; return rows per second."""
    keys = np.concatenate([make_medium_block(start)[0] for start in range(0, rows, 8192)])
    store, before, result = EmbeddingStore(root), peak_mb(), {}
    for name, seed in (("first_pass", 0), ("shuffled", 1), ("file_order", None)):
        start, cpu = time.perf_counter(), time.process_time()
        n_rows = sum(len(values) for _, values in store.batches(MEDIUM, keys, 4096, seed))
        result[f"{name}_cpu_us_per_row"] = (time.process_time() - cpu) / n_rows * 1e6
        if n_rows != len(keys):
            raise SystemExit("rows are missing")
        result[f"{name}_rows_per_s"] = n_rows / (time.perf_counter() - start)
    return {**result, "extra_mb": peak_mb() - before}


def measure_batches(folder: str, rows: int) -> dict[str, float]:
    """Write a store and read it in batches in three new processes; return the best of each speed."""
    root = os.path.join(folder, "medium")
    progress(f"writing {rows} rows")
    store = EmbeddingStore(root)
    for start in range(0, rows, 8192):
        store.publish(MEDIUM, *make_medium_block(start))
    runs = [child(__file__, "batches", root=root, rows=rows) for _ in range(3)]
    return {n: (max if n.endswith("per_s") else min)(run[n] for run in runs) for n in runs[0]}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "store")
    parser.add_argument(
        "--folder", help="folder for 2.5 GB of files; default: the temporary folder of the system"
    )
    parser.add_argument("--rows", type=int, help="measure only how the index scales to this number of rows")
    parser.add_argument("--batches", action="store_true", help="measure only the reading of shuffled batches")
    args = parser.parse_args()
    if args.batches:
        rows = 16_384 if args.quick else 1_000_000
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            figures = measure_batches(folder, rows)
        report("store_batches", args, figures, BATCHES_TARGETS, rows=rows, width=MEDIUM["width"])
        return
    if args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            figures = measure_rows(folder, 40_960 if args.quick else args.rows)
        report("store_rows", args, figures, ROWS_TARGETS, rows=args.rows, width=NARROW["width"])
        return
    rows, large = (5_000, 20_000) if args.quick else (100_000, 1_000_000)
    folder = tempfile.mkdtemp(dir=args.folder)
    figures = {}
    try:
        root = os.path.join(folder, "small")
        progress(f"writing {rows} rows")
        figures["write_s"] = write(root, rows)
        figures["plain_write_s"] = write_plain(root, rows)
        cold, plain_cold = (measure_best(task, root, rows, True) for task in ("gather", "plain"))
        warm, plain = (measure_best(task, root, rows, False) for task in ("gather", "plain"))
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
        compacted = measure_best("gather", root, rows, False)
        figures["compacted_open_s"] = compacted["open_s"]
        figures["compacted_gather_rows_per_s"] = rows / compacted["gather_s"]
        root = os.path.join(folder, "large")
        progress(f"writing {large} rows")
        figures["large_write_s"] = write(root, large)
        cold, warm = (measure_best("open", root, large, c, repeats=3) for c in (True, False))
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
        function = read_batches if task == "batches" else read_narrow if task.startswith("narrow") else read
        print(json.dumps(function(task, **options)))
    else:
        main()
