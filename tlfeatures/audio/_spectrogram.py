"""Transformer from audio clips to log-mel images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from tlfeatures._params import check_parameters, integer, number
from tlfeatures._warnings import warn
from tlfeatures.audio._clips import UnreadableClip, list_clips, read_clip, resample
from tlfeatures.audio._mel import mel_filters, mel_power
from tlfeatures.errors import AudioReadError, InvalidParameterError, UnreadableImagesWarning

__all__ = ["LogMelSpectrogram"]

_SILENCE = 1e-10  # largest power of a clip that counts as silent; the image of a silent clip is black


class LogMelSpectrogram(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Log-mel spectrograms of audio clips, as 8-bit grey images for `CNNFeatures`.

    A clip is mixed to mono, resampled, cropped or padded, and transformed: periodic Hann window, centered frames with
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
    fmin : float, default=0.0
        Lowest frequency in hertz.
    fmax : float or None, default=None
        Highest frequency in hertz. None means half the sampling rate.
    duration : float or None, default=None
        Duration in seconds: longer clips are cropped, and shorter ones are padded with silence. None is the duration of
        the longest clip in `fit`.
    align : {"center", "start"}, default="center"
        "center" keeps the center of longer clips and pads shorter ones on both sides; "start" keeps the start and pads
        at the end.
    dynamic_range : float, default=80.0
        Decibels from black to white.
    reference : "max" or float, default="max"
        Power that becomes white: "max" is the largest power in each clip, so that loud and quiet clips have similar
        images; a number above 1e-10 applies to all clips, so that quiet clips are dark. Powers below 1e-10 count as
        1e-10.
    on_error : {"raise", "nan"}, default="raise"
        What to do with clips that cannot be read. "raise" raises an :class:`~tlfeatures.errors.AudioReadError`. "nan"
        warns and returns None in place of the image; ``CNNFeatures(on_error="nan")`` turns this None into a row of NaN.

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
        names them. The error is also an ``OSError``.
    ImageInputError
        If X is not a list of clips. The error is also a ``ValueError``.
    MissingDependencyError
        If X has files and soundfile is not installed; the message has the install command.

    Notes
    -----
    The images are arrays, so the store of `CNNFeatures` identifies them by their pixels, and the embedding of each
    clip is computed once. Silent clips are black.

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
        "reference": [
            "max",
            number(above=_SILENCE, hint="It is a power, and lower powers count as silence."),
        ],
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
        clips = list_clips(X)
        rate = int(self.sampling_rate)
        n_window = round(self.window * rate)
        for name, n_samples, minimum in (("window", n_window, 2), ("hop", round(self.hop * rate), 1)):
            if n_samples < minimum:
                raise InvalidParameterError(
                    f"`{name}` must have at least {minimum} sample{'s' * (minimum > 1)}; got {getattr(self, name)} "
                    f"seconds at {rate} Hz.",
                    name,
                )
        self.filters_ = mel_filters(rate, n_window, self.n_mels, self.fmin, self.fmax)
        if self.duration is not None:
            self.n_samples_ = max(1, round(self.duration * rate))
        else:
            samples, failures = self._read_all(clips)
            if len(failures) == len(clips):
                raise AudioReadError.of(
                    failures, len(clips), "Set `duration`, so that `fit` does not need to read the clips."
                )
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
        samples, failures = self._read_all(list_clips(X))
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
                rate, values = read_clip(clip, int(self.sampling_rate))
                samples.append(resample(values, rate, int(self.sampling_rate)))
            except UnreadableClip as e:
                # not numpy.str_, whose type would be in messages
                name = str(os.fsdecode(clip)) if isinstance(clip, (str, os.PathLike)) else f"X[{i}]"
                failures.append((name, str(e)))
                samples.append(None)
        if failures and self.on_error == "raise":
            raise AudioReadError.of(
                failures, len(clips), "Use on_error='nan' to get None in place of their images."
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
