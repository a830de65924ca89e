"""What fine-tuning gains over the frozen network, and what stored embeddings save a frozen one.

    python benchmarks/finetune.py [--quick] [--part signs|times|lengths] [--json PATH]

signs     hand signs at 64x64: the frozen pipeline that cross-validation chooses, the network trained on from three
          layers, and the tutorial's recipe (global max pooling, Dense(128), 20 epochs, frozen); seeds 0 to 2
times     that recipe on stored embeddings and with the network in the loop, of plain Keras and as tlfeatures compiles
          it: the same head, first weights and batches; each side cold, in a process of its own, with the time to
          load the network, the pictures of the loops decoded beforehand
lengths   pets with lengths in cm drawn for them: R2 of the ridge head, the frozen Dense(256) head on the flattened map
          and the fine-tuned network; seeds 0 to 2
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, child, photographs, report

PETS = SIGNS.parent / "pets"
# mean and standard deviation in cm; a cat is as long as the tutorial's
LENGTHS = {"cats": (46.0, 3.0), "dogs": (75.0, 12.0), "horses": (240.0, 15.0)}
CUTS = ("conv_dw_6", "all", "conv_pw_12")
# chosen on a quarter of the training pictures, held out
TUNED = {
    "start": "linear",
    "learning_rate": 5e-4,
    "epochs": 40,
    "augment": {"crop": 4},
    "validation_fraction": 0,
}
RECIPE = {
    "pooling": "max",
    "head": [128],
    "schedule": "constant",
    "weight_decay": 0.0,
    "validation_fraction": 0,
}
TARGETS = {
    "signs_finetuned_conv_dw_6": (">=", 0.983),
    "signs_gain_over_frozen": (">=", 0.0),
    "times_224_ratio": ("<=", 0.1),
    "times_64_ratio": ("<=", 0.25),
    "times_224_ratio_to_own_loop": ("<=", 0.1),
    "times_64_ratio_to_own_loop": ("<=", 0.25),
    "times_224_difference_to_own_loop": ("<=", 1e-3),
    "times_64_difference_to_own_loop": ("<=", 1e-3),
    "times_224_difference_to_loop": ("<=", 1e-3),
    "times_64_difference_to_loop": ("<=", 1e-3),
}


def signs_data(quick: bool, folder: str) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Paths and labels to train on, and to test on."""
    if quick or not SIGNS.is_dir():
        paths = photographs(os.path.join(folder, "signs"), 36 if quick else 600, (64, 64), classes=3)
        y = np.arange(len(paths)) % 3
        return paths[::2], y[::2], paths[1::2], y[1::2]
    import pandas

    table = pandas.read_csv(SIGNS / "signs.csv")
    table["path"] = [str(SIGNS / path) for path in table.path]
    train, test = (table[table.split == split] for split in ("train", "test"))
    return train.path.tolist(), train.label.to_numpy(), test.path.tolist(), test.label.to_numpy()


def network(quick: bool, size: int) -> dict[str, Any]:
    """Which network, and its size."""
    return {"model": "tiny", "image_size": 32} if quick else {"model": "mobilenet_0.75", "image_size": size}


