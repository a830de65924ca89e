"""Conclusions of a search: whether earlier layers or more images would help, and what to do next."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlfeatures.evaluation import Fold
from tlfeatures.results import LearningCurve, Regime
from tlfeatures.selection._fits import evaluate
from tlfeatures.selection._head_grids import Head
from tlfeatures.selection._metadata_routing import Metadata

__all__ = ["LearningCurve", "Regime", "advise", "learning_curve"]

_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training rows: each step doubles them
_NEAR_PERFECT = 0.98  # fraction of the best possible score above which little is left to gain
_PLATEAU = 0.01  # relative gain of the last doubling below which more images do not help


def learning_curve(
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[Fold],
    head: Head,
    point: int,
    scorer: Any,
    seed: int,
    groups: np.ndarray | None = None,
    metadata: Metadata | None = None,
    full_scores: np.ndarray | None = None,
) -> LearningCurve:
    """Score one head, fitted on 1/16, 1/8, 1/4, 1/2 and all of each fold's training rows.

    Subsets are stratified by class, or consist of complete groups. A subset that lacks a class or has fewer
    than ten rows is skipped. ``full_scores`` are the scores of all training rows, shape (folds,), if they are known.
    """
    head = head.at(point)
    min_rows = max(10, head.points[0].get("n_neighbors", 0))
    rng = np.random.default_rng(seed)
    orders = [
        train[_stratified_order(y[train], head.task, rng, None if groups is None else groups[train])]
        for train, _ in folds
    ]
    sizes, scores = [], []
    for fraction in _FRACTIONS:
        subsets = [order[: round(fraction * len(order))] for order in orders]
        complete = head.task == "regression" or all(
            len(np.unique(y[rows])) == len(np.unique(y[order]))
            for rows, order in zip(subsets, orders, strict=True)
        )
        if min(map(len, subsets)) < min_rows or not complete:
            continue
        pairs = [(rows, test) for rows, (_, test) in zip(subsets, folds, strict=True)]
        with warnings.catch_warnings():
            # with few images per class, scikit-learn mistakes the classes for regression targets
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            with contextlib.suppress(ValueError):  # a subset may be too small for the score
                if fraction == 1 and full_scores is not None:
                    scores.append(full_scores)
                else:
                    scores.append(evaluate(X, y, pairs, [head], scorer, metadata or Metadata())[0].test[0])
                sizes.append(round(np.mean([len(rows) for rows in subsets])))
    return LearningCurve(np.array(sizes, int), np.array(scores).reshape(len(sizes), len(folds)))


def _stratified_order(
    y: np.ndarray, task: str, rng: np.random.Generator, groups: np.ndarray | None
) -> np.ndarray:
    """Order rows so that every prefix has the class proportions of all rows."""
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        return np.argsort(rng.permutation(codes.max() + 1)[codes], kind="stable")
    order = rng.permutation(len(y))
    if task == "regression":
        return order
    position = np.empty(len(y))
    for label in np.unique(y):
        rows = order[y[order] == label]
        position[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(position, kind="stable")


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return the mean of ``a - b`` over the folds and its standard error."""
    difference = a - b
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def advise(
    scores: np.ndarray,
    last: np.ndarray,
    early: np.ndarray,
    curve: LearningCurve | None,
    names: Sequence[str],
    best_possible: float | None,
    layer_scores: np.ndarray | None = None,
    layer_images: int | None = None,
) -> Regime:
    """Decide which regime of transfer learning the scores show, and recommend what to do.

    A difference is significant if it exceeds two standard errors; otherwise the question is reported as open.

    Parameters
    ----------
    scores : ndarray of shape (candidates, folds)
    last, early : ndarray of bool, shape (candidates,)
        Whether a candidate uses only the last layer, and whether it uses a single earlier layer.
    curve : LearningCurve or None
        None if it was not computed.
    names : sequence of str
        Display names of the candidates.
    best_possible : float or None
        Score of a perfect model; None if unknown.
    layer_scores : ndarray of shape (candidates, folds), optional
        Scores by which layers are compared, if candidates were eliminated on a subset of the images.
    layer_images : int, optional
        Number of images of this subset.

    Returns
    -------
    Regime
    """
    means = _compute_means(scores)
    domain, about_layers = _compare_layers(
        scores if layer_scores is None else layer_scores, last, early, names
    )
    if layer_images is not None:
        about_layers = about_layers[0], f"{about_layers[1]}, on {layer_images:,} images"
    data, about_images = _assess_learning_curve(curve)
    evidence = [about_layers, about_images]
    top = float(means.max())
    near_perfect = best_possible is not None and best_possible > 0 and top >= _NEAR_PERFECT * best_possible
    if near_perfect:
        evidence.append(
            ("Little is left to gain by fine-tuning.", f"score {top:.4f} of {best_possible:g} possible")
        )
    advice = ("frozen features", "Recommended: frozen features.")
    if domain == "dissimilar":
        advice = ("earlier layers", "Recommended: frozen features, including those of earlier layers.")
    if near_perfect:
        why = "the score is nearly perfect"
    elif data == "small":
        why = "there are too few images to fine-tune a network"
    elif data == "open":
        why = "the measurements do not show that frozen features limit the score"
    else:
        why = "performance has plateaued with frozen features"
        advice = ("fine-tune the top", "Recommended: fine-tune the top layers of the network.")
        if domain == "dissimilar":
            advice = ("fine-tune all", "Recommended: fine-tune all layers of the network.")
    recommendation, sentence = advice
    return Regime(domain, data, recommendation, [*evidence, (sentence, why)])


