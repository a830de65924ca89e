"""Time, memory and regret of a search over many images, whose candidates are eliminated on growing subsets.

    python benchmarks/selection_size.py [--quick] [--json PATH] [--images 20000] [--classes 10] [--jobs 2]
                                        [--regret images|generated] [--draws 3]

A search over 13 layers x two poolings x three heads with their grids x five folds on synthetic embeddings, which are
written to a store before the time is taken. The memory is that of all processes of the search.

--regret    the points of accuracy by which the best candidate of a search by halving scores below that of an exhaustive
            search, on all images and the same folds, for several draws of the subset, which has a quarter of the
            images: digits and hand signs ("images"), or three generated domains ("generated")
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
from _common import SIGNS, arguments, mobilenet_weights, progress, report
from _select import draw_noises, draw_shapes, draw_textures, load_digit_images, load_signs

from tlfeatures import EmbeddingStore, FeatureSearchCV
from tlfeatures.images import Images
from tlfeatures.selection._candidates import EmbeddingGrid, plan_passes

LAYERS = [f"conv_pw_{i}_relu" for i in range(1, 14)]
HEADS = ["ridge", "logreg", "svm"]
RANK = 64  # number of latent factors of the synthetic embeddings
TARGETS = {"seconds": ("<=", 600), "peak_memory_gb": ("<=", 4)}


class ProcessMeter:
    """Peak memory and processor time of this process and its children, measured every half second.

    Memory that processes share counts once.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()

    def __enter__(self) -> ProcessMeter:
        self._read()
        self._before = sum(self._cpu.values())
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()
        self._read()
        self.seconds = time.perf_counter() - self._start
        self.cpu_seconds = sum(self._cpu.values()) - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self._read()

    def _read(self) -> None:
        this, total = psutil.Process(), 0
        for process in [this, *this.children(recursive=True)]:
            try:
                memory, times = process.memory_full_info(), process.cpu_times()
            except psutil.Error:
                continue
            total += getattr(memory, "pss", memory.rss)
            self._cpu[process.pid] = times.user + times.system
        self.peak_bytes = max(self.peak_bytes, total)


def write_embeddings(
    store: EmbeddingStore, n: int, n_classes: int, grid: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Store synthetic embeddings; return images, which are only keys of their rows, and labels.

    Each layer is a rectified mixture of latent factors and noise; the classes are best separated in the tenth layer.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, 8, 8), dtype=np.uint8)
    y = rng.integers(0, n_classes, n)
    latent = rng.standard_normal((n, RANK), np.float32)
    centers = 0.5 * rng.standard_normal((n_classes, RANK), np.float32)
    keys, (planned,) = Images.of(images).keys()[0], plan_passes(EmbeddingGrid(**grid), store)
    progress(f"writing {len(planned.plan.columns)} synthetic embeddings of {n:,} images")
    for column in planned.plan.columns:
        depth = LAYERS.index(column.recipe["layer"])
        separation = np.float32(1 - 0.09 * abs(depth - 9))
        mixing = rng.standard_normal((RANK, column.width), np.float32) / np.float32(np.sqrt(RANK))
        rows = (latent + separation * centers[y]) @ mixing
        rows += 0.6 * rng.standard_normal(rows.shape, np.float32)
        store.publish(column.recipe, keys, np.maximum(rows, 0, out=rows))
    return images, y


