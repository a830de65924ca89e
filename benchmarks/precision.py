"""Speed of slow networks in each precision on this device, and difference of the embeddings to the CPU.

    python benchmarks/precision.py [--quick] [--json PATH]

ours      uint8 batches in main memory to embeddings, as `CNNFeatures` runs the network
bare      Keras's predict_on_batch on preprocessed float batches that are already on the device
files     JPEG files of 500 pixels to embeddings, without a store
decode    only decoding, with the same threads; if it is slower than `ours`, it limits `files`
apart     largest difference of an embedding to float32 on the CPU, divided by the largest value
cosine    smallest cosine of an embedding to float32 on the CPU

ResNet50, VGG19, ConvNeXtTiny and EfficientNetV2S at 224 with random weights, the same on every device and backend
(KERAS_BACKEND); on a CPU the first two only, and without TF32. The sides alternate; figures are medians. Without a GPU,
bfloat16 may be slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import arguments, interleaved, median_ratio, photographs, progress, report, seconds

BATCHES = {"resnet50": 64, "vgg19": 64, "convnext_tiny": 64, "efficientnetv2_s": 64}
CPU_NETWORKS = ("resnet50", "vgg19")  # the others would take more than five minutes
PRECISIONS = ("float32", "tf32", "bfloat16")
# the mantissa has 10 bits in tf32 and 7 bits in bfloat16; errors accumulate over many layers
TARGETS = {
    "float32_apart": ("<=", 1e-4),
    "tf32_apart": ("<=", 1e-2),
    "bfloat16_apart": ("<=", 5e-2),
    "float32_cosine": (">=", 0.9999),
    "tf32_cosine": (">=", 0.999),
    "bfloat16_cosine": (">=", 0.999),
}
OF_BARE = (">=", 0.8)  # on a GPU


def compile_network(name: str, precision: str, size: int):
    """Compile the network as `CNNFeatures` does."""
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.networks import Backbone

    backbone = Backbone(name, None, size, "auto", precision)
    plan = FeatureSpec.make(backbone, None, "avg")
    return backbone.compile([(c.tap, c.part) for c in plan.columns], plan.description)


def build_keras_model(name: str, precision: str, size: int):
    """Return Keras's network, and a function that preprocesses a batch on the device."""
    import keras

    from tlfeatures._keras import PRECISIONS as POLICIES

    build, module = {
        "resnet50": (keras.applications.ResNet50, keras.applications.resnet),
        "vgg19": (keras.applications.VGG19, keras.applications.vgg19),
        "convnext_tiny": (keras.applications.ConvNeXtTiny, keras.applications.convnext),
        "efficientnetv2_s": (keras.applications.EfficientNetV2S, keras.applications.efficientnet_v2),
    }[name]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        model = build(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    finally:
        keras.config.set_dtype_policy(before)
    return model, lambda batch: keras.ops.convert_to_tensor(module.preprocess_input(batch.astype("f4")))


def measure(name: str, precision: str, paths: list[str], size: int, batch: int, rounds: int) -> dict:
    """Measure the images per second of each side."""
    from tlfeatures import CNNFeatures
    from tlfeatures._keras.frozen import precise
    from tlfeatures.images import Decoder, decode_batches

    n = len(paths) // batch * batch
    ready = [readings[2] for readings in decode_batches(paths, range(n), Decoder((size, size)), batch)]
    network, (model, prepare) = (
        compile_network(name, precision, size),
        build_keras_model(name, precision, size),
    )
    on_device = [prepare(each) for each in ready]
    cnn = CNNFeatures(name, weights=None, image_size=size, batch_size=batch, precision=precision, cache=None)

    def predict() -> None:
        with precise(precision):
            for each in on_device:
                model.predict_on_batch(each)

    def decode() -> None:
        for _ in decode_batches(paths, range(n), Decoder((size, size)), batch):
            pass

    sides = {
        "ours": lambda: [network(each) for each in ready],
        "bare": predict,
        "files": lambda: cnn.fit_transform(paths[:n]),
        "decode": decode,
    }
    for work in sides.values():  # compile
        work()
    readings = interleaved({k: lambda work=work: n / seconds(work) for k, work in sides.items()}, rounds)
    return {
        **{f"{side}_images_per_s": statistics.median(values) for side, values in readings.items()},
        "of_bare": median_ratio(readings["ours"], readings["bare"]),
        "embeddings": np.concatenate([network(each)[0] for each in ready[:1]]),
    }


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of ``a`` to the row of ``b``."""
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def embed_on_cpu(name: str, paths: list[str], size: int, batch: int, folder: str) -> np.ndarray:
    """Compute the embeddings of the first batch in float32, in a process without an accelerator."""
    out = os.path.join(folder, f"{name}.npy")
    command = [sys.executable, __file__, "--child", json.dumps([name, paths[:batch], size, batch, out])]
    no_accelerator = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, env={**os.environ, **no_accelerator})
    return np.load(out)


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "precision")
    parser.add_argument("--images", type=int, help="default: 256 on a GPU or TPU, 64 on a CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # random weights
    if args.child:
        from tlfeatures.images import Decoder, decode_batches

        name, paths, size, batch, out = json.loads(args.child)
        pixels = next(iter(decode_batches(paths, range(batch), Decoder((size, size)), batch)))[2]
        np.save(out, compile_network(name, "float32", size)(pixels)[0])
        return
    import keras

    size, rounds, networks = (224, 3, BATCHES) if not args.quick else (32, 1, {"vgg19": 4})
    precisions = PRECISIONS[:1] if args.quick else PRECISIONS
    n = 8 if args.quick else args.images or (64 if find_device() == "cpu" else 256)
    if find_device() == "cpu" and not args.quick:
        rounds, networks = 1, {name: BATCHES[name] for name in CPU_NETWORKS}
        precisions = ("float32", "bfloat16")
    figures, targets = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(os.path.join(folder, "images"), n)
        for name, batch in networks.items():
            expected = embed_on_cpu(name, paths, size, batch, folder)
            for precision in precisions:
                progress(f"{name} in {precision}")
                readings = measure(name, precision, paths, size, batch, rounds)
                embeddings = readings.pop("embeddings")
                readings["apart"] = float(np.abs(embeddings - expected).max() / np.abs(expected).max())
                readings["cosine"] = float(cosines(embeddings, expected).min())
                figures |= {f"{name}_{precision}_{key}": value for key, value in readings.items()}
                targets |= {
                    f"{name}_{precision}_{key}": TARGETS[f"{precision}_{key}"] for key in ("apart", "cosine")
                }
                if find_device() != "cpu":
                    targets[f"{name}_{precision}_of_bare"] = OF_BARE
    report("precision", args, figures, targets, backend=keras.backend.backend(), device=find_device())


def find_device() -> str:
    """Return the kind of device that the network runs on."""
    import keras

    kinds = [kind for kind in ("gpu", "tpu") if _count(keras, kind)]
    return kinds[0] if kinds else "cpu"


def _count(keras, kind: str) -> int:
    try:
        return len(keras.distribution.list_devices(kind))
    except (RuntimeError, ValueError):
        return 0


if __name__ == "__main__":
    main()
