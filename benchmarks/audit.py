"""What an audit finds: wrong labels, altered duplicates, and its cost for many rows.

    python benchmarks/audit.py [--quick] [--json PATH]

labels      5% of the labels of signs (224 pixels), digits (96 pixels, conv_pw_7_relu) and pets are changed at random,
            five seeds: share of them in the first 10% of the ranking of ``tlfeatures.audit``. If cleanlab is
            installed: the same for its two scores of label quality, on out-of-fold probabilities of the same head.
duplicates  pets and drawings, each saved again, resized to 80%, cropped by 4% at each side and mirrored: average
            precision of the ranking of all pairs by the cosine of ``find_duplicates``; equal files and images that
            are alike without being altered count as mistakes. Also the share of altered images whose pair with the
            original is above the default threshold of ``audit``.
outliers    5 or 20 images of another data set among the pets, the digits or the signs, five seeds: ROC AUC of the
            distance that ``audit`` uses, share of them in the same number of first images, and the shares of them
            and of the other images that ``audit`` lists.
blur        pets and signs, reduced to 256 pixels and blurred by a Gaussian filter with a standard deviation of 1, 2
            and 4 pixels: share of the images that ``audit`` calls blurry; of the original images, the false alarms.
rows        ``audit`` of 50,000 embeddings of 512 values with groups: seconds, seconds of all cores together, and peak
            memory of the process.

The networks are MobileNet 0.75; embeddings are kept in $TLFEATURES_CACHE if it is set.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, child, mobilenet_weights, progress, report, seconds
from _select import load_digit_images, load_pets, load_signs
from memory import peak_mb
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from tlfeatures import CNNFeatures, audit
from tlfeatures.evaluation import find_neighbors, normalize_embeddings
from tlfeatures.images import describe_images, find_faults
from tlfeatures.trust._audit_labels import predict_out_of_fold
from tlfeatures.trust._audit_tables import score_outliers

SEEDS = 5
WRONG, TOP = 0.05, 0.1
CLEANLAB_SCORES = ("self_confidence", "normalized_margin")
TARGETS = {
    "signs_found": (">=", 0.95),
    "digits_found": (">=", 0.97),
    "pets_found": (">=", 0.88),
    "pets_average_precision": (">=", 0.95),
    "drawings_average_precision": (">=", 0.95),
    "rows_s": ("<=", 120),
    "rows_peak_mb": ("<=", 2000),
}


def change_labels(codes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Change 5% of the labels to another class; return all labels and the changed rows."""
    rng = np.random.default_rng(seed)
    n, k = len(codes), int(codes.max()) + 1
    rows = rng.choice(n, round(WRONG * n), replace=False)
    noisy = codes.copy()
    noisy[rows] = (codes[rows] + rng.integers(1, k, len(rows))) % k
    return noisy, rows


def measure_labels(name: str, F: np.ndarray, y: np.ndarray, seeds: int) -> dict[str, float]:
    """Return the share of changed labels in the first 10% of each ranking, the mean over seeds."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        get_label_quality_scores = None
    codes = np.unique(y, return_inverse=True)[1]
    shares: dict[str, list[float]] = {}
    for seed in range(seeds):
        progress(f"{name}: labels, seed {seed}")
        noisy, rows = change_labels(codes, seed)
        n_top = round(TOP * len(codes))
        ranking = audit(F, noisy, random_state=seed).label_errors["row"].to_numpy()
        shares.setdefault("found", []).append(float(np.isin(rows, ranking[:n_top]).mean()))
        if get_label_quality_scores is None:
            continue
        probabilities = predict_out_of_fold(F, noisy, np.arange(len(noisy)), 5, seed)
        for method in CLEANLAB_SCORES:
            quality = get_label_quality_scores(noisy, probabilities, method=method)
            first = np.argsort(quality, kind="stable")[:n_top]
            shares.setdefault(f"cleanlab_{method}", []).append(float(np.isin(rows, first).mean()))
    return {f"{name}_{key}": float(np.mean(values)) for key, values in shares.items()}


def draw(seed: int, side: int = 160) -> Image.Image:
    """Draw a few shapes of random colors."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 8)):
        color, (x, y), (a, b) = (
            tuple(rng.integers(0, 256, 3).tolist()),
            rng.uniform(0, side, 2),
            rng.uniform(8, 60, 2),
        )
        box = [x - a, y - b, x + a, y + b]
        shape = rng.integers(4)
        if shape == 0:
            canvas.ellipse(box, fill=color)
        elif shape == 1:
            canvas.rectangle(box, fill=color)
        elif shape == 2:
            canvas.line(box, fill=color, width=int(rng.integers(2, 9)))
        else:
            canvas.polygon([tuple(rng.uniform(0, side, 2)) for _ in range(3)], fill=color)
    return image


