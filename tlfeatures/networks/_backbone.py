"""A frozen network: known from side notes in the store, loaded only when it must run."""

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
    compile_frozen,
    is_model,
    keras,
    keras_version,
    untouched_random_state,
)
from tlfeatures._warnings import warn
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.networks import tiny
from tlfeatures.networks._custom import as_graph, default_tap, input_size, open_model, preprocessing_of
from tlfeatures.networks._graph import Graph, tap_digest, with_policy
from tlfeatures.networks._pooling import pool
from tlfeatures.networks._registry import NetworkSpec, find_network
from tlfeatures.networks._weights import draw_weights, fetch_weights, find_weights, read_weights

__all__ = ["Backbone", "Description", "Tap"]

_IMAGENET_STD = (0.229, 0.224, 0.225)
_MODELS_KEPT, _COMPILED_KEPT = 2, 4
_lock = threading.RLock()  # one build or compilation at a time
_models: OrderedDict[str, Any] = OrderedDict()
_compiled: OrderedDict[str, Callable[[np.ndarray], list[np.ndarray]]] = OrderedDict()
_notes: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Tap:
    """An output of a network: its layer, shape without the batch axis, and digest of what computes it."""

    layer: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Description:
    """What there is to know of a network without running it."""

    name: str
    image_size: tuple[int, int]
    normalization: Any
    taps: tuple[Tap, ...]
    top: bool = True  # of the network with its top, whose file may hold other weights than the one without


