"""Robustness of the embedding store against killed writers, damaged files and hostile files.

    python benchmarks/store_faults.py [--kills 300] [--damage 3000] [--mutants 20000]
                                      [--quick] [--json PATH]

kills    two writers at a time are killed (SIGKILL) at random moments; then every published row must
         be present, every row that is present must be correct, and no file may be damaged.
damage   a segment with a flipped bit, truncated, partly zeroed or extended; each must be detected.
crafted  files with a valid digest and an invalid layout; each must be refused without opening other files.
mutants  files with a valid digest and random metadata; each must be refused or read without a crash.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from tlfeatures.errors import StoreWarning
from tlfeatures.fingerprints import bytes_key, canonical_json, recipe_digest
from tlfeatures.store import EmbeddingStore
from tlfeatures.store import _index as index
from tlfeatures.store._disk import load_segment
from tlfeatures.store._segment import decode, encode

RECIPE = {"network": "faults", "width": 64, "dtype": "float32"}
TEXT, FOLDER = canonical_json(RECIPE), recipe_digest(RECIPE)
REFUSAL_MS = 50.0


def rows_of(keys: np.ndarray) -> np.ndarray:
    """Compute the row of each key, so that any row can be checked."""
    return np.tile(keys.astype(np.float32), 4) / 7


def batch(seed: list[int], rows: int) -> np.ndarray:
    """Make the keys of one batch."""
    return np.random.default_rng(seed).integers(0, 256, (rows, 16), "u1")


def kill_rounds(root: str, rounds: int, seed: int = 0) -> dict[str, int]:
    """Kill two writers ``rounds`` times, and count published rows and faults; the last four counts must be 0."""
    rng = random.Random(seed)
    names = (
        "kills",
        "published",
        "temporary_files",
        "lost_rows",
        "wrong_rows",
        "partial_batches",
        "damaged_files",
    )
    counts = dict.fromkeys(names, 0)
    for first in range(0, rounds, 10):  # ten rounds share one store
        store, acknowledged = EmbeddingStore(os.path.join(root, str(first))), {}
        for round_ in range(first, min(first + 10, rounds)):
            writers = [_start_writer(store, round_, i) for i in (0, 1)]
            acks = [_follow(pipe, rng.randrange(4)) for _, pipe in writers]
            for pid, _ in rng.sample(writers, 2):
                time.sleep(rng.uniform(0.0, 0.01))
                os.kill(pid, signal.SIGKILL)
            index._reset_after_fork()  # as in a new process
            for i, (pid, pipe) in enumerate(writers):
                os.waitpid(pid, 0)
                with os.fdopen(pipe, "rb") as f:
                    done = acks[i] + len(f.read())
                counts["kills"] += 1
                counts["published"] += done
                acknowledged[round_, i] = done
                _count_faults(store, [round_, i], done, counts)
        counts["damaged_files"] += len(store.verify())
        counts["temporary_files"] += sum(1 for _ in store.root.rglob(".tmp-*"))
        store.compact()
        counts["damaged_files"] += len(store.verify()) + sum(
            r["quarantined"] for r in store.info()["recipes"]
        )
        for writer, done in acknowledged.items():
            _count_faults(store, list(writer), done, counts)
    return counts


def _follow(pipe: int, batches: int) -> int:
    """Wait for this number of acknowledgements, even if the disk is slow."""
    return sum(len(os.read(pipe, 1)) for _ in range(batches))


def _count_faults(store: EmbeddingStore, writer: list[int], done: int, counts: dict[str, int]) -> None:
    """Count lost rows, wrong rows and partial batches of one writer."""
    # the last batch was not acknowledged: all of its rows are present, or none
    for number in range(done + 1):
        keys = batch([*writer, number], 400)
        rows, present = store.get(RECIPE, keys)
        counts["wrong_rows"] += int((rows[present] != rows_of(keys[present])).any(1).sum())
        if number < done:
            counts["lost_rows"] += int((~present).sum())
        else:
            counts["partial_batches"] += bool(present.any() and not present.all())


def _start_writer(store: EmbeddingStore, round_: int, i: int) -> tuple[int, int]:
    """Fork a process that publishes batches until it is killed, and writes one byte after each."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, read
    try:
        for number in range(10**6):
            keys = batch([round_, i, number], 400)
            store.publish(RECIPE, keys, rows_of(keys))
            os.write(write, b".")
    finally:
        os._exit(1)


def image(rows: int = 40) -> bytes:
    """Make a valid segment."""
    keys = batch([rows], rows)
    return encode(TEXT, keys, rows_of(keys))


def damaged(good: bytes, rng: random.Random) -> bytes:
    """Damage a copy of ``good`` by a flipped bit, a truncation, zeros or an extension."""
    bad, at = bytearray(good), rng.randrange(len(good))
    match rng.randrange(4):
        case 0:
            bad[at] ^= 1 << rng.randrange(8)
        case 1:
            del bad[at:]
        case 2:
            end = at + rng.randrange(1, 512)
            bad[at:end] = bytes(len(bad[at:end]))
        case 3:
            bad += rng.randbytes(rng.randrange(1, 64))
    return damaged(good, rng) if bad == good else bytes(bad)


