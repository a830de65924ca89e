"""The workers of a run on Ray: they are started, given units, and replaced when they end."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlfeatures.distributed._job import Job
from tlfeatures.distributed._ray_workers import Worker, find_fatal_images, list_versions
from tlfeatures.distributed._unit_results import IsStored, UnitResult
from tlfeatures.distributed._units import WorkUnit
from tlfeatures.errors import EngineError
from tlfeatures.images import Images

__all__ = ["WorkerPool"]

_UNITS_PER_WORKER = 2  # one is decoded while the network runs on the other
_MAX_STARTS = 4  # number of starts of a worker that always ends before it is ready
_SUSPECT = 2  # workers lost with a unit after which its images are decoded one by one
_MAX_LOSSES = 6  # workers lost with one unit
_POLL_SECONDS = 1.0
_RESUME = "Finished units are stored: the same call resumes."


@dataclass(eq=False)
class _Worker:
    """A Ray actor, from its request to its end.

    Attributes
    ----------
    actor : actor handle of `Worker`
    since : float
        When it was requested; seconds of the monotonic clock.
    n_lost : int
        Number of predecessors that ended, one after the other, before they were ready.
    node : str
        Id of the node; "" until it is placed.
    is_ready : bool
        Whether the network is loaded.
    n_units : int
        Number of units that it has been given and not finished.
    """

    actor: Any
    since: float
    n_lost: int = 0
    node: str = ""
    is_ready: bool = False
    n_units: int = 0


@dataclass
class _UnitState:
    """A unit, with what happened to it: lost workers, the node of the last one, and images that end a process."""

    unit: WorkUnit
    n_lost: int = 0
    node: str = ""
    fatal: dict[int, str] | None = None


@dataclass
class _Call:
    """A call of a method of a worker, or with ``worker=None`` the search for images that end a process."""

    on_result: Callable[[_Call, Any], UnitResult | None]
    worker: _Worker | None
    state: _UnitState | None = None


class WorkerPool:
    """Workers that compute the units of a job.

    Parameters
    ----------
    ray : module
        Connected to a cluster.
    job : Job
    units : iterator of WorkUnit
    n_workers : int
        Largest number of workers; there are no more workers than units.
    resources : dict
        Options of Ray for each worker: CPUs and GPUs.
    environment : dict
        Environment variables of the workers.
    n_threads : int
        Number of decoding threads of each worker.
    placement_timeout : float
        Seconds.
    is_stored : callable, optional
        As in `Engine.run`.
    """

    def __init__(
        self,
        ray: Any,
        job: Job,
        units: Iterator[WorkUnit],
        n_workers: int,
        resources: dict[str, float],
        environment: dict[str, str],
        n_threads: int,
        placement_timeout: float,
        is_stored: IsStored | None = None,
    ) -> None:
        from ray import cloudpickle

        self._ray, self._job, self._units, self._is_stored = ray, job, units, is_stored
        self._resources, self._placement_timeout = resources, placement_timeout
        worker_job = replace(job.without_images(), n_threads=n_threads)
        self._arguments = ray.put(cloudpickle.dumps(worker_job)), environment, list_versions()
        self._actor_class = ray.remote(Worker).options(
            **resources, max_concurrency=_UNITS_PER_WORKER, max_restarts=0, max_task_retries=0
        )
        self._queue = deque(map(_UnitState, itertools.islice(units, n_workers)))
        self._calls: dict[Any, _Call] = {}  # keys are references to results
        self._failure: BaseException | None = None
        self._workers = [self._start_worker() for _ in self._queue]

    def run(self) -> Iterator[UnitResult]:
        """Compute all units.

        Raises
        ------
        Exception
            The first error of a unit, after the results of the units that were being computed.
        """
        while True:
            self._assign_units()
            is_last = self._failure is not None or not self._fill_queue()
            if is_last and not any(call.state for call in self._calls.values()):
                break
            finished, _ = self._ray.wait(list(self._calls), timeout=_POLL_SECONDS)
            for reference in finished:
                result = self._receive(reference, self._calls.pop(reference))
                if result is not None:
                    yield result
            self._check_placement()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        for reference, call in self._calls.items():
            if call.worker is None:
                self._ray.cancel(reference, force=True)

    # --- workers

    def _start_worker(self, n_lost: int = 0) -> _Worker:
        worker = _Worker(self._actor_class.remote(), time.monotonic(), n_lost)
        self._calls[worker.actor.locate.remote()] = _Call(self._prepare, worker)
        return worker

    def _prepare(self, call: _Call, node: str) -> None:
        worker = call.worker
        worker.node = node
        self._calls[worker.actor.prepare.remote(*self._arguments)] = _Call(self._set_ready, worker)

    def _set_ready(self, call: _Call, _: None) -> None:
        call.worker.is_ready = True

    def _check_placement(self) -> None:
        """Raise an error if no worker has been placed for too long."""
        if any(worker.node for worker in self._workers):
            return
        waiting = time.monotonic() - min(worker.since for worker in self._workers)
        if waiting > self._placement_timeout:
            total = self._ray.cluster_resources()
            raise EngineError(
                f"The Ray cluster had no room for a worker with {_describe(self._resources)} in {waiting:.0f} s. All "
                f"its nodes together have {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs. Use fewer "
                "for each worker (`cpus` and `gpus`, or --cpus-per-worker and --gpus-per-worker), end other jobs on "
                "the cluster, add a node, or raise `placement_timeout` if the cluster adds nodes on demand. "
                f"{_RESUME}"
            )

    # --- units

    def _assign_units(self) -> None:
        """Send units to workers, first to those that have none."""
        for n_units in range(_UNITS_PER_WORKER):
            for worker in self._workers:
                if worker.is_ready and worker.n_units == n_units and self._failure is None:
                    state = self._next_unit()
                    if state is None:
                        return
                    self._send(worker, state)

    def _fill_queue(self) -> bool:
        """Take a unit if none is waiting; return whether one is waiting."""
        if not self._queue:
            self._queue.extend(map(_UnitState, itertools.islice(self._units, 1)))
        return bool(self._queue)

    def _next_unit(self) -> _UnitState | None:
        """Return a unit to compute, or None; units that may contain a fatal image are searched instead."""
        while self._fill_queue():
            state = self._queue.popleft()
            if state.n_lost < _SUSPECT or state.fatal is not None:
                return state
            self._probe(state)
        return None

    def _send(self, worker: _Worker, state: _UnitState) -> None:
        worker.n_units += 1
        images = self._job.take(state.unit).images
        if self._is_stored is None:
            self._compute(worker, state, images, None)
        else:
            reference = worker.actor.read_keys.remote(state.unit, images)
            self._calls[reference] = _Call(self._look_up, worker, state)

    def _look_up(self, call: _Call, keys: np.ndarray) -> None:
        self._compute(call.worker, call.state, None, keys[self._is_stored(keys)])

    def _compute(
        self, worker: _Worker, state: _UnitState, images: Images | None, stored_keys: np.ndarray | None
    ) -> None:
        reference = worker.actor.compute.remote(state.unit, images, stored_keys, state.fatal or {})
        self._calls[reference] = _Call(self._finish, worker, state)

    def _finish(self, call: _Call, result: UnitResult) -> UnitResult:
        call.worker.n_units -= 1
        return result

    def _probe(self, state: _UnitState) -> None:
        """Search for images that end the process that decodes them, on the node of the last worker."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = NodeAffinitySchedulingStrategy(state.node, soft=True)
        search = self._ray.remote(find_fatal_images).options(num_cpus=0, scheduling_strategy=node)
        reference = search.remote(self._job.take(state.unit), state.unit)
        self._calls[reference] = _Call(self._set_fatal, None, state)

    def _set_fatal(self, call: _Call, fatal: dict[int, str]) -> None:
        call.state.fatal = fatal
        self._queue.append(call.state)

    # --- results and errors

    def _receive(self, reference: Any, call: _Call) -> UnitResult | None:
        """Process the result of a call, or its error; return the result of a unit if this was the last call for it."""
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # an exception that the worker raised
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, self._ray.exceptions.RayActorError):  # the node of a search ended
                self._replace(call, cause)
                return None
            if call.state is None:
                raise cause from error
            if call.worker is not None:
                call.worker.n_units -= 1
            self._failure = self._failure or cause
            return None
        except self._ray.exceptions.RayError as error:
            self._replace(call, error)
            return None
        return call.on_result(call, value)

    def _replace(self, call: _Call, error: Exception) -> None:
        """Replace a worker that was lost, and put its unit back into the queue."""
        state, worker = call.state, call.worker
        if worker in self._workers:  # this is the first of its calls that fails
            self._ray.kill(worker.actor)  # it may still run, and only be unreachable
            n_lost = 0 if worker.is_ready else worker.n_lost + 1
            if n_lost == _MAX_STARTS:
                raise EngineError(
                    f"A worker with {_describe(self._resources)} ended {n_lost} times before it was ready, most likely "
                    "because its node has too little memory for the network. Use fewer workers or more `cpus` for "
                    f"each, so that fewer of them share a node. {_RESUME} The last error was: {error}"
                ) from error
            self._workers[self._workers.index(worker)] = self._start_worker(n_lost)
        if state is not None:
            state.n_lost += 1
            state.node = worker.node if worker else state.node
            if state.n_lost == _MAX_LOSSES:
                rows = state.unit.todo()
                first, last = (self._job.images.name(row) for row in (rows[0], rows[-1]))
                raise EngineError(
                    f"{state.n_lost} workers ended while they computed the images from {first!r} to {last!r}, but no "
                    "single image ends the process that decodes it. Use a smaller `batch_size`, or fewer workers on "
                    f"each node, in case there is too little memory. {_RESUME} The last error was: {error}"
                ) from error
            self._queue.append(state)


def _describe(resources: dict[str, float]) -> str:
    cpus, gpus = resources["num_cpus"], resources["num_gpus"]
    text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return f"{text} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else text
