"""Loading of networks: variants, files, layers and weights. Loaded networks are cached in the process."""

from __future__ import annotations

import functools
import gc
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlfeatures._files import file_stamp
from tlfeatures._keras import check_fork, is_model, keras, keras_version, untouched_random_state
from tlfeatures._network_options import NETWORK_CONSTRAINTS, size_pair
from tlfeatures._params import check_parameter
from tlfeatures.errors import InvalidParameterError, UnknownNameError, WeightsError
from tlfeatures.networks import _metadata
from tlfeatures.networks._custom import as_graph, open_model
from tlfeatures.networks._graph import Graph
from tlfeatures.networks._modules import find_builder
from tlfeatures.networks._names import find_network
from tlfeatures.networks._registry import NetworkSpec
from tlfeatures.networks._weights import draw_weights, fetch_weights, find_weights, read_weights

__all__ = ["NetworkLoader", "Variant", "cached", "cached_graph", "forget_graph"]

_IMAGENET_STD = (0.229, 0.224, 0.225)
_MAX_MODELS = 2
_MAX_BYTES = 2 << 30  # of each cache
_COLLECTED = 64 << 20  # bytes that are worth the second that a garbage collection takes
_models: OrderedDict[str, Graph] = OrderedDict()


@dataclass(frozen=True)
class Variant:
    """A network with or without its top, from a weights file that may not be downloaded yet."""

    top: bool
    file: Path | None
    key: dict[str, Any] | None  # of its metadata; None if it has no identity outside this process


