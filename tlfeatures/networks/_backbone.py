"""A frozen network: described from metadata in the store, loaded only when it must run."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._files import file_stamp
from tlfeatures._keras import (
    PRECISIONS,
    check_fork,
    compile_frozen,
    is_model,
    keras,
    keras_version,
    untouched_random_state,
)
from tlfeatures._params import check_parameter
from tlfeatures.errors import InvalidParameterError, UnknownNameError, WeightsError
from tlfeatures.fingerprints import file_key
from tlfeatures.networks import _metadata, tiny
from tlfeatures.networks._custom import as_graph, default_tap, input_size, open_model
from tlfeatures.networks._digests import code_identity, file_digest, model_digest, network_digest
from tlfeatures.networks._graph import Graph, with_policy
from tlfeatures.networks._normalization import normalizer, own_normalization
from tlfeatures.networks._parameters import NETWORK_CONSTRAINTS, size_pair
from tlfeatures.networks._pooling import pool
from tlfeatures.networks._registry import NetworkSpec, find_network
from tlfeatures.networks._weights import draw_weights, fetch_weights, find_weights, read_weights

__all__ = ["Backbone", "Description", "Tap"]

_IMAGENET_STD = (0.229, 0.224, 0.225)
_MODELS_KEPT, _COMPILED_KEPT = 2, 4
_lock = threading.RLock()  # one build or compilation at a time
_models: OrderedDict[str, Any] = OrderedDict()
_compiled: OrderedDict[str, Callable[[np.ndarray], list[np.ndarray]]] = OrderedDict()


def _renew_lock() -> None:
    """In a forked child: another thread may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True)
class Tap:
    """An output of a network.

    Parameters
    ----------
    layer : str
    shape : tuple of int
        Without the batch axis.
    digest : str
        Identifies what computes it: architecture and weights.
    process : str or None, default=None
        Identifies code of the user's own, within this process only; None where there is none.
    """

    layer: str
    shape: tuple[int, ...]
    digest: str
    process: str | None = None


@dataclass(frozen=True)
class Description:
    """What is known of a network without running it.

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
        Whether it is the network with its top, whose file may hold other weights than the one without.
    """

    name: str
    image_size: tuple[int, int]
    normalization: Any
    taps: tuple[Tap, ...]
    top: bool = True


@dataclass(frozen=True)
class _Variant:
    """A network with or without its top, from a file that may not be here yet."""

    top: bool
    file: Path | None
    key: dict[str, Any] | None  # of its metadata; None when nothing lasting identifies it