def alter(image: Image.Image) -> list[bytes]:
    """Return an image as a JPEG file, and the same saved again, resized, cropped and mirrored."""
    w, h = image.size
    resized = image.resize((round(0.8 * w), round(0.8 * h)), Image.Resampling.BILINEAR)
    cropped = image.crop((round(0.04 * w), round(0.04 * h), round(0.96 * w), round(0.96 * h)))
    files = []
    for version, quality in (
        (image, 95),
        (image, 40),
        (resized, 90),
        (cropped, 90),
        (ImageOps.mirror(image), 90),
    ):
        buffer = io.BytesIO()
        version.save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def measure_duplicates(name: str, images: list[Image.Image], embed: Callable) -> dict[str, float]:
    """Return the average precision of all pairs, and the share of altered images above the threshold."""
    progress(f"{name}: duplicates")
    versions = [alter(image) for image in images]
    m = len(versions[0])
    F = normalize_embeddings(embed([file for files in versions for file in files]))
    cosine = F @ F.T
    i, j = np.triu_indices(len(F), 1)
    threshold = inspect.signature(audit).parameters["duplicate_threshold"].default
    originals = np.arange(0, len(F), m)
    with_original = np.stack([cosine[originals, originals + k] for k in range(1, m)])
    return {
        f"{name}_average_precision": float(average_precision_score(i // m == j // m, cosine[i, j])),
        f"{name}_above_threshold": float((with_original >= threshold).mean()),
    }


def measure_outliers(F: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return the figures of images of another data set, with embeddings ``others``, among those of ``F``."""
    figures: dict[str, float] = {}
    for m in (5, 20):
        runs = []
        for seed in range(SEEDS):
            rows = np.random.default_rng(seed).choice(len(others), m, replace=False)
            X, is_other = np.concatenate([F, others[rows]]), np.arange(len(F) + m) >= len(F)
            _, score = score_outliers(X, find_neighbors(X, 10))
            listed = np.isin(np.arange(len(X)), audit(X).outliers["row"])
            first = np.argsort(-score, kind="stable")[:m]
            runs.append(
                (
                    roc_auc_score(is_other, score),
                    is_other[first].mean(),
                    listed[is_other].mean(),
                    listed[~is_other].mean(),
                )
            )
        names = (f"auc_{m}", f"in_first_{m}", f"listed_{m}", f"false_alarms_{m}")
        figures |= dict(zip(names, np.mean(runs, axis=0).tolist(), strict=True))
    return figures


def measure_blur(paths: list[str]) -> dict[str, float]:
    """Return the share of images that are called blurry, for each standard deviation of the filter."""
    images = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        image.thumbnail((256, 256))
        images.append(np.asarray(image))
    figures = {}
    for deviation in (0, 1, 2, 4):
        blurred = [gaussian_filter(image, (deviation, deviation, 0)) for image in images]
        faults = [dict(find_faults(properties)) for properties in describe_images(blurred)]
        figures[f"blurry_{deviation}"] = float(np.mean(["blurry" in names for names in faults]))
    return figures


def audit_rows(n: int, d: int) -> dict[str, float]:
    """Audit generated embeddings with 5% wrong labels and 1% duplicates; return seconds and peak memory."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 10, n)
    F = 0.4 * rng.standard_normal((10, d), np.float32)[codes] + rng.standard_normal((n, d), np.float32)
    copies = n // 100
    F[-copies:] = F[:copies] + 0.05 * rng.standard_normal((copies, d), np.float32)
    noisy, _ = change_labels(codes, 0)
    groups = rng.integers(0, n // 50, n)
    before = time.process_time()
    elapsed = seconds(lambda: audit(F, noisy, groups))
    return {"s": elapsed, "cpu_s": time.process_time() - before, "peak_mb": peak_mb()}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "audit")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.child:
        print(json.dumps(audit_rows(**json.loads(args.options))))
        return
    quick = args.quick
    size = {"n": 2000, "d": 32} if quick else {"n": 50_000, "d": 512}
    figures = {f"rows_{key}": value for key, value in child(__file__, "rows", **size).items()}
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ.get("TLFEATURES_CACHE", os.path.join(folder, "store"))
        network = {"weights": mobilenet_weights(folder), "cache": cache}

        def embed(X: object, image_size: int = 224, layer: str | None = None) -> np.ndarray:
            side = 64 if quick else image_size
            return CNNFeatures("mobilenet_0.75", layer=layer, image_size=side, **network).fit_transform(X)

        X, y = load_digit_images(100 if quick else 1797)
        digits = embed(X, 96, "conv_pw_7_relu")
        figures |= measure_labels("digits", digits, y, 1 if quick else SEEDS)
        drawings = [draw(seed) for seed in range(8 if quick else 150)]
        figures |= measure_duplicates("drawings", drawings, embed)
        if SIGNS.is_dir() and not quick:
            (paths, y), test = load_signs("train"), load_signs("test")
            hands, y = paths + test[0], np.concatenate([y, test[1]])
            signs = embed(hands)
            figures |= measure_labels("signs", signs, y, SEEDS)
            paths, y = load_pets()
            pets = embed(paths)
            figures |= measure_labels("pets", pets, y, SEEDS)
            figures |= measure_duplicates("pets", [Image.open(path).convert("RGB") for path in paths], embed)
            progress("outliers and blur")
            pairs = {
                "pets_with_digits": (pets, embed(X[:100])),
                "pets_with_signs": (pets, signs[::12]),
                "digits_with_signs": (digits, embed(hands[::12], 96, "conv_pw_7_relu")),
                "signs_with_pets": (signs, pets),
            }
            for name, (F, others) in pairs.items():
                figures |= {f"{name}_{key}": value for key, value in measure_outliers(F, others).items()}
            for name, files in (("pets", paths), ("signs", hands[::6])):
                figures |= {f"{name}_{key}": value for key, value in measure_blur(files).items()}
    targets = {name: target for name, target in TARGETS.items() if name in figures}
    report("audit", args, figures, targets, network="mobilenet_0.75", **size)


if __name__ == "__main__":
    main()
