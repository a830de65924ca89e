"""What a search found, as small tables: no plots, no pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "Calibration",
    "Flat",
    "Series",
    "calibration",
    "commonest_confusions",
    "confusion",
    "flatten",
    "layer_series",
    "per_class",
    "plain",
    "possible",
    "worst",
]

_TSNE_ROWS = 1000  # some five seconds; more images are shown by PCA
_MAP_ROWS = 5000
_FROM_ZERO_TO_ONE = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "precision", "recall", "jaccard")


@dataclass(frozen=True)
class Series:
    """Scores along the layers of one network; ``joined`` are those of several layers, concatenated.

    The arrays are of shape (len(layers) + len(joined),); NaN where nothing was tried.
    """

    name: str
    layers: tuple[str, ...]
    joined: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray


def layer_series(table: pd.DataFrame) -> dict[str, list[Series]]:
    """For each network the best score at each layer, a series for each size and way to resize.

    Where there is one size and one way only, a series for each pooling.

    Parameters
    ----------
    table : DataFrame
        Of candidates, with network, image_size, resize, layer, layers, depth, pooling, score and se.
    """
    found = {}
    for network, rows in table.groupby("network", sort=False):
        names = rows.drop_duplicates("layer").sort_values(["layers", "depth"], kind="stable")
        single = names[names["layers"] == 1]["layer"].tolist()
        several = names[names["layers"] > 1]["layer"].tolist()
        varying = [name for name in ("image_size", "resize") if rows[name].nunique() > 1]
        series = []
        for key, part in rows.groupby(varying or ["pooling"], sort=True):
            best = part.sort_values("score", ascending=False, kind="stable").drop_duplicates("layer")
            best = best.set_index("layer").reindex([*single, *several])
            words = [
                f"{k} px" if name == "image_size" else str(k)
                for name, k in zip(varying or [""], key, strict=True)
            ]
            series.append(
                Series(
                    ", ".join(words),
                    tuple(single),
                    tuple(_last(single, name) for name in several),
                    best["score"].to_numpy(float),
                    best["se"].to_numpy(float),
                )
            )
        found[str(network)] = series
    return found


def _last(single: Sequence[str], joined: str) -> str:
    """A short name for the last few layers, where that is what is joined."""
    for n in range(2, len(single) + 1):
        if joined == "+".join(single[-n:]):
            return f"last {n}"
    return joined


def confusion(true: np.ndarray, predicted: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Count images, int (true class, predicted class).

    Examples
    --------
    >>> a, b = np.array(["cat", "cat", "dog"]), np.array(["cat", "dog", "dog"])
    >>> confusion(a, b, np.array(["cat", "dog"])).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (np.searchsorted(classes, true), np.searchsorted(classes, predicted)), 1)
    return counts


def per_class(counts: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    """Precision, recall and F1 of each class; precision is NaN where a class was never predicted."""
    hits, images, guesses = np.diag(counts).astype(float), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        precision, recall, f1 = hits / guesses, hits / images, 2 * hits / (images + guesses)
    return pd.DataFrame(
        {"class": classes, "images": images, "precision": precision, "recall": recall, "f1": f1}
    )


def commonest_confusions(counts: np.ndarray, classes: np.ndarray, n: int = 10) -> pd.DataFrame:
    """The n largest counts off the diagonal."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:n]
    rows, columns = np.unravel_index(order, wrong.shape)
    frame = pd.DataFrame(
        {
            "true": classes[rows],
            "predicted": classes[columns],
            "images": wrong[rows, columns],
            "share": wrong[rows, columns] / np.maximum(counts.sum(axis=1)[rows], 1),
        }
    )
    return frame[frame["images"] > 0]


@dataclass(frozen=True)
class Calibration:
    """Stated probability of the predicted class against how often it was right, in bins of equal count."""

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: float  # expected calibration error
    brier: float


