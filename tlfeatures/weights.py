"""Weights files of networks: list, download, verify and import them, for machines with and without a connection."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tlfeatures._files import replace_file
from tlfeatures._params import Constraint, boolean, check_parameter, integer, join_alternatives, number
from tlfeatures.errors import InvalidParameterError, WeightsError
from tlfeatures.networks import NETWORKS, NetworkSpec, find_network
from tlfeatures.networks._file_digests import hash_file, hasher
from tlfeatures.networks._recognize_weights import recognize
from tlfeatures.networks._weights import fetch_weights as _fetch
from tlfeatures.networks._weights import writable_folder
from tlfeatures.networks._weights_files import WeightsFile, list_files

__all__ = ["fetch_weights", "import_weights", "list_weights", "verify_weights"]


def _is_mirror(url: Any) -> bool:
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    except ValueError:  # for example for an incomplete IPv6 address
        return False
    has_place = bool(parts.netloc or (parts.scheme == "file" and parts.path))
    return parts.scheme in ("https", "http", "file") and has_place and "@" not in parts.netloc


_IS_MIRROR = Constraint(
    "the address of a folder that starts with https://, http:// or file://, without a user name",
    _is_mirror,
    hint="The folder must have files with the names that `tlfeatures weights list --all` prints.",
)


def list_weights(
    model: str | Iterable[str] | None = None, *, all_sizes: bool = False
) -> list[dict[str, Any]]:
    """List the weights files of the networks, present and absent.

    Parameters
    ----------
    model : str or iterable of str, optional
        Name of a network, or several names; by default all networks.
    all_sizes : bool, default=False
        Include the files for image sizes other than the default, which MobileNet and MobileNetV2 have.

    Returns
    -------
    list of dict
        ``model``; ``top``, whether the file includes the fully connected top; ``image_size``, the side in pixels;
        ``file``, its name; ``url``; ``licence``; ``digest`` (MD5 or SHA-256, or the start of a SHA-256 digest), None if
        none is published; ``path`` and ``bytes``, None if the file is absent; and ``state``: "absent", "digest
        matches", "no digest is published", "part of the package", or "damaged", with the reason in ``problem``.

    Raises
    ------
    UnknownNameError
        If no network has one of these names.

    Notes
    -----
    The digests are those in the source of ``keras.applications``. To compare them, files on this machine are read.

    Examples
    --------
    >>> rows = list_weights("vgg19")
    >>> [(row["top"], row["file"][-15:], row["digest"][:8]) for row in rows]
    [(False, 'ernels_notop.h5', '253f8cb5'), (True, 'g_tf_kernels.h5', 'cbe56171')]
    """
    check_parameter("all_sizes", all_sizes, [boolean()])
    return [file.row(load=False) for spec in _find_networks(model) for file in list_files(spec, all_sizes)]


def verify_weights(model: str | Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Check the weights files on this machine: by their published digests or, if there are none, by loading them.

    Parameters
    ----------
    model : str or iterable of str, optional
        Name of a network, or several names; by default all networks.

    Returns
    -------
    list of dict
        Rows of `list_weights` for the files that are present, whose ``state`` is "digest matches", "loads" or
        "damaged". A file that loads has the arrays of the network; their values cannot be checked.

    Raises
    ------
    UnknownNameError
        If no network has one of these names.
    """
    files = [file for spec in _find_networks(model) for file in list_files(spec, all_sizes=True)]
    return [file.row(load=True) for file in files if file.find() is not None]


def _find_networks(model: str | Iterable[str] | None) -> list[NetworkSpec]:
    """Find the networks with these names, each once; all networks by default."""
    if model is None:
        return list(NETWORKS.values())
    names = [model] if isinstance(model, str) else model
    return list({spec.name: spec for spec in map(find_network, names)}.values())


