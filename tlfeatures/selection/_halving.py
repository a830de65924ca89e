"""Successive halving: compare candidates on growing subsets of the images, and keep the best ones each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures.evaluation import Fold, standard_error
from tlfeatures.selection._fits import Scores

__all__ = [
    "EXHAUSTIVE_IMAGES",
    "MIN_CANDIDATES",
    "Round",
    "SkippedRound",
    "Subset",
    "can_compare",
    "choose_survivors",
    "describe_no_rounds",
    "describe_rounds",
    "find_comparable_scores",
    "make_subsets",
    "tabulate_rounds",
    "uses_halving",
]

EXHAUSTIVE_IMAGES = 2000  # up to this number, search="auto" scores every candidate on all images
_GROWTH = 4  # factor by which subsets grow, and by which each subset reduces the number of candidates
MIN_CANDIDATES = 4  # smallest number of candidates that are kept
_MAX_POINTS = 2  # largest number of candidates with the same embedding and head among those that are kept
_IMAGES_PER_CLASS = 10  # smallest number of images of each class in the first subset
_OVERSHOOT = 1.1  # maximum size of a subset, relative to its target


@dataclass(frozen=True)
class Subset:
    """A subset of the images, and its folds.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Sorted rows of the images.
    folds : list of (train, test) or None
        Positions in ``rows``; None for folds without a test image in the subset.
    """

    rows: np.ndarray
    folds: list[Fold | None]


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


def make_subsets(
    y: np.ndarray, groups: np.ndarray, folds: Sequence[Fold], task: str, seed: int, first: int
) -> list[Subset]:
    """Make subsets, each contained in the next one, with the folds of all images restricted to each subset.

    Groups are not split, and the classes have nearly the same shares as among all images.

    Parameters
    ----------
    y : ndarray of shape (n,)
    groups : ndarray of int, shape (n,)
        Groups and duplicates.
    folds : sequence of (train, test)
    task : {"classification", "regression"}
    seed : int
    first : int
        Number of images of the first subset. It is larger if there are many classes.

    Returns
    -------
    list of Subset
        Each subset is four times as large as the previous one, or at least twice as large if groups are large; the
        last one has at most half of the images. If possible, each test set has images of the same classes as among all
        images. Groups that are too large for a subset are not in it. Subsets that lack a class, or in which a fold
        cannot be trained or fewer than two folds can be tested, are left out.
    """
    classes = np.unique(y, return_inverse=True)[1] if task == "classification" else np.zeros(len(y), int)
    n_classes = int(classes.max()) + 1
    size = max(first, _IMAGES_PER_CLASS * n_classes)
    rng = np.random.default_rng(seed)
    counts, group = np.unique(groups, return_inverse=True, return_counts=True)[1:][::-1]
    order = _order_groups(classes, group, len(counts), folds, rng)
    covering = _cover_classes(classes, group, counts, folds, rng, size)
    chosen = np.zeros(len(counts), bool)
    subsets: list[Subset] = []
    while size <= len(y) / 2:
        limit = min(_OVERSHOOT * size, len(y) / 2)
        _add_groups(chosen, counts, covering, counts, limit, limit)
        for label in range(n_classes) if task == "classification" else ():
            of_class = np.bincount(group[classes == label], minlength=len(counts))
            _add_groups(chosen, counts, order[of_class[order] > 0], of_class, _IMAGES_PER_CLASS, limit)
        _add_groups(chosen, counts, order, counts, size, limit)
        rows = np.flatnonzero(chosen[group])
        previous = len(subsets[-1].rows) if subsets else size / 4
        is_complete = len(rows) >= 2 * previous and len(np.unique(classes[rows])) == n_classes
        restricted = _restrict(folds, rows, classes, task) if is_complete else None
        if restricted is not None:
            subsets.append(Subset(rows, restricted))
        size *= _GROWTH
    return subsets


def _order_groups(
    classes: np.ndarray, group: np.ndarray, n_groups: int, folds: Sequence[Fold], rng: np.random.Generator
) -> np.ndarray:
    """Order the groups so that every prefix has nearly the same classes and folds as all images."""
    fold_of = np.full(len(classes), len(folds))
    for i in reversed(range(len(folds))):
        fold_of[folds[i][1]] = i
    strata = classes * (len(folds) + 1) + fold_of
    strata = strata[np.unique(group, return_index=True)[1]]
    draw = rng.permutation(n_groups)
    # the groups of a stratum are spread evenly over [0, 1)
    by_stratum = draw[np.argsort(strata[draw], kind="stable")]
    sizes = np.bincount(strata)
    rank = np.arange(n_groups) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(n_groups)
    position[by_stratum] = (rank + rng.random(n_groups)) / np.repeat(sizes, sizes)
    return np.argsort(position, kind="stable")


def _cover_classes(
    classes: np.ndarray,
    group: np.ndarray,
    counts: np.ndarray,
    folds: Sequence[Fold],
    rng: np.random.Generator,
    size: int,
) -> np.ndarray:
    """Return the smallest group of each class in the test set of each fold, or of some folds if there are many."""
    n_folds = max(_IMAGES_PER_CLASS, size // (2 * (int(classes.max()) + 1)))
    draw = rng.permutation(len(counts))
    covering = []
    for i in rng.permutation(len(folds))[:n_folds]:
        test = folds[i][1]
        test = test[np.lexsort((draw[group[test]], counts[group[test]]))]
        covering.append(group[test[np.unique(classes[test], return_index=True)[1]]])
    return np.concatenate(covering)


def _add_groups(
    chosen: np.ndarray,
    counts: np.ndarray,
    order: np.ndarray,
    counted: np.ndarray,
    target: float,
    limit: float,
) -> None:
    """Choose further groups until the subset has enough images.

    Parameters
    ----------
    chosen : ndarray of bool, shape (groups,)
        Changed in place.
    counts : ndarray of int, shape (groups,)
        Number of images of each group.
    order : ndarray of int
        Groups to choose from, in this order.
    counted : ndarray of int, shape (groups,)
        Number of images of each group that count towards ``target``.
    target, limit : float
        Groups are added until ``target`` images are counted. A group is skipped if the subset would then have more than
        ``limit`` images, or if the group alone has more than half of ``limit``.
    """
    total, reached = counts[chosen].sum(), counted[chosen].sum()
    for i in order[~chosen[order] & (counts[order] <= limit / 2)]:
        if reached >= target:
            break
        if not chosen[i] and total + counts[i] <= limit:
            chosen[i] = True
            total, reached = total + counts[i], reached + counted[i]


def _restrict(
    folds: Sequence[Fold], rows: np.ndarray, classes: np.ndarray, task: str
) -> list[Fold | None] | None:
    """Restrict folds to some rows; return None if fewer than two can be tested, or if one cannot be trained."""
    place = np.full(len(classes), -1)
    place[rows] = np.arange(len(rows))
    restricted: list[Fold | None] = []
    for train, test in (tuple(part[place[part] >= 0] for part in fold) for fold in folds):
        if task == "classification" and len(test):
            trained = np.unique(classes[train])
            if len(trained) < 2 or not np.isin(classes[test], trained).all():
                return None
        restricted.append((place[train], place[test]) if len(test) else None)
    is_trained = all(fold is None or len(fold[0]) > 1 for fold in restricted)
    return restricted if is_trained and sum(fold is not None for fold in restricted) > 1 else None


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
    survivors = diverse[: max(MIN_CANDIDATES, math.ceil(len(means) / _GROWTH))]
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
