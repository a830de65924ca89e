"""Pretrain the bundled network "tiny" by distillation, without a data set.

The student "tiny" learns to reproduce the feature maps of a teacher with ImageNet weights (MobileNet 0.75)
at five depths (Asano and Saeed 2021, arXiv:2112.00725; hints as in Romero et al. 2014, arXiv:1412.6550). The
training images are crops of the photographs that scikit-learn and scikit-image ship, and procedurally
generated images. Linear maps between student and teacher are used in training only.

    pip install scikit-image
    KERAS_HOME=folder/with/the/weights python pipelines/pretrain_tiny.py

An interrupted run resumes from its last checkpoint. The result is the weights file and its model card in the
package. Any Keras backend works, with or without a GPU. `--export` writes both from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from drawn_images import KINDS
from tiny_images import MIXED, PHOTOGRAPHS, SCENES, SHARD, SIZE, ImageShards, make_shards

from tlfeatures._keras import keras, to_numpy
from tlfeatures.networks import tiny

ROOT = Path(__file__).parents[1]
MIXED_EPOCHS = 14  # epochs on mixed images only, before scenes are added
# layer of the teacher, layer of the student, pooling of both, and whether a linear map is placed between them
DISTILLED_LAYERS = (
    ("conv_pw_3_relu", "block3_pw_relu", 1, False),
    ("conv_pw_5_relu", "block5_pw_relu", 1, False),
    ("conv_pw_7_relu", "block7_add", 1, True),
    ("conv_pw_9_relu", "block9_add", 2, True),
    ("conv_pw_11_relu", "block10_pw_relu", 2, True),
)


# -- training ------------------------------------------------------------------------------------


def make_student(images: ImageShards) -> Any:
    """Build the model that trains the student: student, teacher, linear maps and the loss."""
    k = keras()
    ops, layers = k.ops, k.layers

    def pooled(x: Any, side: int) -> Any:
        return layers.AveragePooling2D(side)(x) if side > 1 else x

    network = tiny.Tiny(batch_norm=True)
    whole = k.applications.MobileNet(alpha=0.75, include_top=False, input_shape=(SIZE, SIZE, 3))
    taps = [pooled(whole.get_layer(layer).output, side) for layer, _, side, _ in DISTILLED_LAYERS]
    teacher = k.Model(whole.inputs, taps, name="teacher")
    teacher.trainable = False
    outputs = []
    for (_, layer, side, linear), tap in zip(DISTILLED_LAYERS, taps, strict=True):
        output = pooled(network.get_layer(layer).output, side)
        outputs.append(layers.Dense(tap.shape[-1])(output) if linear else output)
    sample = teacher.predict(images.take(np.arange(0, MIXED * SHARD, MIXED * SHARD // 600)), verbose=0)
    # without the added median, channels that are rarely active would dominate the loss
    deviations = [y.std((0, 1, 2)) for y in sample]
    deviations = [s + 0.1 * np.median(s) for s in deviations]
    mean_deviations = [y.mean((1, 2)).std(0) for y in sample]
    mean_deviations = [s + 0.1 * np.median(s) for s in mean_deviations]

    class Student(k.Model):
        """Student with the squared error of the activations, per position and averaged over positions."""

        def compute_loss(
            self,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any:
            loss = 0.0
            for i in range(len(DISTILLED_LAYERS)):
                error = y_pred[i] - y_pred[i + len(DISTILLED_LAYERS)]
                loss += ops.mean(ops.square(error / deviations[i]))
                loss += ops.mean(ops.square(ops.mean(error, axis=(1, 2)) / mean_deviations[i]))
            return loss / len(DISTILLED_LAYERS)

    return Student(network.inputs, [*outputs, *teacher(network.inputs[0], training=False)])


def train(folder: Path, images: ImageShards, args: argparse.Namespace) -> tuple[Any, dict]:
    """Train to the last epoch, resuming from a checkpoint; return the student and the training state."""
    k = keras()
    k.utils.set_random_seed(args.seed)
    student = make_student(images)
    steps = args.steps
    first = MIXED_EPOCHS * steps
    warmup = min(500, first // 10)
    early = k.optimizers.schedules.CosineDecay(
        1e-4, first - warmup, 1e-3, warmup_target=args.rate, warmup_steps=warmup
    )
    late = k.optimizers.schedules.CosineDecay(args.rate / 2, args.epochs * steps - first, 1e-3)

    class Rate(k.optimizers.schedules.LearningRateSchedule):
        """Cosine decay, restarted at half of the rate when scenes are added."""

        def __call__(self, step: Any) -> Any:
            return k.ops.where(step < first, early(step), late(step - first))

    student.compile(k.optimizers.AdamW(Rate(), weight_decay=1e-4, clipnorm=5.0))
    student.optimizer.build(student.trainable_variables)
    state_file, checkpoint = folder / "state.json", folder / "student.weights.h5"
    state = (
        json.loads(state_file.read_text()) if state_file.exists() else {"epoch": 0, "seconds": 0, "runs": 0}
    )
    if state["epoch"]:
        student.load_weights(checkpoint)
    last = state["epoch"] if args.export else args.epochs
    state["runs"] += state["epoch"] < last
    for epoch in range(state["epoch"], last):
        start, losses = time.monotonic(), []
        batches = images.batches(args.seed, epoch, steps, args.batch_size, 0.6 * (epoch >= MIXED_EPOCHS))
        for step, x in enumerate(prefetch(batches), start=1):
            losses.append(float(student.train_on_batch(x)))
            if step % 50 == 0:
                speed = step * args.batch_size / (time.monotonic() - start)
                left = ((args.epochs - epoch) * steps - step) * args.batch_size / speed
                loss = np.mean(losses[-50:])
                print(f"epoch {epoch + 1} of {args.epochs}, step {step} of {steps}: loss {loss:.4f}, "
                    f"{speed:.0f} images/s, {left / 60:.0f} min left", flush=True)  # fmt: skip
        state |= {
            "epoch": epoch + 1, "seconds": state["seconds"] + time.monotonic() - start, "loss": float(np.mean(losses)),
        }  # fmt: skip
        part = folder / "part.weights.h5"
        student.save_weights(part)  # with the optimizer's state
        os.replace(part, checkpoint)
        state_file.write_text(json.dumps(state))
    return student, state


def prefetch(batches: Iterator[Any]) -> Iterator[Any]:
    """Prepare each batch in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def fold(student: Any) -> dict[str, np.ndarray]:
    """Return the float16 arrays of the network with batch normalization folded into the convolutions."""
    arrays = {}
    for layer in student.layers:
        if not layer.name.endswith("_bn"):
            continue
        gamma, beta, mean, variance = (to_numpy(v).astype(np.float64) for v in layer.weights)
        conv = student.get_layer(layer.name.removesuffix("_bn"))
        scale = gamma / np.sqrt(variance + layer.epsilon)
        kernel = to_numpy(conv.weights[0]).astype(np.float64)
        depthwise = kernel.shape[-1] == 1
        arrays[f"{conv.name}/kernel"] = kernel * (scale[:, None] if depthwise else scale)
        arrays[f"{conv.name}/bias"] = beta - mean * scale
    return {name: array.astype(np.float16) for name, array in arrays.items()}


