"""Named heads, the scikit-learn estimators that are fitted on embeddings, and the fusion of several layers."""

from tlfeatures.heads._fusion import BlockScaler, MeanRBFKernel
from tlfeatures.heads._named import DEFAULT_HEAD, Task, blas_threads, head_grid, list_heads, make_head

__all__ = [
    "DEFAULT_HEAD",
    "BlockScaler",
    "MeanRBFKernel",
    "Task",
    "blas_threads",
    "head_grid",
    "list_heads",
    "make_head",
]
