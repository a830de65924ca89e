"""Named poolings of a feature map, and the number of columns of each."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tlfeatures._keras import keras
from tlfeatures._network_options import POOLINGS
from tlfeatures.errors import InvalidParameterError, UnknownNameError

__all__ = ["pool", "pooling_parts", "pooling_width"]

_GEM_POWER, _GEM_MINIMUM = 3.0, 1e-6


def _axes(x: Any) -> tuple[int, ...]:
    return tuple(range(1, len(x.shape) - 1))


def _gem(x: Any) -> Any:
    ops = keras().ops
    return ops.power(ops.mean(ops.power(ops.maximum(x, _GEM_MINIMUM), _GEM_POWER), _axes(x)), 1 / _GEM_POWER)


_POOLS: dict[str, Callable[[Any], Any]] = {
    "avg": lambda x: keras().ops.mean(x, _axes(x)),
    "max": lambda x: keras().ops.max(x, _axes(x)),
    "gem": _gem,
    "flatten": lambda x: keras().ops.reshape(x, (-1, prod(x.shape[1:]))),
    "cls": lambda x: x[:, 0],
    "none": lambda x: x,
}
_CONCATENATIONS = {"avgmax": ("avg", "max"), "clsavg": ("cls", "avg")}


def pooling_parts(pooling: str, rank: int, n_prefix: int | None = None) -> tuple[str, ...]:
    """Return the stored poolings that make up ``pooling`` for an output of that rank, batch axis included.

    "avgmax" is the stored average followed by the stored maximum, and "clsavg" the class token followed by the average.
    A vector (rank 2) is not pooled: every pooling returns the vector itself, stored once.

    >>> pooling_parts("avgmax", 4), pooling_parts("avgmax", 2), pooling_parts("gem", 4)
    (('avg', 'max'), ('none',), ('gem',))
    >>> pooling_parts("clsavg", 3, n_prefix=1)
    ('cls', 'avg')

    Parameters
    ----------
    pooling : str
    rank : int
    n_prefix : int or None, default=None
        Number of tokens before those of the patches, of which the first is the class token; None for outputs that are
        not those of a vision transformer.

    Raises
    ------
    UnknownNameError
        If no pooling has this name; also a ``ValueError``.
    InvalidParameterError
        If the pooling needs a class token and there is none.
    """
    if pooling not in POOLINGS:
        raise UnknownNameError.of("pooling", pooling, POOLINGS)
    if rank == 2:
        return ("none",)
    parts = _CONCATENATIONS.get(pooling, (pooling,))
    if "cls" in parts and not n_prefix:
        output = "a feature map" if rank == 4 else "tokens of patches alone" if n_prefix == 0 else "tokens"
        raise InvalidParameterError(
            f"`pooling={pooling!r}` needs the class token of a vision transformer of KerasHub; the output of this "
            f"layer is {output}. Use 'avg'; the class token of other models is a layer that selects it.",
            "pooling",
        )
    return parts


def pooling_width(part: str, shape: tuple[int, ...]) -> int:
    """Return the number of columns of a stored pooling for an output of ``shape`` (without the batch axis).

    >>> pooling_width("avg", (7, 7, 512)), pooling_width("flatten", (7, 7, 512))
    (512, 25088)
    """
    return prod(shape) if part == "flatten" else shape[-1]


def pool(x: Any, part: str, n_prefix: int | None = None) -> Any:
    """Pool a backend tensor (b, ..., c) to (b, d) in float32.

    "avg", "max" and "gem" leave out the first ``n_prefix`` tokens, which are not those of patches. "gem" is the
    generalized mean with power 3 (Radenović, Tolias and Chum 2018, "Fine-tuning CNN
    image retrieval with no human annotation"), on activations of at least 1e-6.
    """
    if n_prefix and part in ("avg", "max", "gem"):
        x = x[:, n_prefix:]
    return _POOLS[part](keras().ops.cast(x, "float32"))