def calibration(true: np.ndarray, proba: np.ndarray, classes: np.ndarray, bins: int = 10) -> Calibration:
    """Weigh probabilities against what came true.

    Parameters
    ----------
    true : ndarray of shape (n,)
    proba : ndarray of shape (n, len(classes))
        Rows with NaN are left out.
    classes : ndarray
        Sorted.
    bins : int
        At most; fewer where there are less than 20 images a bin.
    """
    whole = ~np.isnan(proba).any(axis=1)
    proba, codes = proba[whole], np.searchsorted(classes, true[whole])
    sure, right = proba.max(axis=1), proba.argmax(axis=1) == codes
    parts = np.array_split(np.argsort(sure, kind="stable"), max(1, min(bins, len(sure) // 20)))
    confidence, accuracy = (np.array([v[p].mean() for p in parts]) for v in (sure, right))
    images = np.array([len(p) for p in parts])
    low, high = _wilson(accuracy, images)
    error = float((np.abs(confidence - accuracy) * images).sum() / images.sum())
    hit = np.zeros_like(proba)
    hit[np.arange(len(codes)), codes] = 1
    brier = float(((proba - hit) ** 2).sum(axis=1).mean())
    return Calibration(confidence, accuracy, images, low, high, error, brier)


def _wilson(share: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of a share (Wilson 1927)."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - reach, centre + reach


def worst(
    oof: pd.DataFrame,
    proba: np.ndarray | None,
    decision: np.ndarray | None,
    classes: np.ndarray | None,
    n: int = 12,
) -> pd.DataFrame:
    """The n worst mistakes, the worst first, with ``at`` (the row of ``oof``) and ``by``, how far off each is.

    For classes the lead of the predicted class over the true one, in probability or, where there is none,
    in decision value; for numbers (``classes`` None) the absolute error.
    """
    true, predicted = oof["true"].to_numpy(), oof["predicted"].to_numpy()
    if classes is None:
        by = np.abs(predicted - true)
        wrong = by > 0
    else:
        wrong, by = true != predicted, np.zeros(len(oof))
        values = decision if proba is None else proba
        if values is not None and values.ndim == 1:  # positive speaks for the second of two classes
            by = 2 * np.abs(values)
        elif values is not None and values.shape[1] == len(classes):
            rows = np.arange(len(oof))
            by = (
                values[rows, np.searchsorted(classes, predicted)]
                - values[rows, np.searchsorted(classes, true)]
            )
    at = np.flatnonzero(wrong)
    at = at[np.argsort(-np.nan_to_num(by[at]), kind="stable")][:n]
    return oof.iloc[at].assign(at=at, by=by[at])


@dataclass(frozen=True)
class Flat:
    """Embeddings in the plane: ``xy`` (m, 2) of the rows ``rows``, and how they were made."""

    xy: np.ndarray
    rows: np.ndarray
    method: str
    note: str


def flatten(X: np.ndarray) -> Flat:
    """Lay embeddings out in the plane: t-SNE of up to 1,000, else PCA. The same rows give the same map.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Of more than 5,000 rows a sample is shown.
    """
    rows = np.arange(len(X))
    if len(X) > _MAP_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(X), _MAP_ROWS, replace=False))
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    X = StandardScaler().fit_transform(X[rows].astype(np.float64))
    k = min(50, *X.shape)
    pca = PCA(k, svd_solver="randomized" if min(X.shape) > 500 else "full", random_state=0)
    Z = pca.fit_transform(X)
    if Z.shape[1] == 1:
        Z = np.column_stack([Z, np.zeros(len(Z))])
    share = pca.explained_variance_ratio_[:2].sum() if X.any() else 0.0
    if not 20 <= len(X) <= _TSNE_ROWS or k < 3 or not X.any():
        note = f"The two main axes hold {share:.0%} of the variance; classes may part along others."
        return Flat(Z[:, :2], rows, "PCA", note)
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums over threads differ from run to run
        tsne = TSNE(2, init="pca", perplexity=min(30, max(5, len(Z) / 10)), random_state=0, n_jobs=1)
        xy = tsne.fit_transform(Z.astype(np.float32))
    return Flat(xy, rows, "t-SNE", "Neighbours are alike; distances between far groups mean nothing.")


def possible(bound: float, scoring: str) -> float:
    """The end of an interval, cut where the score named cannot be.

    Examples
    --------
    >>> possible(1.02, "accuracy"), possible(-0.1, "accuracy"), possible(1.02, "R2"), possible(-0.1, "r2")
    (1.0, 0.0, 1.0, -0.1)
    >>> possible(1.02, "explained")
    1.02
    """
    if scoring.lower().startswith(_FROM_ZERO_TO_ONE):
        return min(max(bound, 0.0), 1.0)
    return min(bound, 1.0) if scoring.lower() == "r2" else bound


def plain(value: Any) -> Any:
    """A value of numpy as Python has it, NaN as None, at any depth: fit for JSON."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
