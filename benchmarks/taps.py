"""Cost of six taps with two poolings in one pass, compared with the deepest tap alone.

    python benchmarks/taps.py [--quick] [--json PATH] [--hub]

network   the compiled network on decoded batches
files     JPEG files of 500 pixels to embeddings, with an empty store

--hub measures a vision transformer of KerasHub in place of MobileNet: all 12 blocks of the size of DINOv2-small, with
random weights.
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
from tlfeatures.networks import open_backbone

LAYERS = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
BATCH = 32
TARGETS = {"network_ratio": ("<=", 1.10), "files_ratio": ("<=", 1.10)}


def make_transformer(folder: str, size: int) -> str:
    """Save a preset of the size of DINOv2-small with random weights, and return its path."""
    import keras_hub

    backbone = keras_hub.models.DINOV2Backbone(
        patch_size=14, num_layers=12, hidden_dim=384, num_heads=6, intermediate_dim=1536,
        image_shape=(size, size, 3), position_embedding_shape=(size, size, 3),
    )  # fmt: skip
    backbone.save_to_preset(folder)
    return folder


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "taps")
    parser.add_argument("--hub", action="store_true", help="measure a vision transformer of KerasHub")
    args = parser.parse_args()
    n, rounds = (64, 1) if args.quick else (64, 3) if args.hub else (768, 9)
    layers = [f"block_{i}" for i in range(1, 13)] if args.hub else LAYERS
    with tempfile.TemporaryDirectory() as folder:
        size = 64 if args.quick else 224
        if args.hub:
            preset = make_transformer(os.path.join(folder, "preset"), size)
            cnn = {"model": preset, "normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
        else:
            cnn = {"model": "mobilenet_0.75", "weights": mobilenet_weights(folder), "image_size": size}
        paths = photographs(os.path.join(folder, "images"), n)
        backbone = open_backbone(**cnn)
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
            "network_all": network(layers, "avgmax"),
            "network_deepest": network(layers[-1:], "avg"),
            "files_all": files(layers, "avgmax"),
            "files_deepest": files(layers[-1:], "avg"),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for work in sides.values():
                work()
            readings = interleaved({name: lambda w=w: seconds(w) for name, w in sides.items()}, rounds)
    figures = {f"{name}_images_per_s": n / statistics.median(v) for name, v in readings.items()}
    for part in ("network", "files"):
        figures[f"{part}_ratio"] = median_ratio(readings[f"{part}_all"], readings[f"{part}_deepest"])
    name = "DINOv2-small, random weights" if args.hub else "mobilenet_0.75"
    report("taps", args, figures, TARGETS, network=name, layers=len(layers), images=n)


if __name__ == "__main__":
    main()
