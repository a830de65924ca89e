"""Pretrain the bundled network "tiny" by distillation, without a data set.

A teacher with ImageNet weights (MobileNet 0.75) looks at crops of the few photographs that scikit-learn
and scikit-image carry, and of pictures drawn by formula; "tiny" learns to predict the teacher's
activations at five depths from its own (Asano and Saeed 2021, arXiv:2112.00725). The linear maps that
predict are dropped afterwards.

`KERAS_HOME=folder/with/weights python pipelines/pretrain_tiny.py` needs `pip install scikit-image`. It
goes on where it was stopped, and ends with the weights and a model card in the package. `--export`
writes both from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from drawn_pictures import draw
from PIL import Image, ImageFilter

from tlfeatures._keras import keras, to_numpy
from tlfeatures.networks import tiny

ROOT = Path(__file__).parents[1]
SIZE, CELLS, SHARD = 96, 3, 2000
# layer of the teacher -> its channels, and the block of the student that predicts it
LESSONS = {
    "conv_pw_5_relu": (192, "block5_add"),
    "conv_pw_7_relu": (384, "block8_add"),
    "conv_pw_9_relu": (384, "block10_add"),
    "conv_pw_11_relu": (384, "block12_add"),
    "conv_pw_13_relu": (768, "block13_pw_relu"),
}
PHOTOGRAPHS = {  # and how often each is used: scenes more than textures and instruments
    "sklearn/datasets/images": {"china.jpg": 4, "flower.jpg": 3},
    "skimage/data": {
        "astronaut.png": 4, "brick.png": 1, "camera.png": 2, "cell.png": 0.5, "chelsea.png": 4, "clock_motion.png": 1,
        "coffee.png": 4, "coins.png": 1, "grass.png": 1, "gravel.png": 1, "hubble_deep_field.jpg": 0.7, "ihc.png": 1,
        "moon.png": 0.5, "motorcycle_left.png": 4, "page.png": 0.7, "retina.jpg": 0.7, "rocket.jpg": 2,
        "text.png": 0.7,
    },
}  # fmt: skip


# -- pictures ------------------------------------------------------------------------------------


def photographs() -> list[Image.Image]:
    """The photographs, none of them downloaded."""
    import skimage
    import sklearn

    roots = {"sklearn": Path(sklearn.__file__).parents[1], "skimage": Path(skimage.__file__).parents[1]}
    return [
        Image.open(roots[folder.split("/")[0]] / folder / name).convert("RGB")
        for folder, names in PHOTOGRAPHS.items()
        for name in names
    ]


def crop(rng: np.random.Generator, image: Image.Image, least: float) -> Image.Image:
    """A random part of an image, sometimes turned, at the student's size."""
    width, height = image.size
    area = width * height * np.exp(rng.uniform(np.log(least), 0))
    aspect = np.exp(rng.uniform(-0.35, 0.35))
    w, h = min(np.sqrt(area * aspect), width), min(np.sqrt(area / aspect), height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (x, y, x + w, y + h)
    if rng.random() < 0.25:  # turn a larger part, and keep its middle
        image = image.resize((128, 128), Image.Resampling.BILINEAR, box)
        image = image.rotate(
            rng.uniform(-180, 180) if rng.random() < 0.3 else rng.normal(0, 15), Image.Resampling.BILINEAR
        )
        return image.crop((16, 16, 112, 112))
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)


