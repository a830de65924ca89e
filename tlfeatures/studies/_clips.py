"""Synthesized clips of a trigger word, for machines without recordings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

__all__ = ["write_wakeword_stand_in"]

_RATE = 16000
_OTHERS = ("rise", "fall then rise", "two tones", "noise bursts")


def write_wakeword_stand_in(
    folder: str | os.PathLike[str], n_speakers: int = 24, n_clips: int = 12, seed: int = 0
) -> Path:
    """Synthesize clips of a trigger word (a rising, then a falling tone) and of other sounds, by several speakers.

    Speakers differ in pitch, timbre, speed, loudness and background noise. Half of the clips of each speaker are the
    trigger word; the others are rising tones, falling and then rising tones, two tones, and noise bursts.

    Parameters
    ----------
    folder : str or path
    n_speakers : int, default=24
    n_clips : int, default=12
        Number of clips of each speaker.
    seed : int, default=0

    Returns
    -------
    pathlib.Path
        Manifest with the columns path, label ("trigger" or "other") and speaker. The clips are WAV files of 0.7 to 1.3
        seconds, 16 bits, 16 kHz.

    Examples
    --------
    >>> import tempfile
    >>> from tlfeatures.sources import read_source
    >>> source = read_source(write_wakeword_stand_in(tempfile.mkdtemp(), 3, 4), groups="speaker", files="audio")
    >>> source.y[:2].tolist(), len(source)
    (['trigger', 'other'], 12)
    """
    from scipy.io import wavfile

    folder = Path(folder)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    lines = ["path,label,speaker"]
    for speaker in range(n_speakers):
        rng = np.random.default_rng([seed, speaker])
        voice = {
            "pitch": rng.uniform(220, 520),
            "speed": rng.uniform(0.8, 1.25),
            "harmonics": rng.uniform(0.1, 0.8, 4),
            "gain": rng.uniform(0.1, 0.9),
            "noise": rng.uniform(0.002, 0.02),
        }
        for i in range(n_clips):
            word = "trigger" if i % 2 == 0 else _OTHERS[i // 2 % len(_OTHERS)]
            name = f"clips/speaker{speaker:02}_{i:02}.wav"
            samples = np.clip(_synthesize(word, voice, rng), -1, 1)
            wavfile.write(folder / name, _RATE, np.rint(samples * 32767).astype(np.int16))
            lines.append(f"{name},{'trigger' if word == 'trigger' else 'other'},speaker{speaker:02}")
    manifest = folder / "clips.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def _synthesize(word: str, voice: dict, rng: np.random.Generator) -> np.ndarray:
    """Synthesize a word after a pause, with background noise; float64 (n,)."""
    n = int(_RATE * rng.uniform(0.22, 0.28) / voice["speed"])
    low, high = voice["pitch"] * rng.uniform(0.95, 1.05), 2 * voice["pitch"]
    pitches = {
        "trigger": ((low, high), (high, 0.65 * high)),
        "rise": ((low, high),),
        "fall then rise": ((high, low), (low, high)),
        "two tones": ((low, low), (1.5 * low, 1.5 * low)),
        "noise bursts": ((0, 0), (0, 0)),
    }[word]
    syllables = [_make_syllable(*pair, n, voice, rng) for pair in pitches]
    gap, pause, rest = (
        np.zeros(int(_RATE * rng.uniform(*limits))) for limits in ((0.02, 0.06), (0.05, 0.3), (0.1, 0.3))
    )
    samples = np.concatenate([pause, *(part for syllable in syllables for part in (syllable, gap)), rest])
    return voice["gain"] * samples + rng.normal(0, voice["noise"], len(samples))


def _make_syllable(start: float, end: float, n: int, voice: dict, rng: np.random.Generator) -> np.ndarray:
    """Make a tone with harmonics that moves from one pitch to another, or a noise burst if the pitch is 0."""
    envelope = np.hanning(n) ** 0.5
    if not start:
        return 0.3 * envelope * rng.normal(size=n)
    phase = 2 * np.pi * np.cumsum(np.linspace(start, end, n)) / _RATE
    tones = [weight * np.sin((k + 1) * phase) for k, weight in enumerate((1.0, *voice["harmonics"]))]
    return envelope * np.sum(tones, axis=0) / (1 + voice["harmonics"].sum())
