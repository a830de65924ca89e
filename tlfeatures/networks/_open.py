"""`open_backbone`: the frozen network of a name, a file, a preset, a model or a module."""

from __future__ import annotations

from typing import Any

from tlfeatures._torch import is_module
from tlfeatures.networks._backbone import Backbone
from tlfeatures.networks._hub_backbone import HubBackbone
from tlfeatures.networks._presets import is_preset
from tlfeatures.networks._registry import is_network_name
from tlfeatures.networks._torch_backbone import TorchBackbone

__all__ = ["open_backbone"]


def open_backbone(
    model: Any,
    weights: Any = "imagenet",
    image_size: int | tuple[int, int] | None = None,
    normalization: Any = "auto",
    precision: str = "float32",
) -> Backbone | TorchBackbone:
    """Return the frozen network of a name, file, preset, ``keras.Model`` or ``torch.nn.Module``; see `Backbone`."""
    kind: Any = Backbone
    if is_module(model):
        kind = TorchBackbone
    elif is_preset(model) and not is_network_name(model):
        kind = HubBackbone
    return kind(model, weights, image_size, normalization, precision)