# -- the result ----------------------------------------------------------------------------------


def export(student: Any, path: Path) -> str:
    """Write the weights file and return its SHA-256."""
    with path.open("wb") as file:
        np.savez(file, **fold(student))
    return hashlib.sha256(path.read_bytes()).hexdigest()


CARD = """# Model card: tiny

A frozen ConvNet with {parameters:,} parameters (depthwise-separable convolutions, stride 16), stored in float16. It
takes images of at least 32x32 pixels and was trained at 96x96. It is meant for trying out the library, for tests, and
for thumbnails on slow machines. Use networks trained on ImageNet for real work.

SHA-256 of `tiny.npz`: `{digest}`

## Training data

No data set. {images:,} images of 96x96 pixels: crops, rotated, flipped, recolored, enlarged from few pixels, and
combined by mixup and CutMix, of

- the photographs that scikit-learn ships: `china.jpg`, `flower.jpg` (CC BY 2.0; authors in scikit-learn's
  `datasets/images/README.txt`);
- photographs that scikit-image {skimage} ships, public domain or CC0 where its documentation names a licence:
  {photographs};
- procedurally generated images (`pipelines/drawn_images.py`): {kinds}.
  The text contains letters and no digits.

The weights file does not contain the images. The hand signs, pets and digits below were not used for training. They
were used to choose between designs of the network.

## Training procedure

`python pipelines/pretrain_tiny.py`, seed {seed}: the student learns feature maps of the teacher, Keras's MobileNet
0.75 with ImageNet weights (Apache-2.0), on the same pixels:
  {layers}.
The loss is the squared error per position plus the squared error of the averages over positions, both in units of the
standard deviation of the channel. AdamW, {steps:,} steps of {batch} images. The first {first:,} steps use
{mixed:,} mixed images with a cosine schedule that starts at {rate:g}; the remaining steps draw 60% of the images from
{scenes:,} warped scenes, with a cosine schedule that starts at half of that rate. Batch normalization is folded into
the convolutions. The mean loss of the last epoch was {loss:.3f}.

Compute: {minutes:.0f} minutes on {cores} {machine} cores shared with other processes, in {runs} run(s). Keras {keras},
{backend}. Parallel sums are not reproducible bit by bit, so another run gives equally good but not identical weights.

## Evaluation

{figures}

Accuracy of the best single layer (average pooling, or average and maximum pooling) with standardization and an RBF SVM
with C=10 at 96x96 pixels, by `python benchmarks/tiny.py`. Choosing the best layer makes these figures slightly
optimistic. The test set of the signs has 120 images, so one image is 0.8 points: quote the 5-fold figures.

## Limitations

The network was trained on {count} photographs. It represents edges, textures, shapes and colors, but not most of the
ImageNet classes; where those matter, the teacher is far better. Do not use it to make decisions about people.

## Licence

Apache-2.0, the licence of the teacher.
"""