@dataclass(frozen=True)
class _Variant:
    """One way to have a network: with or without its top, from a file that may not be here yet."""

    top: bool
    file: Path | None
    key: dict[str, Any] | None  # of its side note; None when nothing lasting identifies it


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
        self.spec: NetworkSpec | None = None
        self.path: str | None = None
        self.model: Any = None
        if is_model(model):
            self.model = model
        elif isinstance(model, os.PathLike) or (isinstance(model, str) and model.endswith(".keras")):
            self.path = os.fspath(model)
            if not os.path.isfile(self.path):
                raise WeightsError(
                    f"No file at {self.path!r}; expected a model saved by model.save('name.keras')."
                )
        elif isinstance(model, str):
            self.spec = find_network(model)
        else:
            raise TypeError(
                f"model is of type {type(model).__name__}; expected the name of a network (see `tlfeatures models`), "
                "the path of a .keras file, or a keras.Model."
            )
        if self.spec is None and weights != "imagenet":
            raise ValueError(
                f"weights={weights!r}, but a {_kind(self)} has weights of its own; leave `weights` out."
            )
        if weights == "bundled":
            if not self.spec.bundled:
                raise ValueError(
                    f"weights='bundled', but {self.spec.name!r} has none in the package; expected 'imagenet', a path "
                    "or None. The network with bundled weights is 'tiny'."
                )
            weights = "imagenet"  # from here on: the network's own pretrained weights
        if weights not in (None, "imagenet"):
            if not isinstance(weights, (str, os.PathLike)):
                raise TypeError(
                    f"weights is of type {type(weights).__name__}; expected 'imagenet', a path, or None."
                )
            if not os.path.isfile(weights):
                raise WeightsError(
                    f"No weights file at {os.fspath(weights)!r}; expected 'imagenet', the path of a .weights.h5 or "
                    ".h5 file, or None for random weights."
                )
        if precision not in PRECISIONS:
            raise UnknownNameError.of("precision", precision, PRECISIONS)
        self.weights, self.precision = weights, precision
        self.image_size = _size(image_size)
        self.normalization = _triples(normalization)

    @property
    def name(self) -> str:
        """Of the network, for people."""
        return self.spec.name if self.spec else _kind(self)

    # -- known without the network -----------------------------------------------------------

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Shapes and digests of taps, from the store's side notes where it has them.

        Parameters
        ----------
        layers : sequence of str, or None for the last convolutional output
        store : EmbeddingStore or None

        Raises
        ------
        UnknownNameError
            When the network has no such layer.
        WeightsError
            When its weights cannot be had.
        """
        if layers is None and self.spec is not None:
            layers = self.spec.taps[-1:]
        for variant in self._variants():
            note = self._held_note(variant.key, store)
            if note is None:
                break
            wanted = set(layers or (note["default"],))
            if wanted <= set(note["taps"]):
                return self._description(note, layers, variant.top)
            if wanted <= set(note["layers"]):
                break
        with _lock:
            variant, graph, passed = self._load(layers)
            note = self._make_note(graph, layers)
        for unfit, has in passed:  # so that next time it is passed over without a look
            if unfit.key is not None and self._held_note(unfit.key, store) is None:
                self._keep_note(unfit.key, {**note, "layers": has, "taps": {}}, store)
        if variant.key is not None:
            held = self._held_note(variant.key, store)
            note["taps"] = {**(held["taps"] if held else {}), **note["taps"]}
            self._keep_note(variant.key, note, store)
        return self._description(note, layers, variant.top)

    @staticmethod
    def _keep_note(key: dict[str, Any], note: dict[str, Any], store: Any) -> None:
        _notes[str(key)] = note
        if store is not None:
            store.put_sidecar(key, note)

    @staticmethod
    def _held_note(key: dict[str, Any] | None, store: Any) -> dict[str, Any] | None:
        if key is None:
            return None
        note = store.get_sidecar(key) if store is not None else None
        if note is None and (note := _notes.get(str(key))) is not None and store is not None:
            store.put_sidecar(key, note)  # known from another store
        return note

    def _make_note(self, graph: Graph, layers: Sequence[str] | None) -> dict[str, Any]:
        default = self.spec.taps[-1] if self.spec else default_tap(graph)
        size = self._spec_size() if self.spec else input_size(graph.model, self.image_size)
        taps = {}
        for layer in layers or (default,):
            tapped = self._tapped(graph, [layer])
            shape = tapped.outputs[0].shape
            if None in shape[1:]:
                (shape,) = tapped.compute_output_shape((1, *size, 3))
            taps[layer] = [[int(n) for n in shape[1:]], tap_digest(tapped)]
        own = self._own_normalization(graph.model) if self.normalization == "auto" else None
        about = {"default": default, "size": list(size), "normalization": own}
        return {**about, "layers": list(graph.taps), "taps": taps}

    def _description(self, note: dict[str, Any], layers: Sequence[str] | None, top: bool) -> Description:
        taps = [
            Tap(layer, tuple(note["taps"][layer][0]), note["taps"][layer][1])
            for layer in layers or (note["default"],)
        ]
        mean_std = (
            self.normalization if self.normalization == "auto" else [list(t) for t in self.normalization]
        )
        normalization = note["normalization"] if mean_std == "auto" else mean_std
        return Description(
            self.spec.name if self.spec else "custom", tuple(note["size"]), normalization, tuple(taps), top
        )

    def _variants(self) -> Iterator[_Variant]:
        """Ways to have this network, the cheapest first; files that must be fetched come last."""
        key = {
            "keras": keras_version(),
            "bare": self.normalization != "auto",
            "size": self.image_size,
            "version": 3,
        }
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

    # -- the network itself ------------------------------------------------------------------

    def compile(
        self, outputs: Sequence[tuple[Tap, str]], description: Description
    ) -> Callable[..., list[np.ndarray]]:
        """A function from uint8 pixels (b, h, w, 3) to float32 arrays (b, d), one for each (tap, pooling).

        Kept for the process by what it computes, so that clones of an estimator share it.
        """
        layers = list(dict.fromkeys(tap.layer for tap, _ in outputs))
        identity = [
            [[tap.layer, tap.digest, part] for tap, part in outputs],
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
    ) -> Callable[..., list[np.ndarray]]:
        graph = self._load(layers, description.top)[1]
        tapped = with_policy(self._tapped(graph, layers), PRECISIONS[self.precision])
        places = [(layers.index(tap.layer), part) for tap, part in outputs]
        normalize = _normalizer(description.normalization)
        return compile_frozen(
            tapped, normalize, lambda ys: [pool(ys[i], part) for i, part in places], self.precision
        )

    def shared(self, description: Description) -> tuple[Any, dict[str, str]]:
        """The model from normalized pixels to the taps of a description, and the canonical names of its operations.

        It is the process's own: copy it before anything in it changes.
        """
        layers = list(dict.fromkeys(tap.layer for tap in description.taps))
        with _lock:
            graph = self._load(layers, description.top)[1]
            return self._tapped(graph, layers), {o.name: name for name, o in graph.operations.items()}

    def normalizer(self, description: Description) -> Callable[[Any], Any]:
        """The function from uint8 pixels to the network's input."""
        return _normalizer(description.normalization)

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
        self, layers: Sequence[str] | None, top: bool | None = None
    ) -> tuple[_Variant, Graph, list[tuple[_Variant, list[str]]]]:
        """The first variant that has all of ``layers``; nothing is fetched to find out.

        Also the variants passed over with the layers that they have; none where the file does not fit.
        """
        problem: WeightsError | None = None
        known: dict[str, None] = {}
        passed: list[tuple[_Variant, list[str]]] = []
        for variant in self._variants():
            if top not in (None, variant.top):
                continue
            identity = (
                f"{variant} {self.name} {self.spec and self._spec_size()} {self.normalization == 'auto'}"
            )
            graph = self._held(variant, identity)
            known |= dict.fromkeys(graph.taps)
            if not set(layers or ()) <= set(graph.taps):
                passed.append((variant, list(graph.taps)))
                continue
            if self.spec is None or identity in _models:
                return variant, graph, passed
            try:
                self._fill(variant, graph)
            except WeightsError as error:
                if self.weights == "imagenet":
                    raise
                problem = problem or error  # the file may be that of the other variant
                passed.append((variant, []))
            else:
                return variant, _cached(_models, identity, _MODELS_KEPT, lambda g=graph: g), passed
        if problem is not None:
            raise problem
        absent = next((layer for layer in layers or () if layer not in known), None)
        if absent is None:  # each is somewhere, but no variant has all
            behind = next(layer for layer in layers or () if layer not in self._application(top=False).taps)
            before = next(layer for layer in layers or () if layer not in graph.taps)
            raise ValueError(
                f"{behind!r} is in the network with its top, {before!r} in the one without; take one at a time and "
                "join them with scikit-learn's FeatureUnion."
            )
        listing = f"`tlfeatures layers {self.spec.name}` for all of them" if self.spec else ""
        raise UnknownNameError.of(f"layer of {self.name}", absent, known, listing)

    def _held(self, variant: _Variant, identity: str) -> Graph:
        """A variant of the network; a named one that is not held has no weights yet."""
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
        # as Keras builds it for these weights only: the variance is divided by twice
        again = keras().layers.Rescaling([1 / math.sqrt(std) for std in _IMAGENET_STD])(entry)
        return keras().Model(inputs, keras().Model(entry, outputs)(again))

    # -- pixels ------------------------------------------------------------------------------

    def _own_normalization(self, model: Any) -> str:
        """What "auto" stands for, as the recipe says it."""
        module = self.spec.module if self.spec else preprocessing_of(model)
        if module is None:
            warn(
                f"The model {model.name!r} neither starts with a Rescaling or Normalization layer nor is one of "
                "keras.applications, so its pixels enter as RGB in 0..255. If it was trained on others, pass "
                "normalization=(mean, std).",
            )
        if module in (None, "in the model"):
            return "in the model"
        return tiny.__name__ if module == "tiny" else f"keras.applications.{module}"

    def _spec_size(self) -> tuple[int, int]:
        return self.image_size or (self.spec.image_size,) * 2


