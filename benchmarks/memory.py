"""Memory that many images need in addition to their embeddings.

    python benchmarks/memory.py [--quick] [--json PATH]
    python benchmarks/memory.py --rows 1000000 [--folder DIR]

Peak memory of a process that embeds 20,000 JPEG files of 500 pixels minus that of a process that embeds 2,000,
first with an empty store (cold), then from the store (warm). Both include the result array.

Then rows of 512 float32 that are in the store are written to a file of each format, 100,000 by default. With ``--rows``
only this is measured. The memory is the peak of the process minus that after a file of 1,000 rows was written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import arguments, child, mobilenet_weights, photographs, progress, report, write_copies

from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.embedding_files import write_embeddings
from tlfeatures.images import Images

ALLOWED_MB = 100.0
FILE_MB = 300.0
FORMATS = ("npy", "h5", "parquet")
FILE_CNN = {"model": "tiny", "image_size": 32, "layer": "block7_add", "pooling": "avgmax"}  # 2 * 256 columns
MB = 1 << 20


def embed(folder: str, count: int, cache: str, cnn: dict) -> dict[str, float]:
    """Embed the first ``count`` files; return the peak memory of this process."""
    paths = sorted(entry.path for entry in os.scandir(folder))[:count]
    features = CNNFeatures(cache=cache, **cnn).fit_transform(paths)
    return {"peak_mb": peak_mb(), "result_mb": features.nbytes / MB}


def peak_mb() -> float:
    """Return the peak memory of this process."""
    try:  # getrusage would include the memory of the parent process
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MB if sys.platform == "darwin" else 1024)


def fill_store(folder: str, rows: int) -> None:
    """Save small images as an array, and store random rows for them."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(f"{folder}/images.npy", "w+", np.uint8, (rows, 8, 8))
    store, cnn = EmbeddingStore(f"{folder}/store"), CNNFeatures(cache=f"{folder}/store", **FILE_CNN)
    for start in range(0, rows, 8192):
        part = rng.integers(0, 256, (min(8192, rows - start), 8, 8), "u1")
        images[start : start + len(part)] = part
        keys, _ = Images.of(part).keys()
        for recipe in cnn.fit(part).recipes_:
            store.publish(recipe, keys, rng.random((len(part), recipe["width"]), "f4"))
    images.flush()


def write_file(folder: str, suffix: str) -> dict[str, float]:
    """Write all rows to a file; return the memory and the seconds that this process took."""
    images = np.load(f"{folder}/images.npy", mmap_mode="r")
    cnn = CNNFeatures(cache=f"{folder}/store", **FILE_CNN)
    write_embeddings(f"{folder}/few.{suffix}", cnn, images[:1000])
    before, start = peak_mb(), time.perf_counter()
    result = write_embeddings(f"{folder}/all.{suffix}", cnn, images)
    if result.computed or result.shape != (len(images), 512):
        raise SystemExit("rows are missing")
    return {"extra_mb": peak_mb() - before, "s": time.perf_counter() - start}


def measure_files(parent: str | None, rows: int) -> dict[str, float]:
    """Write a file of each format in a new process."""
    figures = {}
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        progress(f"storing {rows} rows")
        fill_store(folder, rows)
        for suffix in FORMATS:
            measured = child(__file__, "file", folder=folder, suffix=suffix)
            figures |= {f"{suffix}_{name}": value for name, value in measured.items()}
            os.remove(f"{folder}/all.{suffix}")
    return figures


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "memory")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rows", type=int, help="write only files with this number of rows")
    parser.add_argument(
        "--folder", help="folder for 4 GB of files with a million rows; default: the temporary folder"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        function = write_file if args.child == "file" else embed
        print(json.dumps(function(**json.loads(args.options))))
        return
    file_rows = args.rows or (9_000 if args.quick else 100_000)
    file_targets = {f"{suffix}_extra_mb": ("<=", FILE_MB) for suffix in FORMATS}
    if args.rows:
        report(
            "memory_files",
            args,
            measure_files(args.folder, file_rows),
            file_targets,
            rows=file_rows,
            width=512,
        )
        return
    n_images, n_few = (120, 20) if args.quick else (args.images, args.images // 10)
    figures, targets = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cnn = {
            "model": "mobilenet_0.75",
            "weights": mobilenet_weights(folder),
            "image_size": 64 if args.quick else 224,
        }
        images = os.path.join(folder, "images")
        write_copies(photographs(os.path.join(folder, "one"), 1), images, n_images)
        for state in ("cold", "warm"):
            memory = {}
            for count in (n_few, n_images):
                cache = os.path.join(folder, f"store-{count}")
                memory[count] = child(__file__, state, folder=images, count=count, cache=cache, cnn=cnn)
                figures[f"{state}_peak_mb_{count}"] = memory[count]["peak_mb"]
            more = memory[n_images]["peak_mb"] - memory[n_few]["peak_mb"]
            figures[f"{state}_result_mb"] = memory[n_images]["result_mb"]
            figures[f"{state}_more_mb"] = more
            figures[f"{state}_beyond_result_mb"] = more - memory[n_images]["result_mb"]
            targets[f"{state}_beyond_result_mb"] = ("<=", ALLOWED_MB)
    figures |= measure_files(args.folder, file_rows)
    targets |= file_targets
    notes = {"images": n_images, "few": n_few, "file_rows": file_rows}
    report("memory", args, figures, targets, network="mobilenet_0.75", **notes)


if __name__ == "__main__":
    main()
