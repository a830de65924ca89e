"""Code that runs on the nodes of a Ray cluster: workers, and the search for images that crash the decoder."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tlfeatures.distributed._job import Job
from tlfeatures.distributed._stamps import read_stamps
from tlfeatures.distributed._unit_results import IsStored, UnitResult, compute_unit, probe_unit
from tlfeatures.distributed._units import WorkUnit
from tlfeatures.errors import RecipeMismatchError
from tlfeatures.extract._object_storage import KEEP_BYTES
from tlfeatures.images import Images

__all__ = ["Worker", "find_fatal_images", "list_versions"]

_PACKAGES = ("tlfeatures", "keras", "pillow")
_MAX_STARTS = 4
_FATAL = (
    "the process crashed twice while decoding this image: the decoder may fail on it or need too much memory"
)


def list_versions() -> dict[str, str]:
    """Return the versions of the packages that determine embeddings."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


class Worker:
    """Computes units in a process of its own.

    The constructor does nothing, because Ray does not raise the original error of a constructor.
    """

    def locate(self) -> str:
        """Return the id of the node."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def prepare(self, pickled: bytes, environment: Mapping[str, str], versions: Mapping[str, str]) -> None:
        """Load the network.

        Parameters
        ----------
        pickled : bytes
            The pickled `Job`, without images. The environment is set before it is unpickled.
        environment : mapping
            Environment variables, such as the numbers of threads.
        versions : mapping
            The versions of packages on the driver's machine, as `list_versions` returns them.

        Raises
        ------
        RecipeMismatchError
            If the version of a package on this node differs from that on the driver's machine.
        """
        from ray import cloudpickle

        os.environ.update(environment)
        here = list_versions()
        changes = [
            f"{name} {here[name]} instead of {versions[name]}"
            for name in versions
            if here[name] != versions[name]
        ]
        if changes:
            raise RecipeMismatchError(
                f"The node {platform.node()!r} has {', '.join(changes)}, so its embeddings may differ from those of "
                "the machine that started the job. Install the same versions on all nodes, for example by one "
                "container image for all."
            )
        self.job: Job = cloudpickle.loads(pickled)
        self._images: dict[str, Images] = {}  # keys are ids of units
        self.job.prepare()

    def read_keys(self, unit: WorkUnit, images: Images) -> np.ndarray:
        """Return the digests of the images of a unit, uint8 (n, 16), with zeros where an image cannot be read.

        The images are kept for `compute`.
        """
        self._images[unit.id] = images
        return images.keys(self.job.n_threads, KEEP_BYTES)[0]

    def compute(
        self,
        unit: WorkUnit,
        images: Images | None,
        stored_keys: np.ndarray | None,
        fatal: Mapping[int, str],
    ) -> UnitResult:
        """Compute a unit.

        Parameters
        ----------
        unit : WorkUnit
        images : Images or None
            Those of ``unit.todo()``; None means the images that `read_keys` received.
        stored_keys : ndarray of uint8, shape (k, 16), optional
            Digests of images that need no computation.
        fatal : mapping
            {row: reason} of images that must not be decoded.
        """
        images = self._images.pop(unit.id) if images is None else images
        is_stored = None if stored_keys is None else _make_membership_test(stored_keys)
        if not fatal:
            return compute_unit(replace(self.job, images=images), unit, is_stored)
        safe = np.array([row not in fatal for row in unit.todo().tolist()], bool)
        part = replace(unit, rows=tuple(unit.todo()[safe].tolist()))
        stamps = read_stamps(images)
        result = compute_unit(replace(self.job, images=images.take(np.flatnonzero(safe))), part, is_stored)
        errors = dict(sorted((result.errors | dict(fatal)).items()))
        return replace(result, unit=unit, stamps=stamps, errors=errors)


class Prober:
    """Decodes the images of a unit one after the other, without the network."""

    def __init__(self, job: Job, unit: WorkUnit) -> None:
        self._rows = probe_unit(job, unit)

    def advance(self) -> int | None:
        """Decode the image whose row the last call returned; return the row of the next one, or None at the end."""
        return next(self._rows, None)


def find_fatal_images(job: Job, unit: WorkUnit) -> dict[int, str]:
    """Find images that crash the process that decodes them; return {row: reason}.

    Another process names each image before it decodes it. An image is returned if the process crashes on it twice.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor_class: Any = ray.remote(Prober).options(num_cpus=0, max_restarts=0, scheduling_strategy=node)
    fatal: dict[int, str] = {}
    todo, n_crashes = unit.todo().tolist(), Counter[int | None]()
    while todo:
        images = job.images.take(np.searchsorted(unit.todo(), todo))
        prober = actor_class.remote(replace(job, images=images), replace(unit, rows=tuple(todo)))
        row = None
        try:
            while (announced := ray.get(prober.advance.remote())) is not None:
                row = announced
            return fatal
        except ray.exceptions.RayActorError:
            n_crashes[row] += 1
            if row is None:
                if n_crashes[row] == _MAX_STARTS:
                    raise
                continue
            todo = todo[todo.index(row) :]
            if n_crashes[row] == 2:
                fatal[todo.pop(0)] = _FATAL
        finally:
            ray.kill(prober)
    return fatal


def _make_membership_test(stored_keys: np.ndarray) -> IsStored:
    members = set(map(bytes, stored_keys))
    return lambda keys: np.array([bytes(key) in members for key in keys], bool)
