"""Cross-validated search for the network, layer and head that suit labelled images."""

from tlfeatures.selection._result import sample_embeddings
from tlfeatures.selection._search import FeatureSearchCV
from tlfeatures.selection._select import select

__all__ = ["FeatureSearchCV", "sample_embeddings", "select"]
