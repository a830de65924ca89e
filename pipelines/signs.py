"""Hand signs: choose the layer, the pooling and the head that classify photographs of hand signs (0 to 5).

    python pipelines/signs.py FOLDER                         # all standard layers, avg and max, three heads
    python pipelines/signs.py train_signs.h5 test_signs.h5   # the HDF5 files of the tutorial
    python pipelines/signs.py FOLDER --layers last --poolings avg --heads svm --predict hand.jpg

The tutorial that this study repeats trains a dense layer on VGG19 for 25 minutes on a CPU and reaches a test
accuracy of 91.67%. Here each image goes through a small network once, with all layers in one pass. The search
reads the embeddings from the store and uses cross-validation on the training images only. The best pipeline is
then scored once on the test images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tlfeatures.errors import RandomWeightsWarning, SourceError, TLFeaturesError, UnreadableImagesWarning

SOURCES = """\
SOURCE is one of
  - a folder that holds the tutorial's train_signs.h5 and test_signs.h5 (arrays train_set_x, train_set_y,
    test_set_x, test_set_y, list_classes), or the two files themselves, or one file with all of these
  - a folder that holds one CSV manifest with the columns path, label and split, or the manifest itself
  - a folder that holds train/ and test/, each with a folder for each class"""


def main(argv: list[str] | None = None) -> int:
    """Run the study and return the exit code."""
    args = parse(argv)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RandomWeightsWarning)  # every output names random weights
            study(args, console)
    except (TLFeaturesError, OSError) as error:
        print(f"signs.py: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=SOURCES, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> list[str]:
        if values := [name.strip() for name in text.split(",") if name.strip()]:
            return values
        raise argparse.ArgumentTypeError("expected one name or more, such as a,b")

    add = parser.add_argument
    add("source", nargs="*", default=["data/signs"], metavar="SOURCE", help="default: data/signs")
    add(
        "--model", default="mobilenet_0.75", help="name of a network, or a .keras file (default: %(default)s)"
    )
    add("--weights", default="imagenet", help="imagenet, random, or a weights file (default: %(default)s)")
    add("--image-size", type=int, help="side in pixels (default: that of the network)")
    add("--layers", default="auto", help="auto (the standard taps), last, or names a,b (default: auto)")
    add("--poolings", type=names, default="avg,max", help="avg, max, avgmax, gem, flatten (default: avg,max)")
    add("--heads", type=names, default="svm,logreg,ridge", help="(default: %(default)s)")
    add("--tune", action="store_true", help="also search the default grid of each head")
    add("--folds", type=int, default=5, help="number of cross-validation folds (default: 5)")
    add("--jobs", type=int, default=1, help="number of parallel processes (default: 1)")
    add("--cache", default="cache/signs", help="folder of the embedding store (default: %(default)s)")
    add("--out", default="cache/signs", help="folder of the results (default: %(default)s)")
    add("--predict", nargs="+", default=[], metavar="IMAGE", help="images to classify at the end")
    args = parser.parse_args(argv)
    if args.folds < 2:
        parser.error(f"--folds {args.folds}: expected at least 2")
    return args


def study(args: argparse.Namespace, console: Console) -> None:
    """Compute embeddings, search, score, save the results and predict."""
    from sklearn.metrics import accuracy_score

    from tlfeatures.heads import blas_threads, make_head

    heads = [make_head(name) for name in args.heads]
    train, test = read(args.source)
    kind = " (random weights: the scores say nothing about the network)" if args.weights == "random" else ""
    console.print(
        f"[bold]{args.model}{kind}[/bold], {len(train[1])} training images, {len(test[1])} test images"
    )

    start = time.perf_counter()
    cnn = features(args)
    (X, y, _), (X_test, y_test, names) = (embed(cnn, part, args.poolings, console) for part in (train, test))
    embedding = time.perf_counter() - start
    console.print(f"all images are in the store, layers: {len(cnn.layers_)}; {embedding:.1f} s")

    rows, start = stored(cnn), time.perf_counter()
    with blas_threads(len(y), cnn.n_features_out_):
        search = make_search(cnn, args, heads, y).fit(X, y)
    table = tabulate(search)
    seconds = time.perf_counter() - start
    print_table(table, f"{args.model}{kind}", console)
    console.print(f"search finished, candidates: {len(table)}, folds: {args.folds}; {seconds:.1f} s")
    console.print(f"rows that the search added to the store: {stored(cnn) - rows}")

    best, predicted = table.iloc[0], search.predict(X_test)
    right, total = int((predicted == y_test).sum()), len(y_test)
    low, high = interval(right, total)
    console.print(
        f"[bold]test: {right} of {total} correct, {right / total:.2%}[/bold] (95% interval {low:.1%} to {high:.1%}) "
        f"with {best.layer}, {best.pooling}, {best['head']}"
    )
    for i in np.flatnonzero(predicted != y_test)[:10]:
        console.print(f"  {names[i]}: true label {y_test[i]}, predicted {predicted[i]}", markup=False)

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "results.csv", index=False)
    chosen = (
        f"{args.model}{' (random weights)' if kind else ''}, {best.layer}, {best.pooling}, {best['head']}"
    )
    draw_confusion(y_test, predicted, chosen, out / "confusion.png")
    result = {
        "model": args.model,
        "weights": args.weights,
        **{key: best[key] for key in ("layer", "pooling", "head")},
        "cv_accuracy": float(best.cv_accuracy),
        "test_accuracy": float(accuracy_score(y_test, predicted)),
        "test_images": total,
        "seconds": {"embedding": embedding, "search": seconds},
    }
    (out / "result.json").write_text(json.dumps(result, indent=1))
    console.print(f"results.csv, confusion.png and result.json are in {out}", markup=False)
    predict(search.best_estimator_, args.predict, console)


def read(sources: list[str]) -> list[tuple[Any, np.ndarray, list[str]]]:
    """Read the training and the test set: images, labels and names.

    Raises
    ------
    SourceError
        When the source has none of the forms that `SOURCES` lists.
    """
    from tlfeatures.sources import read_source

    if len(sources) > 2:
        raise SourceError(f"Got {len(sources)} sources; expected one, or a training and a test file.")
    if missing := [s for s in sources if not Path(s).exists()]:
        raise SourceError(
            f"{missing[0]!r} does not exist. Pass the folder of the images: signs.py SOURCE\n{SOURCES}"
        )
    files = locate(sources)
    if len(files) == 2:
        parts = [read_source(file) for file in files]
        labels = [
            class_names(file.rpartition("::")[0], part.y) for file, part in zip(files, parts, strict=True)
        ]
    else:
        whole = read_source(files[0])
        parts = [whole.subset("train"), whole.subset("test")]
        labels = [part.y for part in parts]
    if any(y is None for y in labels):
        raise SourceError(f"The images in {sources[0]!r} have no labels.\n{SOURCES}")
    # cross-validation needs arrays: of paths, or of the images of an HDF5 file
    images = [np.stack(list(map(p.images.__getitem__, range(len(p))))) for p in parts]
    return list(zip(images, labels, (part.names for part in parts), strict=True))


def locate(sources: list[str]) -> list[str]:
    """Return one source with splits, or the HDF5 arrays of the training and the test set."""
    if len(sources) == 2:
        return [f"{file}::{split}_set_x" for file, split in zip(sources, ("train", "test"), strict=True)]
    path = Path(sources[0])
    if path.suffix.lower() in (".h5", ".hdf5"):
        return locate([str(path)] * 2)
    arrays = [sorted(path.glob(f"*{split}*.h5")) for split in ("train", "test")]
    if all(len(files) == 1 for files in arrays):
        return locate([str(files[0]) for files in arrays])
    tables = sorted(path.glob("*.csv"))
    return [str(tables[0] if len(tables) == 1 else path)]


def class_names(file: str, y: np.ndarray | None) -> np.ndarray | None:
    """Map the labels of an HDF5 file to the names in `list_classes`."""
    import h5py

    with h5py.File(file, "r") as f:
        classes = f["list_classes"][()].tolist() if "list_classes" in f else None
    if y is None or classes is None:
        return y
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(classes):
        raise SourceError(
            f"Labels in {file!r} run from {y.min()} to {y.max()}; list_classes has {len(classes)} names."
        )
    return np.array([c.decode() if isinstance(c, bytes) else c for c in classes])[y]


def features(args: argparse.Namespace) -> Any:
    """Create the transformer for all requested layers."""
    from tlfeatures import CNNFeatures
    from tlfeatures.networks import find_network

    if args.layers == "auto":
        layers = None if args.model.endswith(".keras") else list(find_network(args.model).taps)
    else:
        layers = None if args.layers == "last" else [name.strip() for name in args.layers.split(",")]
    return CNNFeatures(
        args.model,
        layer=layers,
        weights=None if args.weights == "random" else args.weights,
        image_size=args.image_size,
        cache=args.cache,
        on_error="nan",
        verbose=int(sys.stderr.isatty()),
    )


def embed(
    cnn: Any, part: tuple, poolings: list[str], console: Console
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Fill the store in one pass and return the readable images."""
    images, y, names = part
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadableImagesWarning)  # each is printed below
        for pooling in poolings:  # one pass stores avg and max
            rows = cnn.set_params(pooling=pooling).fit_transform(images)
    good = np.isfinite(rows[:, 0])
    for i in np.flatnonzero(~good):
        console.print(f"  skipped, unreadable: {names[i]}", markup=False)
    return images[good], y[good], [name for name, ok in zip(names, good, strict=True) if ok]


