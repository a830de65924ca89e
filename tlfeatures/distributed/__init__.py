"""Embeddings of many images by several processes and machines: work units, shards, engines and the driver."""

from tlfeatures.distributed._embed import (
    EmbeddingChunk,
    EmbeddingRun,
    embed_images,
    fill_store,
    iter_embeddings,
)
from tlfeatures.distributed._engines import Engine, LocalEngine
from tlfeatures.distributed._job import Job
from tlfeatures.distributed._ray import RayEngine
from tlfeatures.distributed._unit_results import UnitResult, compute_unit, probe_unit
from tlfeatures.distributed._units import UNIT_SIZE, Shard, WorkUnit, cut_units

__all__ = [
    "UNIT_SIZE",
    "EmbeddingChunk",
    "EmbeddingRun",
    "Engine",
    "Job",
    "LocalEngine",
    "RayEngine",
    "Shard",
    "UnitResult",
    "WorkUnit",
    "compute_unit",
    "cut_units",
    "embed_images",
    "fill_store",
    "iter_embeddings",
    "probe_unit",
]
