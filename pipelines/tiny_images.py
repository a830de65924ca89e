"""Training images of "tiny": augmented crops of photographs and of procedurally generated images.

`python pipelines/tiny_images.py sheet.png` saves a contact sheet of both kinds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from drawn_images import draw
from PIL import Image, ImageFilter

from tlfeatures.networks.tiny import preprocess_input

__all__ = ["MIXED", "PHOTOGRAPHS", "SCENES", "SHARD", "SIZE", "ImageShards", "make_shards"]

SIZE, SHARD = 96, 2000
MIXED, SCENES = 24, 12  # shards of each kind
PHOTOGRAPHS = {  # sampling weights: scenes are used more often than textures and instruments
    "sklearn/datasets/images": {"china.jpg": 4, "flower.jpg": 3},
    "skimage/data": {
        "astronaut.png": 4, "brick.png": 1, "camera.png": 2, "cell.png": 0.5, "chelsea.png": 4, "clock_motion.png": 1,
        "coffee.png": 4, "coins.png": 1, "grass.png": 1, "gravel.png": 1, "hubble_deep_field.jpg": 0.7, "ihc.png": 1,
        "moon.png": 0.5, "motorcycle_left.png": 4, "page.png": 0.7, "retina.jpg": 0.7, "rocket.jpg": 2,
        "text.png": 0.7,
    },
}  # fmt: skip


def photographs() -> list[Image.Image]:
    """Load the photographs that scikit-learn and scikit-image ship."""
    import skimage
    import sklearn

    roots = {"sklearn": Path(sklearn.__file__).parents[1], "skimage": Path(skimage.__file__).parents[1]}
    return [
        Image.open(roots[folder.split("/")[0]] / folder / name).convert("RGB")
        for folder, names in PHOTOGRAPHS.items()
        for name in names
    ]


def crop(rng: np.random.Generator, image: Image.Image, least: float) -> Image.Image:
    """Crop a random region, sometimes rotated, and resize it to the input size of the student."""
    width, height = image.size
    area = width * height * np.exp(rng.uniform(np.log(least), 0))
    aspect = np.exp(rng.uniform(-0.35, 0.35))
    w, h = min(np.sqrt(area * aspect), width), min(np.sqrt(area / aspect), height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (x, y, x + w, y + h)
    if rng.random() < 0.25:  # rotate a larger region and keep its center
        image = image.resize((128, 128), Image.Resampling.BILINEAR, box)
        image = image.rotate(
            rng.uniform(-180, 180) if rng.random() < 0.3 else rng.normal(0, 15), Image.Resampling.BILINEAR
        )
        return image.crop((16, 16, 112, 112))
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)


def degrade(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Enlarge some images from few pixels and blur others."""
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
    """Combine some images with another one by mixup, by CutMix, or through a drawn mask."""
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


def mixed(seed: int, shard: int) -> np.ndarray:
    """Make a shard of mixed images, uint8 (SHARD, SIZE, SIZE, 3); deterministic for a seed."""
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