def stored(cnn: Any) -> int:
    """Return the number of rows in the store."""
    from tlfeatures import EmbeddingStore

    return sum(recipe["rows"] for recipe in EmbeddingStore.resolve(cnn.cache).info()["recipes"])


def make_search(cnn: Any, args: argparse.Namespace, heads: list[Any], y: np.ndarray) -> Any:
    """Create a scikit-learn grid search over the pipeline from image to label."""
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline

    from tlfeatures.heads import head_grid

    counts = dict(zip(*np.unique(y, return_counts=True), strict=True))
    if len(counts) < 2 or min(counts.values()) < args.folds:
        least = min(counts, key=counts.get)
        raise SourceError(
            f"{args.folds} folds need at least two classes with {args.folds} training images each; "
            f"got {len(counts)} classes, and class {least!s} has {counts[least]} images. "
            "Add images or use fewer --folds."
        )
    first = clone(cnn).set_params(verbose=0, on_error="raise")
    grids = [
        {
            "cnn__layer": cnn.layers_,
            "cnn__pooling": args.poolings,
            "head": [head],
            **(head_grid(name, prefix="head__") if args.tune else {}),
        }
        for name, head in zip(args.heads, heads, strict=True)
    ]
    folds = StratifiedKFold(args.folds, shuffle=True, random_state=0)
    return GridSearchCV(Pipeline([("cnn", first), ("head", heads[0])]), grids, cv=folds, n_jobs=args.jobs)