def damage_rounds(root: str, rounds: int, seed: int = 0) -> dict[str, int]:
    """Damage a segment file ``rounds`` times; count how often the damage is detected."""
    rng, good = random.Random(seed), image()
    folder = Path(root, FOLDER)
    folder.mkdir(parents=True)
    path = folder / f"{bytes_key(good).hex()}.h5"
    noticed = 0
    for _ in range(rounds):
        path.unlink(missing_ok=True)  # a truncated file would be flushed to disk when closed
        path.write_bytes(damaged(good, rng))
        try:
            load_segment(str(path))
        except ValueError:
            noticed += 1
    path.write_bytes(good)
    load_segment(str(path))
    return {"damaged": rounds, "noticed": noticed}


def mutant_rounds(rounds: int, seed: int = 0) -> dict[str, float]:
    """Decode segments with random metadata and a valid digest, as a hostile writer could make them."""
    rng, good = random.Random(seed), image()
    header = len(good) - 40 * (16 + 4 * 64) - len(TEXT)
    refused, slowest = 0, 0.0
    decode(good, FOLDER)  # metadata that equal those of a decoded segment are accepted without further checks
    for _ in range(rounds):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(header - 64)
            match rng.randrange(4):
                case 0:
                    bad[at] ^= 1 << rng.randrange(8)
                case 1:
                    bad[at] = rng.randrange(256)
                case 2:
                    bad[at : at + 8] = rng.randbytes(8)
                case 3:
                    source, size = rng.randrange(header - 64), rng.randrange(1, 64)
                    bad[at : at + size] = bad[source : source + size]
        start = time.perf_counter()
        try:
            decode(bytes(bad), FOLDER)
        except ValueError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    return {"mutants": rounds, "refused": refused, "slowest_ms": slowest * 1000}


KEYS = batch([1], 8)
ARRAYS = {"features": rows_of(KEYS), "keys": KEYS, "recipe": np.frombuffer(TEXT, "u1")[None]}
FEATURES = ("features",)


def make_file(change: Callable[[h5py.File], None], omit: tuple[str, ...] = ()) -> bytes:
    """Make a file with a valid digest, without some of its datasets and with a change."""
    with h5py.File.in_memory(libver=("earliest", "v110")) as file:
        for name, array in ARRAYS.items():
            if name not in omit:
                file.create_dataset(name, data=array)
        change(file)
        file.flush()
        return file.id.get_file_image()


def dataset(name: str, **options) -> Callable[[h5py.File], None]:
    """Return a change that adds a dataset."""
    return lambda f: f.create_dataset(name, **{"data": ARRAYS.get(name), **options})


def attribute(target: str) -> Callable[[h5py.File], None]:
    """Return a change that adds an attribute."""
    return lambda f: f[target].attrs.__setitem__("note", "x")


def crafted(outside: str) -> dict[str, bytes]:
    """Make files with a valid digest as a hostile writer could, by name of their fault.

    ``outside`` is the path of a file that links in these files point to.
    """
    return {**crafted_links(outside), **crafted_objects(), **crafted_arrays()}


def crafted_links(outside: str) -> dict[str, bytes]:
    """Make files whose features are somewhere else."""

    def external_link(file: h5py.File) -> None:
        file["features"] = h5py.ExternalLink(outside, "/features")

    def soft_link(file: h5py.File) -> None:
        file["features"] = h5py.SoftLink("/keys")

    def soft_link_loop(file: h5py.File) -> None:
        file["features"] = h5py.SoftLink("/features")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((8, 64), "<f4")
        layout[:] = h5py.VirtualSource(outside, "features", (8, 64))
        file.create_virtual_dataset("features", layout)

    def virtual_unlimited(file: h5py.File) -> None:  # HDF5 looks for the sources when its shape is read
        space, plan = h5s.create_simple((8, 64), (h5s.UNLIMITED, 64)), h5p.create(h5p.DATASET_CREATE)
        space.select_hyperslab((0, 0), (h5s.UNLIMITED, 1), stride=(8, 1), block=(8, 64))
        plan.set_virtual(space, outside.encode(), b"/part%b", h5s.create_simple((8, 64)))
        extent = h5s.create_simple((8, 64), (h5s.UNLIMITED, 64))
        h5d.create(file.id, b"features", h5t.IEEE_F32LE, extent, plan)

    return {
        "external link": make_file(external_link, FEATURES),
        "external storage": make_file(dataset("features", external=[(outside, 0, 2048)]), FEATURES),
        "virtual dataset": make_file(virtual, FEATURES),
        "virtual dataset, unlimited": make_file(virtual_unlimited, FEATURES),
        "soft link": make_file(soft_link, FEATURES),
        "soft link to itself": make_file(soft_link_loop, FEATURES),
    }


