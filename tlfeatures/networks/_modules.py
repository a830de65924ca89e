"""Modules with the builders of networks and their ``preprocess_input``."""

from __future__ import annotations

from typing import Any

from tlfeatures._keras import keras
from tlfeatures.networks import alexnet, tiny

__all__ = ["find_builder", "preprocessing_module"]

_OWN = {"alexnet": alexnet, "tiny": tiny}


def find_builder(module: str, builder: str) -> Any:
    """Return the function that builds a network; None if the installed Keras does not have it."""
    return getattr(_OWN.get(module, keras().applications), builder, None)


def preprocessing_module(name: str) -> Any:
    """Return the module whose ``preprocess_input`` normalizes."""
    return _OWN[name] if name in _OWN else getattr(keras().applications, name)
