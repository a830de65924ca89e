"""Networks by their names, in any spelling."""

from __future__ import annotations

from typing import Any

from tlfeatures.errors import UnknownNameError
from tlfeatures.networks._presets import PRESETS, find_preset, is_preset, plain_name
from tlfeatures.networks._registry import NETWORKS, NetworkSpec

__all__ = ["find_licence", "find_network", "names_preset"]

_SPELLINGS = {plain_name(n): spec for spec in NETWORKS.values() for n in (spec.name, *spec.aliases)}


def find_licence(model: Any, weights: Any) -> str | None:
    """Return the licence of the pretrained weights of a network; None for other networks and weights.

    Examples
    --------
    >>> find_licence("MobileNetV2", "imagenet"), find_licence("mine.keras", "imagenet")
    ('Apache-2.0', None)
    """
    if not isinstance(model, str):
        return None
    spec = _SPELLINGS.get(plain_name(model)) or find_preset(model)
    return None if spec is None or weights not in ("imagenet", "bundled") else spec.licence


def names_preset(model: Any) -> bool:
    """Whether ``model`` is a preset of KerasHub by its name, handle or folder, and not a network of Keras."""
    return is_preset(model) and not (isinstance(model, str) and plain_name(model) in _SPELLINGS)


def find_network(name: str) -> NetworkSpec:
    """Find the row of a network by its name, in any case or spelling.

    Raises
    ------
    UnknownNameError
        A ``ValueError`` with the nearest names.

    Examples
    --------
    >>> find_network("MobileNetV2").name, find_network("ResNet50V2").image_size
    ('mobilenet_v2', 224)
    """
    try:
        return _SPELLINGS[plain_name(name)]
    except KeyError:
        pass
    if is_preset(name):
        raise UnknownNameError(
            f"{name!r} is a preset of KerasHub, or a path; expected the name of a network of keras.applications, "
            "'alexnet' or 'tiny'. A preset has neither a classification layer nor a weights file in Keras's folder; "
            f"the first use, such as CNNFeatures({name!r}).fit(images), downloads it.",
            "model",
        )
    raise UnknownNameError.of(
        "network", name.lower(), [*NETWORKS, *PRESETS], "`tlfeatures models` for all names", "model"
    ) from None
