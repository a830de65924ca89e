"""Throughput from JPEG files to embeddings, compared with Keras and with the bound of the machine.

    python benchmarks/extract.py [--quick] [--json PATH]

loop      the code of Keras's documentation: load_img, img_to_array, preprocess_input and predict, one image at a time
dataset   image_dataset_from_directory, then preprocess_input and predict on each batch
network   only the compiled network, on decoded batches, with all cores
decode    only decoding, with the same threads
bound     1 / (1 / network + 1 / decode), because both run on the same cores
exact     tlfeatures with decode="exact"
entropy   only reading JPEG files and decoding their entropy coding, which every side must do

Large photographs are measured twice, with sensor noise (3 MB per file) and smoothed.

Each round measures all sides in turn; figures are medians, ratios are medians of the rounds' ratios.
tlfeatures starts each time with an empty store and without memoized digests, and writes the store.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _common import (
    arguments,
    interleaved,
    median_ratio,
    mobilenet_weights,
    photographs,
    report,
    seconds,
    write_copies,
)
from PIL import Image

from tlfeatures import CNNFeatures, fingerprints
from tlfeatures.extract import FeatureSpec
from tlfeatures.images import Decoder, decode_batches
from tlfeatures.networks import Backbone

BATCH = 32
TARGETS = {
    "times_loop": (">=", 10.0),
    "times_dataset": (">=", 1.5),
    "of_bound": (">=", 0.93),
    "large_times_dataset": (">=", 3.0),
    "large_cosine_to_exact": (">=", 0.999),
    "smooth_times_dataset": (">=", 3.0),
    "smooth_cosine_to_exact": (">=", 0.999),
    "resnet50_of_network": (">=", 0.95),
    "vgg19_of_network": (">=", 0.95),
}
CNN = {"model": "mobilenet_0.75", "image_size": 224, "batch_size": BATCH}


def build_keras_model(weights: str) -> keras.Model:
    """Build the same network as Keras's documentation does."""
    model = keras.applications.MobileNet(
        alpha=0.75, include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    model.load_weights(weights)
    return model


def embed_in_loop(model: keras.Model, paths: list[str]) -> np.ndarray:
    """Embed one image at a time, as in https://keras.io/api/applications/."""
    rows = []
    for path in paths:
        image = keras.utils.load_img(path, target_size=(224, 224), interpolation="bilinear")
        x = np.expand_dims(keras.utils.img_to_array(image), axis=0)
        rows.append(model.predict(keras.applications.mobilenet.preprocess_input(x), verbose=0))
    return np.concatenate(rows)


def embed_dataset(model: keras.Model, folder: str) -> np.ndarray:
    """Embed batches from a folder with ``predict``."""
    batches = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=0
    )
    pre = keras.applications.mobilenet.preprocess_input
    return np.concatenate([model.predict(pre(batch), verbose=0) for batch in batches])


def embed(paths: list[str], stores: str | None, **options) -> np.ndarray:
    """Embed files with tlfeatures, with a new store below ``stores``, or without a store if None."""
    fingerprints._memo.clear()
    cache = stores and tempfile.mkdtemp(dir=stores)  # removed later, when nothing is timed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights
        return CNNFeatures(**{**CNN, **options}, cache=cache).fit_transform(paths)


def compile_network(**options):
    """Compile the network as `CNNFeatures` does with a store; the function embeds a uint8 batch."""
    backbone = Backbone(options["model"], options["weights"], options.get("image_size"))
    plan = FeatureSpec.make(backbone, None, "avg")
    outputs = plan.add_free_poolings(plan.columns)
    return backbone.compile([(c.tap, c.part) for c in outputs], plan.description)


