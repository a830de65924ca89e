"""Which layers to train? Small or large data, in a domain like ImageNet's or unlike it.

    python pipelines/regimes.py --data pets/ --signs signs/     # photographs of animals, and of hand signs
    python pipelines/regimes.py --data pets/ --skip-tutorial    # without the recipes in Keras alone

The tutorial has one rule for each of four cases:

    small data, similar domain       a linear classifier on the last layer of the frozen network
    large data, similar domain       fine-tune the last blocks
    small data, dissimilar domain    an SVM on the activations of an earlier layer
    large data, dissimilar domain    fine-tune all layers

Here the four recipes are measured in every case. Photographs of animals (--data) are similar to ImageNet;
hand signs (--signs, or the digits of scikit-learn if there are none) are not. Frozen layers are also scored
on textures, digits, and the photographs of animals with inverted colors or with shuffled tiles. "Small" is 8
training images per class on average; "large" is all training images, at most --images. A rule holds if no
other recipe of tlfeatures scores higher by more than one standard error. Other values of --seed show how much
the scores depend on the split. The baseline is the same network trained from scratch with Keras alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import FineTuneClassifier
from tlfeatures.heads import make_head
from tlfeatures.networks import find_network
from tlfeatures.sources import read_source, read_splits
from tlfeatures.studies import (
    Study,
    draw_layer_scores,
    draw_textures,
    load_keras_network,
    load_pixels,
    scramble_tiles,
)

LINEAR, SVM = "frozen, linear, last layer", "frozen, SVM, earlier layer"
LAST, ALL = "fine-tune the last 2 blocks", "fine-tune all layers"
SCRATCH = "Keras: from scratch"
RULES = {
    ("small", "similar"): LINEAR,
    ("large", "similar"): LAST,
    ("small", "dissimilar"): SVM,
    ("large", "dissimilar"): ALL,
}


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("regimes", __doc__, tutorial_network="alexnet", data="data/pets", image_size=96)
    add = study.parser.add_argument
    add("--signs", metavar="SOURCE", help="images of a dissimilar domain (default: signs, beside --data)")
    add("--images", type=int, default=200, help="largest number of training images (default: %(default)s)")
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes in all cases."""
    domains = load_domains(study)
    trained = list(domains)[:2]  # a similar and a dissimilar domain; the others are for frozen layers only
    curves, scores, passes = {}, {}, {}
    for domain, (X, y) in domains.items():
        with study.measure(f"{domain}: CNNFeatures, all layers in one pass", images=len(X)) as passes[domain]:
            features = extract_layers(study, X)
        for size, (train, test) in split(study, y).items():
            scores[domain, size] = cell = {}
            curve = score_frozen(study, cell, f"{domain}, {size}", features, y, train, test)
            curves.setdefault(domain, {})[f"{size}, {len(train)} images"] = curve
            if domain in trained:
                train_networks(study, cell, f"{domain}, {size}", (X[train], y[train]), (X[test], y[test]))
    report(study, trained, scores, passes)
    scratch = {domain: scores[domain, "large"].get(SCRATCH, {}).get("accuracy") for domain in domains}
    layers = find_network(study.args.model).taps
    study.save(draw_layer_scores(curves, layers, scratch, subtitle=study.network), "layers.png")


def load_domains(study: Study) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load pixels and labels of each domain; the first is similar to ImageNet, the second is not."""
    args, size = study.args, (study.args.image_size,) * 2
    paths, y, _ = study.load(read_source(args.data))
    animals = load_pixels(paths, size)
    digits = load_digits()
    grey = np.repeat((digits.images[..., None] * 15.9).astype(np.uint8), 3, axis=-1)
    domains = {"photographs": (animals, y)}
    signs = args.signs or Path(args.data).parent / "signs"
    if args.signs or Path(signs).exists():
        paths, labels, _ = study.load(read_splits(signs)[0])
        domains["hand signs"] = (load_pixels(paths, size), labels)
    domains["digits"] = (load_pixels(grey, size), digits.target)
    domains["textures"] = draw_textures(study.choose(100, quick=20), size[0], args.seed)
    domains["photographs, inverted"] = (255 - animals, y)
    domains["photographs, scrambled"] = (scramble_tiles(animals, seed=args.seed), y)
    rows = {name: sample(study, y, 2 * args.images) for name, (_, y) in domains.items()}
    return {name: (X[rows[name]], y[rows[name]]) for name, (X, y) in domains.items()}


def sample(study: Study, y: np.ndarray, n: int) -> np.ndarray:
    """Draw at most n rows, stratified by class."""
    rows = np.arange(len(y))
    if n < len(y):  # train_test_split needs a row of each class for the other part
        n = min(n, len(y) - len(np.unique(y)))
        rows = train_test_split(rows, train_size=n, stratify=y, random_state=study.args.seed)[0]
    return np.sort(rows)


def split(study: Study, y: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split the rows into few ("small") or many ("large") training images, with the same test images."""
    rest, test = train_test_split(np.arange(len(y)), test_size=0.3, stratify=y, random_state=study.args.seed)
    small = sample(study, y[rest], 8 * len(np.unique(y)))
    large = sample(study, y[rest], study.args.images)
    return {"small": (rest[small], test), "large": (rest[large], test)}


