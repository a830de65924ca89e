"""Linear heads trained on batches of stored embeddings, for embeddings that do not fit into memory."""

from tlfeatures.streaming._head import StreamedHead, fit_head
from tlfeatures.streaming._pipeline import StreamedPipeline, fit_streaming

__all__ = ["StreamedHead", "StreamedPipeline", "fit_head", "fit_streaming"]
