"""Throughput of the network on CPUs in other runtimes, precisions and settings, compared with that of `CNNFeatures`.

    python benchmarks/runtimes.py [--full | --networks NAME ... --sides NAME ...] [--one-core] [--quick] [--json PATH]

default         as `CNNFeatures` runs the network: TensorFlow with oneDNN, float32, weights frozen, batches of 32
bfloat16        the same with precision="bfloat16"
batch_8         batches of 8 images; also batch_128
one_thread      one thread for each operation, two operations at a time; also inter_1, one operation at a time
no_onednn       TF_ENABLE_ONEDNN_OPTS=0
fpmath_bf16     float32 with ONEDNN_DEFAULT_FPMATH_MODE=BF16, where oneDNN may compute convolutions in bfloat16
graph_bf16      float32 with the graph optimizer auto_mixed_precision_onednn_bfloat16
xla             tf.function(jit_compile=True)
onnxruntime     the network in ONNX format in ONNX Runtime, float32
openvino        the network in OpenVINO in float32; also openvino_bf16
openvino_int8   quantized as `CNNFeatures` does with precision="int8", calibrated on 64 other images

All batches are uint8 pixels of 224x224 in main memory, and normalization and average pooling are part of the network.
Each side of each network runs in its own process, which computes only when it is its turn: the sides alternate, and
ratios are medians over the rounds. Cosines are between embeddings and those of `default`. The settings of TensorFlow
are measured on MobileNet 0.75 only. Without --networks, only MobileNet 0.75 and MobileNet are measured; --full measures
all sides on all networks, which takes about 20 minutes. --one-core gives ratios that other programs on the same
machine disturb less. MobileNet 0.75 has its ImageNet weights if they are on this machine, all others random weights.

accuracy        5-fold accuracy of logistic regression on embeddings of MobileNet 0.75 by precision, on the hand signs
                at 64x64 and the pets at 224x224 in ../shared; int8 is calibrated on every tenth image
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, Worker, arguments, interleaved, median_ratio, photographs, progress, report, serve

NETWORKS = ("mobilenet_0.75", "mobilenet", "efficientnetb0", "resnet50", "vgg19", "convnext_tiny")
ENVIRONMENTS = {
    "one_thread": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2"},
    "inter_1": {"TF_NUM_INTEROP_THREADS": "1"},
    "no_onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "fpmath_bf16": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
}
ONE_CORE = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
BATCHES = {"batch_8": 8, "batch_128": 128}
SETTINGS = (*BATCHES, *ENVIRONMENTS, "graph_bf16", "xla")
# side -> the packages that it needs
RUNTIMES = {
    "bfloat16": (),
    "onnxruntime": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino": ("openvino",),
    "openvino_bf16": ("openvino",),
    "openvino_int8": ("openvino", "nncf"),
}
EXPORTED = ("onnxruntime", "openvino", "openvino_bf16", "openvino_int8")
DEFAULT_NETWORKS = NETWORKS[:2]
SETTINGS_NETWORKS = ("mobilenet_0.75",)
COMPARED = 32  # number of images whose embeddings are compared
FLOAT32 = ("batch_8", "batch_128", "one_thread", "inter_1", "no_onednn", "xla", "onnxruntime", "openvino")


# --- in the process of one side


def specify(network: str, precision: str, size: int):
    """Return the specification of the average of the last layer."""
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.networks import Backbone, find_network, find_weights

    warnings.simplefilter("ignore")  # random weights
    weights = None
    if network == "mobilenet_0.75" and find_weights(find_network(network), top=False, image_size=(224, 224)):
        weights = "imagenet"
    return FeatureSpec.make(Backbone(network, weights, size, "auto", precision), None, "avg")


def load_tensorflow(side: str, network: str, size: int, exported: list[str], folder: Path):
    """Load the network in TensorFlow; "default" also writes it for the other runtimes."""
    spec = specify(network, "bfloat16" if side == "bfloat16" else "float32", size)
    if side == "graph_bf16":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    if exported:
        export(spec, exported, folder)
    if side == "xla":
        import tensorflow as tf

        from tlfeatures.finetune._keras_models import make_embedding_model

        model = make_embedding_model(spec)
        run = tf.function(lambda x: model(tf.cast(x, tf.float32), training=False), jit_compile=True)
        return lambda batch: run(tf.constant(batch)).numpy()
    run = spec.backbone.compile([(c.tap, c.part) for c in spec.columns], spec.description)
    return lambda batch: run(batch)[0]


def export(spec, exported: list[str], folder: Path) -> None:
    """Write the network for the sides that need a file of it."""
    import tensorflow as tf

    from tlfeatures.finetune._keras_models import make_embedding_model

    model = make_embedding_model(spec)
    if "onnxruntime" in exported:
        from tlfeatures._keras.frozen import convert_to_onnx

        (folder / "network.onnx").write_bytes(convert_to_onnx(model))
    if any(side.startswith("openvino") for side in exported):
        import openvino

        call = tf.function(lambda x: model(tf.cast(x, tf.float32), training=False), autograph=False)
        pixels = tf.TensorSpec((None, *spec.description.image_size, 3), tf.uint8)
        converted = openvino.convert_model(call.get_concrete_function(pixels))
        # inner results of functions with their own gradients, such as swish, become outputs too
        output = next(o for o in converted.outputs if "Identity:0" in o.names).get_node().input_value(0)
        whole = openvino.Model([output], converted.get_parameters())
        openvino.save_model(whole, folder / "network.xml", compress_to_fp16=False)


def load_onnxruntime(folder: Path, one_core: bool):
    """Load the network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(one_core)  # 0 is one for each core
    session = onnxruntime.InferenceSession(folder / "network.onnx", options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def load_openvino(side: str, folder: Path, calibration: np.ndarray, one_core: bool):
    """Load the network in OpenVINO, and quantize it if the side is "openvino_int8"."""
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "network.xml")
    if side == "openvino_int8":
        from tlfeatures._keras.openvino_graph import quantize

        model = quantize(model, calibration)
    precision = "bf16" if side == "openvino_bf16" else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if one_core:
        options["INFERENCE_NUM_THREADS"] = 1
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda batch: request.infer([batch])[0].copy()


