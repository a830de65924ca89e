"""Growing subsets of the images, on which a search by halving compares its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlfeatures.evaluation import Fold

__all__ = ["GROWTH", "Subset", "make_subsets"]

GROWTH = 4  # factor by which subsets grow, and by which each subset reduces the number of candidates
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
        size *= GROWTH
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