def run_signs(quick: bool, folder: str, seeds: range) -> dict[str, float]:
    """Accuracies on the test pictures."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    from tlfeatures import CNNFeatures, FineTuneClassifier
    from tlfeatures.heads import make_head
    from tlfeatures.networks import find_network

    X, y, Xt, yt = signs_data(quick, folder)
    cnn = CNNFeatures(**network(quick, 64))
    taps = list(find_network(cnn.model).taps)
    cnn.set_params(layer=taps).fit_transform(X)  # every layer in one pass
    grid = {
        "cnn__layer": taps,
        "cnn__pooling": ["avg", "max", "avgmax"],
        "head": [make_head(name) for name in ("logreg", "svm", "ridge")],
    }
    search = GridSearchCV(Pipeline([("cnn", cnn), ("head", make_head("svm"))]), grid, cv=3 if quick else 5)
    frozen = search.fit(X, y).score(Xt, yt)
    found = {"signs_frozen": frozen}
    given, tuned = network(quick, 64), {**TUNED, **({"epochs": 2} if quick else {})}
    rows: dict[str, list[float]] = {}
    for seed in seeds:
        for cut in ("block8_dw",) if quick else CUTS:
            start = time.perf_counter()
            clf = FineTuneClassifier(**given, **tuned, train_from=cut, random_state=seed).fit(X, y)
            name = "conv_dw_6" if quick else cut
            rows.setdefault(f"signs_finetuned_{name}_s", []).append(time.perf_counter() - start)
            rows.setdefault(f"signs_finetuned_{name}", []).append(clf.score(Xt, yt))
        clf = FineTuneClassifier(**given, **RECIPE, epochs=2 if quick else 20, random_state=seed).fit(X, y)
        rows.setdefault("signs_tutorials_recipe", []).append(clf.score(Xt, yt))
    for name, values in rows.items():
        found[name] = float(np.mean(values))
        if not name.endswith("_s"):
            found[f"{name}_worst"] = float(np.min(values))
    found["signs_gain_over_frozen"] = found["signs_finetuned_conv_dw_6"] - frozen
    return found


def run_times(quick: bool, folder: str) -> dict[str, float]:
    """Seconds of both sides, and how far their probabilities are apart."""
    found: dict[str, float] = {}
    for size in (64,) if quick else (64, 224):  # the quick network has one size
        given = {"quick": quick, "size": size, "folder": folder}
        run = in_child if quick else functools.partial(child, __file__)
        sides = {task: run(task, **given) for task in ("loop", "own_loop", "stored")}
        stored = sides["stored"]
        for name, side in sides.items():
            found[f"times_{size}_{name}_s"] = side["s"]
            if side is not stored:
                off = np.subtract(side["proba"], stored["proba"])
                found[f"times_{size}_difference_to_{name}"] = float(abs(off).max())
        found[f"times_{size}_ratio"] = stored["s"] / sides["loop"]["s"]
        found[f"times_{size}_ratio_to_own_loop"] = stored["s"] / sides["own_loop"]["s"]
        found[f"times_{size}_accuracy"] = stored["accuracy"]
    return found


def in_child(task: str, quick: bool, size: int, folder: str) -> dict[str, Any]:
    """One side: "stored", "loop" or "own_loop"."""
    import keras

    from tlfeatures import FineTuneClassifier
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.finetune.loop import epoch_order
    from tlfeatures.images import Decoder, decode_batches
    from tlfeatures.networks import Backbone

    X, y, Xt, yt = signs_data(quick, folder)
    given = {**network(quick, size), **RECIPE, "random_state": 0}
    epochs = 2 if quick else 20
    if task == "stored":
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            clf = FineTuneClassifier(**given, cache=cache, epochs=epochs).fit(X, y)
            s = time.perf_counter() - start
        return {"s": s, "proba": clf.predict_proba(Xt).tolist(), "accuracy": clf.score(Xt, yt)}
    side = given["image_size"]
    start = time.perf_counter()
    FeatureSpec.make(Backbone(given["model"], image_size=side), None, "max")
    loading = time.perf_counter() - start  # of the network, which the stored side does too
    untrained = FineTuneClassifier(**given, cache=None, epochs=0).fit(X, y)

    def decode(paths: list[str]) -> np.ndarray:
        batches = decode_batches(paths, range(len(paths)), Decoder((side, side)), 64)
        return np.concatenate([batch for *_, batch, _ in batches])

    pixels, new = decode(X), decode(Xt)
    network_, head = untrained.network_, untrained._live().head
    codes = np.unique(y, return_inverse=True)[1].astype(np.int32)
    if task == "own_loop":
        start = time.perf_counter()
        train_in_own_loop(untrained, head, pixels, codes, epochs)
        s = loading + time.perf_counter() - start
        return {"s": s, "proba": untrained.predict_proba(Xt).tolist()}
    network_.trainable = False
    start = time.perf_counter()
    x = keras.Input((side, side, 3))
    model = keras.Model(x, head(keras.layers.GlobalMaxPooling2D()(network_(x))))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for epoch in range(1, epochs + 1):
        order = epoch_order(0, 0, epoch, np.arange(len(y)))
        for i in range(0, len(order), 32):
            rows = order[i : i + 32]
            model.train_on_batch(pixels[rows].astype("float32"), codes[rows])
    s = loading + time.perf_counter() - start
    z = np.concatenate(
        [model.predict_on_batch(new[i : i + 32].astype("float32")) for i in range(0, len(new), 32)]
    )
    proba = np.exp(z - z.max(1, keepdims=True))
    return {"s": s, "proba": (proba / proba.sum(1, keepdims=True)).tolist()}


def train_in_own_loop(clf: Any, head: Any, pixels: np.ndarray, codes: np.ndarray, epochs: int) -> None:
    """The same training, with the compiled frozen network run on every batch."""
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.finetune.learner import Learner
    from tlfeatures.finetune.loop import Data, Stage, run_stage
    from tlfeatures.networks import Backbone

    plan = FeatureSpec.make(Backbone(clf.model, image_size=clf.image_size), None, "max")
    run = plan.backbone.compile([(column.tap, column.part) for column in plan.columns], plan.description)

    def batches(rows: np.ndarray, size: int, epoch: int | None) -> Any:
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            yield part, run(pixels[np.resize(part, size)])[0][: len(part)]

    n, learner = len(codes), Learner(head, classes=True, together=True)
    size = min(32, n)
    data = Data(batches, codes, np.ones(n), np.arange(n), np.arange(0))
    run_stage(learner, data, Stage("head", 0, epochs, 1e-3, "constant", size, 0))
    learner.write_back()


def run_lengths(quick: bool, folder: str, seeds: range) -> dict[str, float]:
    """R2 on a quarter of the pets, means over the seeds."""
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import Pipeline

    from tlfeatures import CNNFeatures, FineTuneRegressor
    from tlfeatures.heads import make_head

    if quick or not PETS.is_dir():
        paths = photographs(os.path.join(folder, "pets"), 24 if quick else 200, (96, 96), classes=3)
        kinds = np.array(list(LENGTHS))[np.arange(len(paths)) % 3]
    else:
        paths = sorted(str(path) for path in PETS.glob("*/*"))
        kinds = np.array([Path(path).parent.name for path in paths])
    given, epochs = network(quick, 224), 2 if quick else 20
    rows: dict[str, list[float]] = {"ridge": [], "dense_256": [], "finetuned": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        y = np.array([rng.normal(*LENGTHS[kind]) for kind in kinds])
        X, Xt, y, yt = train_test_split(paths, y, test_size=0.25, stratify=kinds, random_state=seed)
        ridge = Pipeline([("cnn", CNNFeatures(**given)), ("ridge", make_head("ridge", "regression"))]).fit(
            X, y
        )
        rows["ridge"].append(ridge.score(Xt, yt))
        dense = FineTuneRegressor(**given, head=[256], pooling="flatten", epochs=epochs, random_state=seed)
        rows["dense_256"].append(dense.fit(X, y).score(Xt, yt))
        cut = "block8_dw" if quick else "conv_dw_10"
        tuned = FineTuneRegressor.from_pipeline(
            ridge, train_from=cut, epochs=epochs, augment={"flip": "horizontal", "crop": 8}, random_state=seed
        )
        rows["finetuned"].append(tuned.fit(X, y).score(Xt, yt))
    return {f"lengths_{name}_r2": float(np.mean(values)) for name, values in rows.items()}


def main() -> None:
    """Run all, print a table, write JSON."""
    parser = arguments(__doc__, "finetune")
    parser.add_argument("--part", choices=("signs", "times", "lengths"), help="only this")
    parser.add_argument("--child", help="internal")
    parser.add_argument("--options", type=json.loads, help="internal")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.child:
        sys.stdout.write(json.dumps(in_child(given.child, **given.options)) + "\n")
        return
    seeds = range(1 if given.quick else 3)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLFEATURES_CACHE"] = os.path.join(folder, "cache")
        if given.part in (None, "times"):  # first: what follows would warm the machine
            figures |= run_times(given.quick, folder)
        if given.part in (None, "signs"):
            figures |= run_signs(given.quick, folder, seeds)
        if given.part in (None, "lengths"):
            figures |= run_lengths(given.quick, folder, seeds)
    targets = {name: target for name, target in TARGETS.items() if name in figures}
    report("finetune", given, figures, targets, network=network(given.quick, 64)["model"], seeds=len(seeds))


if __name__ == "__main__":
    main()
