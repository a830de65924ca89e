"""How much memory many images take beyond their embeddings.

    python benchmarks/memory.py [--quick] [--json PATH]

Peak memory of a process that embeds 20,000 JPEG files of 500 pixels, less that of one that embeds 2,000;
first into an empty store (cold), then from the store (warm). The result array is part of both.
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
    """Peak memory of this process after embedding the first ``count`` files; in a new process."""
    paths = sorted(entry.path for entry in os.scandir(folder))[:count]
    features = CNNFeatures(cache=cache, **cnn).fit_transform(paths)
    return {"peak_mb": peak_mb(), "result_mb": features.nbytes / MB}


def peak_mb() -> float:
    """Peak memory of this process."""
    try:  # what getrusage says counts the process that this one was forked from too
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MB if sys.platform == "darwin" else 1024)


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = arguments(__doc__, "memory")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        print(json.dumps(embed(**json.loads(args.options))))
        return
    many, few = (120, 20) if args.quick else (args.images, args.images // 10)
    figures, targets = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cnn = {
            "model": "mobilenet_0.75",
            "weights": mobilenet_weights(folder),
            "image_size": 64 if args.quick else 224,
        }
        (picture,) = photographs(os.path.join(folder, "one"), 1)
        images = os.path.join(folder, "images")
        write_copies(picture, images, many)
        for way in ("cold", "warm"):
            memory = {}
            for count in (few, many):
                cache = os.path.join(folder, f"store-{count}")
                memory[count] = child(__file__, way, folder=images, count=count, cache=cache, cnn=cnn)
                figures[f"{way}_peak_mb_{count}"] = memory[count]["peak_mb"]
            more = memory[many]["peak_mb"] - memory[few]["peak_mb"]
            figures[f"{way}_result_mb"] = memory[many]["result_mb"]
            figures[f"{way}_more_mb"] = more
            figures[f"{way}_beyond_result_mb"] = more - memory[many]["result_mb"]
            targets[f"{way}_beyond_result_mb"] = ("<=", ALLOWED_MB)
    report("memory", args, figures, targets, network="mobilenet_0.75", images=many, few=few)


if __name__ == "__main__":
    main()
