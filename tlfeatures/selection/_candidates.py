"""The embeddings to try: networks x sizes x ways to resize x layers x poolings, and what each costs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Integral
from typing import Any

from tlfeatures._keras import is_model, keras_version
from tlfeatures._warnings import warn
from tlfeatures.errors import RandomWeightsWarning, UnknownNameError
from tlfeatures.extract import Column, Plan
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.networks import Backbone, layer_table, pooling_parts
from tlfeatures.store import EmbeddingStore

__all__ = ["Embedding", "Pass", "plan_passes"]

_STEP = 16  # pixels: half of a default size is rounded to this
_costs: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class Embedding:
    """One embedding to try: everything of a candidate but its head.

    Attributes
    ----------
    params : dict
        Parameters of :class:`~tlfeatures.CNNFeatures`: model, image_size, resize, layer, pooling.
    network : str
        Name of the network, for people.
    layers : tuple of str
    depth : int
        Place of the deepest layer among the standard taps (or the layers given), from 0.
    macs : int
        Multiplications of one image on the way to the deepest layer.
    reach : float
        They as a share of those on the way to the network's last feature map: 1 at it, less before.
    """

    params: dict[str, Any]
    network: str
    layers: tuple[str, ...]
    depth: int
    macs: int
    reach: float
    columns: tuple[Column, ...] = field(repr=False)

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(column.width for column in self.columns)

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for equal embeddings, whatever their parameters are called."""
        return tuple(recipe_digest(column.recipe) for column in self.columns)


@dataclass(frozen=True)
class Pass:
    """One run of a network over all images: the union of what its embeddings need."""

    network: str
    resize: str
    plan: Plan
    embeddings: tuple[Embedding, ...]

    def __str__(self) -> str:
        height, width = self.plan.description.image_size
        size = f"{height}" if height == width else f"{height}x{width}"
        return f"{self.network} at {size} pixels, {self.resize}"


def plan_passes(
    models: Any,
    layers: Any,
    poolings: Any,
    image_sizes: Any,
    resize: Any,
    store: EmbeddingStore | None,
    *,
    weights: Any,
    precision: str,
    **decoding: Any,
) -> list[Pass]:
    """Expand the grid; no image is looked at, and known networks are not loaded.

    Parameters
    ----------
    models, layers, poolings, image_sizes, resize
        As in `FeatureSearchCV`.
    store : EmbeddingStore or None
    weights, precision
        Of :class:`~tlfeatures.networks.Backbone`.
    **decoding
        ``interpolation``, ``decode`` and ``max_value``.

    Raises
    ------
    UnknownNameError, WeightsError, ValueError, TypeError
        As `CNNFeatures`; and when a part of the grid is empty.
    """
    if weights is None:
        warn(
            "weights=None: the networks have random weights, and their embeddings are not pretrained.",
            RandomWeightsWarning,
        )
    models, poolings, ways = (
        _several(value, name)
        for value, name in ((models, "models"), (poolings, "poolings"), (resize, "resize"))
    )
    passes, seen = [], set()
    for model in models:
        for size in _sizes(model, image_sizes, weights, precision):
            backbone = Backbone(model, weights, size, precision=precision)
            sets, order = _layer_sets(model, layers, backbone)
            names = list(dict.fromkeys(name for group in sets for name in group)) or None
            end = (list(backbone.spec.taps) if backbone.spec else _stages(model) if sets else [])[-1:]
            for way in ways:
                plan = Plan.make(backbone, names, poolings[0], store, resize=way, **decoding)
                costs = _layer_costs(backbone, plan.description.image_size, store)
                groups = sets or [tuple(tap.layer for tap in plan.description.taps)]
                whole = max(costs.get(layer, 0) for layer in (end or groups[-1]))
                found = []
                for group in groups:
                    for pooling in poolings:
                        embedding = _embedding(plan, model, size, way, group, pooling, order, costs, whole)
                        if embedding.identity not in seen:
                            seen.add(embedding.identity)
                            found.append(embedding)
                if found:
                    union = {recipe_digest(c.recipe): c for e in found for c in e.columns}
                    joint = Plan(plan.backbone, plan.description, plan.decoder, tuple(union.values()))
                    passes.append(Pass(found[0].network, way, joint, tuple(found)))
    return passes


