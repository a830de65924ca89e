"""Multiply-accumulate operations of a network up to each of its layers."""

from __future__ import annotations

from math import prod

from tlfeatures._keras import keras_version
from tlfeatures.networks import Backbone, TorchBackbone
from tlfeatures.store import EmbeddingStore

__all__ = ["count_operations"]

_in_memory: dict[str, dict[str, int]] = {}


def count_operations(
    backbone: Backbone | TorchBackbone, size: tuple[int, int], store: EmbeddingStore | None
) -> dict[str, int]:
    """Count the multiply-accumulate operations of layers with kernels, for one image.

    For networks of the registry the counts are kept in memory and in the store's sidecar, so that Keras is needed
    only once.

    Parameters
    ----------
    backbone : Backbone or TorchBackbone
    size : (int, int)
        Size of ``backbone``'s images, which identifies the stored counts.
    store : EmbeddingStore or None

    Returns
    -------
    dict of str to int
        The operations up to and including each layer.
    """
    if isinstance(backbone, TorchBackbone):
        return backbone.count_operations()
    key = {"macs": 1, "network": backbone.name, "size": list(size), "keras": keras_version()}
    if backbone.spec is None:
        return _count(backbone)
    stored = None if store is None else store.get_sidecar(key)
    counts = stored or _in_memory.get(str(key)) or _count(backbone.without_weights())
    if store is not None and stored is None:
        store.put_sidecar(key, counts)  # also if they are in memory: another process may use this store
    _in_memory[str(key)] = counts
    return counts


def _count(backbone: Backbone) -> dict[str, int]:
    counts, total = {}, 0
    for name, operation in backbone.skeleton()[0].items():
        shape = getattr(getattr(operation, "output", None), "shape", ())
        kernels = [prod(w.shape) for w in getattr(operation, "weights", ()) if len(w.shape) > 1]
        total += sum(kernels) * prod(n or 1 for n in shape[1:-1])
        counts[name] = total
    return counts
