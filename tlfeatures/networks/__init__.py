"""Networks: their names, layers, weights and poolings, and the loading of networks and taps."""

from __future__ import annotations

from typing import Any

from tlfeatures._torch import is_module
from tlfeatures.networks._backbone import Backbone, Description, Tap
from tlfeatures.networks._digests import model_digest
from tlfeatures.networks._graph import copy_operation, find_autocasts, full_config, walk
from tlfeatures.networks._imagenet import imagenet_classes
from tlfeatures.networks._names import find_licence, find_network, names_preset
from tlfeatures.networks._open import open_backbone
from tlfeatures.networks._pooling import pool, pooling_parts, pooling_width
from tlfeatures.networks._presets import PRESETS, PresetSpec, find_folder
from tlfeatures.networks._registry import NETWORKS, NetworkSpec
from tlfeatures.networks._texts import embed_texts, identify_texts, preset_resizing
from tlfeatures.networks._torch_backbone import TorchBackbone
from tlfeatures.networks._weights import find_weights

__all__ = [
    "NETWORKS", "PRESETS", "Backbone", "Description", "NetworkSpec", "PresetSpec", "Tap", "TorchBackbone",
    "copy_operation", "embed_texts", "find_autocasts", "find_licence", "find_network", "find_weights",
    "full_config", "identify_texts", "imagenet_classes", "layer_table", "list_layers", "list_models", "model_digest",
    "names_preset", "network_table", "open_backbone", "pool", "pooling_parts", "pooling_width", "preset_resizing",
    "walk",
]  # fmt: skip


def list_models() -> list[str]:
    """List the names of the available networks: those of ``keras.applications``, and vision transformers of KerasHub.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from tlfeatures import list_models
    >>> "vgg19" in list_models(), "mobilenet_0.75" in list_models()
    (True, True)
    """
    return [*NETWORKS, *PRESETS]


def network_table() -> list[dict[str, Any]]:
    """Return a row for each network.

    Returns
    -------
    list of dict
        ``model``; ``image_size``, the default side in pixels; ``taps``, the standard layers from early to late;
        ``licence`` of the weights; and the paths of local ``weights`` and ``weights_with_top``, None if there are none.
        Rows of vision transformers have ``width`` and ``parameters`` too, and the folder of the preset as ``weights``.
    """
    applications = [
        {
            "model": spec.name,
            "image_size": spec.image_size,
            "taps": list(spec.taps),
            "licence": spec.licence,
            "weights": find_weights(spec, top=False, image_size=(spec.image_size,) * 2),
            "weights_with_top": find_weights(spec, top=True, image_size=(spec.image_size,) * 2),
        }
        for spec in NETWORKS.values()
    ]
    return applications + [
        {
            "model": preset.name,
            "image_size": preset.image_size,
            "taps": list(preset.taps),
            "licence": preset.licence,
            "weights": find_folder(preset.name),
            "weights_with_top": None,
            "width": preset.width,
            "parameters": preset.parameters,
        }
        for preset in PRESETS.values()
    ]


def list_layers(model: Any) -> list[str]:
    """List the layers whose output can be an embedding, from input to output, including those of the top.

    Parameters
    ----------
    model : str, path, keras.Model or torch.nn.Module
        As in :class:`~tlfeatures.CNNFeatures`. No pretrained weights are needed.

    Returns
    -------
    list of str

    Raises
    ------
    UnknownNameError
        If no network has this name; also a ``ValueError``.

    Examples
    --------
    >>> from tlfeatures import list_layers
    >>> list_layers("mobilenet_0.25")[-5:]
    ['global_average_pooling2d', 'dropout', 'conv_preds', 'reshape', 'predictions']
    """
    return [row["layer"] for row in layer_table(model)]


def layer_table(model: Any, image_size: Any = None) -> list[dict[str, Any]]:
    """Return a row for each layer.

    Parameters
    ----------
    model : str, path or keras.Model
        As in `CNNFeatures`.
    image_size : int or (int, int), optional
        As in `CNNFeatures`.

    Returns
    -------
    list of dict
        ``layer``; ``type``; ``shape``, without the batch axis; ``standard``, whether it is a standard tap; ``width``,
        the number of features after average pooling; and ``fully_connected``.
    """
    if is_module(model):  # its normalization does not change its layers
        backbone: Any = TorchBackbone(model, image_size=image_size, normalization=((0, 0, 0), (1, 1, 1)))
    else:
        backbone = open_backbone(model, image_size=image_size)
    standard = backbone.spec.taps if backbone.spec else ()
    operations, taps = backbone.skeleton()
    return [
        {
            "layer": name,
            "type": (kind := type(operations[name]).__name__),
            "shape": tuple(tap.shape[1:]),
            "standard": name in standard,
            "width": tap.shape[-1] if tap.shape[1:] else None,
            "fully_connected": kind in ("Dense", "Linear") or name == "predictions",
        }
        for name, tap in taps.items()
    ]
