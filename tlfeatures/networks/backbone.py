"""A frozen network: known from side notes in the store, loaded only when it must run."""

from __future__ import annotations

import json
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._keras import (
    PRECISIONS,
    compile_frozen,
    is_model,
    keras,
    keras_version,
    untouched_random_state,
)
from tlfeatures.errors import UnknownNameError, WeightsError
from tlfeatures.networks.graph import (
    application_of,
    canonical_operations,
    preprocesses,
    tap_digest,
    tappable,
    with_policy,
)
from tlfeatures.networks.weights import draw_weights, fetch_weights, find_weights, read_weights, stat_of
from tlfeatures.pooling import pool
from tlfeatures.registry import NetworkSpec, find_network

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
    weights : "imagenet", path or None
        Of a named network; files and models come with their own. None: random, seeded.
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
            if note and (layers is None or set(layers) <= set(note["taps"])):
                return self._description(note, layers)
        with _lock:
            variant, model, operations = self._load(layers)
            note = self._make_note(model, operations, layers)
        if variant.key is not None:
            held = self._held_note(variant.key, store)
            note["taps"] = {**(held["taps"] if held else {}), **note["taps"]}
            _notes[str(variant.key)] = note
            if store is not None:
                store.put_sidecar(variant.key, note)
        return self._description(note, layers)

    @staticmethod
    def _held_note(key: dict[str, Any] | None, store: Any) -> dict[str, Any] | None:
        if key is None:
            return None
        note = store.get_sidecar(key) if store is not None else None
        if note is None and (note := _notes.get(str(key))) is not None and store is not None:
            store.put_sidecar(key, note)  # known from another store
        return note

    def _make_note(
        self, model: Any, operations: dict[str, Any], layers: Sequence[str] | None
    ) -> dict[str, Any]:
        default = self.spec.taps[-1] if self.spec else _last_map(model, operations)
        size = self._size_for(model)
        taps = {}
        for layer in layers or (default,):
            tapped = self._tapped(model, operations, [layer])
            (shape,) = tapped.compute_output_shape((1, *size, 3))
            taps[layer] = [[int(n) for n in shape[1:]], tap_digest(tapped)]
        own = self._own_normalization(model) if self.normalization == "auto" else None
        return {"default": default, "size": list(size), "normalization": own, "taps": taps}

    def _description(self, note: dict[str, Any], layers: Sequence[str] | None) -> Description:
        taps = [
            Tap(layer, tuple(note["taps"][layer][0]), note["taps"][layer][1])
            for layer in layers or (note["default"],)
        ]
        mean_std = (
            self.normalization if self.normalization == "auto" else [list(t) for t in self.normalization]
        )
        normalization = note["normalization"] if mean_std == "auto" else mean_std
        return Description(
            self.spec.name if self.spec else "custom", tuple(note["size"]), normalization, tuple(taps)
        )

    def _variants(self) -> Iterator[_Variant]:
        """Ways to have this network, the cheapest first; files that must be fetched come last."""
        key = {
            "keras": keras_version(),
            "bare": self.normalization != "auto",
            "size": self.image_size,
            "version": 1,
        }
        if self.model is not None:
            yield _Variant(True, None, None)
        elif self.path is not None:
            yield _Variant(True, Path(self.path), {**key, "file": stat_of(self.path)})
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
                    yield _Variant(top, file, {**key, "top": top, "weights": file and stat_of(file)})
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
                _compiled, json.dumps(identity), _COMPILED_KEPT, lambda: self._compile(outputs, layers)
            )

    def _compile(
        self, outputs: Sequence[tuple[Tap, str]], layers: list[str]
    ) -> Callable[..., list[np.ndarray]]:
        _, model, operations = self._load(layers)
        tapped = with_policy(self._tapped(model, operations, layers), PRECISIONS[self.precision])
        places = [(layers.index(tap.layer), part) for tap, part in outputs]
        normalize = self._normalizer(model, operations)
        return compile_frozen(
            tapped, normalize, lambda ys: [pool(ys[i], part) for i, part in places], self.precision
        )

    def skeleton(self) -> dict[str, Any]:
        """Operations by canonical name, early to late, with the top; needs no weights."""
        with _lock:
            if self.spec is None:
                return self._load(None)[2]
            bottom, whole = (self._application(top)[1] for top in (False, True))
        return whole | {name: operation for name, operation in bottom.items() if name not in whole}

    def _load(self, layers: Sequence[str] | None) -> tuple[_Variant, Any, dict[str, Any]]:
        """The first variant that has all of ``layers``; nothing is fetched to find out."""
        problem: WeightsError | None = None
        known: dict[str, Any] = {}
        for variant in self._variants():
            if self.spec is None:
                model = self.model or _cached(
                    _models, str(variant.key), _MODELS_KEPT, lambda: _open(self.path)
                )
                model = _functional(model)
                operations = {operation.name: operation for operation in model.operations}
            else:
                model, operations = self._application(variant.top)
            known |= {name: op for name, op in operations.items() if tappable(op)}
            if not set(layers or ()) <= set(known) & set(operations):
                continue
            if self.spec is None:
                return variant, model, operations
            try:
                loaded = _cached(
                    _models,
                    f"{variant} {self.spec.name} {self._spec_size()}",
                    _MODELS_KEPT,
                    lambda v=variant, m=model, o=operations: self._fill(v, m, o),
                )
                return variant, loaded, canonical_operations(loaded)
            except WeightsError as error:
                if self.weights == "imagenet":
                    raise
                problem = problem or error  # the file may be that of the other variant
        if problem is not None:
            raise problem
        absent = next(layer for layer in layers or () if layer not in known)
        listing = f"`tlfeatures layers {self.spec.name}` for all of them" if self.spec else ""
        raise UnknownNameError.of(f"layer of {self.name}", absent, known, listing)

    def _application(self, top: bool) -> tuple[Any, dict[str, Any]]:
        """A network of ``keras.applications`` without weights."""
        spec, size = self.spec, self._spec_size()
        options = dict(spec.kwargs) | (dict(spec.options) if self.normalization != "auto" else {})
        build = getattr(keras().applications, spec.builder, None)
        if build is None:
            raise UnknownNameError(f"Keras {keras_version()} has no {spec.builder}; install a newer one.")
        try:
            with untouched_random_state():
                model = build(include_top=top, weights=None, input_shape=(*size, 3), **options)
        except ValueError as error:
            raise ValueError(
                f"{spec.name} cannot take images of {size[0]}x{size[1]} pixels: {error}"
            ) from error
        return model, canonical_operations(model)

    def _fill(self, variant: _Variant, model: Any, operations: dict[str, Any]) -> Any:
        if self.weights is None:
            draw_weights(operations)
        elif self.weights == "imagenet":
            read_weights(
                model, variant.file or fetch_weights(self.spec, top=variant.top, image_size=self._spec_size())
            )
        else:
            read_weights(model, variant.file)
        return model

    def _tapped(self, model: Any, operations: dict[str, Any], layers: Sequence[str]) -> Any:
        """A model from normalized pixels to the outputs of ``layers``."""
        inputs = model.inputs[0]
        if self.spec and self.spec.entry and (self.normalization != "auto" or self.weights == "imagenet"):
            inputs = operations[self.spec.entry].input
        return keras().Model(inputs, [operations[layer].output for layer in layers])

    # -- pixels ------------------------------------------------------------------------------

    def _own_normalization(self, model: Any) -> str:
        """What "auto" stands for, as the recipe says it."""
        if self.spec is not None:
            rescaled = " imagenet" if self.spec.entry and self.weights == "imagenet" else ""
            return f"keras.applications.{self.spec.module}{rescaled}"
        if preprocesses(model):
            return "in the model"
        spec = application_of(model)
        if spec is not None:
            return f"keras.applications.{spec.module}"
        warnings.warn(
            f"The model {model.name!r} neither starts with a Rescaling or Normalization layer nor is one of "
            "keras.applications, so its pixels enter as RGB in 0..255. If it was trained on others, pass "
            "normalization=(mean, std).",
            stacklevel=2,
        )
        return "in the model"

    def _normalizer(self, model: Any, operations: dict[str, Any]) -> Callable[[Any], Any]:
        ops = keras().ops
        if self.normalization != "auto":
            mean, std = (np.asarray(triple, np.float32) for triple in self.normalization)
            return lambda x: (ops.cast(x, "float32") / 255.0 - mean) / std
        own = self._own_normalization(model)
        if own == "in the model":
            return lambda x: ops.cast(x, "float32")
        if own.endswith(" imagenet"):
            # as Keras builds it for these weights only: the variance is divided by twice
            again = np.asarray([1 / math.sqrt(std) for std in _IMAGENET_STD], np.float32)
            rescale, normalize = operations["rescaling"], operations["normalization"]
            return lambda x: normalize(rescale(ops.cast(x, "float32"))) * again
        module = getattr(keras().applications, own.rsplit(".", 1)[1])
        return lambda x: module.preprocess_input(ops.cast(x, "float32"))

    def _spec_size(self) -> tuple[int, int]:
        return self.image_size or (self.spec.image_size,) * 2

    def _size_for(self, model: Any) -> tuple[int, int]:
        if self.spec is not None:
            return self._spec_size()
        shape = tuple(model.inputs[0].shape)
        if len(model.inputs) != 1 or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(
                f"The model {model.name!r} takes inputs of shape {[tuple(i.shape) for i in model.inputs]}; expected "
                "one input (None, height, width, 3) of RGB images."
            )
        if None in shape[1:3]:
            return self.image_size or (224, 224)
        if self.image_size not in (None, shape[1:3]):
            raise ValueError(
                f"The model {model.name!r} takes images of {shape[1]}x{shape[2]} pixels, not {self.image_size}; leave "
                "image_size out."
            )
        return shape[1:3]


