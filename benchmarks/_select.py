"""Cost of a search over networks, layers and heads, and quality of its choice.

    python benchmarks/select.py [--quick] [--json PATH] [--part speed|regret] [--image-size 224]
                                [--sets images|generated]

speed   two networks x four layers x two poolings x three heads with their grids x five folds on SIGNS:
        cold (empty store), warm (a new search on that store), ready (the same fits on matrices in memory), and
        naive (scikit-learn's GridSearchCV over a pipeline without a store, extrapolated from a few fits)
regret  repeated random halves of each data set: held-out score of the candidate that the search chose, compared
        with the candidate that is best on average over all halves; digits, SIGNS, pets and three synthetic
        domains. A synthetic domain has a target only if its last layer alone scores below 95%. The same with and
        without fused layers, both compared with the best of all candidates. If $TLFEATURES_CACHE is set, embeddings
        are kept there.
"""

from __future__ import annotations

import csv
import os
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, mobilenet_weights, photographs, progress, report, seconds
from sklearn.datasets import load_digits
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import Pipeline

from tlfeatures import CNNFeatures, FeatureSearchCV
from tlfeatures.heads import blas_threads, head_grid, make_head
from tlfeatures.selection._fits import evaluate
from tlfeatures.selection._rules import choose

LAYERS = [f"conv_pw_{i}_relu" for i in (3, 5, 7, 9, 11, 13)]
HEADS = ["logreg", "svm", "ridge"]
FOLDS = 5
COUNTS = 0.95  # a synthetic domain is too easy if the last layer alone scores higher
TARGETS = {"naive_by_warm": (">=", 20), "warm_by_ready": ("<=", 1.2), "images_per_network": ("<=", 1.0)}


