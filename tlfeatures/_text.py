"""Parts of sentences."""

from __future__ import annotations

__all__ = ["count"]


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Format a number with its noun.

    >>> count(1, "image"), count(1080, "image")
    ('1 image', '1,080 images')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
