"""Image networks of KerasHub's presets, as functional models whose layers are the blocks of the network."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tlfeatures._keras import check_fork, keras, untouched_random_state
from tlfeatures.errors import InvalidParameterError, MissingDependencyError, WeightsError

__all__ = [
    "ImageNetwork", "keras_hub", "load_backbone", "open_preset", "read_normalization", "read_resizing",
    "with_correct_shape",
]  # fmt: skip

_INTERPOLATIONS = {"lanczos3": "lanczos", "lanczos5": "lanczos", "area": "box"}  # Keras's names -> Pillow's
_OFFLINE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "Timeout"}
_RESIZABLE = ("DINOV2Backbone",)  # KerasHub interpolates their position embeddings


@dataclass(frozen=True)
class ImageNetwork:
    """The image network of a preset, with its weights.

    Attributes
    ----------
    name : str
        Name of the architecture, such as "dinov2".
    model : keras.Model
        From normalized images to the last output. Its layers belong to this model only.
    layers : dict of str to operation
        The layers by names that are the same for all vision transformers ("embedding", "block_1", ..., "norm"), or by
        their own names.
    taps : tuple of str
        Standard taps of a convolutional network; empty for vision transformers.
    n_prefix : int or None
        Number of tokens before those of the patches: the class token and registers. None for convolutional networks.
    size : (int, int)
        Height and width of the images, in pixels.
    """

    name: str
    model: Any
    layers: dict[str, Any]
    taps: tuple[str, ...]
    n_prefix: int | None
    size: tuple[int, int]


def keras_hub() -> ModuleType:
    """Import KerasHub; if it is missing, raise an error with the install command."""
    keras()
    try:
        import keras_hub as package
    except ImportError as error:
        raise MissingDependencyError(
            "Presets of KerasHub need the package keras-hub, and importing it failed: "
            f'{error}. Install it with: pip install "tlfeatures[hub]"'
        ) from error
    return package


def open_preset(preset: str, image_size: tuple[int, int] | None) -> ImageNetwork:
    """Load the image network of a preset.

    Parameters
    ----------
    preset : str
        A folder, the name of a preset, or a handle such as "hf://...".
    image_size : (int, int) or None
        None means the size of the preset.

    Raises
    ------
    MissingDependencyError
        When KerasHub is not installed.
    WeightsError
        When the preset cannot be loaded or downloaded.
    InvalidParameterError
        When the network cannot take images of that size.
    ValueError
        When the preset has no image network whose layers can be read.
    """
    check_fork()
    hub = keras_hub()
    with untouched_random_state():
        backbone = load_backbone(hub, preset, load_weights=image_size is None)
        size = _own_size(hub, preset, backbone)
        if image_size is not None:
            settings = _settings_for(preset, backbone, size, image_size)
            backbone, size = load_backbone(hub, preset, **settings), image_size
        tower = getattr(backbone, "vision_encoder", backbone)
        name = type(backbone).__name__.removesuffix("Backbone").lower()
        list_steps = _TRANSFORMERS.get(type(tower).__name__)
        if list_steps is not None:
            steps, n_prefix = list_steps(backbone, tower)
            return _join(name, steps, n_prefix, size)
    outputs = getattr(tower, "pyramid_outputs", {})
    if len(tower.inputs) != 1 or not outputs:
        raise ValueError(
            f"The preset {preset!r} is a {type(backbone).__name__}, whose layers cannot be read. Expected a network "
            "of images: DINOv2, CLIP, SigLIP, ViT, or a convolutional network with feature pyramids."
        )
    model = keras().Model(tower.inputs[0], tower.outputs, name=name)
    taps = tuple(dict.fromkeys(y._keras_history.operation.name for y in outputs.values()))
    return ImageNetwork(name, model, {o.name: o for o in model.operations}, taps, None, size)


def load_backbone(hub: ModuleType, preset: str, **settings: Any) -> Any:
    """Load the network of a preset, with its text encoder if it has one; see `open_preset`."""
    try:
        return hub.models.Backbone.from_preset(preset, dtype="float32", **settings)
    except Exception as error:  # of KerasHub, of the hubs and of the network, of many kinds
        reason = _describe(error)
        if preset.startswith("hf://") and "has no config.json" in reason:  # KerasHub hides the cause
            reason = "Hugging Face has no such preset, or could not be reached"
        raise WeightsError(
            f"Cannot load the preset {preset!r}: {reason}. Expected a folder saved by "
            "save_to_preset, or a machine that can download the preset. Without a network, copy the folder of the "
            "preset from another machine and pass its path."
        ) from error


def _own_size(hub: ModuleType, preset: str, backbone: Any) -> tuple[int, int]:
    """Return the image size of a preset: that of its network, or else of its image converter, or else 224."""
    tower = getattr(backbone, "vision_encoder", backbone)
    shape = next((tuple(x.shape[1:3]) for x in tower.inputs if len(x.shape) == 4), (None, None))
    if None in shape:
        converter = _load_converter(hub, preset)
        shape = getattr(converter, "image_size", None) or (224, 224)
    return int(shape[0]), int(shape[1])


def _settings_for(
    preset: str, backbone: Any, size: tuple[int, int], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Return the settings with which a preset takes images of another size."""
    kind = type(backbone).__name__
    tower = getattr(backbone, "vision_encoder", backbone)
    if image_size == size or None in tower.inputs[0].shape[1:3]:
        return {}
    if type(tower).__name__ not in _TRANSFORMERS:
        return {"image_shape": (*image_size, 3)}
    if kind not in _RESIZABLE:
        raise InvalidParameterError(
            f"`image_size` must be {size}, the size of the position embeddings of the preset {preset!r} "
            f"({kind}, for which KerasHub does not interpolate them); got {image_size}. Leave it out, or use a DINOv2 "
            "preset, which takes images of other sizes.",
            "image_size",
        )
    if image_size[0] != image_size[1] or image_size[0] < backbone.patch_size:
        raise InvalidParameterError(
            f"`image_size` must be a square of at least {backbone.patch_size} pixels, the size of a patch of the "
            f"preset {preset!r}; got {image_size}.",
            "image_size",
        )
    return {"image_shape": (*image_size, 3)}


