"""Warnings about duplicate images and conflicting labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlfeatures.cli._terminal import count, escape, warn, warn_of_list

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.evaluation import Duplicates

_N_SHOWN = 5


def warn_of_duplicates(duplicates: Duplicates, advice: str = "") -> None:
    """Warn if duplicate images are split between folds, with the effect on the score."""
    if not duplicates.crossing:
        return
    if duplicates.score_together is None:
        effect = (
            f"the score may be too high. No folds can keep them together: the largest duplicate group has "
            f"{duplicates.largest:,} of {count(len(duplicates.groups), 'image')}"
        )
    else:
        effect = (
            f"grouped cross-validation, which keeps duplicates in one fold, scores {duplicates.score_together:.4f} "
            f"instead of {duplicates.score:.4f}"
        )
    warn_of_split_pairs(duplicates, f"{effect}.{advice}")


def warn_of_split_pairs(duplicates: Duplicates, effect: str) -> None:
    """Warn of the number of duplicate images that are split between folds."""
    warn(
        f"{count(len(duplicates.pairs), 'pair')} of duplicate images (cosine >= {duplicates.threshold:g}; "
        f"{int(duplicates.exact.sum()):,} exact), {duplicates.crossing:,} of them split between folds: {effect}"
    )


def warn_of_label_conflicts(keys: np.ndarray, y: np.ndarray, paths: list[str]) -> list[list[str]]:
    """Warn of identical images with different labels; return the pairs of paths."""
    from tlfeatures.evaluation import find_label_conflicts

    pairs = find_label_conflicts(keys, y).tolist()
    if pairs:
        warn_of_list(
            f"{count(len(pairs), 'pair')} of identical images with different labels:",
            [" and ".join(f"{escape(paths[i])} ({escape(str(y[i]))})" for i in pair) for pair in pairs],
            _N_SHOWN,
        )
    return [[paths[i] for i in pair] for pair in pairs]