def _compute_means(scores: np.ndarray) -> np.ndarray:
    """Compute mean scores; candidates with a missing score get minus infinity."""
    return np.where(np.isnan(scores).any(axis=1), -np.inf, scores.mean(axis=1))


def _compare_layers(
    scores: np.ndarray, last: np.ndarray, early: np.ndarray, names: Sequence[str]
) -> tuple[str, tuple[str, str]]:
    """Compare the best earlier layer with the last one; return the domain and the evidence."""
    means = _compute_means(scores)
    if not (np.isfinite(means[last]).any() and np.isfinite(means[early]).any()):
        return "similar", (
            "Earlier layers were not compared with the last.",
            "one of the two has no candidate",
        )
    a, b = (int(np.flatnonzero(mask)[means[mask].argmax()]) for mask in (early, last))
    gain, error = paired_difference(scores[a], scores[b])
    if gain > 2 * error:
        finding = "Earlier layers are better: the images are unlike those the network was trained on."
    elif gain < -2 * error:
        finding = "Earlier layers are not better: the images are like those the network was trained on."
    else:
        finding = "Whether earlier layers are better is open: the difference may be due to chance."
    return "dissimilar" if gain > 2 * error else "similar", (
        finding,
        f"best earlier layer {means[a]:.4f} ({names[a]}), last layer {means[b]:.4f} ({names[b]}), "
        f"difference {gain:+.4f}, standard error {error:.4f}",
    )


def _assess_learning_curve(curve: LearningCurve | None) -> tuple[str, tuple[str, str]]:
    """Assess whether the last doubling of the training images helped; return the amount of data and the evidence."""
    if curve is None or len(curve.sizes) < 2:
        reason = (
            "no learning curve was computed"
            if curve is None
            else "there are too few images for a learning curve"
        )
        return "open", ("Whether more images would help is open.", reason)
    before, after = curve.scores[-2].mean(), curve.scores[-1].mean()
    gain, error = paired_difference(curve.scores[-1], curve.scores[-2])
    if gain > 2 * error:
        data, finding = "small", "More images would help: the score still rises."
    elif gain + 2 * error < _PLATEAU * abs(after):
        data, finding = "large", "More images would help little: the score has plateaued."
    else:
        data, finding = "open", "Whether more images would help is open: the gain may be due to chance."
    return data, (
        finding,
        f"{before:.4f} with {curve.sizes[-2]} training images, {after:.4f} with {curve.sizes[-1]}, "
        f"difference {gain:+.4f}, standard error {error:.4f}",
    )
