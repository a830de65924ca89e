"""Log-mel spectrograms of audio clips as images."""

from tlfeatures.audio._mel import mel_filters, mel_power
from tlfeatures.audio._spectrogram import LogMelSpectrogram

__all__ = ["LogMelSpectrogram", "mel_filters", "mel_power"]