def extract_layers(study: Study, X: np.ndarray) -> list[np.ndarray]:
    """Return the embeddings of each standard layer, computed in one pass."""
    layers = find_network(study.args.model).taps
    study.features(layer=list(layers)).fit_transform(X)
    return [study.features(layer=layer).fit_transform(X) for layer in layers]


def score_frozen(
    study: Study, cell: dict, name: str, features: list, y: np.ndarray, train: np.ndarray, test: np.ndarray
) -> list[float]:
    """Score a linear classifier on the last layer, and an SVM on each layer; return the scores of the SVMs."""
    with study.measure(f"{name}: {LINEAR}", images=len(train)) as cell[LINEAR]:
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        last = features[-1]
        cell[LINEAR]["accuracy"] = float(linear.fit(last[train], y[train]).score(last[test], y[test]))
    with study.measure(f"{name}: {SVM}", images=len(train)) as cell[SVM]:
        means = [cross_val_score(make_head("svm"), F[train], y[train], cv=3).mean() for F in features[:-1]]
        curve = [float(make_head("svm").fit(F[train], y[train]).score(F[test], y[test])) for F in features]
        cell[SVM]["accuracy"] = curve[int(np.argmax(means))]  # chosen by cross-validation
    return curve


def train_networks(study: Study, cell: dict, name: str, train: tuple, test: tuple) -> None:
    """Fine-tune the last blocks and all layers; with Keras alone, fine-tune all layers and train from scratch."""
    epochs = study.choose(8, quick=1)
    for recipe, train_from in ((LAST, 2), (ALL, "all")):
        with study.measure(f"{name}: {recipe}", images=len(train[1])) as cell[recipe]:
            clf = FineTuneClassifier(
                **study.options(), train_from=train_from, start="linear", epochs=epochs, learning_rate=1e-4,
                batch_size=16, validation_fraction=0, random_state=study.args.seed,
            )  # fmt: skip
            cell[recipe]["accuracy"] = float(clf.fit(*train).score(*test))
    if not study.args.skip_tutorial:
        for recipe, weights in ((f"Keras: {ALL}", study.args.weights), (SCRATCH, None)):
            with study.measure(f"{name}: {recipe}", images=len(train[1])) as cell[recipe]:
                n = epochs if weights else 2 * epochs
                cell[recipe]["accuracy"] = train_with_keras(study, weights, n, train, test)


def train_with_keras(study: Study, weights: Any, epochs: int, train: tuple, test: tuple) -> float:
    """Train all layers with Keras alone."""
    import keras

    keras.utils.set_random_seed(study.args.seed)
    size = study.args.image_size
    network, preprocess = load_keras_network(study.args.model, weights, size, pooling="avg")
    for layer in network.layers:
        if weights is None and isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # the default, 0.99, needs more training steps than there are
    inputs = keras.Input((size, size, 3))
    classes, codes = np.unique(train[1], return_inverse=True)
    x = network(preprocess(inputs))
    model = keras.Model(inputs, keras.layers.Dense(len(classes), activation="softmax")(x))
    optimizer = keras.optimizers.Adam(1e-4 if weights else 1e-3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train[0], codes, epochs=epochs, batch_size=16, verbose=0)
    return float(
        model.evaluate(test[0], np.searchsorted(classes, test[1]), verbose=0, return_dict=True)["accuracy"]
    )


def report(study: Study, trained: list[str], scores: dict, passes: dict) -> None:
    """Print which rules hold, and mark them in the table."""
    study.say("The tutorial's rules:")
    for (size, kind), rule in RULES.items():
        domain = trained[kind == "dissimilar"]
        cell = scores[domain, size]
        accuracy = {recipe: row["accuracy"] for recipe, row in cell.items() if not recipe.startswith("Keras")}
        best = max(accuracy, key=accuracy.__getitem__)
        n_test = round(0.3 * passes[domain]["images"])
        error = np.sqrt(accuracy[best] * (1 - accuracy[best]) / n_test)
        holds = accuracy[rule] >= accuracy[best] - error
        cell[rule]["rule"] = "holds" if holds else "does not hold"
        line = f"{size} data, {kind} domain ({domain}): {rule} {cell[rule]['rule']}: {accuracy[rule]:.3f}"
        study.say(f"  {line}; best {best} {accuracy[best]:.3f} (standard error {error:.3f})")
        if SCRATCH in cell:
            seconds = cell[rule]["seconds"] + passes[domain]["seconds"]
            text = f"{seconds:.1f} s with the pass; from scratch {cell[SCRATCH]['accuracy']:.3f}"
            study.say(f"    {text}, {cell[SCRATCH]['seconds']} s")


if __name__ == "__main__":
    sys.exit(main())
