"""Engines: where work units are computed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from tlfeatures.distributed._job import Job
from tlfeatures.distributed._unit_results import IsStored, UnitResult, compute_batches
from tlfeatures.distributed._units import WorkUnit

__all__ = ["Engine", "LocalEngine"]


class Engine(Protocol):
    """Protocol of engines, which compute work units and store nothing."""

    def run(
        self, job: Job, units: Iterable[WorkUnit], is_stored: IsStored | None = None
    ) -> Generator[UnitResult]:
        """Compute work units.

        Parameters
        ----------
        job : Job
        units : iterable of WorkUnit
            Read only as far as units can be computed: a unit is locked from the moment when it is taken.
        is_stored : callable, optional
            Returns which keys, uint8 (n, 16), are stored; such images need no computation. It reads a store of this
            machine, and cannot be pickled.

        Yields
        ------
        UnitResult
            Of each unit, in any order; several results of a unit, each with a part of its rows, are allowed.

        Raises
        ------
        TransientReadError
            If the storage of an image fails repeatedly. Units whose results were yielded before are finished.

        Notes
        -----
        Closing the iterator ends the computation.
        """
        ...


class LocalEngine:
    """Engine that computes the units one after the other in this process; threads decode the images.

    Examples
    --------
    >>> LocalEngine()
    LocalEngine()
    """

    def __repr__(self) -> str:
        return "LocalEngine()"

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
            The result of each unit.
        """
        for unit in units:
            yield from compute_batches(job.take(unit), unit, is_stored)
