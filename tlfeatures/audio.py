"""Log-mel spectrograms of audio clips as images."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from tlfeatures._params import check_parameters, integer, number
from tlfeatures._warnings import warn
from tlfeatures.errors import (
    AudioReadError,
    ImageInputError,
    InvalidParameterError,
    MissingDependencyError,
    UnreadableImagesWarning,
)

__all__ = ["LogMelSpectrogram", "mel_filters", "mel_power"]

_MAX_SAMPLES = 200_000_000  # of one clip
_SILENCE = 1e-10  # a clip is silent, and its image black, if its power is nowhere above this
_EXPECTED = (
    "expected a list of paths of WAV or FLAC files, of arrays (samples,) or (samples, channels), or of pairs "
    "(sampling rate, array); or one array (n, samples)"
)


class _Unreadable(Exception):
    """One clip cannot be read; the argument is the reason."""


class LogMelSpectrogram(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Log-mel spectrograms of audio clips, as 8-bit grey images for `CNNFeatures`.

    A clip is mixed to mono, resampled, cropped or padded, and transformed: periodic Hann window, centred frames with
    zeros beyond the ends, power spectrum, triangular filters of equal area on the mel scale of Slaney (1998, Auditory
    Toolbox), decibels. This is the definition of ``librosa.feature.melspectrogram`` and ``librosa.power_to_db``. Low
    frequencies are at the bottom of the image; white is the loudest value.

    Parameters
    ----------
    sampling_rate : int, default=16000
        Sampling rate in hertz to which clips are resampled; also the rate of arrays that come without one.
    window : float, default=0.032
        Length of the frames in seconds.
    hop : float, default=0.01
        Time from one frame to the next in seconds.
    n_mels : int, default=64
        Number of mel bands, the height of the images.
    fmin, fmax : float, default=0.0, None
        Lowest and highest frequency in hertz; ``fmax=None`` is half the sampling rate.
    duration : float or None, default=None
        Duration in seconds: longer clips are cropped, and shorter ones are padded with silence. None is the duration of
        the longest clip in `fit`.
    align : {"center", "start"}, default="center"
        "center" keeps the centre of longer clips and pads shorter ones on both sides; "start" keeps the start and pads
        at the end.
    dynamic_range : float, default=80.0
        Decibels from black to white.
    reference : "max" or float, default="max"
        Power that becomes white: "max" is the largest power in each clip, so that loudness does not matter; a number
        applies to all clips, so that quiet clips are dark.
    on_error : {"raise", "nan"}, default="raise"
        On clips that cannot be read, raise an :class:`~tlfeatures.errors.AudioReadError`, or warn and return None in
        place of their images, for which ``CNNFeatures(on_error="nan")`` returns rows of NaN.

    Attributes
    ----------
    n_samples_ : int
        Number of samples of a clip after resampling, and cropping or padding.
    filters_ : ndarray of float64, shape (n_mels, n_frequencies)
        The mel filters.

    Raises
    ------
    AudioReadError
        If clips cannot be read (files are missing or damaged, there are no samples, or samples are NaN); the message
        names them. Also an ``OSError``.
    ImageInputError
        If X is not a list of clips. Also a ``ValueError``.
    MissingDependencyError
        If X has files and soundfile is not installed; the message has the install command.

    Notes
    -----
    The images are arrays, so the store of `CNNFeatures` keys on their pixels, and the embedding of each clip is
    computed once. Silent clips are black.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from tlfeatures import CNNFeatures
    >>> from tlfeatures.audio import LogMelSpectrogram
    >>> t = np.arange(8000) / 16000
    >>> clips = [np.sin(2 * np.pi * f * t) for f in (300, 1000, 3000)]
    >>> spectrogram = LogMelSpectrogram(duration=0.5)
    >>> spectrogram.fit_transform(clips).shape
    (3, 64, 51)
    >>> make_pipeline(spectrogram, CNNFeatures("tiny", image_size=64, cache=None)).fit_transform(clips).shape
    (3, 320)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "sampling_rate": [integer(minimum=100, hint="It is in hertz, such as 16000.")],
        "window": [number(above=0, maximum=10, hint="It is in seconds, such as 0.032.")],
        "hop": [number(above=0, maximum=10, hint="It is in seconds, such as 0.01.")],
        "n_mels": [integer(minimum=1)],
        "fmin": [number(minimum=0)],
        "fmax": [None, number(above=0)],
        "duration": [None, number(above=0, hint="It is in seconds.")],
        "align": ["center", "start"],
        "dynamic_range": [number(above=0, hint="It is in decibels.")],
        "reference": ["max", number(above=0)],
        "on_error": ["raise", "nan"],
    }

    def __init__(
        self,
        *,
        sampling_rate: int = 16000,
        window: float = 0.032,
        hop: float = 0.01,
        n_mels: int = 64,
        fmin: float = 0.0,
        fmax: float | None = None,
        duration: float | None = None,
        align: Literal["center", "start"] = "center",
        dynamic_range: float = 80.0,
        reference: Literal["max"] | float = "max",
        on_error: Literal["raise", "nan"] = "raise",
    ) -> None:
        self.sampling_rate = sampling_rate
        self.window = window
        self.hop = hop
        self.n_mels = n_mels
        self.fmin = fmin
        self.fmax = fmax
        self.duration = duration
        self.align = align
        self.dynamic_range = dynamic_range
        self.reference = reference
        self.on_error = on_error

    def fit(self, X: Any, y: Any = None) -> LogMelSpectrogram:
        """Check the parameters and make the mel filters; with ``duration=None``, find the longest clip.

        Parameters
        ----------
        X : list of paths, of arrays or of pairs (sampling rate, array); or ndarray of shape (n, samples)
        y : ignored

        Returns
        -------
        LogMelSpectrogram
        """
        check_parameters(self)
        clips = _list_clips(X)
        rate = int(self.sampling_rate)
        n_window = round(self.window * rate)
        if n_window < 2 or round(self.hop * rate) < 1:
            raise InvalidParameterError(
                f"`window` must have at least 2 samples and `hop` at least 1; got {self.window} and {self.hop} seconds "
                f"at {rate} Hz.",
                "window",
            )
        self.filters_ = mel_filters(rate, n_window, self.n_mels, self.fmin, self.fmax)
        if self.duration is not None:
            self.n_samples_ = max(1, round(self.duration * rate))
        else:
            samples, failures = self._read_all(clips)
            if len(failures) == len(clips):
                raise AudioReadError.of(failures, len(clips), "Set `duration` to fit without these clips.")
            self.n_samples_ = max(len(s) for s in samples if s is not None)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute the spectrogram of each clip.

        Parameters
        ----------
        X : clips, as in `fit`

        Returns
        -------
        ndarray of uint8, shape (n, n_mels, n_frames)
            If some clips cannot be read and ``on_error="nan"``: an object array of shape (n,) with the images, and None
            for these clips.
        """
        check_is_fitted(self, "filters_")
        samples, failures = self._read_all(_list_clips(X))
        images = [None if s is None else self._make_image(s) for s in samples]
        if not failures:
            return np.stack(images)
        warn(
            f"{len(failures)} of {len(images)} clips could not be read; their images are None. The first is "
            f"{failures[0][0]!r}: {failures[0][1]}."
            + (f" Also: {', '.join(repr(name) for name, _ in failures[1:10])}." if len(failures) > 1 else ""),
            UnreadableImagesWarning,
        )
        out = np.empty(len(images), dtype=object)
        out[:] = images
        return out

    def set_output(self, *, transform: Any = None) -> LogMelSpectrogram:
        """Do nothing: the output is always an array of images. Pipelines call this method on each of their steps.

        Parameters
        ----------
        transform : ignored

        Returns
        -------
        LogMelSpectrogram
        """
        return self

    def _read_all(self, clips: Sequence[Any]) -> tuple[list[np.ndarray | None], list[tuple[str, str]]]:
        """Return mono samples at the target rate, None for unreadable clips, and the (name, reason) of these clips."""
        samples: list[np.ndarray | None] = []
        failures = []
        for i, clip in enumerate(clips):
            try:
                rate, values = _read_clip(clip, int(self.sampling_rate))
                samples.append(_resample(values, rate, int(self.sampling_rate)))
            except _Unreadable as e:
                name = os.fsdecode(clip) if isinstance(clip, (str, os.PathLike)) else f"X[{i}]"
                failures.append((name, str(e)))
                samples.append(None)
        if failures and self.on_error == "raise":
            raise AudioReadError.of(
                failures, len(clips), "on_error='nan' continues with None in their place."
            )
        return samples, failures

    def _make_image(self, samples: np.ndarray) -> np.ndarray:
        n_fft, hop = round(self.window * self.sampling_rate), round(self.hop * self.sampling_rate)
        power = mel_power(self._crop(samples), self.filters_, n_fft, hop)
        white = power.max() if self.reference == "max" else float(self.reference)
        if power.max() <= _SILENCE:
            return np.zeros(power.shape, np.uint8)
        decibels = 10 * np.log10(np.maximum(power, _SILENCE) / white)
        scaled = np.clip(1 + decibels / self.dynamic_range, 0, 1)
        return np.rint(scaled * 255).astype(np.uint8)[::-1]

    def _crop(self, samples: np.ndarray) -> np.ndarray:
        """Crop the samples to the duration, or pad them with zeros."""
        excess = len(samples) - self.n_samples_
        if excess >= 0:
            start = excess // 2 if self.align == "center" else 0
            return samples[start : start + self.n_samples_]
        before = -excess // 2 if self.align == "center" else 0
        return np.pad(samples, (before, -excess - before))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def mel_filters(
    sampling_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """Make triangular filters on Slaney's mel scale, each with the same area.

    The scale is linear below 1000 Hz (15 mel) and logarithmic above, as in ``librosa.filters.mel``.

    Parameters
    ----------
    sampling_rate : int
        In hertz.
    n_fft : int
        Number of samples of a frame.
    n_mels : int
        Number of filters.
    fmin, fmax : float
        Lowest and highest frequency in hertz; None is half the sampling rate.

    Returns
    -------
    ndarray of float64, shape (n_mels, n_fft // 2 + 1)

    Raises
    ------
    InvalidParameterError
        If the frequencies are not in order, or a band is narrower than the spacing of the frequencies.

    Examples
    --------
    >>> mel_filters(16000, 512, 40).shape
    (40, 257)
    """
    fmax = sampling_rate / 2 if fmax is None else fmax
    if not fmin < fmax <= sampling_rate / 2:
        raise InvalidParameterError(
            f"`fmin` must be below `fmax`, and `fmax` at most half the sampling rate, {sampling_rate / 2:g} Hz; got "
            f"{fmin:g} and {fmax:g}.",
            "fmax",
        )
    edges = _mel_to_hertz(np.linspace(_hertz_to_mel(fmin), _hertz_to_mel(fmax), n_mels + 2))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    empty = np.flatnonzero(filters.max(axis=1) == 0)
    if len(empty):
        raise InvalidParameterError(
            f"`n_mels`={n_mels} is too many for a window of {n_fft} samples at {sampling_rate} Hz: {len(empty)} bands "
            f"contain no frequency, the first near {edges[empty[0] + 1]:.0f} Hz. Use fewer bands or a longer window.",
            "n_mels",
        )
    return filters


def mel_power(samples: np.ndarray, filters: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Compute the power of a clip in mel bands, in centred frames with a periodic Hann window.

    Parameters
    ----------
    samples : ndarray of float, shape (n_samples,)
    filters : ndarray of shape (n_mels, n_fft // 2 + 1)
        As `mel_filters` makes them.
    n_fft, hop : int
        Length of a frame, and distance between the starts of frames, in samples.

    Returns
    -------
    ndarray of float64, shape (n_mels, n_frames)
        For an even n_fft, n_frames is 1 + n_samples // hop.

    Examples
    --------
    >>> mel_power(np.zeros(1600), mel_filters(16000, 512, 40), 512, 160).shape
    (40, 11)
    """
    from scipy.fft import rfft
    from scipy.signal import get_window

    padded = np.pad(samples, n_fft // 2)
    if len(padded) < n_fft:  # no samples, and an odd n_fft
        padded = np.pad(padded, (0, n_fft - len(padded)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    return filters @ np.abs(rfft(frames * get_window("hann", n_fft), axis=1).T) ** 2


_LINEAR = 200 / 3  # hertz per mel below 1000 Hz
_LOG_STEP = math.log(6.4) / 27  # increase of the natural logarithm of the frequency per mel above 1000 Hz


def _hertz_to_mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < 1000 else 15 + math.log(hertz / 1000) / _LOG_STEP


def _mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, _LINEAR * mels, 1000 * np.exp(_LOG_STEP * (mels - 15)))


def _resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    from scipy.signal import resample_poly

    if rate == target:
        return samples
    common = math.gcd(rate, target)
    return resample_poly(samples, target // common, rate // common)


def _list_clips(X: Any) -> list[Any]:
    """Return the clips of X as a list."""
    if isinstance(X, (str, os.PathLike, bytes, bytearray)):
        raise ImageInputError(f"Got one clip where a list is expected: wrap it, [X]; {_EXPECTED}.")
    if hasattr(X, "toarray"):
        raise ImageInputError(f"Sparse input is not supported; {_EXPECTED}. Use X.toarray().")
    if hasattr(X, "to_numpy"):  # pandas, polars
        X = X.to_numpy()
    if hasattr(X, "__array__") and not isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype.kind == "c":
        raise ImageInputError("Complex data not supported: expected real samples; take X.real.")
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "O" and X.shape[1] > 1:
        X = X.astype(np.float64)
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


def _read_clip(clip: Any, default_rate: int) -> tuple[int, np.ndarray]:
    """Return the sampling rate and the mono samples of a clip, float64 (n,)."""
    if isinstance(clip, (str, os.PathLike, bytes, bytearray)):
        rate, samples = _read_file(clip)
    elif isinstance(clip, (tuple, list)) and len(clip) == 2 and np.ndim(clip[0]) == 0 and np.ndim(clip[1]):
        rate, samples = clip[0], np.asarray(clip[1])
        if not rate > 0 or rate != int(rate):
            raise _Unreadable(f"the sampling rate is {rate!r}; expected a positive integer in hertz")
    else:
        rate, samples = default_rate, np.asarray(clip)
    samples = _scale(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise _Unreadable(f"{(~np.isfinite(samples)).sum()} of {len(samples)} samples are NaN or infinite")
    return int(rate), samples


def _scale(samples: np.ndarray) -> np.ndarray:
    """Convert samples to float64; signed integers and uint8 are scaled to [-1, 1]."""
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > samples.shape[0]):
        raise _Unreadable(
            f"got an array of shape {samples.shape}; expected (samples,) or (samples, channels), with the channels last"
        )
    if samples.dtype.kind not in "fiub":
        raise _Unreadable(f"got samples of type {samples.dtype}; expected integers or floats")
    if not samples.size:
        raise _Unreadable("the clip has no samples")
    if samples.dtype == np.uint8:  # as in WAV files of 8 bits
        return (samples - 128.0) / 128
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
    if isinstance(clip, (str, os.PathLike)):
        if not os.path.isfile(clip):
            raise _Unreadable("is a folder, not an audio file" if os.path.isdir(clip) else "no such file")
        if not Path(clip).stat().st_size:
            raise _Unreadable("the file is empty")
    try:
        with soundfile.SoundFile(io.BytesIO(clip) if isinstance(clip, (bytes, bytearray)) else clip) as file:
            if file.frames * file.channels > _MAX_SAMPLES:
                raise _Unreadable(
                    f"the clip has {file.frames:,} samples; at most {_MAX_SAMPLES:,} are read: cut it"
                )
            samples = file.read(dtype="float64", always_2d=True)
            return file.samplerate, samples
    except _Unreadable:
        raise
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as e:
        reason = " ".join(str(e).split()).removeprefix(f"Error opening {clip!r}: ")
        raise _Unreadable(f"damaged or unsupported audio file: {reason or type(e).__name__}") from e
