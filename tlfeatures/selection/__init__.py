"""Which network, layer and head: a cross-validated search that runs each image through each network once."""

from tlfeatures.selection._search import FeatureSearchCV, select

__all__ = ["FeatureSearchCV", "select"]