def decode_to_batches(paths: list[str], size: int = BATCH) -> list[np.ndarray]:
    """Decode images to batches, without an incomplete last one."""
    readings = decode_batches(paths, range(len(paths) // size * size), Decoder((224, 224)), size)
    return [batch for *_, batch, _ in readings]


def decode_all(paths: list[str]) -> None:
    """Decode all images and discard the pixels."""
    for _ in decode_batches(paths, range(len(paths)), Decoder((224, 224)), BATCH):
        pass


def decode_entropy(paths: list[str]) -> None:
    """Read files and decode their entropy coding with all cores, which every JPEG decoder must do."""

    def decode_smallest(path: str) -> None:
        with Image.open(path) as image:
            image.draft("L", (1, 1))  # one eighth of the size, grey
            image.load()

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(decode_smallest, paths))


def run_on_all(network, batches: list[np.ndarray]) -> None:
    """Run the network on every batch."""
    for batch in batches:
        network(batch)


def measure_speeds(sides: dict[str, tuple[int, object]], rounds: int) -> dict[str, list[float]]:
    """Measure the images per second of each side (images, work) in each round, after a warm-up."""
    for _, work in sides.values():
        work()
    return interleaved({name: lambda n=n, w=w: n / seconds(w) for name, (n, w) in sides.items()}, rounds)


def measure_small(folder: str, weights: str, quick: bool) -> dict[str, float]:
    """Measure photographs of 500 pixels."""
    n, few, rounds = (32, 2, 1) if quick else (640, 32, 3)
    paths = photographs(os.path.join(folder, "small"), n)
    few_paths = paths[:few]
    part = photographs(os.path.join(folder, "part"), n // 2)
    model, network = build_keras_model(weights), compile_network(**CNN, weights=weights)
    batches = decode_to_batches(paths)
    readings = measure_speeds(
        {
            "loop": (few, lambda: embed_in_loop(model, few_paths)),
            "dataset": (len(part), lambda: embed_dataset(model, os.path.join(folder, "part"))),
            "network": (n, lambda: run_on_all(network, batches)),
            "decode": (n, lambda: decode_all(paths)),
            "tlfeatures": (n, lambda: embed(paths, folder, weights=weights)),
            "tlfeatures_no_store": (n, lambda: embed(paths, None, weights=weights)),
        },
        rounds,
    )
    bound = [1 / (1 / c + 1 / d) for c, d in zip(readings["network"], readings["decode"], strict=True)]
    expected, embeddings = embed_in_loop(model, few_paths), embed(few_paths, None, weights=weights)
    return {
        "bytes_a_file": statistics.mean(map(os.path.getsize, paths)),
        **{f"{name}_images_per_s": statistics.median(v) for name, v in {**readings, "bound": bound}.items()},
        "times_loop": median_ratio(readings["tlfeatures"], readings["loop"]),
        "times_dataset": median_ratio(readings["tlfeatures"], readings["dataset"]),
        "of_bound": median_ratio(readings["tlfeatures"], bound),
        "no_store_of_bound": median_ratio(readings["tlfeatures_no_store"], bound),
        "largest_difference_to_loop": float(np.abs(embeddings - expected).max() / np.abs(expected).max()),
    }


def measure_large(name: str, grain: float, folder: str, weights: str, quick: bool) -> dict[str, float]:
    """Measure photographs of 12 megapixels."""
    n, written, few, size, rounds = (4, 2, 1, (1600, 1200), 1) if quick else (96, 32, 4, (4000, 3000), 2)
    images = os.path.join(folder, name)
    originals = photographs(os.path.join(folder, f"{name}_originals"), written, size, grain=grain)
    paths = write_copies(originals, images, n)  # tlfeatures computes identical files once
    model = build_keras_model(weights)
    readings = measure_speeds(
        {
            "loop": (few, lambda: embed_in_loop(model, paths[:few])),
            "dataset": (n, lambda: embed_dataset(model, images)),
            "exact": (written, lambda: embed(paths[:written], folder, weights=weights, decode="exact")),
            "decode": (n, lambda: decode_all(paths)),
            "entropy": (n, lambda: decode_entropy(paths)),
            "tlfeatures": (n, lambda: embed(paths, folder, weights=weights)),
        },
        rounds,
    )
    a, b = (embed(paths[:written], None, weights=weights, decode=decode) for decode in ("exact", "scaled"))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {
        f"{name}_bytes_a_file": statistics.mean(map(os.path.getsize, paths)),
        **{f"{name}_{side}_images_per_s": statistics.median(v) for side, v in readings.items()},
        f"{name}_times_loop": median_ratio(readings["tlfeatures"], readings["loop"]),
        f"{name}_times_exact": median_ratio(readings["tlfeatures"], readings["exact"]),
        f"{name}_times_dataset": median_ratio(readings["tlfeatures"], readings["dataset"]),
        f"{name}_cosine_to_exact": float(np.median(cosine)),
        f"{name}_least_cosine_to_exact": float(cosine.min()),
    }


def measure_heavy(
    name: str, paths: list[str], stores: str, rounds: int, batch_size: int, size: int
) -> dict[str, float]:
    """Compare `CNNFeatures` with the compiled network alone, for a slow network with random weights."""
    options = {"model": name, "weights": None, "batch_size": batch_size, "image_size": size}
    network = compile_network(**options)
    batches = [batch[:, :size, :size] for batch in decode_to_batches(paths, batch_size)]
    readings = measure_speeds(
        {
            "network": (len(paths), lambda: run_on_all(network, batches)),
            "tlfeatures": (len(paths), lambda: embed(paths, stores, **options)),
        },
        rounds,
    )
    return {
        **{f"{name}_{side}_images_per_s": statistics.median(v) for side, v in readings.items()},
        f"{name}_of_network": median_ratio(readings["tlfeatures"], readings["network"]),
    }


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "extract")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = mobilenet_weights(folder)
        figures = measure_small(folder, weights, args.quick)
        figures |= measure_large("large", 5, folder, weights, args.quick)
        figures |= measure_large("smooth", 1, folder, weights, args.quick)
        paths = sorted(
            os.path.join(folder, "small", name) for name in os.listdir(os.path.join(folder, "small"))
        )
        if args.quick:
            figures |= measure_heavy("vgg19", paths[:4], folder, 1, 4, 32)
        else:
            figures |= measure_heavy("resnet50", paths[:64], folder, 3, 32, 224)
            figures |= measure_heavy("vgg19", paths[:32], folder, 2, 16, 224)
    report("extract", args, figures, TARGETS, network="mobilenet_0.75", image_size=224, batch_size=BATCH)


if __name__ == "__main__":
    main()
