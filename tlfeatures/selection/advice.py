"""Measured, not guessed: do earlier layers win, would more images help, and what follows from both."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlfeatures.selection.fits import Head, evaluate
from tlfeatures.selection.folds import Pair

__all__ = ["LearningCurve", "Regime", "advise", "learning_curve"]

_PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training rows: each step doubles them
_CEILING = 0.98  # share of the best possible score from which there is little left to win


@dataclass(frozen=True)
class LearningCurve:
    """Scores of the winner, trained on part of the rows.

    Attributes
    ----------
    sizes : ndarray of int, shape (s,)
        Training images, the mean over folds.
    scores : ndarray of shape (s, folds)
    """

    sizes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Regime:
    """Which of the four cases of transfer learning this is, and why.

    Attributes
    ----------
    domain : {"similar", "dissimilar"}
        "dissimilar" when an earlier layer beats the last by more than twice its standard error: the
        best of many layers beats one by chance more often than not.
    data : {"small", "large"}
        "small" when the last doubling of the training images gained more than its standard error.
    recommendation : {"linear head", "earlier layers", "fine-tune the top", "fine-tune all"}
    evidence : list of (sentence, figures)
        What is said, and what was measured that says so.
    """

    domain: str
    data: str
    recommendation: str
    evidence: list[tuple[str, str]] = field(default_factory=list)


def learning_curve(
    X: np.ndarray,
    y: np.ndarray,
    folds: Sequence[Pair],
    head: Head,
    point: int,
    scorer: Any,
    seed: int,
    groups: np.ndarray | None = None,
) -> LearningCurve:
    """Train one head on 1/16, 1/8, ... of each fold's training rows; classes keep their shares.

    With groups whole groups are added. Parts that lack a class, or have fewer than ten rows, are left out.
    """
    one = Head(head.name, head.task, (head.points[point],))
    least = max(10, one.points[0].get("n_neighbors", 0))
    rng = np.random.default_rng(seed)
    orders = [train[_spread(y[train], head.task, rng, None if groups is None else groups[train])]
              for train, _ in folds]  # fmt: skip
    sizes, scores = [], []
    for part in _PARTS:
        taken = [order[: round(part * len(order))] for order in orders]
        whole = head.task == "regression" or all(
            len(np.unique(y[rows])) == len(np.unique(y[order]))
            for rows, order in zip(taken, orders, strict=True)
        )
        if min(map(len, taken)) < least or not whole:
            continue
        pairs = [(rows, test) for rows, (_, test) in zip(taken, folds, strict=True)]
        with warnings.catch_warnings():
            # a part may hold little more than one image a class: scikit-learn then takes classes for numbers
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            with contextlib.suppress(ValueError):  # a part may be too small for the score
                scores.append(evaluate(X, y, pairs, [one], scorer)[0].test[0])
                sizes.append(round(np.mean([len(rows) for rows in taken])))
    return LearningCurve(np.array(sizes, int), np.array(scores).reshape(len(sizes), len(folds)))


def _spread(y: np.ndarray, task: str, rng: np.random.Generator, groups: np.ndarray | None) -> np.ndarray:
    """An order of rows of which every beginning has the classes in their shares."""
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        return np.argsort(rng.permutation(codes.max() + 1)[codes], kind="stable")
    order = rng.permutation(len(y))
    if task == "regression":
        return order
    place = np.empty(len(y))
    for label in np.unique(y):
        rows = order[y[order] == label]
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")


def paired(better: np.ndarray, worse: np.ndarray) -> tuple[float, float]:
    """Mean difference over folds, and its standard error."""
    gain = better - worse
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


def advise(
    scores: np.ndarray, last: np.ndarray, early: np.ndarray, curve: LearningCurve, names: Sequence[str],
    best_possible: float | None,
) -> Regime:  # fmt: skip
    """Say which regime this is.

    Parameters
    ----------
    scores : ndarray of shape (candidates, folds)
    last, early : ndarray of bool, shape (candidates,)
        Candidates of the last layer alone, and of one earlier layer alone.
    curve : LearningCurve
    names : sequence of str
        Of the candidates, for people.
    best_possible : float or None
        The score of a perfect model; None when unknown.
    """
    evidence = []
    means = np.where(np.isnan(scores).any(axis=1), -np.inf, scores.mean(axis=1))
    dissimilar = False
    if last.any() and early.any() and np.isfinite(means[last]).any() and np.isfinite(means[early]).any():
        a, b = (int(np.flatnonzero(mask)[means[mask].argmax()]) for mask in (early, last))
        gain, error = paired(scores[a], scores[b])
        dissimilar = gain > 2 * error
        if dissimilar:
            finding = "Earlier layers win: the images are unlike those the network was trained on."
        elif gain < -2 * error:
            finding = "Earlier layers do not win: the images are like those the network was trained on."
        else:
            finding = "Whether earlier layers win is open: the difference may be chance."
        evidence.append(
            (
                finding,
                f"best earlier layer {means[a]:.4f} ({names[a]}), last layer {means[b]:.4f} ({names[b]}), "
                f"difference {gain:+.4f}, standard error {error:.4f}",
            )
        )
    else:
        evidence.append(("Earlier layers were not compared with the last.", "no candidate of one of them"))
    small = True
    if len(curve.sizes) > 1:
        gain, error = paired(curve.scores[-1], curve.scores[-2])
        small = gain > error
        evidence.append(
            (
                "More images would help: the score still rises."
                if small
                else "More images would help little: the score has levelled off.",
                f"{curve.scores[-2].mean():.4f} with {curve.sizes[-2]} training images, "
                f"{curve.scores[-1].mean():.4f} with {curve.sizes[-1]}, "
                f"difference {gain:+.4f}, standard error {error:.4f}",
            )
        )
    else:
        evidence.append(("Whether more images would help is open.", "too few images for a learning curve"))
    top = float(means.max())
    settled = best_possible is not None and best_possible > 0 and top >= _CEILING * best_possible
    if settled:
        evidence.append(
            ("Little is left to win by fine-tuning.", f"score {top:.4f} of {best_possible:g} possible")
        )
    if small or settled:
        recommendation = "earlier layers" if dissimilar else "linear head"
        why = "there is little left to win" if settled else "the images are too few to train a network on"
    else:
        recommendation = "fine-tune all" if dissimilar else "fine-tune the top"
        why = "the frozen embedding is used up, not the images"
    evidence.append((f"Recommended: {recommendation}.", why))
    return Regime(
        "dissimilar" if dissimilar else "similar", "small" if small else "large", recommendation, evidence
    )
