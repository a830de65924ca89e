"""Warnings about duplicate images, the same for all commands that train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlfeatures.cli._terminal import count, shown, warn

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.evaluation import Duplicates

_N_SHOWN = 5


def warn_of_duplicates(duplicates: Duplicates, advice: str = "") -> None:
    """Warn when duplicate images are split between folds; says what that does to the score."""
    if not duplicates.crossing:
        return
    if duplicates.score_together is None:
        effect = (
            f"the score may be too high. No folds can keep them together: the largest duplicate group has "
            f"{count(duplicates.largest, 'image')} of {len(duplicates.groups):,}"
        )
    else:
        effect = (
            f"grouped cross-validation, which keeps duplicates in one fold, scores {duplicates.score_together:.4f} "
            f"instead of {duplicates.score:.4f}"
        )
    warn(
        f"{count(len(duplicates.pairs), 'pair')} of duplicate images (cosine >= {duplicates.threshold:g}; "
        f"{int(duplicates.exact.sum()):,} exact), {duplicates.crossing:,} of them split between folds: {effect}."
        f"{advice}"
    )


def warn_of_label_conflicts(keys: np.ndarray, y: np.ndarray, paths: list[str]) -> list[list[str]]:
    """Warn of identical images with different labels; return the pairs of paths."""
    from tlfeatures.evaluation import find_label_conflicts

    pairs = find_label_conflicts(keys, y).tolist()
    if pairs:
        warn(f"{count(len(pairs), 'pair')} of identical images with different labels:")
        for pair in pairs[:_N_SHOWN]:
            warn(" and ".join(f"{shown(paths[i])} ({shown(str(y[i]))})" for i in pair), "  ")
        if len(pairs) > _N_SHOWN:
            warn(f"and {len(pairs) - _N_SHOWN:,} more", "  ")
    return [[paths[i] for i in pair] for pair in pairs]
