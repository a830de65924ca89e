"""Messages of several commands: unreadable images, conflicting labels, and saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlfeatures._text import count
from tlfeatures.cli._terminal import escape, warn, warn_of_list

if TYPE_CHECKING:
    import numpy as np

    from tlfeatures.selection import FeatureSearchCV
    from tlfeatures.sources import Source

__all__ = ["note_pickle", "report_images", "report_unreadable", "save_fitted"]

_N_UNREADABLE = 10  # shown on standard error
_N_CONFLICTS = 5


def report_unreadable(
    paths: Sequence[str], errors: Mapping[int, str], one: str = "is left out", several: str = "are left out"
) -> dict[str, str]:
    """Warn of unreadable images and of the consequence for ``one`` or ``several``; return the reason for each path."""
    if errors:
        consequence = one if len(errors) == 1 else several
        warn_of_list(
            f"{len(errors):,} of {count(len(paths), 'image')} could not be read and {consequence}:",
            [f"{escape(paths[row])}: {reason}" for row, reason in errors.items()],
            _N_UNREADABLE,
        )
    return {paths[row]: reason for row, reason in errors.items()}


def report_images(search: FeatureSearchCV, images: Source, y: np.ndarray) -> dict[str, Any]:
    """Warn of unreadable images and conflicting labels of a fitted search; return both."""
    skipped = report_unreadable(images.paths, search.unreadable_)
    paths, pairs = images.paths, search.label_conflicts_.tolist()
    if pairs:
        warn_of_list(
            f"{count(len(pairs), 'pair')} of identical images with different labels:",
            [" and ".join(f"{escape(paths[i])} ({escape(str(y[i]))})" for i in pair) for pair in pairs],
            _N_CONFLICTS,
        )
    return {"skipped": skipped, "label_conflicts": [[paths[i] for i in pair] for pair in pairs]}


def save_fitted(model: Any, path: str, **options: Any) -> None:
    """Save a fitted model, with a note if loading the file can run code."""
    from tlfeatures.saved_models import save_model

    save_model(model, path, **options)
    note_pickle(path, ". A .tlf file contains data only.")


def note_pickle(path: str, advice: str = ": load only files you trust.") -> None:
    """Print a note if loading a saved model can run code from the file."""
    from tlfeatures.saved_models import recognize_model

    if recognize_model(path) == "pickle":
        warn(f"{path} is a pickle, and loading a pickle can run code{advice}", "note: ")
