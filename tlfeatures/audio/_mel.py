"""Filters on the mel scale, and the power of a clip in mel bands."""

from __future__ import annotations

import math

import numpy as np

from tlfeatures.errors import InvalidParameterError

__all__ = ["mel_filters", "mel_power"]


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
    fmin : float, default=0.0
        Lowest frequency in hertz.
    fmax : float or None, default=None
        Highest frequency in hertz. None means half the sampling rate.

    Returns
    -------
    ndarray of float64, shape (n_mels, n_fft // 2 + 1)

    Raises
    ------
    InvalidParameterError
        If the frequencies are not in order, or if a filter contains no frequency of the FFT.

    Examples
    --------
    >>> mel_filters(16000, 512, 40).shape
    (40, 257)
    """
    highest = sampling_rate / 2
    is_fmin = fmax is None or fmin >= highest  # whether `fmin` is at fault
    fmax = highest if fmax is None else fmax
    if not fmin < fmax <= highest:
        raise InvalidParameterError(
            f"`fmin` must be below `fmax`, and `fmax` at most half the sampling rate, {highest:g} Hz; got "
            f"{fmin:g} and {fmax:g}.",
            "fmin" if is_fmin else "fmax",
        )
    edges = _mel_to_hertz(np.linspace(_hertz_to_mel(fmin), _hertz_to_mel(fmax), n_mels + 2))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    empty = np.flatnonzero(filters.max(axis=1) == 0)
    if len(empty):
        raise InvalidParameterError(
            f"`n_mels`={n_mels} is too many for frames of {n_fft} samples at {sampling_rate} Hz: {len(empty)} bands "
            f"contain no frequency, the first near {edges[empty[0] + 1]:.0f} Hz. Use fewer bands or longer frames.",
            "n_mels",
        )
    return filters


def mel_power(samples: np.ndarray, filters: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Compute the power of a clip in mel bands, in centered frames with a periodic Hann window.

    Parameters
    ----------
    samples : ndarray of float, shape (n_samples,)
    filters : ndarray of shape (n_mels, n_fft // 2 + 1)
        Filters, as returned by `mel_filters`.
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


_HERTZ_PER_MEL = 200 / 3  # below 1000 Hz
_LOG_STEP = math.log(6.4) / 27  # increase of the natural logarithm of the frequency per mel above 1000 Hz


def _hertz_to_mel(hertz: float) -> float:
    return hertz / _HERTZ_PER_MEL if hertz < 1000 else 15 + math.log(hertz / 1000) / _LOG_STEP


def _mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, _HERTZ_PER_MEL * mels, 1000 * np.exp(_LOG_STEP * (mels - 15)))
