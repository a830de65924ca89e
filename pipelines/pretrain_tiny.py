"""Pretrain the bundled network "tiny" by distillation, without a data set.

A teacher with ImageNet weights (MobileNet 0.75) looks at crops of the few photographs that scikit-learn
and scikit-image carry, and of pictures drawn by formula; "tiny" learns to give the teacher's feature
maps at five depths (Asano and Saeed 2021, arXiv:2112.00725; hints as in Romero et al. 2014,
arXiv:1412.6550). Where linear maps help it to, they are dropped afterwards.

    pip install scikit-image
    KERAS_HOME=folder/with/the/weights python pipelines/pretrain_tiny.py

It goes on where it was stopped, and ends with the weights and their model card in the package. Any
Keras backend serves, with or without a GPU. `--export` writes both from the newest checkpoint.
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
from drawn_pictures import KINDS
from tiny_pictures import MIXED, PHOTOGRAPHS, SCENES, SHARD, SIZE, Pictures, make_pictures

from tlfeatures._keras import keras, to_numpy
from tlfeatures.networks import tiny

ROOT = Path(__file__).parents[1]
FIRST = 14  # epochs on the mixed pictures, before the scenes join
# the teacher's layer, the student's that learns it, how far both are pooled, and whether a linear map predicts
LESSONS = (
    ("conv_pw_3_relu", "block3_pw_relu", 1, False),
    ("conv_pw_5_relu", "block5_pw_relu", 1, False),
    ("conv_pw_7_relu", "block7_add", 1, True),
    ("conv_pw_9_relu", "block9_add", 2, True),
    ("conv_pw_11_relu", "block10_pw_relu", 2, True),
)


# -- training ------------------------------------------------------------------------------------


def make_student(pictures: Pictures) -> Any:
    """The student beside its teacher, with linear predictors and the loss."""
    k = keras()
    ops, layers = k.ops, k.layers

    def pooled(x: Any, side: int) -> Any:
        return layers.AveragePooling2D(side)(x) if side > 1 else x

    network = tiny.Tiny(batch_norm=True)
    whole = k.applications.MobileNet(alpha=0.75, include_top=False, input_shape=(SIZE, SIZE, 3))
    taps = [pooled(whole.get_layer(layer).output, side) for layer, _, side, _ in LESSONS]
    teacher = k.Model(whole.inputs, taps, name="teacher")
    teacher.trainable = False
    answers = []
    for (_, layer, side, linear), tap in zip(LESSONS, taps, strict=True):
        answer = pooled(network.get_layer(layer).output, side)
        answers.append(layers.Dense(tap.shape[-1])(answer) if linear else answer)
    some = teacher.predict(pictures.take(np.arange(0, MIXED * SHARD, MIXED * SHARD // 600)), verbose=0)
    # channels that hardly ever answer would rule the loss by their few answers
    deviations = [y.std((0, 1, 2)) for y in some]
    deviations = [s + 0.1 * np.median(s) for s in deviations]
    mean_deviations = [y.mean((1, 2)).std(0) for y in some]
    mean_deviations = [s + 0.1 * np.median(s) for s in mean_deviations]

    class Student(k.Model):
        """Loss: squared errors of the teacher's activations, at each place and on average over places."""

        def compute_loss(
            self,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any:
            loss = 0.0
            for i in range(len(LESSONS)):
                error = y_pred[i] - y_pred[i + len(LESSONS)]
                loss += ops.mean(ops.square(error / deviations[i]))
                loss += ops.mean(ops.square(ops.mean(error, axis=(1, 2)) / mean_deviations[i]))
            return loss / len(LESSONS)

    return Student(network.inputs, [*answers, *teacher(network.inputs[0], training=False)])


def train(folder: Path, pictures: Pictures, args: argparse.Namespace) -> tuple[Any, dict]:
    """Train to the last epoch, from the checkpoint if there is one; the student, and what it took."""
    k = keras()
    k.utils.set_random_seed(args.seed)
    student = make_student(pictures)
    steps = args.steps
    first = FIRST * steps
    warmup = min(500, first // 10)
    early = k.optimizers.schedules.CosineDecay(
        1e-4, first - warmup, 1e-3, warmup_target=args.rate, warmup_steps=warmup
    )
    late = k.optimizers.schedules.CosineDecay(args.rate / 2, args.epochs * steps - first, 1e-3)

    class Rate(k.optimizers.schedules.LearningRateSchedule):
        """Down along a cosine, and once more from half the height when the scenes join."""

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
        batches = pictures.batches(args.seed, epoch, steps, args.batch_size, 0.6 * (epoch >= FIRST))
        for step, x in enumerate(ahead(batches), start=1):
            losses.append(float(student.train_on_batch(x)))
            if step % 50 == 0:
                speed = step * args.batch_size / (time.monotonic() - start)
                left = ((args.epochs - epoch) * steps - step) * args.batch_size / speed
                loss = np.mean(losses[-50:])
                print(f"epoch {epoch + 1} of {args.epochs}, step {step} of {steps}: loss {loss:.4f}, "
                    f"{speed:.0f} pictures/s, {left / 60:.0f} min left", flush=True)  # fmt: skip
        state |= {
            "epoch": epoch + 1, "seconds": state["seconds"] + time.monotonic() - start, "loss": float(np.mean(losses)),
        }  # fmt: skip
        part = folder / "part.weights.h5"
        student.save_weights(part)  # with the optimizer's state
        os.replace(part, checkpoint)
        state_file.write_text(json.dumps(state))
    return student, state


def ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, each made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def fold(student: Any) -> dict[str, np.ndarray]:
    """The network's arrays with batch normalization folded into the convolutions, float16."""
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
    """Write the weights; their SHA-256."""
    with path.open("wb") as file:
        np.savez(file, **fold(student))
    return hashlib.sha256(path.read_bytes()).hexdigest()


CARD = """# Model card: tiny

A frozen ConvNet of {parameters:,} parameters (depthwise-separable, stride 16), stored in float16, for images of
32 pixels and more; made for 96x96. It is for trying things out, for tests, and for thumbnails on slow machines.
Networks trained on ImageNet are for real work.

SHA-256 of `tiny.npz`: `{digest}`

## Data

No data set. {pictures:,} pictures of 96x96: crops, turned, mirrored, recoloured, enlarged from few pixels, blended
(mixup), and pasted into one another (cutmix), of

- the photographs that scikit-learn carries: `china.jpg`, `flower.jpg` (CC BY 2.0; authors in scikit-learn's
  `datasets/images/README.txt`);
- photographs that scikit-image {skimage} carries, public domain or CC0 by its documentation where it names a licence:
  {photographs};
- pictures drawn by formula (`pipelines/drawn_pictures.py`): {kinds}.
  The text has letters and no digits.

The pictures themselves are not in the weights' file. The hand signs, pets and digits below were not trained on; they
were looked at while the network was designed, to choose between designs.

## Procedure

`python pipelines/pretrain_tiny.py`, seed {seed}: the student learns the feature maps of the teacher, Keras's MobileNet
0.75 with its ImageNet weights (Apache-2.0), fed the same pixels:
  {lessons}.
Squared error at each place and of the averages over places, each in units of the channel's deviation; AdamW, {steps:,}
steps of {batch} pictures. The first {first:,} steps see {mixed:,} mixed pictures, with a cosine schedule from {rate:g};
those after them see warped scenes from the photographs ({scenes:,} pictures) 6 times in 10, with a cosine schedule from
half of that. Batch normalization is folded into the convolutions. The mean loss of the last epoch was {loss:.3f}.

Compute: {minutes:.0f} minutes on {cores} {machine} cores shared with other work, in {runs} run(s). Keras {keras},
{backend}. Sums in parallel are not bit-reproducible: another run gives a network as good, not the same bytes.

## Figures

{figures}

Accuracy of one layer (averages, or averages with maxima) under standard scaling and an RBF SVM with C=10, 96x96, by
`python benchmarks/tiny.py` with this file; the best layer each time, which flatters a little. The test set of the signs
has 120 pictures, so that one picture is 0.8%: quote the 5 folds.

## Limits

It has seen the world in {count} photographs. It knows edges, textures, shapes and colours; it has no notion of most of
ImageNet's classes, and where those matter the teacher is far better. Never use it to decide about people.

## Licence

Apache-2.0, as the teacher's.
"""


def wrapped(names: Iterable[str]) -> str:
    """Names with commas, in lines that go on two spaces in."""
    return textwrap.fill(", ".join(names), 110, subsequent_indent="  ", break_on_hyphens=False)


def write_card(path: Path, digest: str, state: dict, args: argparse.Namespace) -> None:
    """Measure the weights by the benchmark, and write the card beside them."""
    json_file = args.folder / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / "tiny.py", "--weights", path, "--json", json_file]
    subprocess.run(command, check=True)
    found = json.loads(json_file.read_text())["figures"]
    rows = ["| data | random, avg | random, avgmax | tiny, avg | tiny, avgmax |", "|---|---|---|---|---|"]
    for name, title in {
        "signs_test": "hand signs, test set",
        "signs_5fold": "hand signs, 5-fold on all",
        "pets_5fold": "pets, 5-fold",
        "digits_5fold": "scikit-learn's digits, 5-fold",
    }.items():
        if name in found:
            both = (name, name.replace("_", "_avgmax_", 1))
            cells = [f"{found[prefix + n]:.1%}" for prefix in ("random_", "") for n in both]
            rows.append(f"| {title} | {' | '.join(cells)} |")
    names = [name for group in PHOTOGRAPHS.values() for name in group]
    with np.load(path) as arrays:
        parameters = sum(array.size for array in arrays.values())
    text = CARD.format(
        parameters=parameters,
        digest=digest,
        pictures=(MIXED + SCENES) * SHARD,
        mixed=MIXED * SHARD,
        scenes=SCENES * SHARD,
        first=FIRST * args.steps,
        skimage=version("scikit-image"),
        photographs=wrapped(f"`{name}`" for name in PHOTOGRAPHS["skimage/data"]),
        kinds=wrapped(KINDS),
        seed=args.seed,
        lessons=wrapped(f"`{mine}` gives `{layer}`" for layer, mine, _, _ in LESSONS),
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
    """Lessons, training, export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=22, help="each ends with a checkpoint (default 22)")
    parser.add_argument("--steps", type=int, default=500, help="in an epoch (default 500)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default 0.004)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make pictures")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "cache" / "tiny", help="for lessons and checkpoints"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(tiny.__file__).with_name("tiny.npz"))
    parser.add_argument(
        "--export", action="store_true", help="write weights and card from the newest checkpoint"
    )
    args = parser.parse_args()
    make_pictures(args.folder / "pictures", MIXED + SCENES, args.seed, args.workers)
    student, state = train(args.folder, Pictures(args.folder / "pictures", MIXED + SCENES), args)
    digest = export(student, args.output)
    write_card(args.output, digest, state, args)


if __name__ == "__main__":
    main()
