"""Text encoders of KerasHub's presets: texts to embeddings that are compared with those of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlfeatures._keras import keras, to_numpy, untouched_random_state
from tlfeatures._keras.hub import keras_hub, load_backbone
from tlfeatures.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["embed_texts"]

# class of the network -> class of its preprocessor, the layer with its logit scale, and the name of the layer of
# `ImageNetwork` whose output is compared with the embeddings of texts
_TOWERS = {
    "CLIPBackbone": ("CLIPPreprocessor", "clip_head", "projection"),
    "SigLIPBackbone": ("SigLIPPreprocessor", "siglip_head", "head"),
}
_BATCH = 256


def embed_texts(preset: str, texts: Sequence[str]) -> tuple[np.ndarray, float, str] | None:
    """Embed texts with the text encoder of a preset.

    Returns
    -------
    embeddings : ndarray of float32, shape (len(texts), d)
        Not normalized.
    scale : float
        The factor by which the network multiplies cosine similarities.
    layer : str
        Layer of the image network whose output is compared with the embeddings.

    None if the preset has no text encoder.

    Raises
    ------
    WeightsError
        When the preset cannot be loaded, or has no tokenizer.
    """
    import numpy as np

    hub, ops = keras_hub(), keras().ops
    with untouched_random_state():
        network = load_backbone(hub, preset)
        if type(network).__name__ not in _TOWERS:
            return None
        preprocessor_name, head, layer = _TOWERS[type(network).__name__]
        preprocess = _load_preprocessor(getattr(hub.models, preprocessor_name), preset)
        tokens = _tokenize(preprocess, texts)
        embeddings = [
            ops.convert_to_numpy(network.get_text_embeddings(ops.convert_to_tensor(tokens[i : i + _BATCH])))
            for i in range(0, len(tokens), _BATCH)
        ]
        scale = np.exp(float(to_numpy(getattr(network, head).logit_scale)))
    return np.concatenate(embeddings), float(scale), layer


def _tokenize(preprocess: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the tokens of texts, int32 (n, length); a longer text raises an error, because its end would be lost."""
    import numpy as np

    length = preprocess.sequence_length
    tokens = preprocess({"prompts": list(texts), "images": None}, sequence_length=length + 1)
    too_long = np.asarray(tokens["padding_mask"]).all(axis=1)
    if too_long.any():
        raise ValueError(
            f"The network reads {length} tokens, and this text has more: {texts[int(too_long.argmax())]!r}. Shorten "
            "the name of the class or the template."
        )
    return np.asarray(tokens["token_ids"])[:, :length]


def _load_preprocessor(kind: Any, preset: str) -> Any:
    try:
        return kind.from_preset(preset, image_converter=None)
    except Exception as error:  # of KerasHub and of the tokenizers, of many kinds
        raise WeightsError(
            f"Cannot load the tokenizer of the preset {preset!r}: {' '.join(str(error).split())[:300]}. Expected a "
            "preset saved with its preprocessor, by preprocessor.save_to_preset(folder)."
        ) from error
