"""Trigger word: detect one word in short clips of speech, with little data.

    python pipelines/wakeword.py                                # synthesized clips of 24 speakers
    python pipelines/wakeword.py --data clips.csv               # columns path, label and speaker
    python pipelines/wakeword.py --data FOLDER --predict new.wav --skip-tutorial

The tutorial takes layers of a network trained on large amounts of speech, and trains a few new layers with
little data to detect a trigger word. Keras has no such network; here the input of a network trained on
photographs is log-mel spectrograms. The recipes are compared with a small network trained from scratch, and
with a dense head trained on top of the frozen network with Keras alone, as tutorials do. The head and the
number of synthesized speakers were chosen after scores had been seen: these clips do not show how well the
recipes work on speech.

No speaker of a test clip occurs in the training clips. --data is a manifest of WAV or FLAC files with the
columns path, label and speaker, or a folder with a folder of clips for each class. In a folder, the name of
the speaker is the part of the file name before the first underscore.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from tlfeatures import FineTuneClassifier, select
from tlfeatures.audio import LogMelSpectrogram
from tlfeatures.errors import AudioReadError, SourceError
from tlfeatures.heads import make_head
from tlfeatures.sources import Source, read_source
from tlfeatures.studies import (
    Study,
    draw_confusion,
    draw_predictions,
    load_keras_network,
    load_pixels,
    write_wakeword_stand_in,
)

SPECTROGRAM = LogMelSpectrogram(duration=1.3, dynamic_range=60, fmax=8000)
EPOCHS, QUICK_EPOCHS = 20, 2
STAND_IN = "Clips: synthesized tones, chirps and noise bursts, not speech"


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    study = Study("wakeword", __doc__, tutorial_network="a speech network", data=None, predict=True)
    return study.run(repeat, argv)


def repeat(study: Study) -> None:
    """Measure all recipes."""
    with tempfile.TemporaryDirectory() as folder:
        X, y, speakers, names = load_clips(study, folder)
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=study.args.seed)
    train, test = next(splitter.split(X, y, speakers))
    study.say(
        f"{len(train)} training clips of {len(set(speakers[train]))} speakers, "
        f"{len(test)} test clips of {len(set(speakers[test]))} other speakers"
    )
    with study.measure("CNNFeatures, last layer + logistic regression") as row:
        pipeline = make_pipeline(study.features(), make_head("logreg")).fit(X[train], y[train])
        row["accuracy"] = pipeline.score(X[test], y[test])
    with study.measure("select: layer, pooling and head") as row:
        options = study.options()
        search = select(
            X[train], y[train], groups=speakers[train], models=options["model"], resize="stretch",
            heads=["svm", "logreg"],
            image_sizes=[options["image_size"]] if options["image_size"] else "auto",
            poolings=study.choose(("avg", "max"), quick="avg"), cv=study.choose(5, quick=2),
            **{key: options[key] for key in ("weights", "cache", "verbose")},
        )  # fmt: skip
        predicted = search.predict(X[test])
        row["accuracy"] = float(np.mean(predicted == y[test]))
    best = search.table().iloc[0]
    study.say(f"select chose {best['layer']}, {best['pooling']}, {best['head']}")
    epochs = study.choose(EPOCHS, quick=QUICK_EPOCHS)
    with study.measure(f"FineTuneClassifier, dense head, {epochs} epochs") as row:
        clf = FineTuneClassifier(**options, head=[128], epochs=epochs, random_state=study.args.seed)
        row["accuracy"] = clf.fit(X[train], y[train], groups=speakers[train]).score(X[test], y[test])
    if not study.args.skip_tutorial:
        for recipe, make in (
            ("small network from scratch", make_small),
            ("dense head on the frozen network", make_dense),
        ):
            with study.measure(f"Keras: {recipe}, {epochs} epochs") as row:
                row["accuracy"] = train_with_keras(study, make, X, y, train, test, epochs)

    study.save(draw_confusion(y[test], predicted, f"Test clips. {study.network}"), "confusion.png")
    shown = np.concatenate([test[y[test] == label][:4] for label in np.unique(y)])
    figure = draw_predictions(
        X[shown],
        pipeline.predict_proba(X[shown]),
        pipeline.classes_,
        titles=[f"{y[i]}: {Path(names[i]).stem}" for i in shown],
        subtitle=study.network,
    )
    study.save(figure, "spectrograms.png")
    for clip in study.args.predict:
        try:
            image = SPECTROGRAM.fit_transform([clip])
        except AudioReadError as e:
            study.say(f"{clip}: unreadable: {e.reason}")
            continue
        probabilities = pipeline.predict_proba(image)[0]
        study.say(
            f"{clip}: {pipeline.classes_[probabilities.argmax()]} (probability {probabilities.max():.3f})"
        )


def load_clips(study: Study, folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return spectrograms, labels, speakers and names of the readable clips; print the names of the others."""
    if study.args.data is None:
        study.note(STAND_IN)
        source = read_source(
            write_wakeword_stand_in(folder, *study.choose((24, 12), quick=(6, 8)), study.args.seed),
            groups="speaker",
        )
    else:
        source = read_clips(study.args.data)
    if source.y is None or source.y.dtype == object:
        raise SourceError(
            f"Clips in {study.args.data!r} have no labels. Expected a folder of clips for each class, or a manifest "
            "with the columns path, label and speaker."
        )
    try:
        X = SPECTROGRAM.fit_transform(source.images)
    except AudioReadError as e:
        reasons = dict(e.failures)
        if len(reasons) == len(source):
            raise
        for path, reason in reasons.items():
            study.say(f"{source.names[source.images.index(path)]}: unreadable: {reason}")
        source = source.take([i for i, path in enumerate(source.images) if path not in reasons])
        X = SPECTROGRAM.fit_transform(source.images)
    speakers = source.groups
    if speakers is None:
        speakers = np.array([Path(name).stem.split("_")[0] for name in source.names])
    return X, source.y, speakers, source.names


