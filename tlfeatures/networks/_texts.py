"""Embeddings of texts, by the networks that embed images and texts in one space."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlfeatures._files import file_stamp
from tlfeatures.errors import InvalidParameterError
from tlfeatures.networks import _presets

__all__ = ["embed_texts"]


def embed_texts(model: Any, texts: Sequence[str]) -> tuple[np.ndarray, float, str]:
    """Embed texts with the text encoder of a preset of KerasHub.

    Parameters
    ----------
    model : str or path
        Name, handle or folder of the preset.
    texts : sequence of str

    Returns
    -------
    embeddings : ndarray of float32, shape (len(texts), d)
    scale : float
        The factor by which the network multiplies cosine similarities.
    layer : str
        Layer of the network whose output for images is compared with the embeddings.

    Raises
    ------
    InvalidParameterError
        When the network has no text encoder; also a ``ValueError``.
    MissingDependencyError
        When KerasHub is not installed.
    WeightsError
        When the preset cannot be loaded.
    """
    result = None
    if _presets.is_preset(model):
        spec = _presets.find_preset(model) if isinstance(model, str) else None
        preset = spec.name if spec else os.fspath(model)
        folder = _presets.find_folder(preset)
        files = _presets.list_files(folder) if folder else []
        stamps = tuple((file.name, *file_stamp(file)) for file in files)
        result = _embed(str(folder or preset), stamps, tuple(texts))
    if result is None:
        raise InvalidParameterError(
            f"`model` must be a network with a text encoder, such as 'clip_vit_base_patch32' or "
            f"'siglip_base_patch16_224', or the folder of such a preset of KerasHub; got {model!r}.",
            "model",
        )
    return result


@functools.lru_cache(maxsize=16)
def _embed(
    preset: str, stamps: tuple[Any, ...], texts: tuple[str, ...]
) -> tuple[np.ndarray, float, str] | None:
    from tlfeatures._keras.hub_texts import embed_texts as embed

    return embed(preset, texts)
