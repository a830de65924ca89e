"""A frozen network of a preset of KerasHub."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tlfeatures._files import file_stamp
from tlfeatures._keras import keras
from tlfeatures._keras.hub import open_preset, read_normalization
from tlfeatures.errors import InvalidParameterError, WeightsError
from tlfeatures.fingerprints import recipe_digest
from tlfeatures.networks import _metadata, _presets
from tlfeatures.networks._backbone import Backbone, Description, network_lock
from tlfeatures.networks._digests import code_identity, model_digest
from tlfeatures.networks._graph import Graph
from tlfeatures.networks._loading import Variant, cached_graph
from tlfeatures.networks._presets import PresetSpec

__all__ = ["HubBackbone"]

_VERSION = 1  # increased when a change in this package alters the embeddings of the same preset


@dataclass(frozen=True)
class HubGraph(Graph):
    """The graph of a preset, with its image size, and the standard taps of a convolutional network."""

    size: tuple[int, int] = (224, 224)
    standard: tuple[str, ...] = ()


class HubBackbone(Backbone):
    """A frozen image network of a preset of KerasHub; see `Backbone` for the parameters and errors.

    Its layers are "embedding", "block_1", "block_2", ..., "norm", and with a text encoder the output that is
    compared with that of the text. Convolutional networks have the layers of their graph.
    """

    path = None
    model = None
    has_own_weights = True

    def _set_model(self, model: Any) -> None:
        self.preset = _presets.canonical_name(model)
        if os.path.isabs(self.preset) and not os.path.isdir(self.preset):
            raise WeightsError(
                f"`model` names a folder that does not exist: {os.fspath(model)!r}, which is {self.preset!r}. Expected "
                "the folder of a preset saved by save_to_preset, a .keras file, a handle such as 'hf://user/network', "
                "or a name that `tlfeatures models` lists."
            )

    def _check_weights(self, weights: Any) -> Any:
        if weights != "imagenet":
            raise InvalidParameterError(
                f"`weights` must be left out for the preset {self.preset!r}, which has its own; got {weights!r}.",
                "weights",
            )
        return weights

    @property
    def name(self) -> str:
        """Name, handle or folder of the preset."""
        return self.preset

    @functools.cached_property
    def spec(self) -> PresetSpec:  # type: ignore[override]
        """Facts of the network: from the configuration in its folder, or else the table, or else the network."""
        return self._find_spec() or self._read_loaded_spec()

    def _find_spec(self) -> PresetSpec | None:
        """Return the facts of the network without loading it; None for a convolutional network."""
        folder = _presets.find_folder(self.preset)
        spec = _presets.read_spec(self.preset, folder) if folder else None
        return spec or _presets.PRESETS.get(self.preset)

    def _read_loaded_spec(self) -> PresetSpec:
        variant, loaded, _ = self._load(None)
        self._after_loading(variant, loaded)
        graph: Any = loaded
        height = graph.model.inputs[0].shape[1] or graph.size[0]
        n_blocks = sum(name.startswith("block_") for name in graph.taps) if graph.n_prefix is not None else 0
        return PresetSpec(self.preset, n_blocks, image_size=height, taps=graph.standard)

    def describe(self, layers: Sequence[str] | None = None, store: Any = None) -> Description:
        """Describe taps; the facts of a convolutional network come from the metadata too. See `Backbone.describe`."""
        if "spec" not in vars(self) and self._find_spec() is None:
            metadata = _metadata.load(next(self._variants()).key, store)
            if metadata is not None:
                depth, image_size, taps = metadata["spec"]
                self.spec = PresetSpec(self.preset, depth, image_size=image_size, taps=tuple(taps))
        return super().describe(layers, store)

    def _make_metadata(self, graph: Graph, layers: Sequence[str] | None) -> tuple[dict[str, Any], bool]:
        metadata, is_persistent = super()._make_metadata(graph, layers)
        spec = self.spec
        return {**metadata, "spec": [spec.depth, spec.image_size, list(spec.taps)]}, is_persistent

    def _variants(self) -> Iterator[Variant]:
        folder = _presets.find_folder(self.preset)
        files = _presets.list_files(folder) if folder else []
        key = None
        if files:
            key = {
                "bare": self.normalization != "auto",
                "size": self.image_size,
                "preset": [[file.name, *file_stamp(file)] for file in files],
                "keras_hub": _version(),
                "version": _VERSION,
            }
        yield Variant(True, folder, key)

    def _names_key(self) -> dict[str, Any] | None:
        return None

    def _graph(self, variant: Variant, identity: str) -> HubGraph:
        return cached_graph(identity, lambda: self._open(variant))

    def _open(self, variant: Variant) -> HubGraph:
        network = _presets.read_preset(
            self.preset, lambda source: open_preset(source, self.image_size), "config.json"
        )
        graph = Graph.of(network.model, canonical=False)
        names = {layer.name: name for name, layer in network.layers.items()}
        return HubGraph(
            network.model,
            {names.get(name, name): operation for name, operation in graph.operations.items()},
            {names.get(name, name): tap for name, tap in graph.taps.items()},
            network.n_prefix,
            network.size,
            network.taps,
        )

    def _identity(self, variant: Variant) -> str:
        return f"{variant} {self.preset} {self.image_size}"

    def _tapped(self, graph: Graph, layers: Sequence[str]) -> Any:
        return keras().Model(graph.model.inputs[0], [graph.taps[layer] for layer in layers])

    def _identify(self, layer: str, tapped: Any) -> tuple[str, str | None]:
        return recipe_digest({"preset": model_digest(tapped), "version": _VERSION}), code_identity(tapped)

    def _loaded_size(self, graph: Any) -> tuple[int, int]:
        return graph.size

    def _own_normalization(self, graph: Graph) -> Any:
        return _presets.read_preset(self.preset, read_normalization, "image_converter.json")

    def _recipe_name(self) -> str:
        return "keras_hub"  # the digest identifies the network, so that a name and a folder share rows

    def without_weights(self) -> Backbone:
        """Return this network: its weights are part of the preset."""
        return self

    def skeleton(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return operations and tappable outputs by name, from input to output."""
        with network_lock():
            graph = self._load(None)[1]
        return graph.operations, graph.taps


def _version() -> str:
    try:
        return importlib.metadata.version("keras-hub")
    except importlib.metadata.PackageNotFoundError:
        return "absent"
