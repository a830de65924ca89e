"""Exceptions and warnings; each exception also derives from the built-in exception that users would catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "AudioReadError",
    "DuplicateImagesWarning",
    "EngineError",
    "ForkedProcessError",
    "ImageInputError",
    "ImageReadError",
    "InvalidParameterError",
    "LowContrastImagesWarning",
    "MissingDependencyError",
    "MissingRowsError",
    "ObjectStorageError",
    "OutOfMemoryError",
    "RandomWeightsWarning",
    "RecipeMismatchError",
    "SavedModelError",
    "SourceError",
    "StoreError",
    "StoreWarning",
    "TLFeaturesError",
    "TrainingStoppedWarning",
    "TransientReadError",
    "UnknownNameError",
    "UnreadableImagesWarning",
    "WeightsError",
]


_NAMED = 10  # largest number of images that a message names


class TLFeaturesError(Exception):
    """Base class of the errors of tlfeatures."""


class ImageInputError(TLFeaturesError, ValueError):
    """``X`` as a whole is not a batch of images."""


class ImageReadError(TLFeaturesError, OSError):
    """One or several images cannot be read.

    Parameters
    ----------
    name : str
        Path of the first image, or its position in ``X``.
    reason : str
        Reason why it cannot be read.
    failures : sequence of (str, str), optional
        Name and reason of each image that cannot be read; by default only the first.
    n_images : int, optional
        Number of images that were checked.
    hint : str, optional
        How to fix it; appended to the message.
    """

    _items = "images"

    def __init__(
        self,
        name: str,
        reason: str,
        failures: Sequence[tuple[str, str]] = (),
        n_images: int | None = None,
        hint: str = "",
    ) -> None:
        self.name = name
        self.reason = reason
        self.failures = list(failures) or [(name, reason)]
        self.n_images = n_images
        self.hint = hint
        super().__init__(self._message())

    @classmethod
    def of(cls, failures: Sequence[tuple[str, str]], n_images: int, hint: str = "") -> ImageReadError:
        """Make one error for all images that cannot be read; the message names the first ten.

        Parameters
        ----------
        failures : sequence of (str, str)
            Name and reason of each image.
        n_images : int
            Number of images that were checked.
        hint : str, default=""
            How to fix it.
        """
        return cls(*failures[0], failures, n_images, hint)

    def _message(self) -> str:
        lines = [f"{name!r}: {reason}" for name, reason in self.failures[:_NAMED]]
        if self.n_images is None:
            text = f"cannot read {lines[0]}"
        elif len(self.failures) == 1:
            text = f"cannot read 1 of {self.n_images:,} {self._items}: {lines[0]}"
        else:
            text = "\n  ".join(
                [f"cannot read {len(self.failures):,} of {self.n_images:,} {self._items}:", *lines]
            )
            if len(self.failures) > _NAMED:
                text += f"\n  and {len(self.failures) - _NAMED:,} more"
            return f"{text}\n{self.hint}".rstrip()
        return f"{text}. {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.reason, self.failures, self.n_images, self.hint)


class AudioReadError(ImageReadError):
    """One or several audio clips cannot be read; parameters are those of `ImageReadError`."""

    _items = "clips"


class TransientReadError(TLFeaturesError, OSError):
    """The storage of a file failed repeatedly, for example by a time-out; the file itself may be intact.

    This is never treated as an unreadable image, whatever ``on_error`` is: during an outage, good images would become
    rows of NaN. Embeddings that are computed before the error are stored.
    """


class ObjectStorageError(TLFeaturesError, OSError):
    """Object storage denies access, or a bucket does not exist: an error of the whole run, not of one image."""


class SourceError(TLFeaturesError, ValueError):
    """A folder, manifest or array file cannot be read, or lacks images or columns."""


class InvalidParameterError(TLFeaturesError, ValueError, TypeError):
    """A parameter has an invalid value.

    Parameters
    ----------
    message : str
        What was expected, what was passed, and how to fix it.
    parameter : str, optional
        Name of the parameter. It is in backticks in the message, so that the command line can replace it by the name
        of its option.
    """

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class UnknownNameError(InvalidParameterError):
    """A name is unknown; the message lists the nearest names.

    Parameters
    ----------
    message : str
        The whole message.
    parameter : str, optional
        Parameter that has the name.
    """

    @classmethod
    def of(
        cls,
        kind: str,
        name: object,
        names: Iterable[str],
        listing: str = "",
        parameter: str | None = None,
    ) -> UnknownNameError:
        """Make the error for an unknown name, with up to three near matches and a pointer to all names.

        Parameters
        ----------
        kind : str
            What the name stands for, such as "layer".
        name : object
            What was passed.
        names : iterable of str
            All names.
        listing : str, default=""
            Where all names are listed.
        parameter : str, optional
            Parameter that has the name.
        """
        names = list(names)
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        if listing:
            hint += f" See {listing}."
        elif not near or len(names) <= 12:
            hint += f" Valid names: {', '.join(names)}."
        return cls(f"Unknown {kind} {name!r}.{hint}", parameter)


class SavedModelError(TLFeaturesError, ValueError):
    """A file does not contain a fitted model, or is damaged."""


class WeightsError(TLFeaturesError, OSError):
    """The weights of a network cannot be found, downloaded or read."""


class RecipeMismatchError(TLFeaturesError, ValueError):
    """`transform` would use a recipe other than the fitted one."""


class StoreError(TLFeaturesError, OSError):
    """The embedding store cannot be used as requested."""


class MissingRowsError(StoreError, KeyError):
    """The store has no row for some keys."""


class EngineError(TLFeaturesError, RuntimeError):
    """An engine cannot compute all work units; results that it returned before are stored."""


class MissingDependencyError(TLFeaturesError, ImportError):
    """An optional package is not installed; the message has the install command."""


class ForkedProcessError(TLFeaturesError, RuntimeError):
    """Networks and object storage cannot be used in a process that was forked after its parent used them."""


class OutOfMemoryError(TLFeaturesError, MemoryError):
    """Training, or the network on a single image, ran out of memory; the message says what needs less."""


class RandomWeightsWarning(UserWarning):
    """The network has random weights, so its embeddings are not pretrained."""


class StoreWarning(UserWarning):
    """The store is damaged, full or read-only; results are correct, but may be computed again."""


class UnreadableImagesWarning(UserWarning):
    """Some images cannot be read; their rows are NaN or left out."""


class LowContrastImagesWarning(UserWarning):
    """Some images span fewer than 16 of 256 levels; their embeddings carry almost no information."""


class DuplicateImagesWarning(UserWarning):
    """Duplicate images are split between folds, so the score may be too high."""


class TrainingStoppedWarning(UserWarning):
    """Training stopped early; the message says why, and which weights were restored."""
