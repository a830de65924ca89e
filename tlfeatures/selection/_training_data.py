"""Labels, groups and metadata of the images of a search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np

from tlfeatures.evaluation import Fold, make_folds, make_inner_folds
from tlfeatures.selection._metadata_routing import Metadata

__all__ = ["TrainingData"]


@dataclass(frozen=True)
class TrainingData:
    """Labels, groups and metadata of n images, and the parameters of the folds.

    Attributes
    ----------
    y : ndarray of shape (n,)
    task : {"classification", "regression"}
    groups : ndarray of int, shape (n,), or None
    metadata : Metadata
    cv : int, splitter or list of (train, test)
    seed : int
    """

    y: np.ndarray
    task: str
    groups: np.ndarray | None
    metadata: Metadata
    cv: Any
    seed: int

    def take(self, rows: np.ndarray) -> TrainingData:
        """Select some rows."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, y=self.y[rows], groups=groups, metadata=self.metadata.take(rows))

    def make_folds(self) -> list[Fold]:
        """Make the folds, as :func:`~tlfeatures.evaluation.make_folds` does; none if ``cv`` is 0."""
        if isinstance(self.cv, Integral) and self.cv == 0 and self.cv is not False:
            return []
        return make_folds(self.cv, self.y, self.groups, self.task, self.seed)

    def make_inner_folds(self, folds: list[Fold]) -> list[list[Fold]]:
        """Split the training rows of each fold again, for nested cross-validation."""
        return make_inner_folds(self.cv, self.y, self.groups, self.task, self.seed, folds)