def read_clips(data: str) -> Source:
    """Read a manifest with a column of speakers, or a folder."""
    is_folder = Path(data).is_dir()
    return read_source(data, groups=None if is_folder else "speaker", files="audio")


def make_small(study: Study, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Make a small convolutional network that is trained from scratch."""
    import keras

    inputs = keras.Input(shape)
    x = inputs / 255.0
    for width in (16, 32, 64):
        x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    return inputs, keras.layers.Dense(64, activation="relu")(keras.layers.GlobalAveragePooling2D()(x))


def make_dense(study: Study, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Make a dense layer on top of the frozen network, which runs again in every epoch."""
    import keras

    args = study.args
    network, preprocess = load_keras_network(args.model, args.weights, args.image_size, pooling="avg")
    network.trainable = False
    inputs = keras.Input(network.input_shape[1:])
    return inputs, keras.layers.Dense(128, activation="relu")(network(preprocess(inputs), training=False))


def train_with_keras(
    study: Study, make: Any, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, epochs: int
) -> float:
    """Train a network with Keras alone and return its accuracy on the test clips."""
    import keras

    keras.utils.set_random_seed(study.args.seed)
    classes, codes = np.unique(y, return_inverse=True)
    pixels = np.repeat(X[..., None], 3, axis=-1)
    inputs, x = make(study, pixels.shape[1:])
    model = keras.Model(inputs, keras.layers.Dense(len(classes), activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    pixels = load_pixels(pixels, inputs.shape[1:3])
    model.fit(pixels[train], codes[train], epochs=epochs, batch_size=16, verbose=0)
    return float(model.evaluate(pixels[test], codes[test], verbose=0, return_dict=True)["accuracy"])


if __name__ == "__main__":
    sys.exit(main())
