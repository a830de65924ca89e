"""Work units: fixed ranges of the rows of a source, and the shards that they are divided into."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlfeatures._inputs import is_url
from tlfeatures._objects import redact
from tlfeatures.errors import InvalidParameterError
from tlfeatures.fingerprints import bytes_key, canonical_json
from tlfeatures.images import Images

__all__ = ["UNIT_SIZE", "Shard", "WorkUnit", "absolute_name", "cut_units"]

UNIT_SIZE = 1024


@dataclass(frozen=True)
class WorkUnit:
    """A range of images whose embeddings are computed and stored together.

    Parameters
    ----------
    number : int
        Position among the units of the input, from 0.
    start, stop : int
        The rows of the input that belong to the unit.
    id : str
        Hexadecimal digest of the recipes and of the names of the images: absolute paths and URLs, or the content of
        images in memory.
    rows : tuple of int or None, default=None
        The rows of the unit to compute; None is all.
    """

    number: int
    start: int
    stop: int
    id: str
    rows: tuple[int, ...] | None = None

    def todo(self) -> np.ndarray:
        """Return the rows of the input to compute, ndarray of int.

        Returns
        -------
        ndarray of int, shape (k,)
            Rows of the input.
        """
        return np.arange(self.start, self.stop) if self.rows is None else np.array(self.rows, dtype=int)


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the work units, for example the task of a job array.

    Parameters
    ----------
    index : int
        From 1 to ``count``.
    count : int

    Examples
    --------
    >>> shard = Shard.parse("3/16")
    >>> [number for number in range(40) if shard.contains(number)]
    [2, 18, 34]
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InvalidParameterError(
                f"`shard` must be I/N with I from 1 to N, such as 3/16; got {self.index}/{self.count}.",
                "shard",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Make the shard that a text such as "3/16" describes.

        Parameters
        ----------
        text : str
            I/N, such as "3/16".

        Raises
        ------
        InvalidParameterError
            If the text is not I/N with I from 1 to N.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        if match is None:
            raise InvalidParameterError(
                f"`shard` must be I/N with I from 1 to N, such as 3/16; got {text!r}.", "shard"
            )
        return cls(int(match[1]), int(match[2]))

    def contains(self, number: int) -> bool:
        """Return whether the unit of this number belongs to the shard.

        Parameters
        ----------
        number : int
            Number of a unit, counted from 0.

        Returns
        -------
        bool
            Whether it belongs to the shard.
        """
        return number % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def cut_units(
    images: Images,
    recipes: Sequence[Mapping[str, Any]],
    unit_size: int = UNIT_SIZE,
    shard: Shard | None = None,
) -> Iterator[WorkUnit]:
    """Cut images into work units.

    Parameters
    ----------
    images : Images
        Either all files and bytes, or all pixels.
    recipes : sequence of mapping
        The recipes of the stored blocks of columns.
    unit_size : int, default=1024
        Number of images in a unit; the last may have fewer.
    shard : Shard, optional
        Only the units of this shard.

    Yields
    ------
    WorkUnit
    """
    prefix = canonical_json([dict(recipe) for recipe in recipes])
    for number, start in enumerate(range(0, len(images), unit_size)):
        if shard is None or shard.contains(number):
            part = images.take(np.arange(start, min(start + unit_size, len(images))))
            yield WorkUnit(number, start, start + len(part), bytes_key(prefix, *_identify(part)).hex())


def absolute_name(path: str) -> str:
    """Return an absolute path, or a URL without changes."""
    return path if path.startswith("/") or is_url(path) else os.path.abspath(path)


def _identify(images: Images) -> Iterator[bytes]:
    """Iterate over what identifies images: their absolute paths or URLs, or the digests of their contents."""
    paths = images.paths()
    names = [path or "" for path in paths] if None in paths else paths
    text = "\0".join(names).encode("utf-8", "surrogateescape")  # type: ignore[arg-type]
    characters = np.frombuffer(b"\0" + text, np.uint8)
    if (characters[1:][characters[:-1] == 0] != ord("/")).any():  # some paths are not absolute
        absolute = (name and redact(absolute_name(name)) for name in names)
        text = "\0".join(absolute).encode("utf-8", "surrogateescape")  # type: ignore[arg-type]
    yield text
    if None in paths:
        keys, _ = images.keys()
        yield b"\0\0" + keys[[path is None for path in paths]].tobytes()
