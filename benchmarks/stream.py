"""Linear heads trained on batches: accuracy compared with training in memory, speed and memory for many rows.

    python benchmarks/stream.py [--quick] [--json PATH]
    python benchmarks/stream.py --rows 10000000 [--folder DIR]

Accuracy is the mean over five folds of logistic regression in memory (C=1) and of ``fit_head`` on batches, on
embeddings of MobileNet 0.75 at 64 pixels of the hand signs, if they are on this machine, and of scikit-learn's digits.

Then a store of 1,000,000 synthetic rows of 256 float32 in ten classes, sorted by class, is trained on in a new process.
Memory is the peak of the process minus that before, with the keys and labels. The accuracy on 20,000 new rows is
compared with that of logistic regression on 50,000 rows in memory. With ``--rows`` only this is measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial

import numpy as np
from _common import SIGNS, arguments, child, mobilenet_weights, progress, report
from memory import peak_mb
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import CNNFeatures, EmbeddingStore
from tlfeatures.sources import read_source
from tlfeatures.streaming import fit_head

RECIPE = {"network": "benchmark", "width": 256, "dtype": "float32"}
SEGMENT = 8192
TARGETS = {
    "signs_difference": (">=", -0.01),
    "digits_difference": (">=", -0.01),
    "accuracy_difference": (">=", -0.01),
}


def read_array(X: np.ndarray, seed: int | None, size: int = 4096):
    """Iterate over the rows of an array, as `EmbeddingStore.batches` does."""
    order = np.arange(len(X)) if seed is None else np.random.default_rng(seed).permutation(len(X))
    return ((order[i : i + size], X[order[i : i + size]]) for i in range(0, len(X), size))


def compare_accuracy(name: str, X: np.ndarray, y: np.ndarray, folds: int) -> dict[str, float]:
    """Cross-validate both ways of training."""
    memory, stream = [], []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y):
        progress(f"{name}: a fold")
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(X[train], y[train])
        memory.append(head.score(X[test], y[test]))
        stream.append(fit_head(partial(read_array, X[train]), y[train]).head.score(X[test], y[test]))
    figures = {f"{name}_in_memory": np.mean(memory), f"{name}_streamed": np.mean(stream)}
    return {k: float(v) for k, v in figures.items()} | {
        f"{name}_difference": float(np.mean(stream) - np.mean(memory))
    }


def make_rows(
    start: int, size: int, rows: int, width: int = 256
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make keys, rows and labels of consecutive images, sorted by class; all of random classes if ``rows`` is 0."""
    rng = np.random.default_rng(start)
    y = (np.arange(start, start + size) * 10 // rows) if rows else rng.integers(0, 10, size)
    centers = np.random.default_rng(12345).standard_normal((10, width), "f4") * np.float32(0.15)
    return rng.integers(0, 256, (size, 16), "u1"), rng.standard_normal((size, width), "f4") + centers[y], y


def train(root: str, rows: int) -> dict[str, float]:
    """Train on all rows of a store in this process."""
    keys = [np.random.default_rng(s).integers(0, 256, (SEGMENT, 16), "u1") for s in range(0, rows, SEGMENT)]
    keys, y = np.concatenate(keys), np.arange(rows) * 10 // rows
    passes = []

    def read_batches(seed: int | None):
        start, waited = time.perf_counter(), 0.0
        iterator = EmbeddingStore(root).batches(RECIPE, keys, 4096, seed)
        while (batch := next(iterator, None)) is not None:
            waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        passes.append(waited)

    before, start = peak_mb(), time.perf_counter()
    result = fit_head(read_batches, y, patience=2)
    seconds, extra = time.perf_counter() - start, peak_mb() - before
    _, X_test, y_test = make_rows(rows + SEGMENT, 20_000, 0)
    _, X, y_memory = make_rows(rows + 2 * SEGMENT, 50_000, 0)
    memory = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(X, y_memory)
    accuracy, accuracy_in_memory = result.head.score(X_test, y_test), memory.score(X_test, y_test)
    return {
        "fit_s": seconds,
        "passes": len(passes),
        "pass_s": seconds / len(passes),
        "pass_rows_per_s": rows * len(passes) / seconds,
        "waiting_for_rows": sum(passes) / seconds,
        "extra_mb": extra,
        "accuracy": accuracy,
        "accuracy_in_memory": accuracy_in_memory,
        "accuracy_difference": accuracy - accuracy_in_memory,
    }


def measure_rows(parent: str | None, rows: int) -> dict[str, float]:
    """Write a store of rows that are sorted by class, and train on it in a new process."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        progress(f"writing {rows} rows")
        store = EmbeddingStore(folder)
        for start in range(0, rows, SEGMENT):
            store.publish(RECIPE, *make_rows(start, SEGMENT, rows)[:2])
        return child(__file__, "train", root=folder, rows=rows)


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "stream")
    parser.add_argument("--rows", type=int, help="measure only the training on this number of rows")
    parser.add_argument(
        "--folder", help="folder for 10 GB with 10 million rows; default: the temporary folder"
    )
    args = parser.parse_args()
    figures: dict[str, float] = {}
    if not args.rows:
        digits = load_digits()
        data = {"digits": ((digits.images * 15.9).astype("uint8"), digits.target)}
        if SIGNS.exists() and not args.quick:
            source = read_source(SIGNS / "signs.csv", target="label").subset("train")
            data["signs"] = source.images, source.y
        with tempfile.TemporaryDirectory() as folder:
            network = {"model": "mobilenet_0.75", "weights": mobilenet_weights(folder), "image_size": 64}
            network = {"model": "tiny", "image_size": 32} if args.quick else network
            for name, (images, y) in data.items():
                images, y = (images[:300], y[:300]) if args.quick else (images, y)
                X = CNNFeatures(**network, cache=None).fit_transform(images)
                figures |= compare_accuracy(name, X, y, 2 if args.quick else 5)
    rows = (args.rows or (2 * SEGMENT if args.quick else 1_000_000)) // SEGMENT * SEGMENT
    figures |= measure_rows(args.folder, rows)
    # for each row 1 kB is on disk, and about 100 bytes for keys, labels and orders are in memory
    targets = TARGETS | {"extra_mb": ("<=", max(1000, 500 + rows // 10_000))}
    report("stream_rows" if args.rows else "stream", args, figures, targets, rows=rows, width=256)


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(train(**json.loads(sys.argv[4]))))
    else:
        main()