def tabulate(search: Any) -> Any:
    """Return the candidates as a DataFrame, the best first."""
    import pandas as pd

    results = search.cv_results_
    rows = []
    for i in np.argsort(
        results["rank_test_score"], kind="stable"
    ):  # the first of equal candidates, as in GridSearchCV
        candidate = results["params"][i]
        own = {k.rpartition("__")[2]: v for k, v in candidate.items() if k.startswith("head__")}
        rows.append(
            {
                "layer": candidate["cnn__layer"],
                "pooling": candidate["cnn__pooling"],
                "head": candidate["head"].steps[-1][0] + "".join(f" {k}={v:g}" for k, v in own.items()),
                "cv_accuracy": results["mean_test_score"][i],
                "cv_std": results["std_test_score"][i],
                "fit_seconds": results["mean_fit_time"][i],
            }
        )
    return pd.DataFrame(rows)


def print_table(table: Any, title: str, console: Console, most: int = 15) -> None:
    """Print the best candidates."""
    best = Table(title=title, title_justify="left")
    for name in ("layer", "pooling", "head"):
        best.add_column(name)
    for name in ("CV accuracy", "fit, s"):
        best.add_column(name, justify="right")
    for row in table.head(most).itertuples():
        accuracy = f"{row.cv_accuracy:.2%} ± {row.cv_std:.2%}"
        best.add_row(row.layer, row.pooling, row.head, accuracy, f"{row.fit_seconds:.2f}")
    console.print(best)
    if len(table) > most:
        console.print(f"and {len(table) - most} more in results.csv")


def interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a proportion."""
    from scipy.stats import binomtest

    bounds = binomtest(right, total).proportion_ci(method="wilson")
    return bounds.low, bounds.high


def draw_confusion(y: np.ndarray, predicted: np.ndarray, subtitle: str, path: Path) -> None:
    """Save the confusion matrix as an image."""
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    labels = np.unique(np.concatenate([y, predicted]))
    side = max(4.4, 1.6 + 0.62 * len(labels))
    figure = Figure(figsize=(side, side + 0.5), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(confusion_matrix(y, predicted, labels=labels), display_labels=labels)
    display.plot(ax=axes, cmap="Blues", colorbar=False, values_format="d", text_kw={"fontsize": 12})
    for text in display.text_.ravel():
        if text.get_text() == "0":
            text.set_color("0.75")
    axes.set(xlabel="predicted label", ylabel="true label")
    axes.spines[:].set_color("0.75")
    right = int((y == predicted).sum())
    figure.suptitle(f"Hand signs: {right} of {len(y)} test images correct", fontsize=12)
    axes.set_title(subtitle, fontsize=8.5, color="0.35")
    figure.savefig(path, dpi=150)


def predict(model: Any, paths: list[str], console: Console) -> None:
    """Print the label of each image with its probability or decision margin."""
    from tlfeatures import check_images

    table = check_images(paths) if paths else None
    bad = (
        {}
        if table is None
        else dict(table.loc[table["problem"] == "error", ["image", "reason"]].to_numpy().tolist())
    )
    for path, reason in bad.items():
        console.print(f"{path}: unreadable: {reason}", markup=False)
    readable = [path for path in paths if path not in bad]
    if not readable:
        return
    labels = model.predict(readable)
    if hasattr(model, "predict_proba"):
        confidences = [f"probability {row.max():.3f}" for row in model.predict_proba(readable)]
    else:
        scores = model.decision_function(readable)
        pairs = np.sort(scores if scores.ndim == 2 else np.c_[-scores, scores], axis=1)
        confidences = [f"decision margin {margin:.2f}" for margin in pairs[:, -1] - pairs[:, -2]]
    for path, label, confidence in zip(readable, labels, confidences, strict=True):
        console.print(f"{path}: {label} ({confidence})", markup=False)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
