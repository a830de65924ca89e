"""Throughput from JPEG files to embeddings, compared with Keras's own ways and with the machine's bound.

    python benchmarks/extract.py [--quick] [--json PATH]

loop      Keras's documented way: load_img, img_to_array, preprocess_input and predict, one image at a time
dataset   image_dataset_from_directory, then preprocess_input and predict on each batch
network   the compiled network alone on decoded batches, all cores
decode    decoding alone, with the same threads
bound     1 / (1 / network + 1 / decode): both at once on the same cores
exact     tlfeatures with decode="exact"
entropy   reading JPEG files and decoding their entropy coding alone, which every side must do

Large photographs are measured twice: with sensor noise (3 MB a file), and smoothed.

Each round measures all sides in turn; figures are medians, ratios are medians of the rounds' ratios.
tlfeatures starts each time with an empty store and no memoized digests, and writes the store.
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
from _common import arguments, interleaved, median_ratio, mobilenet_weights, photographs, report, seconds
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


def keras_model(weights: str) -> keras.Model:
    """The same network as Keras's documentation builds it."""
    model = keras.applications.MobileNet(
        alpha=0.75, include_top=False, weights=None, input_shape=(224, 224, 3), pooling="avg"
    )
    model.load_weights(weights)
    return model


def loop(model: keras.Model, paths: list[str]) -> np.ndarray:
    """One image at a time, as https://keras.io/api/applications/ shows it."""
    rows = []
    for path in paths:
        image = keras.utils.load_img(path, target_size=(224, 224), interpolation="bilinear")
        x = np.expand_dims(keras.utils.img_to_array(image), axis=0)
        rows.append(model.predict(keras.applications.mobilenet.preprocess_input(x), verbose=0))
    return np.concatenate(rows)


def dataset(model: keras.Model, folder: str) -> np.ndarray:
    """Batches from a folder, each through predict."""
    batches = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=0
    )
    pre = keras.applications.mobilenet.preprocess_input
    return np.concatenate([model.predict(pre(batch), verbose=0) for batch in batches])


def ours(paths: list[str], stores: str | None, **options) -> np.ndarray:
    """Files to embeddings, into a new store below ``stores``; without one where that is None."""
    fingerprints._memo.clear()
    cache = stores and tempfile.mkdtemp(dir=stores)  # removed with the rest, which is not timed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights
        return CNNFeatures(**{**CNN, **options}, cache=cache).fit_transform(paths)


def bare(**options):
    """The compiled network alone: uint8 batch to embeddings, as `CNNFeatures` runs it with a store."""
    backbone = Backbone(options["model"], options["weights"], options.get("image_size"))
    plan = FeatureSpec.make(backbone, None, "avg")
    outputs = plan.add_free_poolings(plan.columns)
    return backbone.compile([(c.tap, c.part) for c in outputs], plan.description)


