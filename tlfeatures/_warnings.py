"""Warnings that point at the user's code."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn"]

# This package and the libraries that call it for the user; warnings are not attributed to them.
_SKIPPED_PACKAGES = frozenset(
    (
        __name__.partition(".")[0],
        "sklearn", "joblib", "keras", "tensorflow", "torch", "jax",
        "contextlib", "functools", "concurrent", "multiprocessing", "threading",
    )
)  # fmt: skip


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning attributed to the code that called this package.

    Parameters
    ----------
    message : str
    category : type of Warning, default=UserWarning

    Notes
    -----
    The warning points at the innermost frame outside this package and outside the libraries that call it for the
    user, such as scikit-learn in a pipeline.
    """
    frame = _find_user_frame(sys._getframe(1))
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        names.get("__name__", "<unknown>"),
        names.setdefault("__warningregistry__", {}),
    )


def _find_user_frame(frame: FrameType) -> FrameType:
    """Return the innermost frame that is not skipped, or the outermost one if all are, as in a worker thread."""
    while frame.f_back is not None and _is_skipped(frame):
        frame = frame.f_back
    return frame


def _is_skipped(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _SKIPPED_PACKAGES
