"""Throughput from JPEG files to embeddings, compared with embetter and thingsvision.

    python benchmarks/peers.py [--quick] [--json PATH]

tlfeatures      `CNNFeatures("mobilenet")`, without a store
embetter        `make_pipeline(ImageLoader(), TimmEncoder("mobilenetv1_100"))`
thingsvision    `get_extractor("mobilenetv1_100", source="timm")` with batches of 32

All run MobileNet 1.0 at 224x224 pixels on the same files; embetter and thingsvision use timm's version. The weights
are random and differ, so only the speed is compared. Each side runs in its own process, and the sides alternate;
figures are medians, ratios are medians over the rounds. Loading of networks is not measured. A package that is not
installed is not measured. embetter_in_training_mode is 1 if the network of embetter computes batch statistics, so that
an embedding depends on the other images of its batch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import (
    Worker,
    arguments,
    interleaved,
    median_ratio,
    photographs,
    progress,
    report,
    seconds,
    serve,
)

NETWORK = "mobilenetv1_100"
SIDES = {"tlfeatures": (), "embetter": ("embetter", "timm"), "thingsvision": ("thingsvision", "timm")}
TARGETS = {"times_embetter": (">=", 1.0), "times_thingsvision": (">=", 1.0)}


def load_tlfeatures(paths: list[str], folder: Path):
    """Return the function that embeds the files with tlfeatures."""
    from tlfeatures import CNNFeatures

    warnings.simplefilter("ignore")  # random weights
    return CNNFeatures("mobilenet", weights=None, cache=None).fit_transform


def load_embetter(paths: list[str], folder: Path):
    """Return the function that embeds the files with embetter; also write whether its network trains."""
    import timm

    create = timm.create_model
    # embetter always asks for pretrained weights, which would be downloaded
    timm.create_model = lambda name, pretrained, **options: create(name, pretrained=False, **options)
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    encoder = TimmEncoder(NETWORK)
    (folder / "training").write_text(str(int(encoder.model.training)))
    return make_pipeline(ImageLoader(), encoder).fit_transform


def load_thingsvision(paths: list[str], folder: Path):
    """Return the function that embeds the files with thingsvision."""
    if not hasattr(np, "AxisError"):
        np.AxisError = np.exceptions.AxisError  # thingsvision reads its name in NumPy 1
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(NETWORK, pretrained=False, device="cpu", source="timm")

    def embed(paths: list[str]) -> np.ndarray:
        dataset = ImageDataset(
            root=str(Path(paths[0]).parent),
            out_path=str(folder / "names"),
            backend=extractor.get_backend(),
            transforms=extractor.get_transformations(resize_dim=256, crop_dim=224),
        )
        batches = DataLoader(dataset=dataset, batch_size=32, backend=extractor.get_backend())
        return extractor.extract_features(batches, module_name="global_pool", flatten_acts=True)

    return embed


def serve_side(side: str, paths: list[str], folder: Path) -> None:
    """Load one side, and measure images per second whenever the main process asks."""
    load = {"tlfeatures": load_tlfeatures, "embetter": load_embetter, "thingsvision": load_thingsvision}
    embed = load[side](paths, folder)
    embeddings = embed(paths[:32])
    if embeddings.shape != (min(32, len(paths)), 1024) and side != "thingsvision":  # reads the whole folder
        raise SystemExit(f"{side} computed embeddings of shape {embeddings.shape}")
    serve(lambda: len(paths) / seconds(lambda: embed(paths)))


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "peers")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        options = json.loads(args.child)
        serve_side(options["side"], options["paths"], Path(options["folder"]))
        return
    absent = {}
    for side, packages in SIDES.items():
        if names := [name for name in packages if importlib.util.find_spec(name) is None]:
            absent[side] = names
            progress(f"{side} is not measured, because {' and '.join(names)} cannot be imported")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = photographs(folder / "images", 8 if args.quick else args.images)
        workers = {}
        for side in SIDES.keys() - absent.keys():
            options = {"side": side, "paths": paths, "folder": str(folder)}
            workers[side] = Worker(__file__, options, {}, folder / f"{side}.txt")
        measures = {side: worker.measure for side, worker in sorted(workers.items(), reverse=True)}
        readings = interleaved(measures, 1 if args.quick else 3)
        for worker in workers.values():
            worker.stop()
        figures = {f"{side}_images_per_s": statistics.median(values) for side, values in readings.items()}
        for side in ("embetter", "thingsvision"):
            if side in readings:
                figures[f"times_{side}"] = median_ratio(readings["tlfeatures"], readings[side])
        if "embetter" in readings:
            figures["embetter_in_training_mode"] = int((folder / "training").read_text())
    report("peers", args, figures, TARGETS, not_measured=", ".join(absent) or "none")


if __name__ == "__main__":
    main()
