"""Extraction: ask the store, compute the missing rows once, write them, gather in input order."""

from tlfeatures.extract._extraction import Extracted, extract
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec

__all__ = ["Extracted", "FeatureBlock", "FeatureSpec", "extract"]
