"""Candidate embeddings: networks x image sizes x resize modes x layers x poolings, with the cost of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Integral
from typing import Any, Literal

from tlfeatures._network_options import is_network
from tlfeatures._warnings import warn
from tlfeatures.errors import RandomWeightsWarning, UnknownNameError
from tlfeatures.extract import FeatureBlock, FeatureSpec
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.networks import Backbone, NetworkSpec, TorchBackbone, layer_table, open_backbone
from tlfeatures.selection._layer_costs import count_operations
from tlfeatures.store import EmbeddingStore

__all__ = ["Embedding", "EmbeddingGrid", "Pass", "plan_passes"]

# Words for sets of layers in the parameter `layers`
_WORDS = {"auto": ("standard",), "standard": ("standard",), "fused": ("fused",)}
_SIZE_MULTIPLE = 16  # pixels; half of a default size is rounded to a multiple of it

LayerSet = tuple[tuple[str, ...], bool]  # names of layers, and whether they are fused


@dataclass(frozen=True)
class Embedding:
    """One candidate embedding: a candidate without its head.

    Attributes
    ----------
    params : dict
        Parameters of :class:`~tlfeatures.CNNFeatures`: model, image_size, resize, layer, pooling.
    network : str
        Display name of the network; further networks of the same name have a number, such as "model.keras (2)".
    layers : tuple of str
    fused : bool
        Whether the layers are fused: each scaled to the same total variance.
    depth : int
        Index of the deepest layer among the standard taps, or among the layers that were passed.
    macs : int
        Multiply-accumulate operations per image up to the deepest layer.
    relative_cost : float
        ``macs`` relative to those of the network's last feature map: 1 for that layer, less for earlier ones.
    """

    params: dict[str, Any]
    network: str
    layers: tuple[str, ...]
    fused: bool
    depth: int
    macs: int
    relative_cost: float
    columns: tuple[FeatureBlock, ...] = field(repr=False)

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(column.width for column in self.columns)

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Widths of the layers if they are fused, else None."""
        if not self.fused:
            return None
        widths = dict.fromkeys(self.layers, 0)
        for column in self.columns:
            widths[column.recipe["layer"]] += column.width
        return tuple(widths.values())

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the recipes."""
        return tuple(recipe_digest(column.recipe) for column in self.columns)

    @property
    def identity(self) -> tuple[bool, tuple[str, ...]]:
        """A value that is equal for equal embeddings under different parameters."""
        return self.fused, self.digests

    @property
    def layer_label(self) -> str:
        """Display name of the layers."""
        return "fused" if self.fused else "+".join(self.layers)


@dataclass(frozen=True)
class Pass:
    """One run of a network over all images, for all embeddings that need it."""

    network: str
    resize: str
    plan: FeatureSpec
    embeddings: tuple[Embedding, ...]

    def __str__(self) -> str:
        height, width = self.plan.description.image_size
        size = f"{height}" if height == width else f"{height}x{width}"
        return f"{self.network} at {size} pixels, {self.resize}"


@dataclass(eq=False, repr=False)
class EmbeddingGrid:
    """The parameters of :class:`~tlfeatures.FeatureSearchCV` that choose the embeddings to compare."""

    models: Any = "mobilenet"
    _: KW_ONLY
    layers: Any = "auto"
    poolings: Any = ("avg", "max")
    image_sizes: Any = "auto"
    resize: Any = ("stretch", "crop")
    weights: str | os.PathLike[str] | None = "imagenet"
    interpolation: str = "bilinear"
    decode: Literal["scaled", "exact"] = "scaled"
    max_value: int | None = None
    window: tuple[float, float] | None = None
    normalization: Any = "auto"
    views: str | None = None
    precision: str = "float32"
    runtime: str | None = None


def plan_passes(grid: EmbeddingGrid, store: EmbeddingStore | None) -> list[Pass]:
    """Expand a grid into passes. Images are not read, and networks of the registry are not loaded.

    Parameters
    ----------
    grid : EmbeddingGrid
    store : EmbeddingStore or None

    Raises
    ------
    UnknownNameError, WeightsError, ValueError, TypeError
        As in `CNNFeatures`, or if a part of the grid is empty.
    """
    if grid.weights is None:
        warn(
            "`weights=None`: the networks have random weights, and their embeddings are not pretrained.",
            RandomWeightsWarning,
        )
    models = _as_list(grid.models, "models")
    poolings, resize_modes = _as_list(grid.poolings, "poolings"), _as_list(grid.resize, "resize")
    passes, planned = [], set()
    for model in models:
        for size in _list_image_sizes(model, grid):
            for resize in resize_modes:
                plan, embeddings = _plan_embeddings(grid, store, model, size, resize, poolings)
                embeddings = [e for e in embeddings if e.identity not in planned]
                planned |= {e.identity for e in embeddings}
                if embeddings:
                    columns = {recipe_digest(c.recipe): c for e in embeddings for c in e.columns}
                    joint = replace(plan, columns=tuple(columns.values()))
                    passes.append(Pass(embeddings[0].network, resize, joint, tuple(embeddings)))
    return _number_networks(passes)


def _number_networks(passes: list[Pass]) -> list[Pass]:
    """Append numbers to equal display names of different networks, such as files of the same name in two folders."""
    models: dict[str, list[Any]] = {}
    numbered = []
    for planned in passes:
        model, same_name = planned.embeddings[0].params["model"], models.setdefault(planned.network, [])
        if model not in same_name:
            same_name.append(model)
        if (number := same_name.index(model) + 1) > 1:
            name = f"{planned.network} ({number})"
            embeddings = tuple(replace(embedding, network=name) for embedding in planned.embeddings)
            planned = replace(planned, network=name, embeddings=embeddings)
        numbered.append(planned)
    return numbered


def _plan_embeddings(
    grid: EmbeddingGrid, store: EmbeddingStore | None, model: Any, size: Any, resize: str, poolings: list[str]
) -> tuple[FeatureSpec, list[Embedding]]:
    """Plan all layers and poolings of one network, image size and resize mode, without equal embeddings."""
    backbone = open_backbone(model, grid.weights, size, grid.normalization, grid.precision, grid.runtime)
    layer_sets, order = _list_layer_sets(model, grid.layers, backbone)
    names = list(dict.fromkeys(name for layers, _ in layer_sets for name in layers)) or None
    plan = FeatureSpec.make(
        backbone,
        names,
        poolings[0],
        store,
        resize=resize,
        interpolation=grid.interpolation,
        decode=grid.decode,
        max_value=grid.max_value,
        window=grid.window,
    ).with_views(grid.views)
    taps = {tap.layer: tap for tap in plan.description.taps}
    layer_sets = layer_sets or [(tuple(taps), False)]
    standard = list(backbone.spec.taps) if backbone.spec else _choose_taps(model, backbone) if names else []
    macs = count_operations(backbone, plan.description.image_size, store)
    full_macs = max(macs.get(layer, 0) for layer in (standard[-1:] or layer_sets[-1][0]))
    name = _get_canonical_name(backbone, model)
    embeddings: dict[Any, Embedding] = {}
    for layers, fused in layer_sets:
        deepest = max(macs.get(layer, 0) for layer in layers)
        for pooling in poolings:
            embedding = Embedding(
                params={
                    "model": name,
                    "image_size": size,
                    "resize": resize,
                    "layer": layers[0] if len(layers) == 1 else list(layers),
                    "pooling": pooling,
                },
                network=os.path.basename(name) if isinstance(name, str) else backbone.name,
                layers=layers,
                fused=fused,
                depth=max((order.index(layer) for layer in layers if layer in order), default=0),
                macs=deepest,
                relative_cost=deepest / full_macs if full_macs else 1.0,
                columns=tuple(
                    plan.column(taps[layer], part) for layer in layers for part in taps[layer].parts(pooling)
                ),
            )
            embeddings.setdefault(embedding.identity, embedding)
    return plan, list(embeddings.values())


def _as_list(value: Any, name: str) -> list[Any]:
    """Return a list of values; a single value becomes a list with one element."""
    single = isinstance(value, (str, os.PathLike)) or is_network(value)
    values = [value] if single else list(value) if isinstance(value, Iterable) else []
    if not values:
        raise ValueError(f"`{name}` must be one value or a non-empty list; got {value!r}.")
    return values


def _list_image_sizes(model: Any, grid: EmbeddingGrid) -> list[Any]:
    sizes = grid.image_sizes
    if sizes is None:
        return [None]
    if isinstance(sizes, str):
        if sizes != "auto":
            raise ValueError(
                f"`image_sizes` must be 'auto', None, or a list of sizes in pixels; got {sizes!r}."
            )
        spec = open_backbone(model, grid.weights, None, grid.normalization, grid.precision).spec
        if not isinstance(spec, NetworkSpec):  # most vision transformers have one size
            return [None]
        return [None, _SIZE_MULTIPLE * round(spec.image_size / 2 / _SIZE_MULTIPLE)]
    sizes = [sizes] if isinstance(sizes, Integral) else _as_list(sizes, "image_sizes")
    return [int(size) if isinstance(size, Integral) else size for size in sizes]


def _list_layer_sets(
    model: Any, layers: Any, backbone: Backbone | TorchBackbone
) -> tuple[list[LayerSet], list[str]]:
    """Return the sets of layers to try (empty for the last output), and all layers, early to late."""
    if isinstance(layers, Mapping):
        by_name = {
            _get_canonical_name(open_backbone(key, normalization=backbone.normalization), key): value
            for key, value in layers.items()
        }
        name = _get_canonical_name(backbone, model)
        if name not in by_name:
            raise UnknownNameError.of("network in `layers`", name, map(str, by_name))
        layers = by_name[name]
    if layers is None:
        return [], []
    entries = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else [layers]
    taps = list(backbone.spec.taps) if backbone.spec else []
    if not taps and any(isinstance(entry, str) and entry in _WORDS for entry in entries):
        taps = _choose_taps(model, backbone)
    sets: list[LayerSet] = []
    for entry in entries:
        if isinstance(entry, str) and entry in _WORDS:
            sets += [layer_set for word in _WORDS[entry] for layer_set in _expand(word, taps)]
        else:
            names = (entry,) if isinstance(entry, str) else entry if isinstance(entry, Iterable) else ()
            sets.append((tuple(names), False))
    if not sets or not all(names and all(isinstance(name, str) for name in names) for names, _ in sets):
        raise ValueError(
            "`layers` must be 'auto', 'standard', 'fused', None, or a list of these words, of layer names and of "
            f"lists of layer names; got {layers!r}."
        )
    listed = [name for names, _ in sets for name in names]
    return sets, taps if set(listed) <= set(taps) else listed


def _expand(word: str, taps: list[str]) -> list[LayerSet]:
    """Return the sets of layers that "standard" or "fused" stand for."""
    if word == "fused":
        return [(tuple(taps), len(taps) > 1)]  # a single layer has no other to be fused with
    concatenated = [tuple(taps[-n:]) for n in (2, 3) if len(taps) >= n]
    return [(names, False) for names in (*((tap,) for tap in taps), *concatenated)]


def _get_canonical_name(backbone: Backbone | TorchBackbone, model: Any) -> Any:
    return backbone.spec.name if backbone.spec else backbone.path or model


def _choose_taps(model: Any, backbone: Backbone | TorchBackbone) -> list[str]:
    """Choose taps of a user's model: the last feature map of each resolution, at most six."""
    last_layers: dict[tuple[int, ...], str] = {}
    # a keras.Model knows the size of its images, a torch.nn.Module does not
    size = backbone.image_size if isinstance(backbone, TorchBackbone) else None
    for row in layer_table(model, size):
        if len(row["shape"]) == 3:
            last_layers.pop(row["shape"][:2], None)
            last_layers[row["shape"][:2]] = row["layer"]
    return list(last_layers.values())[-6:]