# --- vision transformers ---------------------------------------------------------------------------

Steps = list[tuple[str, Any]]


def _blocks(layers: list[Any]) -> Steps:
    return [(f"block_{i}", layer) for i, layer in enumerate(layers, start=1)]


def _dinov2(backbone: Any, tower: Any) -> tuple[Steps, int]:
    steps = [("embedding", tower.embeddings), *_blocks(tower.encoder.layers), ("norm", tower.layernorm)]
    return steps, 1 + tower.num_register_tokens


def _vit(backbone: Any, tower: Any) -> tuple[Steps, int]:
    embedding, encoder = (tower.get_layer(name) for name in ("vit_patching_and_embedding", "vit_encoder"))
    steps = [("embedding", embedding), *_blocks(encoder.encoder_layers), ("norm", encoder.layer_norm)]
    return steps, int(tower.use_class_token)


def _clip(backbone: Any, tower: Any) -> tuple[Steps, int]:
    steps = [
        ("embedding", tower.embedding),
        ("pre_norm", tower.pre_layer_norm),
        *_blocks(tower.encoder_layers),
        ("norm", tower.layer_norm),
    ]
    if tower is not backbone:
        steps += [("class_token", backbone.vision_pooler), ("projection", backbone.vision_projection)]
    return steps, 1


def _siglip(backbone: Any, tower: Any) -> tuple[Steps, int]:
    steps = [
        ("embedding", tower.embedding),
        *_blocks(tower.encoder_layers),
        ("norm", tower.post_layer_norm),
        ("head", tower.head),  # attention pooling, whose output is compared with that of the text
    ]
    return steps, 0