def ready_batches(paths: list[str], size: int = BATCH) -> list[np.ndarray]:
    """Decoded batches, whole ones only."""
    readings = decode_batches(paths, range(len(paths) // size * size), Decoder((224, 224)), size)
    return [batch for *_, batch, _ in readings]


def decode_all(paths: list[str]) -> None:
    """Decode and drop."""
    for _ in decode_batches(paths, range(len(paths)), Decoder((224, 224)), BATCH):
        pass


def entropy(paths: list[str]) -> None:
    """Read files and undo their entropy coding, with as many threads: what no decoder of JPEG is spared."""

    def one(path: str) -> None:
        with Image.open(path) as image:
            image.draft("L", (1, 1))  # an eighth, grey
            image.load()

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(one, paths))


def run_all(network, batches: list[np.ndarray]) -> None:
    """Every batch through the network."""
    for batch in batches:
        network(batch)


def speeds(sides: dict[str, tuple[int, object]], rounds: int) -> dict[str, list[float]]:
    """Images a second of each side, round by round; (images, work) each. Once before to warm up."""
    for _, work in sides.values():
        work()
    return interleaved({name: lambda n=n, w=w: n / seconds(w) for name, (n, w) in sides.items()}, rounds)


def small(folder: str, weights: str, quick: bool) -> dict[str, float]:
    """500-pixel photographs."""
    n, few, rounds = (32, 2, 1) if quick else (1024, 32, 3)
    paths = photographs(os.path.join(folder, "small"), n)
    few_paths = paths[:few]
    part = photographs(os.path.join(folder, "part"), n // 2)
    model, network = keras_model(weights), bare(**CNN, weights=weights)
    batches = ready_batches(paths)
    readings = speeds(
        {
            "loop": (few, lambda: loop(model, few_paths)),
            "dataset": (len(part), lambda: dataset(model, os.path.join(folder, "part"))),
            "network": (n, lambda: run_all(network, batches)),
            "decode": (n, lambda: decode_all(paths)),
            "tlfeatures": (n, lambda: ours(paths, folder, weights=weights)),
            "tlfeatures_no_store": (n, lambda: ours(paths, None, weights=weights)),
        },
        rounds,
    )
    bound = [1 / (1 / c + 1 / d) for c, d in zip(readings["network"], readings["decode"], strict=True)]
    expected, got = loop(model, few_paths), ours(few_paths, None, weights=weights)
    return {
        "bytes_a_file": statistics.mean(map(os.path.getsize, paths)),
        **{f"{name}_images_per_s": statistics.median(v) for name, v in {**readings, "bound": bound}.items()},
        "times_loop": median_ratio(readings["tlfeatures"], readings["loop"]),
        "times_dataset": median_ratio(readings["tlfeatures"], readings["dataset"]),
        "of_bound": median_ratio(readings["tlfeatures"], bound),
        "no_store_of_bound": median_ratio(readings["tlfeatures_no_store"], bound),
        "largest_difference_to_loop": float(np.abs(got - expected).max() / np.abs(expected).max()),
    }


def large(name: str, grain: float, folder: str, weights: str, quick: bool) -> dict[str, float]:
    """12-megapixel photographs."""
    n, few, size, rounds = (2, 1, (1600, 1200), 1) if quick else (64, 4, (4000, 3000), 2)
    images = os.path.join(folder, name)
    paths = photographs(images, n, size, grain=grain)
    model = keras_model(weights)
    readings = speeds(
        {
            "loop": (few, lambda: loop(model, paths[:few])),
            "dataset": (n, lambda: dataset(model, images)),
            "exact": (n, lambda: ours(paths, folder, weights=weights, decode="exact")),
            "decode": (n, lambda: decode_all(paths)),
            "entropy": (n, lambda: entropy(paths)),
            "tlfeatures": (n, lambda: ours(paths, folder, weights=weights)),
        },
        rounds,
    )
    a, b = (ours(paths, None, weights=weights, decode=decode) for decode in ("exact", "scaled"))
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


def heavy(
    name: str, paths: list[str], stores: str, rounds: int, batch_size: int, size: int
) -> dict[str, float]:
    """A network that takes long, on random weights, against itself bare."""
    options = {"model": name, "weights": None, "batch_size": batch_size, "image_size": size}
    network = bare(**options)
    batches = [batch[:, :size, :size] for batch in ready_batches(paths, batch_size)]
    readings = speeds(
        {
            "network": (len(paths), lambda: run_all(network, batches)),
            "tlfeatures": (len(paths), lambda: ours(paths, stores, **options)),
        },
        rounds,
    )
    return {
        **{f"{name}_{side}_images_per_s": statistics.median(v) for side, v in readings.items()},
        f"{name}_of_network": median_ratio(readings["tlfeatures"], readings["network"]),
    }


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = arguments(__doc__, "extract")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = mobilenet_weights(folder)
        figures = small(folder, weights, args.quick)
        figures |= large("large", 5, folder, weights, args.quick)
        figures |= large("smooth", 1, folder, weights, args.quick)
        paths = sorted(
            os.path.join(folder, "small", name) for name in os.listdir(os.path.join(folder, "small"))
        )
        if args.quick:
            figures |= heavy("vgg19", paths[:4], folder, 1, 4, 32)
        else:
            figures |= heavy("resnet50", paths[:128], folder, 5, 32, 224)
            figures |= heavy("vgg19", paths[:64], folder, 3, 16, 224)
    report("extract", args, figures, TARGETS, network="mobilenet_0.75", image_size=224, batch_size=BATCH)


if __name__ == "__main__":
    main()