def warp(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Crop a random region and apply a random perspective transformation."""
    width, height = image.size
    side = np.sqrt(np.exp(rng.uniform(np.log(0.06), 0)))
    w, h = side * width, side * height
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    image = image.resize((144, 144), Image.Resampling.BILINEAR, (x, y, x + w, y + h))
    corners = np.array([[0, 0], [0, 144], [144, 144], [144, 0]]) + rng.uniform(0, 36, (4, 2)) * [
        [1, 1], [1, -1], [-1, -1], [-1, 1],
    ]  # fmt: skip
    return image.transform(
        (SIZE, SIZE), Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR
    )


def scenes(seed: int, shard: int) -> np.ndarray:
    """Make a shard of warped scenes, some with the color statistics of another image."""
    rng = np.random.default_rng([seed, shard])
    weights = np.array([w for names in PHOTOGRAPHS.values() for w in names.values()])
    photos, weights = photographs(), np.where(weights >= 2, weights, 0.15)
    drawn = [Image.fromarray(draw(rng, 160)) for _ in range(SHARD // 20)]
    parts = []
    for _ in range(SHARD):
        photo = rng.random() < 0.85
        image = (
            photos[rng.choice(len(photos), p=weights / weights.sum())] if photo else rng.choice(len(drawn))
        )
        parts.append(np.asarray(warp(rng, image if photo else drawn[image]), np.float32) / 255)
    out = np.empty((SHARD, SIZE, SIZE, 3), np.uint8)
    for i, pixels in enumerate(parts):
        pixels = mix(rng, pixels, parts[rng.integers(SHARD)])
        if rng.random() < 0.4:
            palette, share = parts[rng.integers(SHARD)], rng.uniform(0, 1)
            standard = (pixels - pixels.mean((0, 1))) / (pixels.std((0, 1)) + 0.05)
            recolored = standard * palette.std((0, 1)) + palette.mean((0, 1))
            pixels = (1 - share) * pixels + share * recolored
        if rng.random() < 0.6:
            grey = pixels.mean(-1, keepdims=True)
            pixels = grey + rng.uniform(0.6, 1.4) * (pixels - grey)
            pixels = (pixels - 0.5) * rng.uniform(0.7, 1.4) + 0.5 + rng.uniform(-0.2, 0.2)
        image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        out[i] = np.asarray(degrade(rng, image) if rng.random() < 0.4 else image)
    return out


def make_shards(folder: Path, shards: int, seed: int, workers: int) -> None:
    """Write the missing shards: mixed images, then scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(shards) if not (folder / f"images-{i:03d}.npy").exists()]
    start = time.monotonic()
    # TensorFlow does not support fork
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:

        def submit(i: int) -> Any:
            return pool.submit(mixed if i < MIXED else scenes, seed, i)

        futures = {i: submit(i) for i in missing[: workers + 1]}
        for done, i in enumerate(missing, start=1):
            save(folder / f"images-{i:03d}.npy", futures.pop(i).result())
            for following in missing[done + workers : done + workers + 1]:
                futures[following] = submit(following)
            rate = done * SHARD / (time.monotonic() - start)
            left = (len(missing) - done) * SHARD / rate
            print(
                f"images: shard {i + 1} of {shards}, {rate:.0f} images/s, {left / 60:.0f} min left",
                flush=True,
            )


def save(path: Path, array: np.ndarray) -> None:
    """Write an array atomically."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


class ImageShards:
    """Memory-mapped shards of training images."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.shards = [np.load(folder / f"images-{i:03d}.npy", mmap_mode="r") for i in range(shards)]

    def __len__(self) -> int:
        return len(self.shards) * SHARD

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return preprocessed images by index."""
        pixels = np.stack([self.shards[j // SHARD][j % SHARD] for j in rows])
        return preprocess_input(pixels.astype(np.float32))

    def batches(self, seed: int, epoch: int, steps: int, size: int, share: float) -> Iterator[np.ndarray]:
        """Iterate over one epoch of random images, half of them flipped; ``share`` of them are scenes."""
        rng = np.random.default_rng([seed, 1_000_000 + epoch])
        first = MIXED * SHARD
        for _ in range(steps):
            if not share:
                rows = rng.choice(first, size, replace=False)
            else:
                among = rng.random(size) < share
                rows = rng.integers(first, len(self), size), rng.integers(first, size=size)
                rows = np.where(among, *rows)
            x, mirrored = self.take(rows), rng.random(size) < 0.5
            x[mirrored] = x[mirrored, :, ::-1]
            yield x


def main() -> None:
    """Save a contact sheet with the first images of a shard of each kind."""
    if len(sys.argv) != 2:
        sys.exit("usage: python pipelines/tiny_images.py SHEET.png")
    examples = np.concatenate([mixed(0, 0)[:80], scenes(0, MIXED)[:80]])
    sheet = examples.reshape(10, 16, SIZE, SIZE, 3).transpose(0, 2, 1, 3, 4).reshape(10 * SIZE, 16 * SIZE, 3)
    Image.fromarray(sheet).save(sys.argv[1])


if __name__ == "__main__":
    main()