def _cached(held: OrderedDict[str, Any], key: str, limit: int, make: Callable[[], Any]) -> Any:
    if key not in held:
        held[key] = make()
        while len(held) > limit:
            held.popitem(last=False)
    held.move_to_end(key)
    return held[key]


def _kind(backbone: Backbone) -> str:
    return ".keras file" if backbone.path else "keras.Model"


def _open(path: str) -> Any:
    try:
        return keras().saving.load_model(path, compile=False)
    except Exception as error:
        raise WeightsError(
            f"Cannot load {path!r}: {' '.join(str(error).split())[:300]}. Expected a model saved by "
            "model.save('name.keras'); one with Lambda layers or custom classes must be loaded by you and passed as "
            "a keras.Model."
        ) from error


def _functional(model: Any) -> Any:
    """``model`` as a graph with operations that can be tapped."""
    if hasattr(model, "operations"):
        return model
    try:
        return keras().Model(model.inputs, model.outputs)
    except Exception as error:
        raise ValueError(
            f"The model {model.name!r} is not a graph of layers; expected a Functional model, or a Sequential one that "
            "is built (give it an Input), so that its layers can be tapped."
        ) from error


def _last_map(model: Any, operations: dict[str, Any]) -> str:
    """The last feature map of a user's model; its last vector when it has none."""
    names = [name for name, operation in operations.items() if tappable(operation)]
    maps = [name for name in names if len(operations[name].output.shape) == 4]
    if not names:
        raise ValueError(
            f"The model {model.name!r} has no layer with a feature map or a vector as its output."
        )
    return (maps or names)[-1]


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
