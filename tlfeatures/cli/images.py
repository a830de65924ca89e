"""From SOURCE to embeddings, with an account of every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlfeatures.cli.session import BadArgument
from tlfeatures.cli.terminal import count, shown, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from tlfeatures.extract import Extracted
    from tlfeatures.features import CNNFeatures
    from tlfeatures.sources import Source

_NAMED = 10  # unreadable images that are named


@dataclass(frozen=True)
class Tally:
    """What became of the images; the four add up to all.

    Equal images go through the network once, and count once.
    """

    images: int
    from_store: int
    computed: int
    duplicates: int
    unreadable: int
    seconds: float

    @classmethod
    def of(cls, result: Extracted) -> Tally:
        """Count."""
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
    """Images of a source or of one of its splits; "all" is every split.

    ``default_split`` is used where the source has splits and none is asked for; of several, the first that
    the source has, with a note when that is not the first.
    """
    from tlfeatures.sources import read_source

    found = read_source(source, path_column=path_column, target=target, groups=groups, split=split_column)
    if split is None:
        split = "all" if found.split is None else _choose_split(found, source, default_split)
    return found if split == "all" else found.subset(split)


def _choose_split(found: Source, source: str, preferred: str | Sequence[str]) -> str:
    preferred = [preferred] if isinstance(preferred, str) else preferred
    present = [name for name in preferred if name == "all" or (found.split == name).any()]
    if present and present[0] != preferred[0]:
        warn(f"{source!r} has no {preferred[0]} split; its {present[0]} split is used.", "note: ")
    return (present or preferred)[0]


def labels_of(source: Source, name: str, target: str | None) -> np.ndarray:
    """Labels, one for each image.

    Raises
    ------
    BadArgument
        When there are none, or gaps.
    """
    from tlfeatures.sources import listed

    if source.y is None:
        fix = {
            "manifest": f"Name their column with --target. Columns: {listed(source.columns)}.",
            "hdf5": f"Name their dataset with --target. Datasets: {listed(source.columns)}.",
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
    """Embeddings, NaN where an image cannot be read; under the recipe of `fit` if there was one."""
    from tlfeatures.features import embed

    return embed(cnn, images, on_error="nan", on_failure=on_failure)


def paths_of(source: Source) -> list[str]:
    """What to call each image: its path as it can be opened from here, or its place in an array."""
    return source.images if isinstance(source.images, list) else source.names


def name_unreadable(paths: list[str], errors: dict[int, str], fate: str) -> None:
    """Name the unreadable images, the first ten and the count, on standard error."""
    if not errors:
        return
    warn(f"{len(errors):,} of {count(len(paths), 'image')} could not be read {fate}:")
    for row in list(errors)[:_NAMED]:
        warn(f"{shown(paths[row])}: {errors[row]}", "  ")
    if len(errors) > _NAMED:
        warn(f"and {len(errors) - _NAMED:,} more", "  ")