def crafted_objects() -> dict[str, bytes]:
    """Make files with objects that the store does not write, and files of another format."""

    def declared(file: h5py.File) -> None:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_alloc_time(h5d.ALLOC_TIME_LATE)
        h5d.create(file.id, b"features", h5t.IEEE_F32LE, h5s.create_simple((1 << 32, 64)), plan)

    def group(file: h5py.File) -> None:
        file.create_group("features")["features"] = ARRAYS["features"]

    def named_type(file: h5py.File) -> None:
        file["features"] = np.dtype("f4")

    return {
        "attribute of the file": make_file(attribute("/")),
        "attribute of a dataset": make_file(attribute("keys")),
        "one dataset too many": make_file(dataset("more", data=KEYS)),
        "one dataset missing": make_file(lambda f: None, FEATURES),
        "group": make_file(group, FEATURES),
        "named type": make_file(named_type, FEATURES),
        "hidden bytes": make_file(lambda f: None) + bytes(1 << 20),
        "1 TB declared shape": make_file(declared, FEATURES),
        "not HDF5": b"PK\x03\x04" + bytes(4096),
        "nothing": b"",
    }


def crafted_arrays() -> dict[str, bytes]:
    """Make files with other layouts, types, shapes and values than those that the store writes."""
    other = np.frombuffer(canonical_json({**RECIPE, "network": "another"}), "u1")[None]
    features = {
        "filter": {"compression": "gzip"},
        "chunks": {"chunks": (4, 64)},
        "resizable": {"maxshape": (None, 64)},
        "float64": {"dtype": "f8"},
        "big-endian": {"dtype": ">f4"},
        "strings": {"data": ["x"] * 8, "dtype": h5py.string_dtype()},
        "objects": {"dtype": h5py.ref_dtype, "shape": (8, 64), "data": None},
        "another width": {"data": np.zeros((8, 65), "f4")},
        "flat": {"data": ARRAYS["features"].ravel()},
        "scalar": {"data": np.float32(1)},
        "empty": {"data": np.empty((0, 64), "f4")},
        "no space": {"data": h5py.Empty("f4")},
    }
    keys = {
        "signed keys": {"dtype": "i1", "data": KEYS.view("i1")},
        "more keys than rows": {"data": batch([2], 9)},
        "short keys": {"data": KEYS[:, :8]},
    }
    return {
        **{fault: make_file(dataset("features", **options), FEATURES) for fault, options in features.items()},
        **{fault: make_file(dataset("keys", **options), ("keys",)) for fault, options in keys.items()},
        "another recipe": make_file(dataset("recipe", data=other), ("recipe",)),
    }


def crafted_rounds(root: str) -> dict[str, tuple[str, float]]:
    """Return why ``get`` refuses each crafted file, and in how many milliseconds."""
    outside = Path(root, "outside.h5")
    with h5py.File(outside, "w") as file:
        file["features"] = np.ones((8, 64), "f4")
    keys, result = batch([1], 8), {}
    for i, (name, content) in enumerate(crafted(str(outside)).items()):
        folder = Path(root, str(i), "v1", FOLDER)
        folder.mkdir(parents=True)
        path = folder / f"{bytes_key(content).hex()}.h5"
        path.write_bytes(content)
        store = EmbeddingStore(folder.parents[1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = time.perf_counter()
            present = store.get(RECIPE, keys)[1]
            spent = (time.perf_counter() - start) * 1000
        warned = [str(w.message) for w in caught if w.category is StoreWarning]
        refused = not present.any() and not path.exists() and len(warned) == 1
        result[name] = (warned[0].split(": ", 1)[1] if refused else "ACCEPTED"), spent
    return result


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--damage", type=int, default=3000)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "store_faults.json")
    parser.add_argument("--quick", action="store_true", help="smoke test of a few seconds")
    args = parser.parse_args()
    if args.quick:
        args.kills, args.damage, args.mutants = 6, 200, 200
    with tempfile.TemporaryDirectory() as root:
        print("crafted files", file=sys.stderr, flush=True)
        refusals = crafted_rounds(root)
        print(f"{args.kills} kills", file=sys.stderr, flush=True)
        start = time.perf_counter()
        kills = kill_rounds(os.path.join(root, "kills"), (args.kills + 1) // 2, args.seed)
        kills["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{args.damage} damaged files", file=sys.stderr, flush=True)
        damage = damage_rounds(os.path.join(root, "damage"), args.damage, args.seed)
    print(f"{args.mutants} mutants", file=sys.stderr, flush=True)
    mutants = mutant_rounds(args.mutants, args.seed)
    for title, table in (("kills", kills), ("damage", damage), ("mutants", mutants)):
        print(title)
        for name, value in table.items():
            print(f"    {name:20} {value:10,.10g}")
    print("crafted")
    for name, (reason, spent) in refusals.items():
        print(f"    {name:28} {spent:6.1f} ms   {reason.split('. Its rows')[0][:80]}")
    result = {
        "benchmark": "store_faults",
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "hdf5": h5py.version.hdf5_version,
        "targets": {"crafted_slowest_ms": REFUSAL_MS},
        "figures": {
            "kills": kills,
            "damage": damage,
            "mutants": mutants,
            "crafted": {name: {"reason": reason, "ms": spent} for name, (reason, spent) in refusals.items()},
            "crafted_slowest_ms": max((spent for _, spent in refusals.values()), default=0.0),
        },
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
