"""How fast the embedding store writes, opens and gathers, beside one plain ``.npy`` file.

Each reading is made in a new process, with the files evicted from the page cache ("cold") or not.

    python benchmarks/store.py [--rows 100000] [--large 1000000] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tlfeatures.store import EmbeddingStore

WIDTH = 512
BATCH = 64
RECIPE = {"network": "benchmark", "width": WIDTH, "dtype": "float32"}
TARGETS = {"gather_rows_per_s": 150_000, "cold_open_s": 1.0, "large_resume_s": 10.0}


def blocks(rows: int, size: int = 4096):
    """Seeded keys and rows, block by block: the large case never lies in memory."""
    for start in range(0, rows, size):
        rng = np.random.default_rng(start)
        n = min(size, rows - start)
        yield rng.integers(0, 256, (n, 16), "u1"), rng.random((n, WIDTH), "f4")


def keys_of(rows: int) -> np.ndarray:
    """All keys of `blocks`."""
    return np.concatenate([keys for keys, _ in blocks(rows)])


def write(root: str, rows: int) -> float:
    """Seconds that a writer takes for all rows, in batches as a network gives them."""
    spent = 0.0
    with EmbeddingStore(root).writer(RECIPE, on_failure="raise") as writer:
        for keys, features in blocks(rows):
            start = time.perf_counter()
            for i in range(0, len(keys), BATCH):
                writer.add(keys[i : i + BATCH], [features[i : i + BATCH]])
            spent += time.perf_counter() - start
        start = time.perf_counter()
    return spent + time.perf_counter() - start


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
        return float("nan")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def child(task: str, root: str, rows: int) -> None:
    """One reading, timed inside a new process after its imports."""
    keys = keys_of(rows)
    order = np.random.default_rng(1).permutation(rows)
    before = peak_mb()
    store = EmbeddingStore(root)
    result = {}
    start = time.perf_counter()
    if task == "npy":
        table = np.load(os.path.join(root, "plain.npy"))
        result["open_s"] = time.perf_counter() - start
        start = time.perf_counter()
        gathered = table[order]
        result["gather_s"] = time.perf_counter() - start
    else:
        if not store.contains(RECIPE, keys).all():
            raise SystemExit("rows are missing")
        result["open_s"] = time.perf_counter() - start
        result["open_extra_mb"] = peak_mb() - before
        start = time.perf_counter()
        store.contains(RECIPE, keys)
        result["again_s"] = time.perf_counter() - start
        if task == "gather":
            start = time.perf_counter()
            gathered, found = store.get(RECIPE, keys[order])
            result["gather_s"] = time.perf_counter() - start
            wanted = next(features for _, features in blocks(rows))
            place = np.empty(rows, np.int64)
            place[order] = np.arange(rows)
            if not found.all() or not np.array_equal(gathered[place[: len(wanted)]], wanted):
                raise SystemExit("rows differ")
    print(json.dumps(result))


def reading(task: str, root: str, rows: int, cold: bool, repeats: int = 3) -> dict[str, float]:
    """Best of a few new processes: other work on the machine only ever adds time."""
    runs = []
    for _ in range(repeats):
        if cold:
            evict(root)
        command = [sys.executable, __file__, "--child", task, "--root", root, "--rows", str(rows)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {name: min(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000, help="0 leaves the large case out")
    parser.add_argument("--folder", help="where to write the store (2.3 GB); the temporary folder by default")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "store.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.root, given.rows)
        return
    rows, figures = given.rows, {}
    folder = tempfile.mkdtemp(dir=given.folder)
    try:
        root = os.path.join(folder, "small")
        os.mkdir(root)
        figures["write_s"] = write(root, rows)
        table = np.concatenate([features for _, features in blocks(rows)])
        start = time.perf_counter()
        with open(os.path.join(root, "plain.npy"), "wb") as f:
            np.save(f, table)
            os.fsync(f.fileno())
        figures["npy_write_s"] = time.perf_counter() - start
        del table
        cold, warm = (reading("gather", root, rows, cold) for cold in (True, False))
        npy_cold, npy_warm = (reading("npy", root, rows, cold) for cold in (True, False))
        figures |= {
            "write_rows_per_s": rows / figures["write_s"],
            "cold_open_s": cold["open_s"],
            "warm_open_s": warm["open_s"],
            "npy_cold_open_s": npy_cold["open_s"],
            "npy_warm_open_s": npy_warm["open_s"],
            "contains_again_s": warm["again_s"],
            "open_extra_mb": warm["open_extra_mb"],
            "gather_rows_per_s": rows / warm["gather_s"],
            "npy_gather_rows_per_s": rows / npy_warm["gather_s"],
            "npy_load_and_gather_rows_per_s": rows / (npy_warm["open_s"] + npy_warm["gather_s"]),
        }
        start = time.perf_counter()
        EmbeddingStore(root).compact()
        figures["compact_s"] = time.perf_counter() - start
        merged = reading("gather", root, rows, False)
        figures["compacted_open_s"] = merged["open_s"]
        figures["compacted_gather_rows_per_s"] = rows / merged["gather_s"]
        if given.large:
            root = os.path.join(folder, "large")
            figures["large_write_s"] = write(root, given.large)
            large = [
                reading("open", root, given.large, cold, repeats=1 + (not cold)) for cold in (True, False)
            ]
            figures |= {
                "large_resume_s": large[0]["open_s"],
                "large_resume_warm_s": large[1]["open_s"],
                "large_contains_again_s": large[1]["again_s"],
                "large_open_extra_mb": large[1]["open_extra_mb"],
            }
    finally:
        shutil.rmtree(folder)
    report(given, figures)


def report(given: argparse.Namespace, figures: dict[str, float]) -> None:
    """Print the table and write the JSON file."""
    print(f"embedding store: {given.rows} x {WIDTH}, large {given.large} x {WIDTH}; {os.cpu_count()} cores\n")
    for name, value in figures.items():
        target = TARGETS.get(name)
        met = (
            ""
            if target is None
            else f"   target {target:,g}: "
            + ("met" if (value >= target if name.endswith("per_s") else value <= target) else "MISSED")
        )
        print(f"{name:34} {value:14,.3f}{met}")
    print(
        f"\nratio to one .npy file: write {figures['write_s'] / figures['npy_write_s']:.2f} x, "
        f"cold open {figures['cold_open_s'] / figures['npy_cold_open_s']:.2f} x the time; "
        f"gather {figures['gather_rows_per_s'] / figures['npy_load_and_gather_rows_per_s']:.2f} x the speed "
        "of load and gather"
    )
    where = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": "store", "rows": given.rows, "large": given.large, "width": WIDTH}
    given.json.write_text(
        json.dumps({**result, **where, "targets": TARGETS, "figures": figures}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
