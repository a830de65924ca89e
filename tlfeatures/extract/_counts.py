"""Number of images of an extraction by the source of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlfeatures._text import count

__all__ = ["ImageCounts"]


@dataclass(frozen=True)
class ImageCounts:
    """Number of images by the source of their embeddings; the parts add up to ``images``.

    Of identical images, one is computed or read from the store, and the others count as duplicates.

    Attributes
    ----------
    images, from_store, computed, duplicates, unreadable : int
    seconds : float

    Examples
    --------
    >>> print(ImageCounts(1080, from_store=1000, computed=78, duplicates=0, unreadable=2, seconds=0.61))
    1,080 images: 1,000 from the store, 78 computed in 0.6 s, 2 unreadable
    """

    images: int
    from_store: int
    computed: int
    duplicates: int
    unreadable: int
    seconds: float

    @classmethod
    def of(cls, keys: np.ndarray, n_unreadable: int, computed: int, seconds: float) -> ImageCounts:
        """Count images.

        Parameters
        ----------
        keys : ndarray of uint8, shape (n, 16)
            Digests of the images that could be read.
        n_unreadable, computed : int
            Number of images that could not be read, and that went through the network.
        seconds : float
        """
        n_distinct = len(np.unique(keys, axis=0)) if len(keys) else 0
        computed = min(computed, n_distinct)
        return cls(
            images=len(keys) + n_unreadable,
            from_store=n_distinct - computed,
            computed=computed,
            duplicates=len(keys) - n_distinct,
            unreadable=n_unreadable,
            seconds=round(seconds, 3),
        )

    def __str__(self) -> str:
        time = f" in {self.seconds:.1f} s" if self.computed else ""
        parts = [
            f"{count(self.images, 'image')}: {self.from_store:,} from the store",
            f"{self.computed:,} computed{time}",
        ]
        if self.duplicates:
            parts.append(count(self.duplicates, "duplicate"))
        if self.unreadable:
            parts.append(f"{self.unreadable:,} unreadable")
        return ", ".join(parts)
