"""What fine-tuning gains over the frozen network, what it costs, and what stored embeddings save.

    python benchmarks/finetune.py [--quick | --full] [--part frozen|signs|times|steps|lengths] [--json PATH]
                                  [--train-from LAYER] [--seed SEED]

times     the tutorial's recipe (frozen, global max pooling, Dense(128), 20 epochs) on stored embeddings, and in plain
          Keras with the network in the loop: the same head, first weights and batches; each side cold, in a process
          of its own, with the time to load the network, the images of the loop decoded beforehand. At 224x224 the
          loop runs for 4 epochs and its time is extrapolated; --full runs them all
steps     a step of the second stage against ``Model.fit`` written by hand, in turn; and how far the weights of a
          training that was killed (SIGKILL) and resumed are from those of one that was not
frozen    hand signs at 64x64: the frozen pipeline chosen by cross-validation; the tutorial's recipe, seeds 0 to 2
signs     hand signs at 64x64, seeds 0 to 2: the network trained from --train-from on: conv_dw_6, conv_pw_12 or all
lengths   pets with lengths in cm drawn for them: R2 of the ridge head, the frozen Dense(256) head on the flattened map
          and the fine-tuned network; seeds 0 to 2; only with --full or --part lengths

With --seed, the parts frozen, signs and lengths run with this seed only.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _common import SIGNS, arguments, child, interleaved, median_ratio, photographs, progress, report

PETS = SIGNS.parent / "pets"
# mean and standard deviation in cm; a cat is as long as the tutorial's
LENGTHS = {"cats": (46.0, 3.0), "dogs": (75.0, 12.0), "horses": (240.0, 15.0)}
PARTS = ("frozen", "signs", "times", "steps", "lengths")
CUTS = ("conv_dw_6", "conv_pw_12", "all")
# chosen on a quarter of the training images, held out
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
    "times_64_ratio": ("<=", 0.40),
    "times_224_ratio": ("<=", 0.12),
    "times_64_difference_to_loop": ("<=", 0.01),
    "steps_ratio_to_fit_by_hand": ("<=", 1.05),
    "steps_resumed_difference": ("<=", 1e-6),
}


def signs_data(quick: bool, folder: str) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Return paths and labels of the training images, then those of the test images."""
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
    """Return the parameters `model` and `image_size`."""
    return {"model": "tiny", "image_size": 32} if quick else {"model": "mobilenet_0.75", "image_size": size}


def run_frozen(quick: bool, folder: str, seeds: range) -> dict[str, float]:
    """Measure the accuracies of frozen networks on the test images."""
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
    progress("signs: the frozen pipeline")
    search = GridSearchCV(Pipeline([("cnn", cnn), ("head", make_head("svm"))]), grid, cv=3 if quick else 5)
    figures = {"signs_frozen": search.fit(X, y).score(Xt, yt)}
    scores = []
    for seed in seeds:
        progress(f"signs, seed {seed}: the tutorial's recipe")
        options = network(quick, 64) | RECIPE | {"epochs": 2 if quick else 20, "random_state": seed}
        scores.append(FineTuneClassifier(**options).fit(X, y).score(Xt, yt))
    return figures | {"signs_tutorials_recipe": float(np.mean(scores))}


def run_signs(quick: bool, train_from: str, folder: str, seeds: range) -> dict[str, float]:
    """Measure the seconds and the accuracy on the test images of a fine-tuned network."""
    from tlfeatures import FineTuneClassifier

    X, y, Xt, yt = signs_data(quick, folder)
    options = {
        **network(quick, 64),
        **TUNED,
        **({"epochs": 2, "train_from": "block8_dw"} if quick else {"train_from": train_from}),
    }
    seconds, scores = [], []
    for seed in seeds:
        progress(f"signs, seed {seed}: trained from {options['train_from']} on")
        start = time.perf_counter()
        clf = FineTuneClassifier(**options, random_state=seed).fit(X, y)
        seconds.append(time.perf_counter() - start)
        scores.append(clf.score(Xt, yt))
    name = f"signs_finetuned_{train_from}"
    return {
        f"{name}_s": float(np.mean(seconds)),
        name: float(np.mean(scores)),
        f"{name}_worst": float(np.min(scores)),
    }


