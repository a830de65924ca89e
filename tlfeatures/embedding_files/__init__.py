"""Files of embeddings: HDF5, Parquet, or NumPy with a CSV manifest, written in parts."""

from tlfeatures.embedding_files._recognize import SUFFIXES, is_embedding_file, list_files
from tlfeatures.embedding_files._write import WrittenEmbeddings, write_embeddings

__all__ = ["SUFFIXES", "WrittenEmbeddings", "is_embedding_file", "list_files", "write_embeddings"]