def measure_search(
    n: int, n_classes: int, jobs: int, layers: list[str], folder: str, weights: str
) -> dict[str, float]:
    """Measure a search with the default parameters over stored synthetic embeddings."""
    grid = {
        "models": "mobilenet_0.75",
        "weights": weights,
        "layers": layers,
        "image_sizes": [64],
        "resize": "stretch",
    }
    store = EmbeddingStore(os.path.join(folder, "synthetic"))
    X, y = write_embeddings(store, n, n_classes, grid)
    progress(f"search over {n:,} images")
    with ProcessMeter() as meter:
        search = FeatureSearchCV(**grid, heads=HEADS, cache=store, n_jobs=jobs).fit(X, y)
    if search.timings_["computed"].sum():
        raise SystemError("the search ran a network")
    print(search.timings_[["step", "seconds"]].to_string(index=False, float_format="{:.1f}".format))
    print(search.halving_.to_string(index=False))
    print(f"{search.describe_best()}: {search.best_score_:.4f}")
    figures = {
        "images": n,
        "candidates": len(search.candidates_),
        "features": sum(e.width for e in {id(c[0]): c[0] for c in search.candidates_}.values()),
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "peak_memory_gb": meter.peak_bytes / 1e9,
        "best_score": search.best_score_,
    }
    print(
        f"{n:,} images, {figures['candidates']} candidates, {jobs} processes: {meter.seconds:.0f} s, "
        f"{meter.cpu_seconds:.0f} s of processor time, {figures['peak_memory_gb']:.2f} GB at most\n"
    )
    return figures


def measure_regret(name: str, X, y, weights: str, folder: str, draws: int) -> dict[str, float]:
    """Compare the best candidates of searches by halving with the best one of an exhaustive search."""
    options = {
        "models": "mobilenet_0.75", "weights": weights, "image_sizes": [64], "resize": "stretch", "heads": HEADS,
        "on_error": "nan", "learning_curve": False,
        "cache": os.environ.get("TLFEATURES_CACHE") or os.path.join(folder, "store"),
    }  # fmt: skip
    progress(f"{name}: exhaustive search over {len(y):,} images")
    everything = FeatureSearchCV(**options, search="exhaustive", n_jobs=2).fit(X, y)
    keep = everything.rows_
    X, y = ([X[i] for i in keep] if isinstance(X, list) else X[keep]), y[keep]
    options |= {"search": "halving", "first_subset": len(y) // 4, "cv": everything.folds_}
    losses = []
    for draw in range(draws):
        progress(f"{name}: search by halving {draw + 1} of {draws}")
        search = FeatureSearchCV(**options, n_jobs=2, random_state=draw).fit(X, y)
        chosen = everything.cv_results_["params"].index(search.best_params_)
        losses.append(100 * (everything.best_score_ - everything.cv_results_["mean_test_score"][chosen]))
    print(
        f"{name}: {search.halving_['images'].tolist()} images, regret {np.round(losses, 2).tolist()} points"
    )
    return {
        f"{name}_regret_points": float(np.mean(losses)),
        f"{name}_worst_regret_points": float(np.max(losses)),
        f"{name}_best_score": everything.best_score_,
    }


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "selection_size")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--regret", choices=("images", "generated"), help="measure the regret on these data only"
    )
    parser.add_argument("--draws", type=int, default=3, help="regret: number of draws of the subsets")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    figures: dict[str, float] = {}
    targets = {} if args.regret else dict(TARGETS)
    with tempfile.TemporaryDirectory() as folder:
        weights = mobilenet_weights(folder)
        if args.regret:
            n, draws = (160, 2) if args.quick else (960, args.draws)
            sets = {
                "images": {"digits": lambda: load_digit_images(n)},
                "generated": {
                    "textures": lambda: draw_textures(n, np.random.default_rng(0)),
                    "shapes": lambda: draw_shapes(n, np.random.default_rng(1)),
                    "noises": lambda: draw_noises(n, np.random.default_rng(2)),
                },
            }[args.regret]
            if args.regret == "images" and not args.quick and SIGNS.is_dir():
                sets["signs"] = load_signs
            for name, load in sets.items():
                figures |= measure_regret(name, *load(), weights, folder, draws)
                targets[f"{name}_regret_points"] = ("<=", 0.5)
        else:
            n, layers = (2500, LAYERS[1::6]) if args.quick else (args.images, LAYERS)
            figures |= measure_search(n, args.classes, args.jobs, layers, folder, weights)
    name = "selection_regret" if args.regret else "selection_size"
    report(name, args, figures, targets, weights=os.path.basename(weights), jobs=args.jobs)


if __name__ == "__main__":
    main()
