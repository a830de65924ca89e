"""Weights of a network: find, download, load or initialize them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlfeatures._keras import read_checkpoint, weights_folders
from tlfeatures.errors import MissingDependencyError, WeightsError
from tlfeatures.networks import alexnet
from tlfeatures.networks._download import download
from tlfeatures.networks._file_digests import describe_digest, hash_file
from tlfeatures.networks._published_digests import PUBLISHED_DIGESTS
from tlfeatures.networks._registry import NETWORKS, NetworkSpec
from tlfeatures.networks.tiny import read_arrays

__all__ = [
    "available_networks", "draw_weights", "fetch_weights", "find_weights", "published_digest", "read_weights",
    "writable_folder",
]  # fmt: skip


def find_weights(spec: NetworkSpec, *, top: bool, image_size: tuple[int, int]) -> Path | None:
    """Find the file of the pretrained weights on this machine; return None if it is absent.

    It is looked for in the package, in the folders of Keras and, if it is a ``.pth`` file of PyTorch, in the folder of
    ``torch.hub``.
    """
    if spec.bundled:
        return Path(__file__).with_name(spec.bundled)
    name = spec.weights_file(top=top, image_size=image_size)
    folders = [*weights_folders(), *([_torch_hub_folder()] if name.endswith(".pth") else [])]
    return next((f / name for f in folders if (f / name).is_file()), None)


def _torch_hub_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or caches / "torch") / "hub" / "checkpoints"


def published_digest(file: str) -> str:
    """Return the published digest of a weights file by its name, or "" if there is none.

    It has 32 (MD5) or 64 (SHA-256) hexadecimal digits; the name of a PyTorch checkpoint has the first eight of its
    SHA-256 digest.

    >>> published_digest("alexnet-owt-7be5be79.pth"), published_digest("mobilenet_1_0_224_tf.h5")
    ('7be5be79', '')
    """
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", file)
    return match[1] if match else PUBLISHED_DIGESTS.get(file, "")


def fetch_weights(
    spec: NetworkSpec,
    *,
    top: bool,
    image_size: tuple[int, int],
    check: Callable[[Path], None] | None = None,
    mirror: str | None = None,
    timeout: float = 30.0,
    damaged: Path | None = None,
) -> Path:
    """Find the weights file, or download it.

    Parameters
    ----------
    spec : NetworkSpec
    top : bool
    image_size : (int, int)
    check : callable, optional
        Function of a path that raises an error if the file cannot be loaded into the network. It checks downloaded
        files without a published digest.
    mirror : str, optional
        Address of a folder with a file of the same name, from which the file is downloaded instead.
    timeout : float, default=30.0
        Seconds without data after which the download fails.
    damaged : Path, optional
        A file on this machine that the download replaces.

    Raises
    ------
    WeightsError
        If the file cannot be downloaded; the message names the file and the folder where Keras looks for it, and says
        how to work offline.
    """
    path = find_weights(spec, top=top, image_size=image_size)
    if path is not None and path != damaged:
        return path
    name = spec.weights_file(top=top, image_size=image_size)
    url = spec.weights_url(top=top, image_size=image_size)
    if mirror is not None:
        url = f"{mirror.rstrip('/')}/{name}"
    folder = damaged.parent if damaged else writable_folder()
    digest = published_digest(name)
    try:
        download(url, folder / name, digest, None if digest else check, timeout)
    except Exception as error:
        raise WeightsError(_describe_failure(spec, top, image_size, folder, error, damaged)) from error
    return folder / name


def writable_folder() -> Path:
    """Return the first folder of Keras that is writable, or the first folder if none is."""
    return next((f for f in weights_folders() if _writable(f)), weights_folders()[0])


def _describe_failure(
    spec: NetworkSpec,
    top: bool,
    image_size: tuple[int, int],
    folder: Path,
    error: Exception,
    damaged: Path | None,
) -> str:
    kind = " with the fully connected top" if top and "{notop}" in spec.url else ""
    problem = (
        f"The ImageNet weights of {spec.name!r}{kind} are not on this machine and could not be downloaded"
    )
    if damaged is not None:
        problem = (
            f"The weights file {str(damaged)!r} of {spec.name!r} is damaged and could not be downloaded again"
        )
    name = spec.weights_file(top=top, image_size=image_size)
    command = f"tlfeatures weights fetch {spec.name}{' --top' if kind else ''}"
    if name != spec.weights_file(top=top, image_size=(spec.image_size,) * 2):
        command += f" --image-size {image_size[0]}"
    url = spec.weights_url(top=top, image_size=image_size)
    others = [other for other in available_networks() if other != spec.name]
    error_type = "" if type(error) in (OSError, WeightsError) else f"{type(error).__name__}: "
    # for networks with an entry layer, Keras builds a different graph if weights is a path
    path_option = "" if spec.entry else "pass `weights='path/to/file'`, "
    return (
        f"{problem} ({error_type}{' '.join(str(error).split())[:300]}). Expected the file {name} in {folder} "
        f"(KERAS_HOME sets the folder that contains 'models'). `{command}` tries again; its option --mirror names "
        f"another server. To work offline, download {url} on another machine and run "
        f"`tlfeatures weights import FILE` here, {path_option}or pass `weights=None` for random weights. "
        f"Other networks whose weights are on this machine: {', '.join(map(repr, others))}."
    )


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


def read_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Load a weights file into ``model``.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, or of another network.
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
            _check_digest(path)
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


def _check_digest(path: str | os.PathLike[str]) -> None:
    """Raise an OSError if the SHA-256 digest of a PyTorch checkpoint does not start with the digits in its name."""
    digest = published_digest(os.path.basename(path))
    if digest and not (actual := hash_file(path, digest)).startswith(digest):
        raise OSError(f"its {describe_digest(digest, actual)}")


def draw_weights(layers: Mapping[str, Any]) -> None:
    """Fill kernels with He-normal values (He et al. 2015), seeded by the names of layer and variable.

    The values are the same on every machine and backend, with and without the top. Biases and
    normalization statistics keep their initial values.
    """
    for name, layer in layers.items():
        for variable in getattr(layer, "weights", ()):  # operations that are not layers have no weights
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
