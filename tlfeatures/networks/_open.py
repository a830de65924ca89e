"""`open_backbone`: the frozen network of a name, a file, a preset, a model or a module."""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import PRECISIONS
from tlfeatures._network_options import RUNTIMES
from tlfeatures._params import check_parameter, join_alternatives
from tlfeatures._torch import is_module
from tlfeatures.errors import InvalidParameterError
from tlfeatures.networks._backbone import Backbone
from tlfeatures.networks._hub_backbone import HubBackbone
from tlfeatures.networks._names import names_preset
from tlfeatures.networks._torch_backbone import TorchBackbone

__all__ = ["open_backbone"]


def open_backbone(
    model: Any,
    weights: Any = "imagenet",
    image_size: int | tuple[int, int] | None = None,
    normalization: Any = "auto",
    precision: str = "float32",
    runtime: str | None = None,
) -> Backbone | TorchBackbone:
    """Return the frozen network of a name, file, preset, ``keras.Model`` or ``torch.nn.Module``; see `Backbone`."""
    kind: Any = Backbone
    if is_module(model):
        kind = TorchBackbone
    elif names_preset(model):
        kind = HubBackbone
    backbone = kind(model, weights, image_size, normalization, precision)
    if runtime is not None:
        _check_runtime(runtime, model, precision)
        backbone.runtime = runtime
    elif precision == "int8":
        raise InvalidParameterError(
            f"`precision` must be {join_alternatives(map(repr, PRECISIONS))} without runtime='openvino'; got 'int8'.",
            "precision",
        )
    return backbone


def _check_runtime(runtime: str, model: Any, precision: str) -> None:
    """Raise an error if the runtime cannot run the network with this precision."""
    check_parameter("runtime", runtime, [None, *RUNTIMES])
    if is_module(model):
        raise InvalidParameterError(
            f"`runtime` must be None for a torch.nn.Module, which PyTorch runs; got {runtime!r}.", "runtime"
        )
    if precision not in (precisions := RUNTIMES[runtime]):
        raise InvalidParameterError(
            f"`precision` must be {join_alternatives(map(repr, precisions))} with {runtime=}; got {precision!r}.",
            "precision",
        )
