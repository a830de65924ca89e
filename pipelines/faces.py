"""Faces: recognize persons by the nearest embedding in a gallery, with several networks compared.

    python pipelines/faces.py                                           # 96 drawn faces of 12 persons
    python pipelines/faces.py --data FOLDER                             # a folder of images for each person
    python pipelines/faces.py --data FOLDER --models resnet50,mobilenet_v2 --gallery 3

A tutorial announces this study with ResNet50, InceptionV3 and MobileNetV2. A few images of each person form the
gallery; each other image gets the person whose image in the gallery has the most similar embedding (cosine). Nothing is
trained. Networks whose weights are not on this machine are named and left out; --model is always measured. With Keras
alone, the network sees one image after the other, and each image again whenever the study runs.

Networks trained on ImageNet find similar photographs, not identities: this is a study, not a way to identify people.
"""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics.pairwise import cosine_similarity

from tlfeatures.errors import SourceError
from tlfeatures.sources import read_source
from tlfeatures.studies import (
    Study,
    draw_faces,
    has_weights,
    load_keras_network,
    load_pixels,
)

STAND_IN = "Images: drawn faces, not photographs"


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("faces", __doc__, tutorial_network="resnet50", data=None)
    add = study.parser.add_argument
    networks = "resnet50,inception_v3,mobilenet_v2"
    add("--models", default=networks, help="networks to compare with --model (default: %(default)s)")
    add("--gallery", type=int, default=2, metavar="N", help="images of each person (default: %(default)s)")
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all networks on the same gallery."""
    args = study.args
    if args.data is None:
        study.note(STAND_IN)
        X, y = draw_faces(*study.choose((12, 8), quick=(4, 4)), args.seed)
        names = [f"image {i}, {label}" for i, label in enumerate(y)]
    else:
        X, y, names = study.load(read_source(args.data))
    gallery, probes = split(y, args.gallery, args.seed)
    study.say(
        f"{len(np.unique(y))} persons, {len(gallery)} images in the gallery, {len(probes)} to recognize"
    )

    models = {args.model: None, **{name.strip(): None for name in args.models.split(",") if name.strip()}}
    absent = [name for name in models if name != args.model and not has_weights(name)]
    if absent:
        study.say(f"left out, because the weights are not on this machine: {', '.join(absent)}")
    similarities = {}
    for name in (name for name in models if name not in absent):
        with study.measure(f"CNNFeatures, {name}, nearest neighbor") as row:
            embeddings = study.features(
                model=name, weights=args.weights if name == args.model else "imagenet"
            )
            similarities[name] = compare(embeddings.fit_transform(X), gallery, probes)
            row["accuracy"] = score(similarities[name], y, gallery, probes)
    if not args.skip_tutorial:
        with study.measure(f"Keras alone, {args.model}, one image after the other") as row:
            similarity = compare(embed_with_keras(study, X), gallery, probes)
            row["accuracy"] = score(similarity, y, gallery, probes)

    similarity = similarities[args.model]
    nearest = gallery[similarity.argmax(axis=1)]
    wrong = np.flatnonzero(y[nearest] != y[probes])
    study.say(f"{len(wrong)} images not recognized with {args.model}:")
    for i in wrong[:10]:
        study.say(f"  {names[probes[i]]}: nearest is {names[nearest[i]]}")
    hardest = np.argsort(similarity.max(axis=1))[:6]
    rows = np.concatenate([wrong, np.setdiff1d(hardest, wrong)])[:6]
    pairs = [(probes[i], nearest[i]) for i in rows]
    study.save(draw_pairs(load_pixels(X, (160, 160)), y, pairs, study.network), "pairs.png")


def split(y: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose ``n`` images of each person for the gallery; return the rows of the gallery and of the other images."""
    persons, counts = np.unique(y, return_counts=True)
    if len(persons) < 2 or counts.min() <= n or n < 1:
        raise SourceError(
            f"--gallery {n} must be at least 1, and needs two or more persons with at least {n + 1} images each; got "
            f"{len(persons)} persons, and {persons[counts.argmin()]!s} has {counts.min()} images. Add images, or "
            "change --gallery."
        )
    rng = np.random.default_rng(seed)
    gallery = np.sort(np.concatenate([rng.permutation(np.flatnonzero(y == p))[:n] for p in persons]))
    return gallery, np.setdiff1d(np.arange(len(y)), gallery)


def compare(embeddings: np.ndarray, gallery: np.ndarray, probes: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each probe to each image of the gallery, centered on the gallery."""
    centered = embeddings - embeddings[gallery].mean(axis=0)
    return cosine_similarity(centered[probes], centered[gallery])


def score(similarity: np.ndarray, y: np.ndarray, gallery: np.ndarray, probes: np.ndarray) -> float:
    """Return the share of probes whose nearest image in the gallery is of the same person."""
    return float(np.mean(y[gallery[similarity.argmax(axis=1)]] == y[probes]))


def embed_with_keras(study: Study, X: np.ndarray) -> np.ndarray:
    """Embed one image after the other with Keras alone, as tutorials do."""
    import keras

    args = study.args
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size, pooling="avg")
    size = network.input_shape[1:3]
    inputs = keras.Input((*size, 3))
    model = keras.Model(inputs, network(preprocess(inputs)))
    return np.concatenate([model.predict(load_pixels(X[i : i + 1], size), verbose=0) for i in range(len(X))])


def draw_pairs(pixels: np.ndarray, y: np.ndarray, pairs: list[tuple[int, int]], title: str) -> Figure:
    """Draw images next to the nearest image of the gallery; the names are red if the persons differ."""
    figure = Figure((2.2 * len(pairs), 4.9), layout="constrained")
    for j, pair in enumerate(pairs):
        for i, row in enumerate(pair):
            axes = figure.add_subplot(2, len(pairs), i * len(pairs) + j + 1)
            axes.imshow(pixels[row])
            color = "black" if y[pair[0]] == y[pair[1]] else "#B00020"
            axes.set_title(f"{'nearest: ' if i else ''}{y[row]}", fontsize=8, color=color)
            axes.set_axis_off()
    figure.suptitle(f"Images to recognize, and the nearest image of the gallery\n{title}", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main())
