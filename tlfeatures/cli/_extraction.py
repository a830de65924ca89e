"""Extract embeddings, count their sources, and report unreadable images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, escape, warn_of_list

if TYPE_CHECKING:
    from tlfeatures.extract import Extracted
    from tlfeatures.features import CNNFeatures
    from tlfeatures.sources import Source

_N_SHOWN = 10  # unreadable images on standard error


@dataclass(frozen=True)
class Tally:
    """Number of images by the source of their embeddings; the numbers add up to ``images``.

    Of identical images, one is computed or read from the store, and the others count as duplicates.
    """

    images: int
    from_store: int
    computed: int
    duplicates: int
    unreadable: int
    seconds: float

    @classmethod
    def of(cls, result: Extracted) -> Tally:
        """Count the images of an extraction."""
        import numpy as np

        rows = list_readable_rows(result)
        n_distinct = len(np.unique(result.keys[rows], axis=0)) if rows else 0
        computed = min(result.computed, n_distinct)
        return cls(
            images=len(result.keys),
            from_store=n_distinct - computed,
            computed=computed,
            duplicates=len(rows) - n_distinct,
            unreadable=len(result.errors),
            seconds=round(result.seconds, 3),
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


def extract_images(cnn: CNNFeatures, images: Any, on_failure: str = "warn") -> Extracted:
    """Extract embeddings with a fitted transformer; the rows of unreadable images are NaN."""
    from tlfeatures.features import embed

    return embed(cnn, images, on_error="nan", on_failure=on_failure)


def get_paths(source: Source) -> list[str]:
    """Return the path of each image, relative to the current folder, or its name in an array file."""
    return source.images if isinstance(source.images, list) else source.names


def list_readable_rows(result: Extracted) -> list[int]:
    """List the rows of the images that could be read."""
    return [row for row in range(len(result.keys)) if row not in result.errors]


def require_readable_rows(result: Extracted, source: str) -> list[int]:
    """List the rows of the images that could be read; BadArgument if there are none."""
    rows = list_readable_rows(result)
    if not rows:
        raise BadArgument(f"None of the images of {source!r} could be read.")
    return rows


def report_unreadable(paths: list[str], errors: dict[int, str], consequence: str) -> dict[str, str]:
    """Print the first ten unreadable images on standard error; return the reason for each path."""
    if errors:
        warn_of_list(
            f"{len(errors):,} of {count(len(paths), 'image')} could not be read {consequence}:",
            [f"{escape(paths[row])}: {reason}" for row, reason in errors.items()],
            _N_SHOWN,
        )
    return {paths[row]: reason for row, reason in errors.items()}
