"""`RayEngine`: compute work units on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tlfeatures._params import Constraint, check_parameters, integer, number
from tlfeatures.distributed._job import Job
from tlfeatures.distributed._unit_results import IsStored, UnitResult
from tlfeatures.distributed._units import WorkUnit
from tlfeatures.errors import EngineError, MissingDependencyError

__all__ = ["RayEngine"]

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class RayEngine:
    """Engine that computes units on the nodes of a Ray cluster.

    Workers are Ray actors. They read images and run the network; the process that calls `run` writes the results, so
    that nodes need access to the images, but not to the store.

    Parameters
    ----------
    address : str or None, default=None
        "auto" or the address of a running cluster, such as "10.0.0.1:6379". None is ``$RAY_ADDRESS`` if that is set;
        without it, Ray is started on this machine, and stopped at the end.
    workers : int or None, default=None
        Number of workers; None is as many as the cluster has room for at the start.
    cpus : float, default=1
        Number of CPUs for each worker, and, rounded, of its threads that decode images and of those of the network.
    gpus : float, default=0
        Number of GPUs for each worker. A fraction such as 0.5 shares a GPU between workers.
    placement_timeout : float, default=300
        Number of seconds after which the run ends with an error if the cluster has room for no worker. Clusters that
        add nodes on demand may need more.

    Raises
    ------
    MissingDependencyError
        In `run`, if Ray is not installed.

    Notes
    -----
    Results are the same as those of `LocalEngine`, whatever happens to workers and nodes: a worker that ends is
    replaced, and its units are computed again. An image that ends the process that decodes it is found by decoding the
    images of its unit one by one; it counts as an unreadable image.

    Examples
    --------
    >>> RayEngine(address="auto", workers=8, gpus=1)
    RayEngine(address='auto', workers=8, cpus=1, gpus=1, placement_timeout=300)
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float = 0
    placement_timeout: float = 300

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "address": [
            None,
            Constraint(
                '"auto" or the address of a cluster, such as "10.0.0.1:6379"',
                lambda value: isinstance(value, str) and bool(value) and not value.startswith("ray://"),
                hint="Ray's client (ray://) is not supported: run on a node of the cluster, or use `ray job submit`.",
            ),
        ],
        "workers": [None, integer(minimum=1)],
        "cpus": [number(above=0)],
        "gpus": [number(minimum=0)],
        "placement_timeout": [number(above=0)],
    }

    def run(
        self, job: Job, units: Iterable[WorkUnit], is_stored: IsStored | None = None
    ) -> Generator[UnitResult]:
        """Compute work units; see `Engine.run`.

        Parameters
        ----------
        job : Job
            Images and what is computed of them.
        units : iterable of WorkUnit
            Units to compute.
        is_stored : callable, optional
            As in `Engine.run`.

        Yields
        ------
        UnitResult
            The result of each unit, in the order in which they are finished.

        Raises
        ------
        MissingDependencyError
            If Ray is not installed.
        EngineError
            If no worker can be placed, workers end repeatedly while they start, or a unit ends its worker repeatedly.
        RecipeMismatchError
            If a node would compute embeddings that differ from those of this machine, for example because of another
            version of Pillow or another weights file.
        """
        check_parameters(self)
        units = iter(units)
        first = next(units, None)
        if first is None:  # everything is stored: Ray is not needed
            return
        ray = _import_ray()
        from tlfeatures.distributed._ray_pool import WorkerPool

        with _connect(ray, self.address):
            pool = WorkerPool(
                ray,
                job,
                itertools.chain([first], units),
                self._count_workers(ray),
                {"num_cpus": self.cpus, "num_gpus": self.gpus},
                self._environment,
                self._n_threads,
                self.placement_timeout,
                is_stored,
            )
            try:
                yield from pool.run()
            finally:
                pool.close()

    @property
    def _n_threads(self) -> int:
        return max(1, round(self.cpus))

    @property
    def _environment(self) -> dict[str, str]:
        """Environment variables of workers: Ray reserves CPUs, but does not limit the number of threads."""
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {**dict.fromkeys(names, str(self._n_threads)), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if 0 < self.gpus < 1:  # TensorFlow would take all of its memory
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        if backend := os.environ.get("KERAS_BACKEND"):
            environment["KERAS_BACKEND"] = backend
        return environment

    def _count_workers(self, ray: Any) -> int:
        if self.workers is not None:
            return self.workers
        resources = ray.cluster_resources()
        capacities = [resources.get("CPU", 0) / self.cpus]
        if self.gpus:
            capacities.append(resources.get("GPU", 0) / self.gpus)
        return max(1, int(min(capacities)))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            f"RayEngine needs Ray, and importing it failed: {error}. Install it with `pip install 'tlfeatures[ray]'`."
        ) from error
    return ray


@contextlib.contextmanager
def _connect(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine; a cluster that was not started here is left running."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address == "local":
            raise EngineError(f"Ray cannot start on this machine: {error}") from error
        raise EngineError(
            f"There is no Ray cluster at `address={address!r}`, or it refuses this machine: {error}. Start one with "
            "`ray start --head`; if it uses token authentication, this machine needs its token too."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise an error if nothing listens at HOST:PORT: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
