"""Named heads, the scikit-learn estimators that are fitted on embeddings, and the fusion of several layers."""

from tlfeatures.heads._fusion import BlockScaler, MeanRBFKernel
from tlfeatures.heads._named import (
    DEFAULT_HEAD,
    MAX_KERNEL_ROWS,
    Task,
    blas_threads,
    head_grid,
    list_heads,
    make_head,
    make_nystroem,
)
from tlfeatures.heads._nystroem import StableNystroem

__all__ = [
    "DEFAULT_HEAD",
    "MAX_KERNEL_ROWS",
    "BlockScaler",
    "MeanRBFKernel",
    "StableNystroem",
    "Task",
    "blas_threads",
    "head_grid",
    "list_heads",
    "make_head",
    "make_nystroem",
]