def serve_side(
    side: str,
    network: str,
    size: int,
    batch: int,
    seconds: float,
    one_core: bool,
    exported: list[str],
    folder: Path,
) -> None:
    """Load one side, write its embeddings, and measure images per second whenever the main process asks."""
    sys.modules["openvino_telemetry"] = None  # neither files in the home folder nor usage data
    pixels = np.load(folder / "pixels.npy")
    calibration, pixels = np.split(pixels, [len(pixels) // 3])
    if side == "onnxruntime":
        run = load_onnxruntime(folder, one_core)
    elif side.startswith("openvino"):
        run = load_openvino(side, folder, calibration, one_core)
    else:
        run = load_tensorflow(side, network, size, exported, folder)
    batch = min(BATCHES.get(side, batch), len(pixels))
    batches = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]
    compared = batches[: -(-COMPARED // batch)]
    np.save(folder / f"{side}.npy", np.concatenate([run(each) for each in compared])[:COMPARED])
    clock = time.process_time if one_core else time.perf_counter

    def work() -> float:
        n, start = 0, clock()
        while clock() - start < seconds:
            run(batches[n // batch % len(batches)])
            n += batch
        return n / (clock() - start)

    serve(work)


# --- in the main process


def missing(side: str) -> list[str]:
    """Return the packages that a side needs and that are not installed."""
    return [name for name in RUNTIMES.get(side, ()) if importlib.util.find_spec(name) is None]


def measure(network: str, sides: list[str], rounds: int, folder: Path, **options) -> dict[str, float]:
    """Measure all sides of a network; return the figures."""
    workers = {}
    for side in sides:
        progress(f"{network}: loading {side}")
        child_options = {"side": side, "network": network, "folder": str(folder), **options}
        child_options["exported"] = [name for name in EXPORTED if name in sides] if side == "default" else []
        environment = {**(ONE_CORE if options["one_core"] else {}), **ENVIRONMENTS.get(side, {})}
        workers[side] = Worker(__file__, child_options, environment, folder / f"{side}.txt")
    readings = interleaved({side: worker.measure for side, worker in workers.items()}, rounds)
    for worker in workers.values():
        worker.stop()
    expected, figures = unit(np.load(folder / "default.npy")), {}
    for name in sides:
        figures[f"{network}_{name}_images_per_s"] = statistics.median(readings[name])
        if name != "default":
            cosines = (unit(np.load(folder / f"{name}.npy")) * expected).sum(axis=1)
            figures[f"{network}_{name}_ratio"] = median_ratio(readings[name], readings["default"])
            figures[f"{network}_{name}_cosine_min"] = float(cosines.min())
            figures[f"{network}_{name}_cosine_mean"] = float(cosines.mean())
    print_table(network, sides, figures)
    return figures


def measure_accuracy(runtimes: list[str]) -> dict[str, float]:
    """Compare the accuracy of a linear head by the precision of the network."""
    from _select import load_pets, load_signs
    from sklearn.model_selection import cross_val_score

    from tlfeatures import CNNFeatures
    from tlfeatures.heads import make_head

    sides = {"float32": {}} | {
        precision: {"precision": precision, "runtime": "openvino"}
        for precision, side in (("bfloat16", "openvino_bf16"), ("int8", "openvino_int8"))
        if side in runtimes
    }
    figures = {}
    for name, (paths, labels), size in (("signs", load_signs(), 64), ("pets", load_pets(), 224)):
        for precision, options in sides.items():
            progress(f"accuracy: {name} in {precision}")
            cnn = CNNFeatures(
                "mobilenet_0.75", image_size=size, cache=None, calibration_images=paths[::10], **options
            )
            scores = cross_val_score(make_head("logreg"), cnn.fit_transform(paths), labels, cv=5)
            figures[f"{name}_{precision}_accuracy"] = float(scores.mean())
    return figures


def print_table(network: str, sides: list[str], figures: dict[str, float]) -> None:
    """Print a line for each side, with more digits of the cosines than `report` prints."""
    print(f"{network:18} {'images/s':>10} {'ratio':>8} {'cosine min':>12} {'cosine mean':>12}")
    for side in sides:
        values = [
            figures.get(f"{network}_{side}_{k}", 1.0)
            for k in ("images_per_s", "ratio", "cosine_min", "cosine_mean")
        ]
        print("{:18} {:10.1f} {:8.2f} {:12.6f} {:12.6f}".format(side, *values))
    print(flush=True)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows divided by their lengths."""
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def decode(folder: Path, n: int, size: int) -> np.ndarray:
    """Return the pixels of n photographs."""
    from tlfeatures.images import Decoder, decode_batches

    paths = photographs(folder / "images", n)
    return next(iter(decode_batches(paths, range(n), Decoder((size, size)), n)))[2]


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "runtimes")
    parser.add_argument("--full", action="store_true", help="all sides of all networks")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: the first two")
    parser.add_argument("--sides", nargs="+", choices=(*SETTINGS, *RUNTIMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--one-core", action="store_true", help="one thread, and CPU time in place of time, on a busy machine"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        options = json.loads(args.child)
        serve_side(**{**options, "folder": Path(options["folder"])})
        return
    size, batch, n, seconds = (32, 4, 12, 0.05) if args.quick else (224, 32, 192, 0.8)
    rounds = 1 if args.quick else args.rounds
    skipped = {side: missing(side) for side in RUNTIMES if missing(side)}
    for side, packages in skipped.items():
        progress(f"{side} is not measured, because {', '.join(packages)} cannot be imported")
    runtimes = [side for side in RUNTIMES if side not in skipped]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        pixels = decode(Path(name), n, size)
        default = NETWORKS if args.full else NETWORKS[:1] if args.quick else DEFAULT_NETWORKS
        for network in args.networks or default:
            folder = Path(name, network)
            folder.mkdir()
            np.save(folder / "pixels.npy", pixels)
            settings = SETTINGS if args.full or network in SETTINGS_NETWORKS else ()
            sides = ["default", *(args.sides or (*settings, *runtimes))]
            if args.quick:
                sides = ["default", "batch_8", *(side for side in runtimes if side == "openvino")]
            options = {"size": size, "batch": batch, "seconds": seconds, "one_core": args.one_core}
            figures |= measure(network, sides, rounds, folder, **options)
    if (args.full or not args.networks) and not args.quick and SIGNS.is_dir():
        figures |= measure_accuracy(runtimes)
    targets = {
        key: (">=", 0.9999)
        for key in figures
        if key.endswith("cosine_min") and any(key.endswith(f"_{side}_cosine_min") for side in FLOAT32)
    }
    report("runtimes", args, figures, targets, not_measured=", ".join(skipped) or "none")


if __name__ == "__main__":
    main()
