"""``select``: a search in one call."""

from __future__ import annotations

from typing import Any

from tlfeatures.selection._search import FeatureSearchCV

__all__ = ["select"]


def select(
    X: Any, y: Any, *, groups: Any = None, sample_weight: Any = None, **options: Any
) -> FeatureSearchCV:
    """Make a search and fit it: ``FeatureSearchCV(**options).fit(X, y)``.

    Parameters
    ----------
    X : images
        In any form that :class:`~tlfeatures.CNNFeatures` takes.
    y : array-like of shape (n,)
    groups, sample_weight : array-like of shape (n,), optional
    **options
        Parameters of :class:`FeatureSearchCV`.

    Returns
    -------
    FeatureSearchCV
        The fitted search.

    Examples
    --------
    >>> from tlfeatures import select
    >>> select(["a.jpg", "b.jpg"], ["cat", None])
    Traceback (most recent call last):
    ValueError: 1 of 2 labels are missing; fill them in or drop their images.
    """
    return FeatureSearchCV(**options).fit(X, y, groups, sample_weight=sample_weight)