def run_times(quick: bool, full: bool, folder: str) -> dict[str, float]:
    """Measure the seconds of both sides, and the largest difference between their probabilities."""
    figures: dict[str, float] = {}
    for size in (64,) if quick else (64, 224):  # the quick network has one size
        kwargs = {"quick": quick, "size": size, "folder": folder}
        run = in_child if quick else functools.partial(child, __file__)
        stored = run("stored", **kwargs)
        loop = run("loop", epochs=20 if full or size == 64 else 4, **kwargs)
        figures[f"times_{size}_stored_s"], figures[f"times_{size}_loop_s"] = stored["s"], loop["s"]
        figures[f"times_{size}_ratio"] = stored["s"] / loop["s"]
        figures[f"times_{size}_accuracy"] = stored["accuracy"]
        if loop["proba"]:
            off = np.subtract(loop["proba"], stored["proba"])
            figures[f"times_{size}_difference_to_loop"] = float(abs(off).max())
    return figures


def in_child(task: str, quick: bool, folder: str, size: int = 64, epochs: int = 20) -> dict[str, Any]:
    """Run one side of a measurement: "stored", "loop", "train" or "steps"."""
    from tlfeatures import FineTuneClassifier

    X, y, Xt, yt = signs_data(quick, folder)
    kwargs = {**network(quick, size), **RECIPE, "random_state": 0}
    if task == "stored":
        with tempfile.TemporaryDirectory() as cache:
            start = time.perf_counter()
            clf = FineTuneClassifier(**kwargs, cache=cache, epochs=2 if quick else 20).fit(X, y)
            s = time.perf_counter() - start
        return {"s": s, "proba": clf.predict_proba(Xt).tolist(), "accuracy": clf.score(Xt, yt)}
    if task == "loop":
        return train_in_loop(X, y, Xt, 2 if quick else epochs, 2 if quick else 20, kwargs)
    if task == "steps":
        return time_steps(X, y, quick)
    return train_with_checkpoints(X[::4], y[::4], quick, folder)


def decode(paths: list[str], side: int) -> np.ndarray:
    """Pixels of images."""
    from tlfeatures.images import Decoder, decode_batches

    batches = decode_batches(paths, range(len(paths)), Decoder((side, side)), 64)
    return np.concatenate([batch for *_, batch, _ in batches])


