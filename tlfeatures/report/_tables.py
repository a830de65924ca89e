"""Tables behind the figures of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support
from threadpoolctl import threadpool_limits

from tlfeatures._threads import one_blas_thread
from tlfeatures.results import EmbeddingSample

_TSNE_ROWS = 1000  # takes about five seconds; with more images, principal components are shown
_BIN_IMAGES = 20  # least number of images in a bin of the calibration curve


@dataclass(frozen=True)
class LayerScores:
    """Best score at each layer of a network for one image size or pooling.

    ``combined`` names the concatenations of several layers. The arrays have shape (len(layers) + len(combined),)
    and are NaN for layers without a candidate.
    """

    network: str
    name: str
    layers: tuple[str, ...]
    combined: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray

    @property
    def best(self) -> float | None:
        """Best score; None if all are NaN."""
        return None if np.isnan(self.scores).all() else float(np.nanmax(self.scores))


def layer_scores(candidates: pd.DataFrame) -> dict[str, list[LayerScores]]:
    """Return the best score at each layer for each network, image size and resize mode.

    If there is only one image size and one resize mode, there is one series for each pooling.
    """
    by_network = {}
    for network, rows in candidates.groupby("network", sort=False):
        names = rows.drop_duplicates("layer").sort_values(["layers", "depth"], kind="stable")
        layers = names[names["layers"] == 1]["layer"].tolist()
        combined = names[names["layers"] > 1]["layer"].tolist()
        varied = [name for name in ("image_size", "resize") if rows[name].nunique() > 1]
        series = []
        for key, part in rows.groupby(varied or ["pooling"], sort=True):
            best = part.sort_values("score", ascending=False, kind="stable").drop_duplicates("layer")
            best = best.set_index("layer").reindex([*layers, *combined])
            labels = [
                f"{value} px" if name == "image_size" else str(value)
                for name, value in zip(varied or ["pooling"], key, strict=True)
            ]
            short = tuple(_name_combined(layers, name) for name in combined)
            columns = (best[name].to_numpy(float) for name in ("score", "se"))
            series.append(LayerScores(str(network), ", ".join(labels), tuple(layers), short, *columns))
        by_network[str(network)] = series
    return by_network


def _name_combined(layers: Sequence[str], combined: str) -> str:
    """Return "last 2" if the last two layers are concatenated, and so on."""
    for n in range(2, len(layers) + 1):
        if combined == "+".join(layers[-n:]):
            return f"last {n}"
    return combined


def class_metrics(true: np.ndarray, predicted: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    """Return precision, recall and F1 of each class; precision is NaN if a class was never predicted."""
    precision, recall, f1, images = precision_recall_fscore_support(
        true, predicted, labels=classes, zero_division=np.nan
    )
    return pd.DataFrame(
        {"class": classes, "images": images, "precision": precision, "recall": recall, "f1": f1}
    )


def frequent_confusions(counts: np.ndarray, classes: np.ndarray, n: int = 10) -> pd.DataFrame:
    """Return the n largest counts off the diagonal of a confusion matrix."""
    frame = pd.DataFrame(counts, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))
    frame = frame.stack().rename("images").reset_index()
    frame["share"] = frame["images"] / frame.groupby("true")["images"].transform("sum")
    wrong = frame[(frame["true"] != frame["predicted"]) & (frame["images"] > 0)]
    return wrong.sort_values("images", ascending=False, kind="stable").head(n)


def calibration(
    true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray, bins: int = 10
) -> pd.DataFrame:
    """Compute the calibration curve: the accuracy by the probability of the predicted class.

    Parameters
    ----------
    true : ndarray of shape (n,)
    probabilities : ndarray of shape (n, len(classes))
        Rows with NaN are left out.
    classes : ndarray
        Sorted.
    bins : int
        Largest number of bins of equal count.

    Returns
    -------
    DataFrame
        One row per bin: mean ``confidence``, ``accuracy``, number of ``images``, and the 95% interval of the
        accuracy (Wilson 1927), ``low`` and ``high``.
    """
    complete = ~np.isnan(probabilities).any(axis=1)
    probabilities, true = probabilities[complete], true[complete]
    confidence = probabilities.max(axis=1)
    correct = classes[probabilities.argmax(axis=1)] == true
    n_bins = max(1, min(bins, len(confidence) // _BIN_IMAGES))
    parts = np.array_split(np.argsort(confidence, kind="stable"), n_bins)
    rows = []
    for part in parts:
        interval = binomtest(int(correct[part].sum()), len(part)).proportion_ci(method="wilson")
        rows.append((confidence[part].mean(), correct[part].mean(), len(part), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "images", "low", "high"])


def calibration_errors(
    bins: pd.DataFrame, true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """Return the expected calibration error and the Brier score; rows with NaN are left out."""
    error = np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["images"])
    squared = (probabilities - (true[:, None] == classes)) ** 2
    return {"expected_calibration_error": float(error), "brier": float(np.nanmean(squared.sum(axis=1)))}


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings in the plane: ``xy`` of shape (m, 2), the ``method``, and a ``note`` on how to read the map."""

    xy: np.ndarray
    method: str
    note: str


def map_embeddings(sample: EmbeddingSample) -> EmbeddingMap:
    """Project embeddings to the plane by t-SNE, or by PCA for more than 1,000 images; the result is reproducible."""
    Z = sample.components
    n, k = Z.shape
    if not 20 <= n <= _TSNE_ROWS or k < 3 or not Z.any():
        xy = np.column_stack([Z, np.zeros((n, 2))])[:, :2]
        share = f"The first two components explain {sample.explained_variance:.0%} of the variance"
        return EmbeddingMap(xy, "PCA", f"{share}; other components may separate the classes.")
    from sklearn.manifold import TSNE

    with (
        one_blas_thread,
        threadpool_limits(1, user_api="openmp"),
    ):  # sums over several threads differ from run to run
        tsne = TSNE(2, init="pca", perplexity=min(30, max(5, n / 10)), random_state=0, n_jobs=1)
        xy = tsne.fit_transform(Z.astype(np.float32))
    return EmbeddingMap(xy, "t-SNE", "Neighbors are similar; distances between far groups have no meaning.")


def candidates_table(
    candidates: pd.DataFrame, best: int, scoring: str, n: int = 20
) -> tuple[pd.DataFrame, int]:
    """Return the first n candidates and the best one for display, and the row of the best one."""
    columns = {
        "rank": "rank", "score": scoring, "ci_low": "95% from", "ci_high": "to", "mae": "mae",
        "network": "network", "image_size": "size", "resize": "resize", "layer": "layer", "pooling": "pooling",
        "head": "head", "settings": "settings", "width": "features", "macs": "million mult./image",
        "n_images": "images", "subset_score": "score when eliminated",
    }  # fmt: skip
    rows = sorted({*range(min(n, len(candidates))), best})
    shown = candidates.iloc[rows][[name for name in columns if name in candidates]]
    layers, settings = shown["layer"].str.replace("+", " + "), shown["settings"].map(describe)
    shown = shown.assign(settings=settings, layer=layers, macs=shown["macs"] / 1e6)
    return shown.rename(columns=columns), rows.index(best)


def describe(settings: str) -> str:
    """Format the parameters of a head for display.

    >>> describe('{"regressor__C": 1.0}')
    'C=1.0'
    """
    return ", ".join(f"{key.split('__')[-1]}={value}" for key, value in json.loads(settings).items())