def _cached(held: OrderedDict[str, Any], key: str, limit: int, make: Callable[[], Any]) -> Any:
    if key not in held:
        held[key] = make()
        while len(held) > limit:
            held.popitem(last=False)
    held.move_to_end(key)
    return held[key]


def _kind(backbone: Backbone) -> str:
    return ".keras file" if backbone.path else "keras.Model"


def _normalizer(normalization: Any) -> Callable[[Any], Any]:
    """The function from uint8 pixels to a network's input that a description names."""
    ops = keras().ops
    if normalization == "in the model":
        return lambda x: ops.cast(x, "float32")
    if isinstance(normalization, str):
        own = normalization == tiny.__name__
        module = tiny if own else getattr(keras().applications, normalization.rsplit(".", 1)[1])
        return lambda x: module.preprocess_input(ops.cast(x, "float32"))
    mean, std = (np.asarray(triple, np.float32) for triple in normalization)
    return lambda x: (ops.cast(x, "float32") / 255.0 - mean) / std


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    try:
        whole = len(pair) == 2 and all(int(n) == n and n >= 1 for n in pair)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"image_size={value!r}; expected None, a number of pixels, or (height, width).")
    return int(pair[0]), int(pair[1])


def _triples(value: Any) -> Any:
    if isinstance(value, str) and value == "auto":
        return value
    try:
        mean, std = (tuple(float(v) for v in triple) for triple in value)
    except (TypeError, ValueError):
        mean = std = ()
    if (
        len(mean) != 3
        or len(std) != 3
        or not all(s > 0 for s in std)
        or not all(map(math.isfinite, mean + std))
    ):
        raise ValueError(
            f"normalization={value!r}; expected 'auto' or a pair (mean, std) of RGB triples with positive std, such as "
            "((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))."
        )
    return mean, std