class Backbone:
    """A frozen network: which one, with which weights, normalization and precision.

    Parameters
    ----------
    model : str, path or keras.Model
        Name of a network of ``keras.applications``, a ``.keras`` file, or a model.
    weights : "imagenet", "bundled", path or None
        Of a named network; files and models come with their own. None: random, seeded. For "tiny" the first
        two both are the weights in the package: it has no others.
    image_size : int, (int, int) or None
        Height and width in pixels; None is the network's default.
    normalization : "auto" or (mean, std)
        "auto" is the network's own; else RGB triples applied as ``(x / 255 - mean) / std``.
    precision : str
        "float32", "tf32", "bfloat16" or "float16".

    Raises
    ------
    UnknownNameError, ValueError, TypeError
        When an argument is none of these.
    WeightsError
        When a file does not exist.
    """

    def __init__(
        self,
        model: Any,
        weights: Any = "imagenet",
        image_size: int | tuple[int, int] | None = None,
        normalization: Any = "auto",
        precision: str = "float32",
    ) -> None:
        given = {
            "model": model, "weights": weights, "image_size": image_size,
            "normalization": normalization, "precision": precision,
        }  # fmt: skip
        for parameter, allowed in NETWORK_CONSTRAINTS.items():
            check_parameter(parameter, given[parameter], allowed)
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
        else:
            self.spec = find_network(model)
        self.weights = self._check_weights(weights)
        self.image_size, self.precision = size_pair(image_size), precision
        self.normalization = normalization
        if not isinstance(normalization, str):
            self.normalization = tuple(tuple(float(v) for v in triple) for triple in normalization)

    def _check_weights(self, weights: Any) -> Any:
        """``weights``, where "bundled" is "imagenet": the network's own pretrained weights."""
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
                "a .weights.h5 or .h5 file, or None for random weights."
            )
        return weights

    @property
    def name(self) -> str:
        """Name of the network for messages."""
        return self.spec.name if self.spec else ".keras file" if self.path else "keras.Model"

    # --- known without the network

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Shapes and digests of taps, from the metadata in the store if it has them.

        Parameters
        ----------
        layers : sequence of str, or None for the last convolutional output
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
            wanted = set(layers or (metadata["default"],))
            if wanted <= set(metadata["taps"]):
                return self._description(metadata, layers, variant.top)
            if wanted <= set(metadata["layers"]):
                break
        if (error := self._layer_error(layers, _metadata.load(self._names_key(), store))) is not None:
            raise error
        with _lock:
            variant, graph, skipped = self._load(layers, store=store)
            metadata, lasting = self._make_metadata(graph, layers)
        for other, names in skipped:  # so that next time it is skipped without being built
            if other.key is not None and _metadata.load(other.key, store) is None:
                _metadata.save(other.key, {**metadata, "layers": names, "taps": {}}, store)
        if variant.key is not None and lasting:
            before = _metadata.load(variant.key, store)
            metadata["taps"] = {**(before["taps"] if before else {}), **metadata["taps"]}
            _metadata.save(variant.key, metadata, store)
        return self._description(metadata, layers, variant.top)

    def _make_metadata(self, graph: Graph, layers: Sequence[str] | None) -> tuple[dict[str, Any], bool]:
        """Metadata of a loaded network, and whether other processes may use it."""
        default = self.spec.taps[-1] if self.spec else default_tap(graph)
        size = self._spec_size() if self.spec else input_size(graph.model, self.image_size)
        taps = {}
        for layer in layers or (default,):
            tapped = self._tapped(graph, [layer])
            shape = tapped.outputs[0].shape
            if None in shape[1:]:
                (shape,) = tapped.compute_output_shape((1, *size, 3))
            taps[layer] = [[int(n) for n in shape[1:]], *self._identify(layer, tapped)]
        own = own_normalization(self.spec, graph.model) if self.normalization == "auto" else None
        metadata = {"default": default, "size": list(size), "normalization": own}
        lasting = all(process is None for *_, process in taps.values())
        return {**metadata, "layers": list(graph.taps), "taps": taps}, lasting

    def _identify(self, layer: str, tapped: Any) -> tuple[str, str | None]:
        """Digest of a tap, and the identity of code of the user's own."""
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
        name = self.spec.name if self.spec else "custom"
        return Description(name, tuple(metadata["size"]), normalization, tuple(taps), top)

    def _variants(self) -> Iterator[_Variant]:
        """The network without and with its top, files that must be downloaded last; a model once."""
        key = {"bare": self.normalization != "auto", "size": self.image_size}
        if self.model is not None:
            yield _Variant(True, None, None)
        elif self.path is not None:
            yield _Variant(True, Path(self.path), {**key, "file": list(file_stamp(self.path))})
        else:
            key |= {"network": self.spec.name, "imagenet": self.weights == "imagenet"}
            absent = []
            for top in (False, True):
                file = self.weights and Path(self.weights)
                if self.weights == "imagenet":
                    file = find_weights(self.spec, top=top, image_size=self._spec_size())
                if file is None and self.weights is not None:
                    absent.append(_Variant(top, None, None))
                else:
                    yield _Variant(top, file, {**key, "top": top, "weights": file and list(file_stamp(file))})
            yield from absent

    def _names_key(self) -> dict[str, Any] | None:
        """Key of the names of all layers, which depend on neither weights nor image size."""
        if self.model is not None:
            return None
        if self.path is not None:
            return {"names of": list(file_stamp(self.path))}
        return {"names of": self.spec.name, "bare": self.normalization != "auto"}

    def _layer_error(
        self, layers: Sequence[str] | None, names: dict[str, list[str]] | None
    ) -> InvalidParameterError | None:
        """The error for layers that no variant has, or that no single one has; None if one has all, or is unknown."""
        variants = list(names.values()) if names else []
        if not variants or any(set(layers or ()) <= set(variant) for variant in variants):
            return None
        known = list(dict.fromkeys(name for variant in variants for name in variant))
        for layer in layers or ():
            if layer not in known:
                listing = f"`tlfeatures layers {self.spec.name}` for all of them" if self.spec else ""
                return UnknownNameError.of(f"layer of {self.name}", layer, known, listing, "layer")
        in_top = next(layer for layer in layers if layer not in names["without top"])
        in_bottom = next(layer for layer in layers if layer not in names["with top"])
        return InvalidParameterError(
            f"`layer` must name layers of one variant of the network: {in_top!r} is in {self.name} with its top, "
            f"{in_bottom!r} in the one without. Use one transformer for each and scikit-learn's FeatureUnion.",
            "layer",
        )

    # --- the network itself

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Compile the function from uint8 pixels (b, h, w, 3) to float32 arrays (b, d), one per (tap, pooling).

        The process keeps it by what it computes, so that clones of an estimator share it.
        """
        layers = list(dict.fromkeys(tap.layer for tap, _ in outputs))
        identity = [
            [[tap.layer, tap.digest, tap.process, part] for tap, part in outputs],
            [description.image_size, description.normalization, self.precision, keras().backend.backend()],
        ]
        with _lock:
            return _cached(
                _compiled,
                json.dumps(identity),
                _COMPILED_KEPT,
                lambda: self._compile(outputs, layers, description),
            )

    def _compile(
        self, outputs: Sequence[tuple[Tap, str]], layers: list[str], description: Description
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        graph = self._load(layers, description.top)[1]
        tapped = with_policy(self._tapped(graph, layers), PRECISIONS[self.precision])
        places = [(layers.index(tap.layer), part) for tap, part in outputs]
        return compile_frozen(
            tapped,
            normalizer(description.normalization),
            lambda ys: [pool(ys[i], part) for i, part in places],
            self.precision,
        )

    def shared(self, description: Description) -> tuple[Any, dict[str, str]]:
        """The model from normalized pixels to the taps of a description, and {layer name: canonical name}.

        The process shares it: copy it before changing anything in it.
        """
        layers = list(dict.fromkeys(tap.layer for tap in description.taps))
        with _lock:
            graph = self._load(layers, description.top)[1]
            return self._tapped(graph, layers), {o.name: name for name, o in graph.operations.items()}

    def normalizer(self, description: Description) -> Callable[[Any], Any]:
        """The function from uint8 pixels to the network's input."""
        return normalizer(description.normalization)

    def skeleton(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Operations, and the outputs that can be tapped, by name from the input on, with the top.

        Needs no weights.
        """
        with _lock:
            if self.spec is None:
                graph = self._load(None)[1]
                return graph.operations, graph.taps
            whole, bottom = (self._application(top) for top in (True, False))
        return bottom.operations | whole.operations, bottom.taps | whole.taps

    def _load(
        self, layers: Sequence[str] | None, top: bool | None = None, store: Any = None
    ) -> tuple[_Variant, Graph, list[tuple[_Variant, list[str]]]]:
        """The first variant that has all of ``layers``; nothing is downloaded to find out.

        Also the variants skipped with the names of their layers; no names where the file does not fit.
        """
        problem: WeightsError | None = None
        names: dict[str, list[str]] = {}
        skipped: list[tuple[_Variant, list[str]]] = []
        for variant in self._variants():
            if top not in (None, variant.top):
                continue
            identity = (
                f"{variant} {self.name} {self.spec and self._spec_size()} {self.normalization == 'auto'}"
            )
            graph = self._graph(variant, identity)
            names["with top" if variant.top else "without top"] = list(graph.taps)
            if not set(layers or ()) <= set(graph.taps):
                skipped.append((variant, list(graph.taps)))
                continue
            if self.spec is None or identity in _models:
                return variant, graph, skipped
            try:
                self._fill(variant, graph)
            except WeightsError as error:
                if self.weights == "imagenet":
                    raise
                problem = problem or error  # the file may be that of the other variant
                skipped.append((variant, []))
            else:
                return variant, _cached(_models, identity, _MODELS_KEPT, lambda g=graph: g), skipped
        if top is None and (key := self._names_key()) is not None:
            _metadata.save(key, names, store)
        raise problem or self._layer_error(layers, names)

    def _graph(self, variant: _Variant, identity: str) -> Graph:
        """A variant of the network, from memory if possible; a named one that was not loaded has no weights yet."""
        if self.model is not None:
            return Graph.of(as_graph(self.model), canonical=False)
        if self.path is not None:
            return _cached(
                _models,
                identity,
                _MODELS_KEPT,
                lambda: Graph.of(as_graph(open_model(self.path)), canonical=False),
            )
        if identity in _models:
            _models.move_to_end(identity)
            return _models[identity]
        return self._application(variant.top)

    def _application(self, top: bool) -> Graph:
        """A network of ``keras.applications`` without weights."""
        check_fork()
        spec, size = self.spec, self._spec_size()
        options = dict(spec.kwargs) | (dict(spec.options) if self.normalization != "auto" else {})
        build = getattr(tiny if spec.bundled else keras().applications, spec.builder, None)
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

    def _fill(self, variant: _Variant, graph: Graph) -> None:
        if self.weights is None:
            draw_weights(graph.operations)
        elif self.weights == "imagenet":
            read_weights(
                graph.model,
                variant.file or fetch_weights(self.spec, top=variant.top, image_size=self._spec_size()),
            )
        else:
            read_weights(graph.model, variant.file)

    def _tapped(self, graph: Graph, layers: Sequence[str]) -> Any:
        """A model from normalized pixels to the outputs of ``layers``."""
        inputs, outputs = graph.model.inputs[0], [graph.taps[layer] for layer in layers]
        if self.spec is None or self.spec.entry is None:
            return keras().Model(inputs, outputs)
        entry = graph.operations[self.spec.entry].input
        if self.normalization != "auto":
            return keras().Model(entry, outputs)
        if self.weights != "imagenet":
            return keras().Model(inputs, outputs)
        # as Keras builds it for these weights only: divided by the variance twice
        again = keras().layers.Rescaling([1 / math.sqrt(std) for std in _IMAGENET_STD])(entry)
        return keras().Model(inputs, keras().Model(entry, outputs)(again))

    def _spec_size(self) -> tuple[int, int]:
        return self.image_size or (self.spec.image_size,) * 2


def _cached(values: OrderedDict[str, Any], key: str, limit: int, make: Callable[[], Any]) -> Any:
    if key not in values:
        values[key] = make()
        while len(values) > limit:
            values.popitem(last=False)
    values.move_to_end(key)
    return values[key]
