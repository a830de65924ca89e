"""Embeddings of texts by the networks that embed images and texts in one space, and how their images are resized."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlfeatures._files import file_stamp
from tlfeatures.errors import InvalidParameterError
from tlfeatures.networks import _presets
from tlfeatures.networks._names import names_preset

__all__ = ["embed_texts", "identify_texts", "preset_resizing"]


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
    identity = identify_texts(model, texts)
    result = identity and _embed(*identity)
    if result is None:
        raise InvalidParameterError(
            f"`model` must be a network with a text encoder, such as 'clip_vit_base_patch32' or "
            f"'siglip_base_patch16_224', or the folder of such a preset of KerasHub; got {model!r}.",
            "model",
        )
    return result


def identify_texts(model: Any, texts: Sequence[str]) -> tuple[str, tuple[Any, ...], tuple[str, ...]] | None:
    """Return what identifies embeddings of texts: the preset, its files and the texts; None without a preset."""
    if not names_preset(model):
        return None
    preset = _presets.canonical_name(model)
    folder = _presets.find_folder(preset)
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder else []
    return preset, tuple((str(file), *file_stamp(file)) for file in files), tuple(texts)


@functools.lru_cache(maxsize=16)
def _embed(
    preset: str, stamps: tuple[Any, ...], texts: tuple[str, ...]
) -> tuple[np.ndarray, float, str] | None:
    from tlfeatures._keras.hub_texts import embed_texts as embed

    return _presets.read_preset(preset, lambda source: embed(source, texts), "tokenizer.json")


def preset_resizing(model: Any) -> dict[str, str]:
    """Return how the images of a network were resized in its training.

    Parameters
    ----------
    model : str, path, keras.Model or torch.nn.Module

    Returns
    -------
    dict
        The parameters ``resize`` and ``interpolation`` of `CNNFeatures`: those of the image converter of a preset of
        KerasHub, and "stretch" and "bilinear" for other networks and for presets without an image converter.

    Raises
    ------
    MissingDependencyError
        When KerasHub is not installed.
    WeightsError
        When the image converter cannot be read.
    """
    resizing = None
    if names_preset(model):
        from tlfeatures._keras.hub import read_resizing

        resizing = _presets.read_preset(_presets.canonical_name(model), read_resizing, "image_converter.json")
    return resizing or {"resize": "stretch", "interpolation": "bilinear"}
