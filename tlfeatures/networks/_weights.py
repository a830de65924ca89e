"""Weights of a network: find, download, load or initialize them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._files import atomic_write
from tlfeatures._keras import read_checkpoint, weights_folders
from tlfeatures.errors import MissingDependencyError, WeightsError
from tlfeatures.networks import alexnet
from tlfeatures.networks._registry import NETWORKS, NetworkSpec
from tlfeatures.networks.tiny import read_arrays

__all__ = ["available_networks", "draw_weights", "fetch_weights", "find_weights", "read_weights"]


def find_weights(spec: NetworkSpec, *, top: bool, image_size: tuple[int, int]) -> Path | None:
    """Find the pretrained weights on this machine: in the package, in the folders of Keras, and PyTorch's ``.pth``
    files also in that of ``torch.hub``. None if absent.
    """
    if spec.bundled:
        return Path(__file__).with_name(spec.bundled)
    name = spec.weights_file(top=top, image_size=image_size)
    folders = [*weights_folders(), *([_torch_hub_folder()] if name.endswith(".pth") else [])]
    return next((f / name for f in folders if (f / name).is_file()), None)


def _torch_hub_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or caches / "torch") / "hub" / "checkpoints"


def fetch_weights(spec: NetworkSpec, *, top: bool, image_size: tuple[int, int]) -> Path:
    """Find the weights file, or download it.

    Raises
    ------
    WeightsError
        When it cannot be downloaded; the message has the file, the folder where Keras looks for it and how to
        work offline.
    """
    path = find_weights(spec, top=top, image_size=image_size)
    if path is not None:
        return path
    name = spec.weights_file(top=top, image_size=image_size)
    url = spec.weights_url(top=top, image_size=image_size)
    folder = next((f for f in weights_folders() if _writable(f)), weights_folders()[0])
    try:
        return _download(url, folder / name)
    except Exception as error:
        # for networks with an entry layer, Keras builds a different graph if weights is a path
        path_option = "" if spec.entry else "pass `weights='path/to/file'`, "
        raise WeightsError(
            f"The ImageNet weights of {spec.name!r} are not on this machine and could not be downloaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Expected the file {name} in {folder}. "
            f"To work offline, download {url} on another machine and copy it there (KERAS_HOME sets the folder "
            f"that contains 'models'), {path_option}or pass `weights=None` for random weights. Networks whose weights "
            f"are on this machine: {', '.join(map(repr, available_networks()))}."
        ) from error


def available_networks() -> list[str]:
    """List the networks whose pretrained weights, for their default image size, are on this machine."""
    return [
        spec.name
        for spec in NETWORKS.values()
        if any(
            find_weights(spec, top=top, image_size=(spec.image_size,) * 2) is not None
            for top in (False, True)
        )
    ]


def _writable(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK)


def _download(url: str, target: Path, timeout: float = 30.0) -> Path:
    """Download ``url``; ``target`` is complete or absent. Fails after ``timeout`` seconds without data."""
    from rich.console import Console
    from rich.progress import wrap_file

    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(url, timeout=timeout) as response,
        atomic_write(target, sync=False) as file,
        wrap_file(
            response,
            total := int(response.headers["Content-Length"] or 0),
            description=target.name,
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as source,
    ):
        while block := source.read(1 << 20):
            file.write(block)
            digest.update(block)
        if total and file.tell() != total:
            raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
        _check_digest(target, digest.hexdigest())
    return target


def _check_digest(path: str | os.PathLike[str], digest: str) -> None:
    """Raise an OSError if the name of a PyTorch checkpoint has the start of another SHA-256 digest."""
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", os.fspath(path))
    if match and not digest.startswith(match[1]):
        raise OSError(f"its SHA-256 digest is {digest[:16]}..., but its name says {match[1]}")


def read_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Load a weights file into ``model``.

    Raises
    ------
    WeightsError
        When the file is absent, damaged, or of another network.
    """
    if not os.path.isfile(path):
        raise WeightsError(f"No weights file at {os.fspath(path)!r}; expected a .weights.h5 or .h5 file.")
    is_checkpoint = str(path).endswith(".pth")
    if is_checkpoint and model.name != "alexnet":
        raise WeightsError(
            f"Weights file {os.fspath(path)!r} is a checkpoint of PyTorch, which only 'alexnet' can read; for "
            f"{model.name!r} it must end in .weights.h5 or .h5, as Keras writes them."
        )
    if not is_checkpoint and not str(path).endswith((".h5", ".hdf5", ".keras", ".npz")):
        raise WeightsError(
            f"Weights file {os.fspath(path)!r} must end in .weights.h5 or .h5, as Keras writes them."
        )
    try:
        if is_checkpoint:
            with open(path, "rb") as file:
                _check_digest(path, hashlib.file_digest(file, "sha256").hexdigest())
            alexnet.read_state_dict(model, read_checkpoint(path))
        elif str(path).endswith(".npz"):
            read_arrays(model, path)
        else:
            model.load_weights(path)
    except MissingDependencyError:
        raise
    except Exception as error:
        raise WeightsError(
            f"Cannot load the weights file {os.fspath(path)!r} into {model.name!r}: "
            f"{' '.join(str(error).split())[:300]}. It is damaged (delete it to download it again), of another "
            "network, or has a top for another image size."
        ) from error


def draw_weights(layers: Mapping[str, Any]) -> None:
    """Fill kernels with He-normal values (He et al. 2015), seeded by the names of layer and variable.

    The values are the same on every machine and backend, with and without the top. Biases and
    normalization statistics keep their initial values.
    """
    for name, layer in layers.items():
        for variable in getattr(layer, "weights", ()):  # operations that are not layers have none
            shape = tuple(variable.shape)
            if len(shape) < 2:
                continue
            depthwise = "Depthwise" in type(layer).__name__ or variable.name.startswith("depthwise")
            fan_in = math.prod(shape[:2]) if depthwise else math.prod(shape[:-1])
            seed = hashlib.blake2b(f"{name}/{variable.name}".encode(), digest_size=8).digest()
            values = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(
                shape, dtype=np.float32
            )
            variable.assign(values * np.float32(math.sqrt(2.0 / fan_in)))
