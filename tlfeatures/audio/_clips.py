"""Audio clips as mono samples: files, bytes and arrays."""

from __future__ import annotations

import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._files import read_with_retries
from tlfeatures._objects import is_object, read_object
from tlfeatures.errors import ImageInputError, MissingDependencyError, ObjectStorageError, TransientReadError

__all__ = ["UnreadableClip", "list_clips", "read_clip", "resample"]

_MAX_SAMPLES = 200_000_000  # largest number of samples of one clip
_EXPECTED = (
    "expected a list of paths of WAV or FLAC files, of arrays (samples,) or (samples, channels), or of pairs "
    "(sampling rate, array); or one array (n, samples)"
)


class UnreadableClip(Exception):
    """One clip cannot be read; the argument is the reason."""


def list_clips(X: Any) -> list[Any]:
    """Return the clips of X as a list."""
    if isinstance(X, (str, os.PathLike, bytes, bytearray)):
        raise ImageInputError(f"Got one clip where a list is expected: pass [X]; {_EXPECTED}.")
    if hasattr(X, "toarray"):
        raise ImageInputError(f"Sparse input is not supported; {_EXPECTED}. Use X.toarray().")
    if hasattr(X, "to_numpy"):  # pandas, polars
        X = X.to_numpy()
    if hasattr(X, "__array__") and not isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype.kind == "c":
        raise ImageInputError("Complex data not supported: expected real samples; take X.real.")
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUT" and X.shape[1] > 1:
        X = _to_samples(X)
    if isinstance(X, np.ndarray) and (X.ndim not in (1, 2) or (X.ndim == 1 and X.dtype.kind not in "OUT")):
        raise ImageInputError(
            f"Got an array of shape {X.shape}; {_EXPECTED}."
            + (" Reshape your data: for one clip use [X]." if X.ndim == 1 else "")
        )
    if not isinstance(X, (list, tuple, np.ndarray)):
        raise ImageInputError(f"Got an object of type {type(X).__name__}; {_EXPECTED}.")
    if isinstance(X, np.ndarray) and X.ndim == 2 and not X.shape[1]:
        raise ImageInputError(
            f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required."
        )
    clips = list(X.ravel() if isinstance(X, np.ndarray) and X.dtype.kind in "OUT" else X)
    if not clips:
        raise ImageInputError(f"Found array with 0 sample(s); {_EXPECTED}.")
    return clips


def _to_samples(X: np.ndarray) -> np.ndarray:
    """Convert an array of objects, shape (n, samples), to floats."""
    try:
        return X.astype(np.float64)
    except ValueError:
        raise ImageInputError(
            f"Got an array of shape {X.shape} with elements that are not numbers; {_EXPECTED}. Pass one column of "
            "paths, or a list of pairs."
        ) from None


def read_clip(clip: Any, default_rate: int) -> tuple[int, np.ndarray]:
    """Return the sampling rate and the mono samples of a clip, float64 (n,)."""
    if isinstance(clip, (str, os.PathLike, bytes, bytearray)):
        rate, samples = _read_file(clip)
    elif isinstance(clip, (tuple, list)) and len(clip) == 2 and np.ndim(clip[0]) == 0 and np.ndim(clip[1]):
        rate, samples = clip[0], np.asarray(clip[1])
        if not _is_rate(rate):
            raise UnreadableClip(f"the sampling rate is {rate!r}; expected a positive integer in hertz")
    else:
        rate, samples = default_rate, _to_array(clip)
    samples = _scale(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise UnreadableClip(f"{(~np.isfinite(samples)).sum()} of {len(samples)} samples are NaN or infinite")
    return int(rate), samples


def _is_rate(rate: Any) -> bool:
    try:
        return bool(0 < rate < math.inf and rate == int(rate))
    except TypeError:
        return False


def _to_array(clip: Any) -> np.ndarray:
    try:
        samples = np.asarray(clip)
    except ValueError:  # numbers and arrays in one list
        is_pair = isinstance(clip, (tuple, list)) and len(clip) == 2 and np.ndim(clip[1]) == 0
        hint = "; expected (sampling rate, array), in this order" if is_pair else ""
        raise UnreadableClip(f"got a {type(clip).__name__} that is not an array of samples{hint}") from None
    if not samples.ndim:
        raise UnreadableClip(f"got an object of type {type(clip).__name__}; expected an array of samples")
    return samples


def _scale(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float64; integers are scaled to [-1, 1]."""
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > samples.shape[0]):
        raise UnreadableClip(
            f"got an array of shape {samples.shape}; expected (samples,) or (samples, channels), with the channels last"
        )
    if samples.dtype.kind not in "fiu":
        raise UnreadableClip(f"got samples of type {samples.dtype}; expected integers or floats")
    if not samples.size:
        raise UnreadableClip("the clip has no samples")
    if samples.dtype.kind == "u":  # as in WAV files of 8 bits: silence is in the middle of the range
        middle = (float(np.iinfo(samples.dtype).max) + 1) / 2
        return (samples - middle) / middle
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def _read_file(clip: Any) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError:
        raise MissingDependencyError(
            "Audio files need soundfile, an optional package: pip install 'tlfeatures[audio]'"
        ) from None
    if is_object(clip):
        clip = _read_object(clip)
    if isinstance(clip, (str, os.PathLike)):
        if not os.path.isfile(clip):
            raise UnreadableClip("is a folder, not an audio file" if os.path.isdir(clip) else "no such file")
        size = Path(clip).stat().st_size
        if not size:
            raise UnreadableClip("the file is empty")
        if size > 8 * _MAX_SAMPLES:
            raise UnreadableClip(
                f"the file has {size:,} bytes; at most {8 * _MAX_SAMPLES:,} are read: cut it"
            )
    try:
        if isinstance(clip, (str, os.PathLike)):
            clip = read_with_retries(Path(clip).read_bytes, clip)
        with soundfile.SoundFile(io.BytesIO(clip)) as file:
            if file.frames * file.channels > _MAX_SAMPLES:
                raise UnreadableClip(
                    f"the clip has {file.frames * file.channels:,} samples; at most {_MAX_SAMPLES:,} are read: cut it"
                )
            samples = file.read(dtype="float64", always_2d=True)
            return file.samplerate, samples
    except (UnreadableClip, TransientReadError):
        raise
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as e:
        reason = re.sub(r"^Error opening <_io.BytesIO object at [^>]*>: ", "", " ".join(str(e).split()))
        raise UnreadableClip(f"damaged or unsupported audio file: {reason or type(e).__name__}") from e


def _read_object(uri: str) -> bytes:
    try:
        return read_object(uri, 8 * _MAX_SAMPLES)[0]
    except (ObjectStorageError, TransientReadError):
        raise
    except OSError as e:
        raise UnreadableClip("no such file" if isinstance(e, FileNotFoundError) else e.strerror) from None


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resample from one sampling rate in hertz to another."""
    from scipy.signal import resample_poly

    if rate == target:
        return samples
    common = math.gcd(rate, target)
    return resample_poly(samples, target // common, rate // common)
