"""Cost of six taps with two poolings in one pass, compared with the deepest tap alone.

    python benchmarks/taps.py [--quick] [--json PATH]

network   the compiled network on decoded batches
files     JPEG files of 500 pixels to embeddings, with an empty store
"""

from __future__ import annotations

import os
import statistics
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from _common import arguments, interleaved, median_ratio, mobilenet_weights, photographs, report, seconds

from tlfeatures import CNNFeatures, fingerprints
from tlfeatures.extract import FeatureSpec
from tlfeatures.images import decode_batches
from tlfeatures.networks import Backbone

LAYERS = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
BATCH = 32
TARGETS = {"network_ratio": ("<=", 1.10), "files_ratio": ("<=", 1.10)}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    args = arguments(__doc__, "taps").parse_args()
    n, rounds = (64, 1) if args.quick else (768, 9)
    with tempfile.TemporaryDirectory() as folder:
        cnn = {
            "model": "mobilenet_0.75",
            "weights": mobilenet_weights(folder),
            "image_size": 64 if args.quick else 224,
        }
        paths = photographs(os.path.join(folder, "images"), n)
        backbone = Backbone(**cnn)
        decoder = FeatureSpec.make(backbone, None, "avg").decoder
        batches = [batch for *_, batch, _ in decode_batches(paths, range(n), decoder, BATCH)]

        def network(layers: list[str], pooling: str):
            plan = FeatureSpec.make(backbone, layers, pooling)
            run = backbone.compile([(c.tap, c.part) for c in plan.columns], plan.description)
            return lambda: [run(batch) for batch in batches]

        def files(layers: list[str], pooling: str):
            def work() -> None:
                fingerprints._memo.clear()
                with tempfile.TemporaryDirectory() as cache:
                    CNNFeatures(**cnn, layer=layers, pooling=pooling, cache=cache).fit_transform(paths)

            return work

        sides = {
            "network_six": network(LAYERS, "avgmax"),
            "network_deepest": network(LAYERS[-1:], "avg"),
            "files_six": files(LAYERS, "avgmax"),
            "files_deepest": files(LAYERS[-1:], "avg"),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for work in sides.values():
                work()
            readings = interleaved({name: lambda w=w: seconds(w) for name, w in sides.items()}, rounds)
    figures = {f"{name}_images_per_s": n / statistics.median(v) for name, v in readings.items()}
    for part in ("network", "files"):
        figures[f"{part}_ratio"] = median_ratio(readings[f"{part}_six"], readings[f"{part}_deepest"])
    report("taps", args, figures, TARGETS, network="mobilenet_0.75", images=n)


if __name__ == "__main__":
    main()
