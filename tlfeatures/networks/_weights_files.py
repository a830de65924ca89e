"""Weights files of networks: their names, addresses and digests, and whether they are on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlfeatures._keras import untouched_random_state
from tlfeatures.errors import WeightsError
from tlfeatures.networks._file_digests import describe_digest, hash_file
from tlfeatures.networks._modules import find_builder
from tlfeatures.networks._registry import NetworkSpec
from tlfeatures.networks._weights import find_weights, published_digest, read_weights

__all__ = ["WeightsFile", "list_files"]


@dataclass(frozen=True)
class WeightsFile:
    """A weights file of a network, with or without its top, which may be absent."""

    spec: NetworkSpec
    top: bool
    side: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.spec.bundled or self.spec.weights_file(**self.variant)

    @property
    def variant(self) -> dict[str, Any]:
        """Arguments of `find_weights`."""
        return {"top": self.top, "image_size": (self.side, self.side)}

    @property
    def digest(self) -> str:
        """Published digest, or "" if there is none."""
        return published_digest(self.name)

    def find(self) -> Path | None:
        """Find the file on this machine."""
        return find_weights(self.spec, **self.variant)

    def describe(self) -> str:
        """Describe the network in a few words.

        >>> from tlfeatures.networks import NETWORKS
        >>> WeightsFile(NETWORKS["mobilenet"], True, 128).describe()
        "'mobilenet' with its top for 128 pixels"
        """
        top = "with" if self.top else "without"
        size = f" for {self.side} pixels" if self.spec.weight_sizes else ""
        return f"{self.spec.name!r} {top} its top{size}"

    def check_digest(self, path: Path) -> None:
        """Raise an error if a file does not have the published digest."""
        if not (actual := hash_file(path, self.digest)).startswith(self.digest):
            raise WeightsError(
                f"{os.fspath(path)!r} is not the published weights file of {self.describe()}: its "
                f"{describe_digest(self.digest, actual)}. It is damaged or another file."
            )

    def build(self) -> Any:
        """Build the network without pretrained weights."""
        build = find_builder(self.spec.module, self.spec.builder)
        shape = (self.side, self.side, 3)
        with untouched_random_state():
            return build(include_top=self.top, weights=None, input_shape=shape, **dict(self.spec.kwargs))

    def check_loads(self, path: Path) -> None:
        """Raise an error if a file does not load into the network."""
        read_weights(self.build(), path)

    def row(self, load: bool) -> dict[str, Any]:
        """Return the row of the table; if ``load``, files without a published digest are loaded."""
        path, state, problem = self.find(), "absent", None
        if path is not None:
            try:
                if self.digest:
                    self.check_digest(path)
                    state = "digest matches"
                elif load:
                    self.check_loads(path)
                    state = "loads"
                else:
                    state = "part of the package" if self.spec.bundled else "no digest is published"
            except OSError as error:
                state, problem = "damaged", str(error)
        return {
            "model": self.spec.name,
            "top": self.top,
            "image_size": self.side,
            "file": self.name,
            "url": None if self.spec.bundled else self.spec.weights_url(**self.variant),
            "licence": self.spec.licence,
            "digest": self.digest or None,
            "path": path,
            "bytes": None if path is None else path.stat().st_size,
            "state": state,
            "problem": problem,
        }


def list_files(spec: NetworkSpec, all_sizes: bool) -> Iterator[WeightsFile]:
    """Iterate over the files of a network; each of them once."""
    sizes = spec.weight_sizes if all_sizes and spec.weight_sizes else (spec.image_size,)
    tops = (False,) if spec.bundled or "{notop}" not in spec.url else (False, True)
    yield from (WeightsFile(spec, top, side) for side in sizes for top in tops)
