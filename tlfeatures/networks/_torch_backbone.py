"""A frozen PyTorch module, with the interface of `Backbone`."""

from __future__ import annotations

import json
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from tlfeatures._network_options import NETWORK_CONSTRAINTS, size_pair
from tlfeatures._params import check_parameter
from tlfeatures._torch import TorchFunction, describe_code, hash_weights, trace_layers
from tlfeatures.errors import InvalidParameterError, UnknownNameError
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.networks._backbone import Description, Tap
from tlfeatures.networks._loading import cached

__all__ = ["TorchBackbone"]

_MAX_COMPILED = 4
_lock = threading.RLock()
_compiled: OrderedDict[str, TorchFunction] = OrderedDict()
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class TorchBackbone:
    """A frozen ``torch.nn.Module`` with its normalization and precision.

    It runs on the device on which its parameters are. See `Backbone` for the parameters and errors.
    """

    spec = None  # not in the table of networks
    path = None
    runtime = None
    quantization: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        model: Any,
        weights: Any = "imagenet",
        image_size: int | tuple[int, int] | None = None,
        normalization: Any = "auto",
        precision: str = "float32",
    ) -> None:
        for parameter, value in (
            ("image_size", image_size), ("normalization", normalization), ("precision", precision),
        ):  # fmt: skip
            check_parameter(parameter, value, NETWORK_CONSTRAINTS[parameter])
        self.model, self.weights, self.precision = model, weights, precision
        if weights != "imagenet":
            raise InvalidParameterError(
                f"`weights` must be left out for a torch.nn.Module, which has its own; got {weights!r}.",
                "weights",
            )
        configuration = getattr(model, "pretrained_cfg", None) or {}  # networks of timm have one
        if isinstance(normalization, str):
            if not {"mean", "std"} <= set(configuration):
                raise InvalidParameterError(
                    "`normalization` must be a pair (mean, std) of RGB triples for a torch.nn.Module, which "
                    "does not say on which values it was trained; got 'auto'. The networks of torchvision were trained "
                    "with ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).",
                    "normalization",
                )
            normalization = configuration["mean"], configuration["std"]
        mean, std = normalization
        self.normalization = tuple(map(float, mean)), tuple(map(float, std))
        input_size = configuration.get("input_size", (3, 224, 224))
        self.image_size = size_pair(image_size) or (int(input_size[1]), int(input_size[2]))

    @property
    def name(self) -> str:
        """Name of the class of the module."""
        return type(self.model).__name__

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Describe layers by their shapes and digests; None means the last feature map or sequence of tokens.

        Raises
        ------
        UnknownNameError
            If the module has no such layer, or the layer cannot be read.
        """
        outputs = self._outputs()
        if layers is None:
            layers = [_default_layer(outputs)]
        for layer in layers:
            if layer not in outputs:
                raise UnknownNameError.of(
                    f"layer of {self.name}",
                    layer,
                    list(outputs),
                    "layers that are called more than once, or whose output is not one tensor with a row for each "
                    "image, cannot be read; list_layers(module) for all names",
                    "layer",
                )
        code, is_known = describe_code(self.model)
        process = None if is_known else _tokens.setdefault(self.model, secrets.token_hex(16))
        identity = {"code": code, "weights": hash_weights(self.model)}
        taps = tuple(
            Tap(layer, outputs[layer], recipe_digest({**identity, "layer": layer}), process)
            for layer in layers
        )
        return Description("custom", self.image_size, [list(triple) for triple in self.normalization], taps)

    def _outputs(self) -> dict[str, tuple[int, ...]]:
        return self._trace()[0]

    def count_operations(self) -> dict[str, int]:
        """Count the multiply-accumulate operations for one image up to and including each layer."""
        return self._trace()[1]

    def _trace(self) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
        """Return the shape of each readable layer, and the operations up to it."""
        height, width = self.image_size
        try:
            outputs, operations = trace_layers(self.model, self.image_size)
        except Exception as error:
            raise ValueError(
                f"The module {self.name} cannot process images of {height}x{width} pixels, a tensor "
                f"(2, 3, {height}, {width}): {' '.join(str(error).split())[:300]}. Pass the `image_size` that "
                "it expects."
            ) from error
        if not outputs:
            raise ValueError(
                f"The module {self.name} has no layer whose output is one tensor of 2 to 4 axes. "
                "Expected a module with submodules, such as torch.nn.Sequential or a network of torchvision."
            )
        return outputs, operations

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return the function from uint8 pixels (b, h, w, 3) to float32 arrays (b, d), one per (tap, pooling)."""
        names = [(tap.layer, part) for tap, part in outputs]
        identity = [[tap.digest, tap.process, part] for tap, part in outputs]
        device = next((str(p.device) for p in self.model.parameters()), "cpu")
        key = json.dumps([identity, self.image_size, self.normalization, self.precision, device])
        mean, std = self.normalization
        with _lock:
            return cached(
                _compiled,
                key,
                _MAX_COMPILED,
                lambda: TorchFunction(self.model, names, mean, std, self.precision),
            )

    def skeleton(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return modules and readable outputs by path, in the order of computation."""
        outputs = self._outputs()
        modules = dict(self.model.named_modules())
        shapes = {name: SimpleNamespace(shape=(None, *shape)) for name, shape in outputs.items()}
        return {name: modules[name] for name in outputs}, shapes


def _default_layer(outputs: dict[str, tuple[int, ...]]) -> str:
    """Return the last feature map or sequence of tokens of more than one position, or else the last layer."""
    maps = [name for name, shape in outputs.items() if max(shape[:-1], default=1) > 1]
    return (maps or list(outputs))[-1]
