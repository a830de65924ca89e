"""Read the images of a SOURCE, extract their embeddings and count what happened to each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli._session import BadArgument
from tlfeatures.cli._terminal import count, shown, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tlfeatures.extract import Extracted
    from tlfeatures.features import CNNFeatures
    from tlfeatures.sources import Source

_NAMED = 10  # unreadable images named on standard error


@dataclass(frozen=True)
class Tally:
    """Numbers of images by where their embeddings came from; they add up to ``images``.

    Of equal images one is computed, and the others are duplicates.
    """

    images: int
    from_store: int
    computed: int
    duplicates: int
    unreadable: int
    seconds: float

    @classmethod
    def of(cls, result: Extracted) -> Tally:
        """Count the images of a result."""
        import numpy as np

        n, bad = len(result.keys), len(result.errors)
        readable = [row for row in range(n) if row not in result.errors]
        different = len(np.unique(result.keys[readable], axis=0)) if readable else 0
        computed = min(result.computed, different)
        return cls(n, different - computed, computed, n - bad - different, bad, round(result.seconds, 3))

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


def read_images(
    source: str,
    path_column: str | None = None,
    target: str | None = None,
    groups: str | None = None,
    split_column: str | None = None,
    split: str | None = None,
    default_split: str | Sequence[str] = "all",
) -> Source:
    """Read the images of a source, or of one of its splits; "all" is every split.

    ``default_split`` is used if the source has splits and ``split`` is None; of several names, the first that the
    source has, with a note if this is not the first one.
    """
    from tlfeatures.sources import read_source

    images = read_source(source, path_column=path_column, target=target, groups=groups, split=split_column)
    if split is None:
        split = "all" if images.split is None else _choose_split(images, source, default_split)
    return images if split == "all" else images.subset(split)


def _choose_split(images: Source, source: str, preferred: str | Sequence[str]) -> str:
    preferred = [preferred] if isinstance(preferred, str) else preferred
    present = [name for name in preferred if name == "all" or (images.split == name).any()]
    if present and present[0] != preferred[0]:
        warn(f"{source!r} has no {preferred[0]} split; its {present[0]} split is used.", "note: ")
    return (present or preferred)[0]


def get_labels(source: Source, name: str, target: str | None) -> np.ndarray:
    """Return the labels, one for each image.

    Raises
    ------
    BadArgument
        If all or some images have no label.
    """
    from tlfeatures.sources import quote_names

    if source.y is None:
        fix = {
            "manifest": f"Name their column with --target. Columns: {quote_names(source.columns)}.",
            "hdf5": f"Name their dataset with --target. Datasets: {quote_names(source.columns)}.",
            "flat folder": "Put the images of each class into a folder of its own, or write a manifest.",
        }.get(source.kind, "Expected class folders, or a manifest with a column of labels.")
        raise BadArgument(f"{name!r} has no labels. {fix}")
    missing = [i for i, label in enumerate(source.y.tolist()) if label is None]
    if missing:
        raise BadArgument(
            f"{len(missing)} of {count(len(source), 'image')} of {name!r} have no label, such as "
            f"{source.names[missing[0]]!r}. Choose a split that has them with --split."
        )
    return source.y


def extract_images(cnn: CNNFeatures, images: Any, on_failure: str = "warn") -> Extracted:
    """Extract embeddings as the fitted transformer does; NaN if an image cannot be read."""
    from tlfeatures.features import embed

    return embed(cnn, images, on_error="nan", on_failure=on_failure)


def get_paths(source: Source) -> list[str]:
    """Return the path of each image, relative to the current folder, or its place in an array."""
    return source.images if isinstance(source.images, list) else source.names


def name_unreadable(paths: list[str], errors: dict[int, str], fate: str) -> None:
    """Print the number of unreadable images and the first ten with their reasons on standard error."""
    if not errors:
        return
    warn(f"{len(errors):,} of {count(len(paths), 'image')} could not be read {fate}:")
    for row in list(errors)[:_NAMED]:
        warn(f"{shown(paths[row])}: {errors[row]}", "  ")
    if len(errors) > _NAMED:
        warn(f"and {len(errors) - _NAMED:,} more", "  ")
