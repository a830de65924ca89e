"""Successive halving: candidates are compared on growing subsets of the images, and the best go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from tlfeatures.evaluation import Fold
from tlfeatures.selection._fits import Scores

__all__ = [
    "EXHAUSTIVE_IMAGES",
    "Round",
    "Subset",
    "choose_survivors",
    "describe_rounds",
    "find_comparable_scores",
    "make_subsets",
    "tabulate_rounds",
    "uses_halving",
]

EXHAUSTIVE_IMAGES = 2000  # up to this number, search="auto" scores every candidate on all images
_GROWTH = 4  # factor between the sizes of subsets; one candidate in so many goes on
_MIN_CANDIDATES = 4  # that go on
_COVERED_FOLDS = 5  # folds in which the first subset has each class


@dataclass(frozen=True)
class Subset:
    """Some of the images and the folds among them.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Sorted.
    folds : list of (train, test) or None
        As positions in ``rows``; None for folds without a test image in the subset.
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
        Mean scores over the folds.
    survivors : ndarray of int
        Candidates that went on, sorted.
    """

    images: int
    candidates: np.ndarray
    scores: Scores
    means: np.ndarray
    survivors: np.ndarray


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
    """Make subsets, each contained in the next one, in which the folds divide the images as among all images.

    Groups are not split, and each class has nearly the same share as among all images.

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
        The next one is four times as large; the last one has at most half of the images. Subsets whose folds cannot be
        trained or tested are left out.
    """
    classes = np.unique(y, return_inverse=True)[1] if task == "classification" else np.zeros(len(y), int)
    size = max(first, 2 * min(len(folds), _COVERED_FOLDS) * (int(classes.max()) + 1))
    order, counts, unit = _order_groups(classes, groups, folds, np.random.default_rng(seed))
    totals = np.cumsum(counts[order])
    subsets: list[Subset] = []
    while size <= len(y) / 2:
        chosen = np.zeros(len(counts), bool)
        chosen[order[: np.searchsorted(totals, size) + 1]] = True
        rows = np.flatnonzero(chosen[unit])
        restricted = _restrict(folds, rows, classes, task)
        if len(rows) <= len(y) / 2 and restricted is not None:
            subsets.append(Subset(rows, restricted))
        size *= _GROWTH
    return subsets


def _order_groups(
    classes: np.ndarray, groups: np.ndarray, folds: Sequence[Fold], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order the groups so that every prefix has nearly the same classes and folds as all images.

    Returns
    -------
    order : ndarray of int, shape (n_groups,)
    counts : ndarray of int, shape (n_groups,)
        Number of images of each group.
    group : ndarray of int, shape (n,)
        Group of each image.
    """
    fold_of = np.full(len(classes), len(folds))
    for i in reversed(range(len(folds))):
        fold_of[folds[i][1]] = i
    _, first, group, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    strata = classes * (len(folds) + 1) + fold_of
    n_strata = int(strata.max()) + 1
    draw = rng.permutation(len(first))
    # the groups of a stratum are spread evenly over [0, 1)
    by_stratum = draw[np.argsort(strata[first][draw], kind="stable")]
    sizes = np.bincount(strata[first], minlength=n_strata)
    rank = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(len(first))
    position[by_stratum] = (rank + rng.random(len(first))) / np.repeat(sizes, sizes)
    # one group of each class comes first in several folds, so that every fold can be trained and tested
    rows = np.argsort(np.argsort(draw)[group], kind="stable")
    covered, at = np.unique(strata[rows], return_index=True)
    per_class = np.bincount(covered // (len(folds) + 1))
    rank = np.arange(len(covered)) - np.repeat(np.cumsum(per_class) - per_class, per_class)
    position[group[rows[at[rank < _COVERED_FOLDS]]]] -= 1
    return np.argsort(position, kind="stable"), counts, group


def _restrict(
    folds: Sequence[Fold], rows: np.ndarray, classes: np.ndarray, task: str
) -> list[Fold | None] | None:
    """Return the folds among some rows; None if fewer than two can be tested, or if one cannot be trained."""
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


def choose_survivors(means: np.ndarray, costs: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Choose the best quarter of the candidates, at least four; cheaper and smaller ones among equals.

    Parameters
    ----------
    means : ndarray of shape (candidates,)
        NaN counts as the lowest score.
    costs, widths : ndarray of shape (candidates,)

    Returns
    -------
    ndarray of int
        Sorted.
    """
    order = np.lexsort((widths, costs, -np.nan_to_num(means, nan=-np.inf)))
    return np.sort(order[: max(_MIN_CANDIDATES, math.ceil(len(means) / _GROWTH))])


def describe_rounds(rounds: Sequence[Round], n_candidates: int, n_images: int) -> dict[str, np.ndarray]:
    """Return the columns of ``cv_results_`` that say where candidates were eliminated; none without subsets.

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


def tabulate_rounds(rounds: Sequence[Round], n_images: int) -> pandas.DataFrame:
    """Return one row for each subset and one for all images: ``images``, ``candidates`` and ``eliminated``."""
    rows = [
        (past.images, len(past.candidates), len(past.candidates) - len(past.survivors)) for past in rounds
    ]
    if rounds:
        rows.append((n_images, len(rounds[-1].survivors), 0))
    return pandas.DataFrame(rows, columns=["images", "candidates", "eliminated"])


def find_comparable_scores(
    rounds: Sequence[Round], final: np.ndarray, *groups: np.ndarray
) -> tuple[np.ndarray, int | None]:
    """Return the scores on the most images on which each group has a candidate with scores.

    Parameters
    ----------
    rounds : sequence of Round
    final : ndarray of shape (candidates, folds)
        Scores on all images.
    *groups : ndarray of bool, shape (candidates,)

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
        tested = ~np.isnan(past.scores.test).all(axis=0)
        scores, images = np.full((len(final), int(tested.sum())), np.nan), past.images
        scores[past.candidates] = past.scores.test[:, tested]
    return scores, images
