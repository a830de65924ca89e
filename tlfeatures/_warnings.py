"""Warnings that point at the user's code."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn"]

# Libraries that call this package on the user's behalf; a warning attributed to them helps nobody.
_BETWEEN = frozenset(
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
    frame = _user_frame(sys._getframe(1))
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        names.get("__name__", "<unknown>"),
        names.setdefault("__warningregistry__", {}),
    )


def _user_frame(frame: FrameType) -> FrameType:
    """Innermost frame that is not in between; the outermost frame when all are, as in a worker thread."""
    while frame.f_back is not None and _is_between(frame):
        frame = frame.f_back
    return frame


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN
