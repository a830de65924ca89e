"""Embeddings of many images by several processes and machines: work units, shards, engines and the driver."""

from tlfeatures.distributed._engines import Engine, LocalEngine
from tlfeatures.distributed._job import Job, UnitResult, compute_unit, probe_unit
from tlfeatures.distributed._units import UNIT_SIZE, Shard, WorkUnit, cut_units

__all__ = [
    "UNIT_SIZE",
    "Engine",
    "Job",
    "LocalEngine",
    "Shard",
    "UnitResult",
    "WorkUnit",
    "compute_unit",
    "cut_units",
    "probe_unit",
]
