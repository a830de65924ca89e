"""A frozen network: described from metadata in the store, loaded only when it must run."""

from __future__ import annotations

import json
import os
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tlfeatures._keras import PRECISIONS, keras
from tlfeatures._keras.frozen import FrozenNetwork, compile_frozen
from tlfeatures._keras.openvino_graph import nncf_version
from tlfeatures.fingerprints import array_key, file_key
from tlfeatures.networks import _metadata
from tlfeatures.networks._custom import default_tap, input_size
from tlfeatures.networks._digests import code_identity, file_digest, model_digest, network_digest
from tlfeatures.networks._graph import Graph, with_policy
from tlfeatures.networks._loading import NetworkLoader, Variant, cached, cached_graph, forget_graph
from tlfeatures.networks._normalization import normalizer, own_normalization
from tlfeatures.networks._pooling import pool, pooling_parts

__all__ = ["Backbone", "Description", "Tap", "network_lock"]

_MAX_COMPILED = 4
_lock = threading.RLock()  # one build or compilation at a time
_compiled: OrderedDict[str, FrozenNetwork] = OrderedDict()
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _renew_lock() -> None:
    """Replace the lock in a forked child: a thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


def network_lock() -> threading.RLock:
    """Return the lock that is held while a network is built or compiled."""
    return _lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True)
class Tap:
    """An output of a layer of a network.

    Parameters
    ----------
    layer : str
    shape : tuple of int
        Shape of the output without the batch axis.
    digest : str
        Identifies the architecture and the weights up to the layer.
    process : str or None, default=None
        Identifies custom code, within this process only; None if the network has none.
    n_prefix : int or None, default=None
        Number of tokens before those of the patches of a vision transformer; None for other outputs.
    """

    layer: str
    shape: tuple[int, ...]
    digest: str
    process: str | None = None
    n_prefix: int | None = None

    def parts(self, pooling: str) -> tuple[str, ...]:
        """Return the stored poolings that make up ``pooling``; see `pooling_parts`."""
        return pooling_parts(pooling, len(self.shape) + 1, self.n_prefix)


@dataclass(frozen=True)
class Description:
    """Description of a network that can be stored and read without loading the network.

    Parameters
    ----------
    name : str
        Canonical name, or "custom".
    image_size : (int, int)
        Height and width in pixels.
    normalization : str or [mean, std]
        As in recipes; see `normalizer`.
    taps : tuple of Tap
    top : bool, default=True
        Whether the network includes its top. The weights files with and without the top may differ.
    """

    name: str
    image_size: tuple[int, int]
    normalization: Any
    taps: tuple[Tap, ...]
    top: bool = True


class Backbone(NetworkLoader):
    """A frozen network with its weights, normalization and precision.

    Parameters
    ----------
    model : str, path or keras.Model
        Name of a network of ``keras.applications``, a ``.keras`` file, or a model.
    weights : "imagenet", "bundled", path or None
        Weights of a named network; ``.keras`` files and models contain their own. None means seeded random
        weights. For "tiny", "imagenet" and "bundled" both mean the weights file in the package.
    image_size : int, (int, int) or None
        Height and width in pixels; None is the network's default.
    normalization : "auto" or (mean, std)
        "auto" is the network's own; a pair of RGB triples is applied as ``(x / 255 - mean) / std``.
    precision : str
        "float32", "tf32", "bfloat16" or "float16"; with OpenVINO also "int8".

    Raises
    ------
    UnknownNameError, ValueError, TypeError
        When an argument is invalid.
    WeightsError
        When a file does not exist.
    """

    runtime: str | None = None  # set by `open_backbone`
    calibration_pixels: np.ndarray | None = None  # set by `quantize`
    quantization: Mapping[str, str] = MappingProxyType({})  # what the recipe says of it

    # --- description

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Describe taps by their shapes and digests, from the metadata in the store if available.

        Parameters
        ----------
        layers : sequence of str or None
            None means the last feature map.
        store : EmbeddingStore or None

        Raises
        ------
        UnknownNameError
            When the network has no such layer.
        WeightsError
            When its weights are not available.
        """
        if layers is None and self.spec is not None:
            layers = self.spec.taps[-1:]
        for variant in self._variants():
            metadata = _metadata.load(variant.key, store)
            if metadata is None:
                break
            layer_names = set(layers or (metadata["default"],))
            if layer_names <= set(metadata["taps"]):
                return self._description(metadata, layers, variant.top)
            if layer_names <= set(metadata["layers"]):
                break
        if (error := self._layer_error(layers, _metadata.load(self._names_key(), store))) is not None:
            raise error
        with _lock:
            variant, graph, skipped = self._load(layers, store=store)
            metadata, is_persistent = self._make_metadata(graph, layers)
            variant = self._after_loading(variant, graph)
        for other, names in skipped:  # so that the next call skips it without building it
            if other.key is not None and _metadata.load(other.key, store) is None:
                _metadata.save(other.key, {**metadata, "layers": names, "taps": {}}, store)
        if variant.key is not None and is_persistent:
            stored = _metadata.load(variant.key, store)
            metadata["taps"] = {**(stored["taps"] if stored else {}), **metadata["taps"]}
            _metadata.save(variant.key, metadata, store)
        return self._description(metadata, layers, variant.top)

    def _after_loading(self, variant: Variant, graph: Any) -> Variant:
        """Return the variant of a loaded network with the files that loading may have downloaded."""
        if variant.key is not None or self.model is not None:
            return variant
        current = next(each for each in self._variants() if each.top == variant.top)
        forget_graph(self._identity(variant))  # without files, it would stand for any later download
        cached_graph(self._identity(current), lambda: graph)
        return current

    def _make_metadata(self, graph: Graph, layers: Sequence[str] | None) -> tuple[dict[str, Any], bool]:
        """Return the metadata of a loaded network, and whether other processes may use it."""
        default = self.spec.taps[-1] if self.spec else default_tap(graph)
        taps = {}
        for layer in layers or (default,):
            tapped = self._tapped(graph, [layer])
            taps[layer] = [shape := self._tap_shape(graph, tapped), *self._identify(layer, tapped)]
            if graph.n_prefix is not None and len(shape) == 2:
                taps[layer].append(graph.n_prefix)
        normalization = self._own_normalization(graph) if self.normalization == "auto" else None
        metadata = {
            "default": default,
            "size": list(self._loaded_size(graph)),
            "normalization": normalization,
        }
        is_persistent = all(tap[2] is None for tap in taps.values())
        return {**metadata, "layers": list(graph.taps), "taps": taps}, is_persistent

    def _tap_shape(self, graph: Graph, tapped: Any) -> list[int]:
        """Return the shape of the only output of a model, without the batch axis."""
        shape = tapped.outputs[0].shape
        if None in shape[1:]:
            (shape,) = tapped.compute_output_shape((1, *self._loaded_size(graph), 3))
        return [int(n) for n in shape[1:]]

    def _loaded_size(self, graph: Graph) -> tuple[int, int]:
        """Return the height and width of the images of a loaded network."""
        return self._spec_size() if self.spec else input_size(graph.model, self.image_size)

    def _own_normalization(self, graph: Graph) -> Any:
        """Return the normalization that "auto" means, as in recipes."""
        return own_normalization(self.spec, graph.model)

    def _identify(self, layer: str, tapped: Any) -> tuple[str, str | None]:
        """Return the digest of a tap, and the identity of its custom code or None."""
        if self.spec is not None:
            rescaled = (
                self.spec.entry is not None and self.normalization == "auto" and self.weights == "imagenet"
            )
            return network_digest(self.spec, layer, tapped, rescaled), None
        digest = model_digest(tapped) if self.path is None else file_digest(file_key(self.path), layer)
        return digest, code_identity(tapped)

    def _description(self, metadata: dict[str, Any], layers: Sequence[str] | None, top: bool) -> Description:
        names = layers or (metadata["default"],)
        taps = [Tap(name, tuple(metadata["taps"][name][0]), *metadata["taps"][name][1:]) for name in names]
        normalization = metadata["normalization"]
        if self.normalization != "auto":
            normalization = [list(triple) for triple in self.normalization]
        return Description(self._recipe_name(), tuple(metadata["size"]), normalization, tuple(taps), top)

    def _recipe_name(self) -> str:
        return self.spec.name if self.spec else "custom"

    def without_weights(self) -> Backbone:
        """Return the same network without pretrained weights, if it can be built without them."""
        return self if self.spec is None else Backbone(self.spec.name, None, self.image_size)

    def quantize(self, pixels: np.ndarray) -> None:
        """Quantize the network to 8-bit integers when it is compiled, with uint8 images (n, h, w, 3)."""
        self.calibration_pixels = pixels
        self.quantization = {"calibration": array_key(pixels).hex(), "nncf": nncf_version()}

    # --- compilation and models

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Compile the function from uint8 pixels (b, h, w, 3) to float32 arrays (b, d), one per (tap, pooling).

        Compiled functions are cached in the process by what they compute, so that clones of an estimator share
        them. A function may read the weights of a model in memory at each call, so two models never share one: the
        weights of the other may be changed later.
        """
        layers = list(dict.fromkeys(tap.layer for tap, _ in outputs))
        identity = [
            [[tap.layer, tap.digest, tap.process, part] for tap, part in outputs],
            [description.image_size, description.normalization, self.precision],
            [self.runtime, keras().backend.backend()],
            None if self.model is None else _tokens.setdefault(self.model, secrets.token_hex(16)),
            dict(self.quantization),
        ]
        with _lock:
            return cached(
                _compiled,
                json.dumps(identity),
                _MAX_COMPILED,
                lambda: self._compile(outputs, layers, description),
            )

    def _compile(
        self, outputs: Sequence[tuple[Tap, str]], layers: list[str], description: Description
    ) -> FrozenNetwork:
        graph = self._load(layers, description.top)[1]
        policy = "float32" if self.runtime is not None else PRECISIONS[self.precision]
        tapped = with_policy(self._tapped(graph, layers), policy)
        output_poolings = [(layers.index(tap.layer), part, tap.n_prefix) for tap, part in outputs]
        return compile_frozen(
            tapped,
            normalizer(description.normalization),
            lambda ys: [pool(ys[i], *pooling) for i, *pooling in output_poolings],
            self.precision,
            self.runtime,
            self.calibration_pixels,
        )

    def load_shared(self, description: Description) -> tuple[Any, dict[str, str]]:
        """Load the model from normalized pixels to the taps of a description, and {layer name: canonical name}.

        The whole process shares the model: copy it before modifying it.
        """
        layers = list(dict.fromkeys(tap.layer for tap in description.taps))
        with _lock:
            graph = self._load(layers, description.top)[1]
            return self._tapped(graph, layers), {o.name: name for name, o in graph.operations.items()}

    def normalizer(self, description: Description) -> Callable[[Any], Any]:
        """Return the function from uint8 pixels to the network's input."""
        return normalizer(description.normalization)

    def skeleton(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return operations and tappable outputs by name, from input to output, including the top.

        No weights are needed.
        """
        with _lock:
            if self.spec is None:
                graph = self._load(None)[1]
                return graph.operations, graph.taps
            with_top, without_top = (self._build_application(top) for top in (True, False))
        return without_top.operations | with_top.operations, without_top.taps | with_top.taps