class NetworkLoader:
    """Loader of a network by its name, file or model; see `Backbone` for the parameters."""

    def __init__(
        self,
        model: Any,
        weights: Any = "imagenet",
        image_size: int | tuple[int, int] | None = None,
        normalization: Any = "auto",
        precision: str = "float32",
    ) -> None:
        parameters = {
            "model": model, "weights": weights, "image_size": image_size,
            "normalization": normalization, "precision": precision,
        }  # fmt: skip
        for parameter, allowed in NETWORK_CONSTRAINTS.items():
            allowed = [*allowed, "int8"] if parameter == "precision" else allowed  # see `open_backbone`
            check_parameter(parameter, parameters[parameter], allowed)
        self._set_model(model)
        self.weights = self._check_weights(weights)
        self.image_size, self.precision = size_pair(image_size), precision
        self.normalization = normalization
        if not isinstance(normalization, str):
            self.normalization = tuple(tuple(float(v) for v in triple) for triple in normalization)

    def _set_model(self, model: Any) -> None:
        self.spec: NetworkSpec | None = None
        self.path: str | None = None
        self.model: Any = None
        if is_model(model):
            self.model = model
        elif isinstance(model, os.PathLike) or model.endswith(".keras"):
            self.path = os.fspath(model)
            if not os.path.isfile(self.path):
                raise WeightsError(
                    f"`model` names a file that does not exist: {self.path!r}. Expected a model saved by "
                    "model.save('name.keras')."
                )
            if not self.path.endswith(".keras"):
                raise WeightsError(
                    f"`model` must be the name of a network, the path of a .keras file or a keras.Model; got the path "
                    f"{self.path!r}. Load a model in another format with keras.saving.load_model, and pass the result."
                )
        else:
            self.spec = find_network(model)

    def _check_weights(self, weights: Any) -> Any:
        """Check ``weights`` and return them; "bundled" becomes "imagenet", the network's own pretrained weights."""
        if self.spec is None and weights != "imagenet":
            raise InvalidParameterError(
                f"`weights` must be left out for a {self.name}, which has its own; got {weights!r}.",
                "weights",
            )
        if weights == "bundled":
            if not self.spec.bundled:
                raise InvalidParameterError(
                    f"`weights` must be 'imagenet', a path or None for {self.spec.name!r}; got 'bundled'. The network "
                    "with weights in the package is 'tiny'.",
                    "weights",
                )
            return "imagenet"
        if weights not in (None, "imagenet") and not os.path.isfile(weights):
            raise WeightsError(
                f"`weights` names a file that does not exist: {os.fspath(weights)!r}. Expected 'imagenet', the path of "
                "a .weights.h5 or .h5 file (or .pth for 'alexnet'), or None for random weights."
            )
        return weights

    @property
    def name(self) -> str:
        """Name of the network for messages."""
        return self.spec.name if self.spec else ".keras file" if self.path else "keras.Model"

    def _variants(self) -> Iterator[Variant]:
        """Iterate over the network without and with its top, files to download last; a model has one variant."""
        key = {"bare": self.normalization != "auto", "size": self.image_size}
        if self.model is not None:
            yield Variant(True, None, None)
        elif self.path is not None:
            yield Variant(True, Path(self.path), {**key, "file": list(file_stamp(self.path))})
        else:
            key |= {"network": self.spec.name, "imagenet": self.weights == "imagenet"}
            absent = []
            for top in (False, True):
                file = self.weights and Path(self.weights)
                if self.weights == "imagenet":
                    file = find_weights(self.spec, top=top, image_size=self._spec_size())
                if file is None and self.weights is not None:
                    absent.append(Variant(top, None, None))
                else:
                    yield Variant(top, file, {**key, "top": top, "weights": file and list(file_stamp(file))})
            yield from absent

    def _names_key(self) -> dict[str, Any] | None:
        """Return the key of the names of all layers, which depend on neither weights nor image size."""
        if self.model is not None:
            return None
        if self.path is not None:
            return {"names of": list(file_stamp(self.path))}
        return {"names of": self.spec.name, "bare": self.normalization != "auto"}

    def _layer_error(
        self, layers: Sequence[str] | None, names: dict[str, list[str]] | None
    ) -> InvalidParameterError | None:
        """Return the error for layers that no single variant has; None if one has all, or if names are unknown."""
        variants = list(names.values()) if names else []
        if not variants or any(set(layers or ()) <= set(variant) for variant in variants):
            return None
        layer_names = list(dict.fromkeys(name for variant in variants for name in variant))
        for layer in layers or ():
            if layer not in layer_names:
                listing = f"`tlfeatures layers {self.spec.name}` for all names" if self.spec else ""
                return UnknownNameError.of(f"layer of {self.name}", layer, layer_names, listing, "layer")
        in_top = next(layer for layer in layers if layer not in names["without top"])
        in_bottom = next(layer for layer in layers if layer not in names["with top"])
        return InvalidParameterError(
            f"`layer` must name layers of one variant of the network: {in_top!r} is in {self.name} with its top, "
            f"{in_bottom!r} in the one without. Use one transformer for each and scikit-learn's FeatureUnion.",
            "layer",
        )

    def _load(
        self, layers: Sequence[str] | None, top: bool | None = None, store: Any = None
    ) -> tuple[Variant, Graph, list[tuple[Variant, list[str]]]]:
        """Load the first variant that has all of ``layers``; nothing is downloaded to determine it.

        Also return the skipped variants with the names of their layers, without names if the file does not fit.
        """
        weights_error: WeightsError | None = None
        names: dict[str, list[str]] = {}
        skipped: list[tuple[Variant, list[str]]] = []
        for variant in self._variants():
            if top not in (None, variant.top):
                continue
            identity = self._identity(variant)
            graph = self._graph(variant, identity)
            names["with top" if variant.top else "without top"] = list(graph.taps)
            if not set(layers or ()) <= set(graph.taps):
                skipped.append((variant, list(graph.taps)))
                continue
            if self.has_own_weights or identity in _models:
                return variant, graph, skipped
            try:
                self._load_weights(variant, graph)
            except WeightsError as error:
                if self.weights == "imagenet":
                    raise
                weights_error = weights_error or error  # the file may be that of the other variant
                skipped.append((variant, []))
            else:
                return variant, cached_graph(identity, lambda g=graph: g), skipped
        if top is None and (key := self._names_key()) is not None:
            _metadata.save(key, names, store)
        raise weights_error or self._layer_error(layers, names)

    @property
    def has_own_weights(self) -> bool:
        """Whether the network is a file or a model, which contains its weights."""
        return self.spec is None

    def _identity(self, variant: Variant) -> str:
        """Return the key of a variant among the loaded networks."""
        return f"{variant} {self.name} {self.spec and self._spec_size()} {self.normalization == 'auto'}"

    def _graph(self, variant: Variant, identity: str) -> Graph:
        """Return the graph of a variant, from memory if possible; otherwise a named network has no weights yet."""
        if self.model is not None:
            return Graph.of(as_graph(self.model), canonical=False)
        if self.path is not None:
            return cached_graph(identity, lambda: Graph.of(as_graph(open_model(self.path)), canonical=False))
        if identity in _models:
            _models.move_to_end(identity)
            return _models[identity]
        return self._build_application(variant.top)

    def _build_application(self, top: bool) -> Graph:
        """Build a named network without weights."""
        check_fork()
        spec, size = self.spec, self._spec_size()
        options = dict(spec.kwargs) | (dict(spec.options) if self.normalization != "auto" else {})
        build = find_builder(spec.module, spec.builder)
        if build is None:
            raise UnknownNameError(f"Keras {keras_version()} has no {spec.builder}; install a newer one.")
        try:
            with untouched_random_state():
                model = build(include_top=top, weights=None, input_shape=(*size, 3), **options)
        except ValueError as error:
            raise ValueError(
                f"{spec.name} cannot take images of {size[0]}x{size[1]} pixels: {error}"
            ) from error
        return Graph.of(model, canonical=True)

    def _load_weights(self, variant: Variant, graph: Graph) -> None:
        if self.weights is None:
            draw_weights(graph.operations)
        elif self.weights == "imagenet":
            check = functools.partial(read_weights, graph.model)
            read_weights(
                graph.model,
                variant.file
                or fetch_weights(self.spec, top=variant.top, image_size=self._spec_size(), check=check),
            )
        else:
            read_weights(graph.model, variant.file)

    def _tapped(self, graph: Graph, layers: Sequence[str]) -> Any:
        """Make a model from normalized pixels to the outputs of ``layers``."""
        inputs, outputs = graph.model.inputs[0], [graph.taps[layer] for layer in layers]
        if self.spec is None or self.spec.entry is None:
            return keras().Model(inputs, outputs)
        entry = graph.operations[self.spec.entry].input
        if self.normalization != "auto":
            return keras().Model(entry, outputs)
        if self.weights != "imagenet":
            return keras().Model(inputs, outputs)
        # for ImageNet weights only, Keras rescales a second time
        rescaled = keras().layers.Rescaling([1 / math.sqrt(std) for std in _IMAGENET_STD])(entry)
        return keras().Model(inputs, keras().Model(entry, outputs)(rescaled))

    def _spec_size(self) -> tuple[int, int]:
        return self.image_size or (self.spec.image_size,) * 2


def cached_graph(identity: str, make: Callable[[], Graph]) -> Any:
    """Return a loaded network, made on first use."""
    return cached(_models, identity, _MAX_MODELS, make)


def forget_graph(identity: str) -> None:
    """Remove a loaded network from memory, if it is there."""
    _models.pop(identity, None)


def cached(values: OrderedDict[str, Any], key: str, limit: int, make: Callable[[], Any]) -> Any:
    """Return the value under ``key``, made on first use; recently used values are kept.

    These are at most ``limit`` values, and at most ``_MAX_BYTES`` by their ``nbytes``, but at least one.
    """
    if key not in values:
        values[key] = make()
        dropped = 0
        while len(values) > 1 and (
            len(values) > limit or sum(value.nbytes for value in values.values()) > _MAX_BYTES
        ):
            dropped += values.popitem(last=False)[1].nbytes
        if dropped > _COLLECTED:
            gc.collect()  # Keras models are reference cycles, which Python may keep for long
    values.move_to_end(key)
    return values[key]