def train_in_loop(
    X: list[str], y: np.ndarray, Xt: list[str], epochs: int, all_epochs: int, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Train in plain Keras for ``epochs`` of ``all_epochs`` epochs; the time of the others is extrapolated."""
    import keras

    from tlfeatures import FineTuneClassifier
    from tlfeatures.extract import FeatureSpec
    from tlfeatures.finetune._stage import epoch_order
    from tlfeatures.networks import Backbone

    side = kwargs["image_size"]
    start = time.perf_counter()
    FeatureSpec.make(Backbone(kwargs["model"], image_size=side), None, "max")
    seconds = [time.perf_counter() - start]  # to load the network, which the other side does too
    untrained = FineTuneClassifier(**kwargs, cache=None, epochs=0).fit(X, y)
    pixels, codes = decode(X, side), np.unique(y, return_inverse=True)[1].astype(np.int32)
    network_, head = untrained.network_, untrained._live().head
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
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    s = sum(seconds) + (all_epochs - epochs) * statistics.median(seconds[2:])
    if epochs < all_epochs:
        return {"s": s, "proba": None}
    new = decode(Xt, side)
    z = np.concatenate(
        [model.predict_on_batch(new[i : i + 32].astype("float32")) for i in range(0, len(new), 32)]
    )
    proba = np.exp(z - z.max(1, keepdims=True))
    return {"s": s, "proba": (proba / proba.sum(1, keepdims=True)).tolist()}


def run_steps(quick: bool, folder: str) -> dict[str, float]:
    """Measure the ratio of the seconds per step, and the difference of the weights after a kill."""
    run = functools.partial(child, __file__, quick=quick, folder=folder)
    figures = run("steps")
    whole, killed = run("train")["weights"], os.path.join(folder, "killed")
    progress("a training that is killed")
    command = [sys.executable, __file__, "--child", "train"]
    options = json.dumps({"quick": quick, "folder": folder})
    env = {**os.environ, "CHECKPOINTS": killed, "TELL": "1"}
    victim = subprocess.Popen([*command, "--options", options], stdout=subprocess.PIPE, text=True, env=env)
    for line in victim.stdout:
        if line.strip() == "epoch 3":  # the checkpoint of epoch 2 is there
            victim.send_signal(signal.SIGKILL)
            break
    if victim.wait() != -signal.SIGKILL:
        raise SystemExit("The training ended before it was killed.")
    os.environ["CHECKPOINTS"] = killed
    resumed = run("train")
    figures["steps_resumed_epochs"] = resumed["trained_epochs"]
    figures["steps_resumed_difference"] = float(abs(np.subtract(resumed["weights"], whole)).max())
    return figures


def train_with_checkpoints(X: list[str], y: np.ndarray, quick: bool, folder: str) -> dict[str, Any]:
    """Train for four epochs; the state after each is kept in the folder that an environment variable names."""
    import keras

    from tlfeatures import FineTuneClassifier

    epochs: list[int] = []

    def begin(epoch: int, logs: Any = None) -> None:
        epochs.append(epoch)
        if os.environ.get("TELL"):
            print(f"epoch {epoch + 1}", flush=True)
            time.sleep(2)  # the kill comes now

    clf = FineTuneClassifier(
        **network(quick, 64), **{**TUNED, "epochs": 4}, train_from="block8_dw" if quick else "conv_dw_6",
        checkpoint_dir=os.environ.get("CHECKPOINTS"), random_state=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=begin)],
    ).fit(X, y)  # fmt: skip
    weights = np.concatenate([w.ravel()[:1000] for w in clf._live().model.get_weights()])
    return {"weights": weights.tolist(), "trained_epochs": len(epochs)}


def time_steps(X: list[str], y: np.ndarray, quick: bool) -> dict[str, float]:
    """Measure the seconds per step of the second stage, and in turn those of the same training by ``Model.fit``."""
    import keras

    from tlfeatures import FineTuneClassifier

    kwargs = network(quick, 64)
    side, cut = kwargs["image_size"], "block8_dw" if quick else "conv_dw_6"
    codes, rounds = np.unique(y, return_inverse=True)[1].astype(np.int32), 1 if quick else 3
    pixels, steps = decode(X, side), -(-len(y) // 32)
    untrained = FineTuneClassifier(**kwargs, start="linear", epochs=0, random_state=0).fit(X, y)
    start = time.perf_counter

    def by_hand() -> float:
        network_ = keras.models.clone_model(untrained.network_)
        network_.set_weights(untrained.network_.get_weights())
        names = [layer.name for layer in network_.layers]
        for i, layer in enumerate(network_.layers):
            batchnorm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = i >= names.index(cut) and not batchnorm
        x = keras.Input((side, side, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(network_(x))
        model = keras.Model(x, keras.layers.Dense(len(set(codes.tolist())))(pooled))
        schedule = keras.optimizers.schedules.CosineDecay(5e-4, 3 * steps)
        model.compile(
            keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        ends: list[float] = []
        ticks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(start()))
        model.fit(pixels, codes, batch_size=32, epochs=3, verbose=0, callbacks=[ticks])
        return (ends[-1] - ends[0]) / 2 / steps

    def ours() -> float:
        ends: list[float] = []
        ticks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(start()))
        FineTuneClassifier(
            **kwargs, start="linear", learning_rate=5e-4, epochs=3, validation_fraction=0, train_from=cut,
            random_state=0, callbacks=[ticks],
        ).fit(X, y)  # fmt: skip
        return (ends[-1] - ends[0]) / 2 / steps

    readings = interleaved({"ours": ours, "by_hand": by_hand}, rounds)
    return {
        "steps_ms": 1000 * statistics.median(readings["ours"]),
        "steps_by_hand_ms": 1000 * statistics.median(readings["by_hand"]),
        "steps_ratio_to_fit_by_hand": median_ratio(readings["ours"], readings["by_hand"]),
    }


def run_lengths(quick: bool, folder: str, seeds: range) -> dict[str, float]:
    """Measure R2 on a quarter of the pets, as means over the seeds."""
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
    settings, epochs = network(quick, 224), 2 if quick else 20
    rows: dict[str, list[float]] = {"ridge": [], "dense_256": [], "finetuned": []}
    for seed in seeds:
        progress(f"lengths, seed {seed}")
        rng = np.random.default_rng(seed)
        y = np.array([rng.normal(*LENGTHS[kind]) for kind in kinds])
        X, Xt, y, yt = train_test_split(paths, y, test_size=0.25, stratify=kinds, random_state=seed)
        ridge = Pipeline([("cnn", CNNFeatures(**settings)), ("ridge", make_head("ridge", "regression"))]).fit(
            X, y
        )
        rows["ridge"].append(ridge.score(Xt, yt))
        dense = FineTuneRegressor(**settings, head=[256], pooling="flatten", epochs=epochs, random_state=seed)
        rows["dense_256"].append(dense.fit(X, y).score(Xt, yt))
        cut = "block8_dw" if quick else "conv_dw_10"
        tuned = FineTuneRegressor.from_pipeline(
            ridge, train_from=cut, epochs=epochs, augment={"flip": "horizontal", "crop": 8}, random_state=seed
        )
        rows["finetuned"].append(tuned.fit(X, y).score(Xt, yt))
    return {f"lengths_{name}_r2": float(np.mean(values)) for name, values in rows.items()}


def main() -> None:
    """Run the benchmark, print a table and write the JSON file."""
    parser = arguments(__doc__, "finetune")
    parser.add_argument("--part", choices=PARTS, help="run only this part")
    parser.add_argument("--full", action="store_true", help="all epochs, and the lengths")
    parser.add_argument(
        "--train-from", choices=CUTS, default=CUTS[0], help="first trained layer of the part signs"
    )
    parser.add_argument("--seed", type=int, help="run with this seed only")
    parser.add_argument("--child", help="internal")
    parser.add_argument("--options", type=json.loads, help="internal")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.child:
        sys.stdout.write(json.dumps(in_child(args.child, **args.options)) + "\n")
        return
    seeds = range(1 if args.quick else 3) if args.seed is None else range(args.seed, args.seed + 1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLFEATURES_CACHE"] = os.path.join(folder, "cache")
        if args.part in (None, "times"):
            figures |= run_times(args.quick, args.full, folder)
        if args.part in (None, "steps"):
            figures |= run_steps(args.quick, folder)
        if args.part in (None, "frozen"):
            figures |= run_frozen(args.quick, folder, seeds)
        if args.part in (None, "signs"):
            figures |= run_signs(args.quick, args.train_from, folder, seeds)
        if args.part == "lengths" or (args.part is None and (args.full or args.quick)):
            figures |= run_lengths(args.quick, folder, seeds)
    if args.part is None:
        tuned = figures[f"signs_finetuned_{args.train_from}"]
        figures["signs_gain_over_frozen"] = tuned - figures["signs_frozen"]
    targets = {name: target for name, target in TARGETS.items() if name in figures}
    report("finetune", args, figures, targets, network=network(args.quick, 64)["model"], seeds=len(seeds))


if __name__ == "__main__":
    main()