def load_signs(split: str = "train") -> tuple[list[str], np.ndarray]:
    """Return paths and labels of SIGNS."""
    with open(SIGNS / "signs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return [str(SIGNS / row["path"]) for row in rows], np.array([row["label"] for row in rows])


def load_pets() -> tuple[list[str], np.ndarray]:
    """Return paths and labels of the pets."""
    paths = sorted(str(p) for p in (SIGNS.parent / "pets").glob("*/*") if p.is_file())
    return paths, np.array([os.path.basename(os.path.dirname(p)) for p in paths])


def load_digit_images(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's digits as grey images of 8 x 8 pixels."""
    X, y = load_digits(return_X_y=True)
    return (X[:n].reshape(-1, 8, 8) * 15.9).astype(np.uint8), y[:n]


def draw_textures(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make gratings at eight angles, with random phase and contrast and strong noise."""
    y = np.arange(n) % 8
    v, u = np.mgrid[:64, :64]
    angle = (y * np.pi / 8 + rng.normal(0, 0.06, n))[:, None, None]
    wave = np.sin((u * np.cos(angle) + v * np.sin(angle)) * 0.9 + rng.uniform(0, 6.3, (n, 1, 1)))
    pixels = 128 + rng.uniform(8, 20, (n, 1, 1)) * wave + rng.normal(0, 45, (n, 64, 64))
    return pixels.clip(0, 255).astype(np.uint8), y


def draw_shapes(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make outlines of small regular polygons with three to eight sides, rotated and shifted, with noise."""
    y = np.arange(n) % 6
    v, u = np.mgrid[:64, :64]
    x0, y0 = rng.uniform(22, 42, (2, n, 1, 1))
    radius, turn = rng.uniform(12, 18, (n, 1, 1)), rng.uniform(0, 6.3, (n, 1, 1))
    sides = (y + 3)[:, None, None]
    angle = np.arctan2(v - y0, u - x0) + turn
    edge = radius * np.cos(np.pi / sides) / np.cos(np.mod(angle, 2 * np.pi / sides) - np.pi / sides)
    line = np.abs(np.hypot(u - x0, v - y0) - edge) < 1.5
    pixels = 90 + 70 * line + rng.normal(0, 35, (n, 64, 64))
    return pixels.clip(0, 255).astype(np.uint8), y


def draw_noises(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make noise of six classes, whose power spectra decrease with different exponents."""
    y = np.arange(n) % 6
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
    frequency[0, 0] = 1 / 64
    exponent = (0.4 + 0.18 * y + rng.normal(0, 0.07, n))[:, None, None]
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(n, 64, 64))) * frequency**-exponent, s=(64, 64))
    field /= field.std(axis=(1, 2), keepdims=True)
    return (128 + rng.uniform(25, 45, (n, 1, 1)) * field).clip(0, 255).astype(np.uint8), y


def measure_speed(quick: bool, folder: str, size: int) -> dict[str, float]:
    """Measure the seconds of a cold, a warm, a ready and a naive search."""
    if SIGNS.is_dir() and not quick:
        X, y = load_signs()
        heads = HEADS
    else:
        X = photographs(os.path.join(folder, "images"), 60, classes=4)
        y, heads = np.arange(60) % 4, ["svm", "ridge"]
    models = ["mobilenet_0.25" if quick else "mobilenet_0.5", "mobilenet_0.75"]
    layers = [LAYERS[0], LAYERS[2], LAYERS[4], LAYERS[5]]
    common = {"weights": None, "cache": os.path.join(folder, "store")}  # the weights do not change the time
    search = FeatureSearchCV(
        models, layers=layers, poolings=("avg", "max"), image_sizes=[size], resize="stretch", heads=heads, cv=FOLDS,
        **common,
    )  # fmt: skip
    progress("cold")
    cold = seconds(lambda: search.fit(X, y))
    passes = search.timings_["computed"].sum() / len(set(map(bytes, search.embeddings()))) / len(models)
    unique = {id(e): e for e, _, _ in search.candidates_}.values()
    matrices = [CNNFeatures(**e.params, **common).fit_transform(X) for e in unique]
    used = list({head.name: head for _, head, _ in search.candidates_}.values())
    scorer = check_scoring(make_head("svm"))
    ready, warm = [], []
    for _ in range(1 if quick else 2):
        with blas_threads(len(y), max(M.shape[1] for M in matrices)):  # as in the search
            progress("ready, then warm")
            ready.append(seconds(lambda: [evaluate(M, y, search.folds_, used, scorer) for M in matrices]))
        warm.append(seconds(lambda: search.fit(X, y)))
        if search.timings_["computed"].sum():
            raise SystemError("a warm search ran a network")
    # naive: every fit decodes and embeds the training rows of a fold, and every score its test rows
    naive, fits = 0.0, 0
    for model in models:
        for layer in (layers[0], layers[-1]):
            for head in heads:
                cnn = CNNFeatures(model, layer=layer, image_size=size, weights=None, cache=None)
                progress(f"without a store: {model}, {layer}, {head}")
                pipe = Pipeline([("cnn", cnn), *make_head(head).steps])
                grid = {k: [v[len(v) // 2]] for k, v in head_grid(head).items()}
                single_fit = GridSearchCV(pipe, grid, cv=search.folds_[:1], refit=False)
                count = len(layers) / 2 * 2 * FOLDS * int(np.prod([len(v) for v in head_grid(head).values()]))
                naive += count * seconds(lambda single_fit=single_fit: single_fit.fit(X, y))
                fits += 1
    return {
        "images": len(y),
        "candidates": len(search.candidates_),
        "images_per_network": passes,
        "cold_s": cold,
        "warm_s": float(np.median(warm)),
        "ready_s": float(np.median(ready)),
        "naive_fits_measured": fits,
        "naive_extrapolated_s": naive,
        "naive_by_warm": naive / float(np.median(warm)),
        "warm_by_ready": float(np.median(np.divide(warm, ready))),
    }


def measure_regret(
    name: str, X, y, weights: str, folder: str, repeats: int, size: int, rule: str
) -> dict[str, float]:
    """Compute the mean loss of the search, in points of accuracy, compared with the best fixed candidate."""
    splits = StratifiedShuffleSplit(repeats, test_size=0.5, random_state=0)
    options = {
        "models": "mobilenet_0.75", "weights": weights, "image_sizes": [size], "resize": "stretch",
        "heads": ["svm", "ridge"], "rule": rule, "on_error": "nan", "cv": 5, "layers": ["standard", "fused"],
        "cache": os.environ.get("TLFEATURES_CACHE") or os.path.join(folder, "store"),
    }  # fmt: skip
    # a search whose folds are the halves scores every fixed candidate on every held-out half
    progress(f"{name}: every candidate on {repeats} halves")
    on_halves = FeatureSearchCV(**options | {"cv": splits, "search": "exhaustive"}).fit(X, y)
    keep = on_halves.rows_
    X, y = ([X[i] for i in keep] if isinstance(X, list) else X[keep]), y[keep]
    fixed = np.stack([on_halves.cv_results_[f"split{i}_test_score"] for i in range(repeats)], axis=1)
    table = on_halves.table()
    last_layers = table[(table["layers"] == 1) & (table["depth"] == table["depth"].max())]
    last = float(last_layers["score"].max())
    params = [tuple(map(str, p.values())) for p in on_halves.cv_results_["params"]]
    standard = np.array([not embedding.fused for embedding, _, _ in on_halves.candidates_])
    chosen: dict[str, list[float]] = {"standard": [], "fused": []}
    for i, (train, _) in enumerate(on_halves.folds_):
        progress(f"{name}: search {i + 1} of {repeats}")
        part = [X[j] for j in train] if isinstance(X, list) else X[train]
        search = FeatureSearchCV(**options).fit(part, y[train])
        for layers, allowed in (("standard", standard), ("fused", np.ones_like(standard))):
            choice = choose_among(search, allowed)
            chosen[layers].append(fixed[params.index(tuple(map(str, choice.values()))), i])
    means, gains = fixed.mean(axis=1), np.subtract(chosen["fused"], chosen["standard"])
    losses = fixed[np.flatnonzero(standard)[means[standard].argmax()]] - chosen["standard"]
    figures = {
        "regret_points": 100 * np.mean(losses),
        "regret_se": 100 * np.std(losses) / np.sqrt(repeats),
        "best_fixed": means[standard].max(),
        "last_layer": last,
        "counts": last < COUNTS or name in ("signs", "digits", "pets"),
        "best_fused": means[~standard].max(),
        "regret_without_fused": 100 * (means.max() - np.mean(chosen["standard"])),
        "regret_with_fused": 100 * (means.max() - np.mean(chosen["fused"])),
        "fused_gain_points": 100 * np.mean(gains),
        "fused_gain_se": 100 * np.std(gains) / np.sqrt(repeats),
    }
    return {f"{name}_{figure}": float(value) for figure, value in figures.items()}


def choose_among(search: FeatureSearchCV, allowed: np.ndarray) -> dict[str, object]:
    """Return the parameters that a search would have chosen if it had tried only some of its candidates."""
    results, rows = search.cv_results_, np.flatnonzero(allowed)
    scores = np.stack([results[f"split{i}_test_score"][rows] for i in range(search.n_splits_)], axis=1)
    return results["params"][rows[choose(scores, results["macs"][rows], results["width"][rows], search.rule)]]


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "select")
    parser.add_argument("--part", choices=["speed", "regret"], help="run only this part")
    parser.add_argument("--image-size", type=int, default=224, help="speed: image size in pixels")
    parser.add_argument("--sets", choices=["images", "generated"], help="regret: only data sets of this kind")
    parser.add_argument(
        "--images", type=int, default=960, help="regret: number of images of each synthetic domain"
    )
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rule", default="best", choices=["best", "1se"])
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats
    figures: dict[str, float] = {}
    notes = {}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if args.part != "regret":
            figures |= measure_speed(args.quick, folder, 64 if args.quick else args.image_size)
        if args.part != "speed":
            weights = mobilenet_weights(folder)
            notes["weights"] = os.path.basename(weights)  # "random" if ImageNet's are not on this machine
            n = 96 if args.quick else args.images
            images = {"digits": lambda: (*load_digit_images(160 if args.quick else 900), 64)}
            generated = {"textures": lambda: (*draw_textures(n, np.random.default_rng(0)), 64)}
            if not args.quick:
                generated["shapes"] = lambda: (*draw_shapes(n, np.random.default_rng(1)), 64)
                generated["noises"] = lambda: (*draw_noises(n, np.random.default_rng(2)), 64)
                if SIGNS.is_dir():
                    images["signs"] = lambda: (*load_signs(), 64)
                    images["pets"] = lambda: (*load_pets(), 224)
            sets = {"images": images, "generated": generated}.get(args.sets, images | generated)
            for name, load in sets.items():
                X, y, size = load()
                figures |= measure_regret(name, X, y, weights, folder, repeats, size, args.rule)
    targets = dict(TARGETS)
    counting = [k.removesuffix("_counts") for k, v in figures.items() if k.endswith("_counts") and v]
    for name in [] if args.quick else counting:
        targets[f"{name}_regret_points"] = ("<=", 2.0 if name == "pets" else 1.0)
    report("select", args, figures, targets, repeats=repeats, rule=args.rule, **notes)


if __name__ == "__main__":
    main()
