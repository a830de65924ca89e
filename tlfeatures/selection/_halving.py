"""Successive halving: compare candidates on growing subsets of the images, and keep the best ones each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures.evaluation import standard_error
from tlfeatures.selection._fits import Scores
from tlfeatures.selection._subsets import GROWTH

__all__ = [
    "EXHAUSTIVE_IMAGES",
    "MIN_CANDIDATES",
    "Round",
    "SkippedRound",
    "can_compare",
    "choose_survivors",
    "describe_no_rounds",
    "describe_rounds",
    "find_comparable_scores",
    "tabulate_rounds",
    "uses_halving",
]

EXHAUSTIVE_IMAGES = 2000  # up to this number, search="auto" scores every candidate on all images
MIN_CANDIDATES = 4  # smallest number of candidates that are kept
_MAX_POINTS = 2  # largest number of candidates with the same embedding and head among those that are kept


@dataclass(frozen=True)
class Round:
    """Scores on one subset.

    Attributes
    ----------
    images : int
    candidates : ndarray of int, shape (c,)
        Candidates that were scored.
    scores : Scores
        Arrays of shape (c, folds).
    means : ndarray of shape (c,)
        Mean scores over the folds on which all candidates have a score.
    survivors : ndarray of int
        Candidates that were kept, sorted.
    """

    images: int
    candidates: np.ndarray
    scores: Scores
    means: np.ndarray
    survivors: np.ndarray


@dataclass(frozen=True)
class SkippedRound:
    """A subset on which candidates could not be compared, so that all of them were kept.

    Attributes
    ----------
    images : int
    candidates : int
        Number of candidates, all of which were kept.
    reason : str
    """

    images: int
    candidates: int
    reason: str


def uses_halving(search: Any, n_images: int, n_folds: int) -> bool:
    """Return whether a search compares its candidates on subsets first.

    Parameters
    ----------
    search : FeatureSearchCV
    n_images, n_folds : int
    """
    if not n_folds or search.search == "exhaustive" or search.nested:
        return False
    return search.search == "halving" or n_images > EXHAUSTIVE_IMAGES


def can_compare(n_candidates: int) -> bool:
    """Return whether a subset can eliminate some of this number of candidates."""
    return n_candidates > MIN_CANDIDATES


def choose_survivors(
    scores: np.ndarray,
    costs: np.ndarray,
    widths: np.ndarray,
    grids: np.ndarray,
    rule: str,
) -> np.ndarray:
    """Choose the best quarter of the candidates, at least four; among equal scores, the cheaper and smaller ones.

    Parameters
    ----------
    scores : ndarray of shape (candidates, folds)
        Finite.
    costs, widths : ndarray of shape (candidates,)
    grids : ndarray of int, shape (candidates,)
        Number of the grid of each candidate; a grid has the points of one head on one embedding. More than two points
        of a grid, or two with the same scores on all folds, are chosen only if there are too few others.
    rule : {"best", "1se"}
        With "1se", the best point of each grid is also chosen if its score is within one standard error of the best
        score.

    Returns
    -------
    ndarray of int
        Sorted.
    """
    means = scores.mean(axis=1)
    order = np.lexsort((widths, costs, -means))
    first_with_scores = np.unique(np.column_stack([grids, scores])[order], axis=0, return_index=True)[1]
    distinct = order[np.sort(first_with_scores)]
    grid = pandas.Series(grids[distinct])
    rank = np.full(len(order), len(order))  # within the grid; repeated scores come last
    rank[distinct] = grid.groupby(grid).cumcount()
    diverse = order[np.argsort(rank[order] >= _MAX_POINTS, kind="stable")]
    survivors = diverse[: max(MIN_CANDIDATES, math.ceil(len(means) / GROWTH))]
    if rule == "1se":
        bound = means[order[0]] - standard_error(scores[order[0]])
        survivors = np.union1d(survivors, np.flatnonzero((means >= bound) & (rank == 0)))
    return np.sort(survivors)


def describe_rounds(rounds: Sequence[Round], n_candidates: int, n_images: int) -> dict[str, np.ndarray]:
    """Return the columns of ``cv_results_`` about the subsets and the eliminated candidates; none without subsets.

    Parameters
    ----------
    rounds : sequence of Round
    n_candidates : int
    n_images : int
        Number of all images.
    """
    if not rounds:
        return {}
    images, last_score = np.full(n_candidates, n_images), np.full(n_candidates, np.nan)
    eliminated, columns = np.zeros(n_candidates, bool), {}
    for i, past in enumerate(rounds):
        scores = np.full(n_candidates, np.nan)
        scores[past.candidates] = past.means
        columns[f"subset{i}_test_score"] = scores
        out = np.setdiff1d(past.candidates, past.survivors)
        images[out], last_score[out], eliminated[out] = past.images, scores[out], True
    return {"n_images": images, "eliminated": eliminated, "last_subset_test_score": last_score, **columns}


def tabulate_rounds(
    rounds: Sequence[Round], skipped: Sequence[SkippedRound], n_candidates: int, n_images: int
) -> pandas.DataFrame:
    """Return one row for each subset and one for all images: ``images``, ``candidates``, ``eliminated``, ``note``."""
    rows = [
        (past.images, len(past.candidates), len(past.candidates) - len(past.survivors), "") for past in rounds
    ]
    rows += [(past.images, past.candidates, 0, past.reason) for past in skipped]
    if rows:
        remaining = len(rounds[-1].survivors) if rounds else n_candidates
        rows = [*sorted(rows), (n_images, remaining, 0, "")]
    return pandas.DataFrame(rows, columns=["images", "candidates", "eliminated", "note"])


def describe_no_rounds(skipped: Sequence[SkippedRound]) -> str:
    """Return the warning of a search by halving in which all candidates were scored on all images."""
    reason = (
        f"on {skipped[0].images:,} images: {skipped[0].reason}"
        if skipped
        else (
            f"there are at most {MIN_CANDIDATES} candidates, or no subset has each class and at most half of the images"
        )
    )
    return f'`search="halving"` had no effect ({reason}), so all candidates were scored on all images.'


def find_comparable_scores(
    rounds: Sequence[Round], final: np.ndarray, *groups: np.ndarray
) -> tuple[np.ndarray, int | None]:
    """Return the scores on the largest set of images on which each group of candidates has scores.

    Parameters
    ----------
    rounds : sequence of Round
    final : ndarray of shape (candidates, folds)
        Scores on all images.
    *groups : ndarray of bool, shape (candidates,)
        Masks of candidates. At least one candidate of each group must have finite scores.

    Returns
    -------
    scores : ndarray of shape (candidates, folds)
        NaN for candidates that were not scored on these images.
    images : int or None
        Number of images; None if these are the scores on all images.
    """
    scores, images = final, None
    for past in reversed(rounds):
        if all(np.isfinite(scores[group]).all(axis=1).any() for group in groups):
            break
        tested = np.isfinite(past.scores.test).all(axis=0)
        scores, images = np.full((len(final), int(tested.sum())), np.nan), past.images
        scores[past.candidates] = past.scores.test[:, tested]
    return scores, images
