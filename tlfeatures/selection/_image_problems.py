"""Images of a search that cannot be read, or that carry almost no information."""

from __future__ import annotations

import numpy as np
import pandas

from tlfeatures._warnings import warn
from tlfeatures.errors import UnreadableImagesWarning
from tlfeatures.images import Images, warn_of_low_contrast
from tlfeatures.selection._matrices import EmbeddingMatrices

__all__ = ["find_readable_rows", "list_problems"]


def list_problems(images: Images, matrices: EmbeddingMatrices) -> pandas.DataFrame:
    """List the images with an error or with low contrast: ``row``, ``image``, ``problem`` and ``reason``."""
    kinds = (("error", matrices.errors), ("warning", matrices.low_contrast))
    rows = [
        (row, images.name(row), kind, reason)
        for kind, reasons in kinds
        for row, reason in sorted(reasons.items())
    ]
    table = pandas.DataFrame(rows, columns=["row", "image", "problem", "reason"], dtype=object)
    return table.astype({"row": int})


def find_readable_rows(images: Images, matrices: EmbeddingMatrices, fixed_folds: bool) -> np.ndarray:
    """Return the rows of the readable images; warn of the others, and of images with low contrast.

    Raises
    ------
    ValueError
        If no image could be read, or if some could not and the folds are lists of rows.
    """
    errors, low_contrast = matrices.errors, dict(sorted(matrices.low_contrast.items()))
    names = [images.name(row) for row in low_contrast]
    warn_of_low_contrast(names, list(low_contrast.values()), len(images))
    if errors and fixed_folds:
        raise ValueError(
            f"{len(errors)} images could not be read, so the rows listed in `cv` no longer match. Remove these "
            "images first; check_images(X) names them."
        )
    if errors:
        first = min(errors)
        warn(
            f"{len(errors)} of {len(images)} images could not be read and are left out. The first is "
            f"{images.name(first)!r}: {errors[first]}. See unreadable_ for all.",
            UnreadableImagesWarning,
        )
    rows = np.setdiff1d(np.arange(len(images)), list(errors))
    if not len(rows):
        raise ValueError("None of the images could be read; check_images(X) gives the reasons.")
    return rows