def degrade(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Sometimes the look of a thumbnail: few pixels enlarged, or blur."""
    chance = rng.random()
    if chance < 0.25:
        side = int(np.exp(rng.uniform(np.log(8), np.log(64))))
        filters = (
            Image.Resampling.BILINEAR,
            Image.Resampling.BILINEAR,
            Image.Resampling.BICUBIC,
            Image.Resampling.NEAREST,
        )
        return image.resize((side, side), Image.Resampling.BILINEAR).resize(
            (SIZE, SIZE), filters[rng.integers(4)]
        )
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5))) if chance < 0.35 else image


def jitter(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and tint of float pixels in [0, 1]."""
    grey = pixels.mean(-1, keepdims=True)
    chance = rng.random()
    saturation = 0.0 if chance < 0.12 else rng.uniform(0.4, 1.6)
    pixels = grey + saturation * (pixels - grey)
    if rng.random() < 0.1:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.04:
        pixels = 1 - pixels
    tint = 1 + rng.normal(0, 0.08, 3) * (chance < 0.6)
    mean = pixels.mean()
    return ((pixels - mean) * rng.uniform(0.6, 1.6) + mean) * tint * rng.uniform(0.7, 1.4)


def mix(rng: np.random.Generator, pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sometimes another picture shines through, or fills a rectangle or a blob."""
    chance = rng.random()
    if chance < 0.12:  # mixup
        share = rng.uniform(0.15, 0.5)
        return (1 - share) * pixels + share * other
    if chance < 0.24:  # cutmix
        (y0, y1), (x0, x1) = np.sort(rng.integers(0, SIZE + 1, (2, 2)), axis=1)
        pixels = pixels.copy()
        pixels[y0:y1, x0:x1] = other[y0:y1, x0:x1]
    elif chance < 0.40:
        mask = (
            draw(rng, SIZE, str(rng.choice(["limbs", "shapes", "strokes", "text"]))).mean(-1, keepdims=True)
            / 255
        )
        mask = np.clip((mask - np.median(mask)) * 8 + rng.uniform(0, 1), 0, 1)
        pixels = (1 - mask) * pixels + mask * other
    return pixels


def pictures(seed: int, shard: int) -> np.ndarray:
    """The pictures of a shard, uint8 (SHARD, SIZE, SIZE, 3); the same in any process."""
    rng = np.random.default_rng([seed, shard])
    photos = photographs()
    weights = np.array([w for names in PHOTOGRAPHS.values() for w in names.values()])
    drawn = [Image.fromarray(draw(rng, 160)) for _ in range(SHARD // 12)]
    parts = []
    for _ in range(SHARD):
        if rng.random() < 0.55:
            image = crop(rng, photos[rng.choice(len(photos), p=weights / weights.sum())], 0.015)
        else:
            image = crop(rng, drawn[rng.integers(len(drawn))], 0.12)
        parts.append(np.asarray(image, np.float32) / 255)
    out = np.empty((SHARD, SIZE, SIZE, 3), np.uint8)
    for i, part in enumerate(parts):
        pixels = np.clip(jitter(rng, mix(rng, part, parts[rng.integers(SHARD)])), 0, 1)
        image = degrade(rng, Image.fromarray((pixels * 255).astype(np.uint8)))
        out[i] = np.asarray(image)[:, :: rng.choice([-1, 1])]
    return out


# -- lessons: what the teacher sees --------------------------------------------------------------


def make_lessons(folder: Path, shards: int, seed: int, workers: int) -> None:
    """Write shards of pictures and of the teacher's activations, pooled to 3x3 cells, float16."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(shards) if not (folder / f"cells-{i:03d}.npy").exists()]
    if not missing:
        return
    teach = teacher()
    start = time.monotonic()
    # forked processes and TensorFlow do not mix
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {i: pool.submit(pictures, seed, i) for i in missing[: workers + 1]}
        for done, i in enumerate(missing, start=1):
            images = futures.pop(i).result()
            for following in missing[done + workers : done + workers + 1]:
                futures[following] = pool.submit(pictures, seed, following)
            save(folder / f"images-{i:03d}.npy", images)
            save(folder / f"cells-{i:03d}.npy", teach(images))
            rate = done * SHARD / (time.monotonic() - start)
            left = (len(missing) - done) * SHARD / rate
            print(
                f"lessons: shard {i + 1} of {shards}, {rate:.0f} pictures/s, {left / 60:.0f} min left",
                flush=True,
            )


def teacher() -> Any:
    """A function from uint8 pictures to the teacher's activations (n, 3, 3, channels), float16."""
    k = keras()
    model = k.applications.MobileNet(alpha=0.75, include_top=False, input_shape=(SIZE, SIZE, 3))
    maps = [model.get_layer(layer).output for layer in LESSONS]
    cells = [k.layers.AveragePooling2D(m.shape[1] // CELLS)(m) if m.shape[1] > CELLS else m for m in maps]
    model = k.Model(model.inputs, k.layers.Concatenate()(cells))

    def teach(images: np.ndarray) -> np.ndarray:
        x = images.astype(np.float32) / 127.5 - 1
        return model.predict(x, batch_size=100, verbose=0).astype(np.float16)

    return teach


def save(path: Path, array: np.ndarray) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


class Lessons:
    """The shards, read through memory maps, and the moments of the teacher's activations."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.images = [np.load(folder / f"images-{i:03d}.npy", mmap_mode="r") for i in range(shards)]
        self.cells = [np.load(folder / f"cells-{i:03d}.npy", mmap_mode="r") for i in range(shards)]
        some = np.concatenate([c[:400] for c in self.cells]).astype(np.float32)
        means = some.mean((1, 2))
        self.mean, self.std = some.mean((0, 1, 2)), some.std((0, 1, 2)) + 1e-3
        self.global_std = means.std(0) + 1e-3

    def batches(self, seed: int, epoch: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One epoch in random order; half of the pictures mirrored, with their cells."""
        rng = np.random.default_rng([seed, 1_000_000 + epoch])
        order = rng.permutation(len(self.images) * SHARD)
        for chosen in order[: len(order) // size * size].reshape(-1, size):
            mirrored = rng.random(size) < 0.5
            x = np.stack([self.images[j // SHARD][j % SHARD] for j in chosen]).astype(np.float32)
            y = np.stack([self.cells[j // SHARD][j % SHARD] for j in chosen]).astype(np.float32)
            x[mirrored], y[mirrored] = x[mirrored, :, ::-1], y[mirrored, :, ::-1]
            yield tiny.preprocess_input(x), y


# -- training ------------------------------------------------------------------------------------


def make_student(lessons: Lessons) -> Any:
    """The student with its linear predictors, and its loss."""
    k = keras()
    ops = k.ops
    widths = [width for width, _ in LESSONS.values()]
    starts = np.cumsum([0, *widths])
    share = np.concatenate([np.full(w, 1 / (w * len(widths)), np.float32) for w in widths])
    to_global = lessons.std / lessons.global_std

    def likeness(z: Any) -> Any:
        z = (z - ops.mean(z, axis=0)) / (ops.std(z, axis=0) + 1e-3)
        z = z / (ops.norm(z, axis=1, keepdims=True) + 1e-3)
        return ops.matmul(z, ops.transpose(z))

    class Student(k.Model):
        """Loss: standardized activations in each cell, their means, and which pictures are alike."""

        def compute_loss(
            self,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any:
            predicted, *embeddings = y_pred
            z = (y - lessons.mean) / lessons.std
            cells = ops.sum(share * ops.mean(ops.square(predicted - z), axis=(0, 1, 2)))
            z_mean = ops.mean(z, axis=(1, 2)) * to_global
            means = ops.sum(
                share * ops.mean(ops.square(ops.mean(predicted, axis=(1, 2)) * to_global - z_mean), axis=0)
            )
            alike = 0.0
            for e, a, b in zip(embeddings, starts, starts[1:], strict=False):
                alike += ops.mean(ops.square(likeness(e) - likeness(z_mean[:, a:b])))
            return cells + means + 10.0 * alike / len(embeddings)

    network = tiny.Tiny(batch_norm=True)
    taps = [network.get_layer(tap).output for _, tap in LESSONS.values()]
    cells = [k.layers.AveragePooling2D(t.shape[1] // CELLS)(t) for t in taps]
    predicted = [
        k.layers.Dense(w, name=f"predict{i}")(c) for i, (w, c) in enumerate(zip(widths, cells, strict=True))
    ]
    embeddings = [k.layers.GlobalAveragePooling2D()(t) for t in taps]
    return Student(network.inputs, [k.layers.Concatenate()(predicted), *embeddings])


def train(folder: Path, lessons: Lessons, args: argparse.Namespace) -> Any:
    """Train to the last epoch, from the checkpoint if there is one."""
    k = keras()
    k.utils.set_random_seed(args.seed)
    student = make_student(lessons)
    steps = len(lessons.images) * SHARD // args.batch_size
    warmup = min(500, args.epochs * steps // 10)
    rate = k.optimizers.schedules.CosineDecay(
        1e-4, args.epochs * steps - warmup, 1e-3, warmup_target=args.rate, warmup_steps=warmup
    )
    student.compile(k.optimizers.AdamW(rate, weight_decay=1e-3, clipnorm=5.0))
    student.optimizer.build(student.trainable_variables)
    state_file, checkpoint = folder / "state.json", folder / "student.weights.h5"
    state = (
        json.loads(state_file.read_text()) if state_file.exists() else {"epoch": 0, "seconds": 0, "runs": 0}
    )
    if state["epoch"]:
        student.load_weights(checkpoint)
    state["runs"] += state["epoch"] < args.epochs
    for epoch in range(state["epoch"], args.epochs):
        start, losses = time.monotonic(), []
        for step, (x, y) in enumerate(ahead(lessons.batches(args.seed, epoch, args.batch_size)), start=1):
            losses.append(float(student.train_on_batch(x, y)))
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


def main() -> None:
    """Lessons, training, export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=40, help=f"of {SHARD} pictures each (default 40)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default 0.004)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make pictures")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "cache" / "tiny", help="for lessons and checkpoints"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(tiny.__file__).with_name("tiny.npz"))
    parser.add_argument(
        "--export", action="store_true", help="only write the weights of the newest checkpoint"
    )
    args = parser.parse_args()
    make_lessons(args.folder / "lessons", args.shards, args.seed, args.workers)
    lessons = Lessons(args.folder / "lessons", args.shards)
    student, _ = train(args.folder, lessons, args)
    print(export(student, args.output))


if __name__ == "__main__":
    main()