_TRANSFORMERS: dict[str, Callable[[Any, Any], tuple[Steps, int]]] = {
    "DINOV2Backbone": _dinov2,
    "ViTBackbone": _vit,
    "CLIPVisionEncoder": _clip,
    "SigLIPVisionEncoder": _siglip,
}


def _join(name: str, steps: Steps, n_prefix: int, size: tuple[int, int]) -> ImageNetwork:
    """Make a model of layers that are applied one after the other."""
    x = images = keras().Input((*size, 3), name="images")
    layers: dict[str, Any] = {}
    for step, layer in steps:
        if step in ("class_token", "projection"):  # a copy, because the layer keeps the text tower in memory
            weights = layer.get_weights()
            layer = type(layer).from_config(layer.get_config())
            x = layer(x)
            layer.set_weights(weights)
        else:
            x = with_correct_shape(layer)(x)
        layers[step] = layer
    return ImageNetwork(name, keras().Model(images, x, name=name), layers, (), n_prefix, size)


def with_correct_shape(layer: Any) -> Any:
    """Return the layer; correct the shape of SigLIP's embedding, which has one token too many in KerasHub 0.32."""
    if type(layer).__name__ == "SigLIPVisionEmbedding":
        layer.compute_output_shape = types.MethodType(_siglip_shape, layer)
    return layer


def _siglip_shape(layer: Any, input_shape: Any) -> tuple[int | None, ...]:
    return input_shape[0], layer.num_positions, layer.hidden_dim


# --- image converters --------------------------------------------------------------------------------


def _load_converter(hub: ModuleType, preset: str) -> Any:
    """Return the image converter of a preset; None if it has none."""
    try:
        return hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:  # of KerasHub and of the hubs, of many kinds
        is_absent = isinstance(error, FileNotFoundError) or "Unable to find a subclass" in str(error)
        if is_absent and not _is_offline(error):
            return None
        raise WeightsError(
            f"Cannot read the image converter of the preset {preset!r}: {_describe(error)}. Expected a file "
            "image_converter.json saved by converter.save_to_preset(folder), or a machine that can download it."
        ) from error


def _is_offline(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is that a hub could not be reached."""
    while error is not None:
        if any(cls.__name__ in _OFFLINE for cls in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: Exception) -> str:
    """Return the message of an error in one line, and whether a hub could not be reached."""
    reason = "the hub could not be reached: " if _is_offline(error) else ""
    return reason + " ".join(str(error).split())[:300]


def read_resizing(preset: str) -> dict[str, str] | None:
    """Read from the image converter of a preset how it resizes images; None if the preset has none.

    Returns
    -------
    dict
        ``resize``, "crop", "pad" or "stretch", and ``interpolation``, a name of Pillow's methods.
    """
    with untouched_random_state():
        converter = _load_converter(keras_hub(), preset)
    if converter is None:
        return None
    resize = (
        "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"
    )
    return {
        "resize": resize,
        "interpolation": _INTERPOLATIONS.get(converter.interpolation, converter.interpolation),
    }


def read_normalization(preset: str) -> list[list[float]]:
    """Read the mean and the standard deviation of RGB values in [0, 1] from the image converter of a preset.

    Raises
    ------
    InvalidParameterError
        When the preset has no image converter.
    """
    with untouched_random_state():
        converter = _load_converter(keras_hub(), preset)
    if converter is None:
        raise InvalidParameterError(
            f"`normalization` must be a pair (mean, std) of RGB triples for the preset {preset!r}, which has no image "
            "converter that says on which values it was trained; got 'auto'. DINOv2 was trained with ((0.485, 0.456, "
            "0.406), (0.229, 0.224, 0.225)), SigLIP and ViT with ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).",
            "normalization",
        )
    scale = np.broadcast_to(1.0 if converter.scale is None else np.ravel(converter.scale), 3)
    offset = np.broadcast_to(0.0 if converter.offset is None else np.ravel(converter.offset), 3)
    std = 1 / (255 * scale.astype(float))
    return [np.round(-offset * std, 7).tolist(), np.round(std, 7).tolist()]