def fetch_weights(
    model: str,
    *,
    top: bool = False,
    image_size: int | None = None,
    mirror: str | None = None,
    timeout: float = 30.0,
) -> dict[str, Any]:
    """Download the ImageNet weights of a network to the folder of Keras, unless an undamaged file is there.

    An interrupted download is resumed by the next call, if the server still has the same file. The file is checked by
    its published digest or, if there is none, by loading it into the network. Only then does it get its name, so
    no other process ever sees an incomplete file.

    Parameters
    ----------
    model : str
        Name of a network.
    top : bool, default=False
        The file that includes the fully connected top. `CNNFeatures` needs it for fully connected layers only. Ignored
        for networks with a single file.
    image_size : int, optional
        Side in pixels, for networks that have separate weights for some sizes; by default the network's. Ignored for
        other networks.
    mirror : str, optional
        Address of a folder that has the files under the names that `list_weights` returns: https, http or file.
    timeout : float, default=30.0
        Seconds without data, or with less than 1 kB/s, after which the download fails.

    Returns
    -------
    dict
        The row of `list_weights`, and ``downloaded``: whether the file was downloaded now. ``state`` is "digest
        matches" or "loads".

    Raises
    ------
    UnknownNameError
        If no network has this name.
    InvalidParameterError
        If a parameter is invalid, or the network has no weights for this image size.
    WeightsError
        If the download fails; nothing is left under the name of the file.

    Notes
    -----
    Proxies are read from the environment variables ``http_proxy``, ``https_proxy`` and ``no_proxy``, and the folder
    from ``KERAS_HOME``. A damaged file on this machine is replaced.

    Examples
    --------
    >>> fetch_weights("tiny")["downloaded"]  # it is part of the package
    False
    """
    check_parameter("top", top, [boolean()])
    check_parameter("image_size", image_size, [None, integer(minimum=1)])
    check_parameter("mirror", mirror, [None, _IS_MIRROR])
    check_parameter("timeout", timeout, [number(above=0, maximum=86400)])
    spec = find_network(model)
    if image_size is not None and spec.weight_sizes and image_size not in spec.weight_sizes:
        raise _make_size_error(spec, image_size)
    side = image_size if image_size in spec.weight_sizes else spec.image_size
    file = WeightsFile(spec, top and "{notop}" in spec.url, side)
    row = file.row(load=True)
    downloaded = row["state"] in ("absent", "damaged")
    if downloaded and spec.bundled:
        raise WeightsError(f"{row['problem']} It is part of the package: install tlfeatures again.")
    if downloaded:
        damaged = row["path"]
        if damaged is not None and not os.access(damaged.parent, os.W_OK):
            raise WeightsError(f"{row['problem']} Its folder is read-only: delete the file, then try again.")
        _fetch(spec, **file.variant, check=file.check_loads, mirror=mirror, timeout=timeout, damaged=damaged)
        row = file.row(load=False)
        row["state"] = "digest matches" if file.digest else "loads"
    return row | {"downloaded": downloaded}


def import_weights(
    path: str | os.PathLike[str], *, model: str | None = None, image_size: int | None = None
) -> dict[str, Any]:
    """Copy a weights file that was downloaded elsewhere to the folder where Keras looks for it.

    The network is recognized by the published digest of the file, whatever its name is. For the networks without
    published digests, MobileNet and MobileNetV2, it is recognized by its name, else by the shapes of its arrays, and
    the file is checked by loading it. The copy is renamed to its final name when it is complete.

    Parameters
    ----------
    path : path
        The file; its name does not matter if its digest is published.
    model : str, optional
        Name of the network, if it cannot be recognized.
    image_size : int, optional
        Side in pixels that the weights are for, if the network has separate weights for some sizes and the file was
        renamed.

    Returns
    -------
    dict
        The row of `list_weights` of the copy, and ``imported``: False if the same file was already there.

    Raises
    ------
    UnknownNameError
        If no network has the name ``model``.
    InvalidParameterError
        If ``model`` is part of the package, or has no weights for this image size.
    WeightsError
        If the file is absent or damaged, or not a weights file that Keras publishes.

    Notes
    -----
    Weights that you trained yourself are not imported: ``CNNFeatures(name, weights="path/to/file")`` uses them.
    """
    check_parameter("image_size", image_size, [None, integer(minimum=1)])
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"No file at {os.fspath(path)!r}; expected a weights file that Keras publishes.")
    specs = [find_network(model)] if model is not None else [s for s in NETWORKS.values() if not s.bundled]
    if specs[0].bundled:
        raise InvalidParameterError(
            f"`model` must be a network with a weights file; {model!r} is part of the package.", "model"
        )
    files = [file for spec in specs for file in list_files(spec, all_sizes=True)]
    if image_size is not None:
        files = [file for file in files if not file.spec.weight_sizes or file.side == image_size]
    if not files:
        raise _make_size_error(specs[0], image_size)
    file, state = recognize(path, files)
    present = file.find()
    imported = present is None or hash_file(present, "") != hash_file(path, "")
    if imported:
        _copy(path, (writable_folder() if present is None else present.parent) / file.name)
    return file.row(load=False) | {"imported": imported, "state": state}


def _make_size_error(spec: NetworkSpec, image_size: int | None) -> InvalidParameterError:
    return InvalidParameterError(
        f"`image_size` must be {join_alternatives(map(str, spec.weight_sizes))} for {spec.name!r}; got {image_size}.",
        "image_size",
    )


def _copy(path: Path, target: Path) -> None:
    """Copy a file; the copy is renamed to its final name when it is complete and has the same digest."""
    expected, digest = hash_file(path, ""), hasher("")
    with open(path, "rb") as source, replace_file(target) as copy:
        while block := source.read(1 << 20):
            copy.write(block)
            digest.update(block)
        if digest.hexdigest() != expected:
            raise WeightsError(f"{os.fspath(path)!r} changed while it was copied; try again.")
