"""Memory that many images need in addition to their embeddings.

    python benchmarks/memory.py [--quick] [--json PATH]

Peak memory of a process that embeds 20,000 JPEG files of 500 pixels minus that of a process that embeds 2,000,
first with an empty store (cold), then from the store (warm). Both include the result array.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from _common import arguments, child, mobilenet_weights, photographs, report, write_copies

from tlfeatures import CNNFeatures

ALLOWED_MB = 100.0
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


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "memory")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        print(json.dumps(embed(**json.loads(args.options))))
        return
    n_images, n_few = (120, 20) if args.quick else (args.images, args.images // 10)
    figures, targets = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cnn = {
            "model": "mobilenet_0.75",
            "weights": mobilenet_weights(folder),
            "image_size": 64 if args.quick else 224,
        }
        (photograph,) = photographs(os.path.join(folder, "one"), 1)
        images = os.path.join(folder, "images")
        write_copies(photograph, images, n_images)
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
    report("memory", args, figures, targets, network="mobilenet_0.75", images=n_images, few=n_few)


if __name__ == "__main__":
    main()