def _embedding(
    plan: Plan,
    model: Any,
    size: Any,
    resize: str,
    layers: tuple[str, ...],
    pooling: str,
    order: Sequence[str],
    costs: Mapping[str, int],
    whole: int,
) -> Embedding:
    taps = {tap.layer: tap for tap in plan.description.taps}
    columns = tuple(
        plan.column(taps[layer], part)
        for layer in layers
        for part in pooling_parts(pooling, len(taps[layer].shape) + 1)
    )
    backbone = plan.backbone
    named = backbone.spec.name if backbone.spec else backbone.path or model
    params = {
        "model": named,
        "image_size": size,
        "resize": resize,
        "layer": layers[0] if len(layers) == 1 else list(layers),
        "pooling": pooling,
    }
    network = os.path.basename(named) if isinstance(named, str) else backbone.name
    depth = max((order.index(layer) for layer in layers if layer in order), default=0)
    macs = max(costs.get(layer, 0) for layer in layers)
    return Embedding(params, network, layers, depth, macs, macs / whole if whole else 1.0, columns)


def _several(value: Any, name: str) -> list[Any]:
    """A list of choices; one choice alone stands for a list of one."""
    single = isinstance(value, (str, os.PathLike)) or is_model(value)
    choices = [value] if single else list(value) if isinstance(value, Iterable) else []
    if not choices:
        raise ValueError(f"{name}={value!r}; expected one choice or a list of at least one.")
    return choices


def _sizes(model: Any, image_sizes: Any, weights: Any, precision: str) -> list[Any]:
    if image_sizes is None:
        return [None]
    if isinstance(image_sizes, str):
        if image_sizes != "auto":
            raise ValueError(
                f"image_sizes={image_sizes!r}; expected 'auto', None, or a list of sizes in pixels."
            )
        spec = Backbone(model, weights, precision=precision).spec
        return [None] if spec is None else [None, _STEP * round(spec.image_size / 2 / _STEP)]
    sizes = [image_sizes] if isinstance(image_sizes, Integral) else _several(image_sizes, "image_sizes")
    return [int(size) if isinstance(size, Integral) else size for size in sizes]


def _layer_sets(model: Any, layers: Any, backbone: Backbone) -> tuple[list[tuple[str, ...]], list[str]]:
    """The sets of layers to try (none: the last output), and all layers early to late."""
    if isinstance(layers, Mapping):
        names = {(b.spec.name if b.spec else b.path or m): m for m in layers for b in [Backbone(m)]}
        key = backbone.spec.name if backbone.spec else backbone.path or model
        if key not in names:
            raise UnknownNameError.of("network in `layers`", key, map(str, names))
        layers = layers[names[key]]
    if layers is None:
        return [], []
    if isinstance(layers, str) and layers == "auto":
        taps = list(backbone.spec.taps) if backbone.spec else _stages(model)
        joined = [tuple(taps[-n:]) for n in (2, 3) if len(taps) >= n]
        return [*((tap,) for tap in taps), *joined], taps
    given = [layers] if isinstance(layers, str) else list(layers)
    sets = [(group,) if isinstance(group, str) else tuple(group) for group in given]
    if not sets or not all(group and all(isinstance(name, str) for name in group) for group in sets):
        raise ValueError(
            f"layers={layers!r}; expected 'auto', None, or a list whose members are names of layers, or lists of names."
        )
    order = list(backbone.spec.taps) if backbone.spec else []
    return sets, order if {n for g in sets for n in g} <= set(order) else [n for g in sets for n in g]


def _stages(model: Any) -> list[str]:
    """Taps of a model of the user's own: the last feature map of each resolution, six at most."""
    last: dict[tuple[int, ...], str] = {}
    for row in layer_table(model):
        if len(row["shape"]) == 3:
            last.pop(row["shape"][:2], None)
            last[row["shape"][:2]] = row["layer"]
    return list(last.values())[-6:]


def _layer_costs(backbone: Backbone, size: tuple[int, int], store: EmbeddingStore | None) -> dict[str, int]:
    """Multiplications of one image up to each layer; from the store's side notes where it has them."""
    key = {"macs": 1, "network": backbone.name, "size": list(size), "keras": keras_version()}
    lasting = backbone.spec is not None
    if lasting and str(key) in _costs:
        return _costs[str(key)]
    held = store.get_sidecar(key) if lasting and store is not None else None
    if held is None:
        held, total = {}, 0
        own = Backbone(backbone.spec.name, None, size) if lasting else backbone
        for name, operation in own.skeleton()[0].items():
            shape = getattr(getattr(operation, "output", None), "shape", ())
            kernels = [prod(w.shape) for w in getattr(operation, "weights", ()) if len(w.shape) > 1]
            total += sum(kernels) * prod(n or 1 for n in shape[1:-1])
            held[name] = total
        if lasting and store is not None:
            store.put_sidecar(key, held)
    if lasting:
        _costs[str(key)] = held
    return held