def wrapped(names: Iterable[str]) -> str:
    """Join names by commas and wrap the lines with a hanging indent of two spaces."""
    return textwrap.fill(", ".join(names), 110, subsequent_indent="  ", break_on_hyphens=False)


def write_card(path: Path, digest: str, state: dict, args: argparse.Namespace) -> None:
    """Run the benchmark on the weights and write the model card next to them."""
    json_file = args.folder / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / "tiny.py", "--weights", path, "--json", json_file]
    subprocess.run(command, check=True)
    figures = json.loads(json_file.read_text())["figures"]
    rows = ["| data | random, avg | random, avgmax | tiny, avg | tiny, avgmax |", "|---|---|---|---|---|"]
    for name, title in {
        "signs_test": "hand signs, test set",
        "signs_5fold": "hand signs, 5-fold on all",
        "pets_5fold": "pets, 5-fold",
        "digits_5fold": "scikit-learn's digits, 5-fold",
    }.items():
        if name in figures:
            both = (name, name.replace("_", "_avgmax_", 1))
            cells = [f"{figures[prefix + n]:.1%}" for prefix in ("random_", "") for n in both]
            rows.append(f"| {title} | {' | '.join(cells)} |")
    names = [name for group in PHOTOGRAPHS.values() for name in group]
    with np.load(path) as arrays:
        parameters = sum(array.size for array in arrays.values())
    text = CARD.format(
        parameters=parameters,
        digest=digest,
        images=(MIXED + SCENES) * SHARD,
        mixed=MIXED * SHARD,
        scenes=SCENES * SHARD,
        first=MIXED_EPOCHS * args.steps,
        skimage=version("scikit-image"),
        photographs=wrapped(f"`{name}`" for name in PHOTOGRAPHS["skimage/data"]),
        kinds=wrapped(KINDS),
        seed=args.seed,
        layers=wrapped(f"`{student}` from `{teacher}`" for teacher, student, _, _ in DISTILLED_LAYERS),
        steps=state["epoch"] * args.steps,
        batch=args.batch_size,
        rate=args.rate,
        loss=state["loss"],
        minutes=state["seconds"] / 60,
        cores=os.cpu_count(),
        machine=platform.machine(),
        runs=state["runs"],
        keras=version("keras"),
        backend=keras().backend.backend(),
        figures="\n".join(rows),
        count=len(names),
    )
    path.with_suffix(".md").write_text(text, "utf-8")


def main() -> None:
    """Make the training images, train, and export the weights and the model card."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--epochs", type=int, default=22, help="epochs, each followed by a checkpoint (default 22)"
    )
    parser.add_argument("--steps", type=int, default=500, help="steps per epoch (default 500)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default 0.004)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make images")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "cache" / "tiny",
        help="folder of training images and checkpoints",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(tiny.__file__).with_name("tiny.npz"))
    parser.add_argument(
        "--export",
        action="store_true",
        help="only write the weights and the model card from the newest checkpoint",
    )
    args = parser.parse_args()
    if args.export and not (args.folder / "state.json").exists():
        parser.error(f"--export needs a checkpoint, and there is none in {args.folder}")
    make_shards(args.folder / "images", MIXED + SCENES, args.seed, args.workers)
    student, state = train(args.folder, ImageShards(args.folder / "images", MIXED + SCENES), args)
    digest = export(student, args.output)
    write_card(args.output, digest, state, args)


if __name__ == "__main__":
    main()
