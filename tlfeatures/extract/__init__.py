"""Extraction of embeddings: read rows from the store, compute and store the missing ones, in input order."""

from tlfeatures.extract._compatibility import check_decoder, check_recipes, find_recipe_changes
from tlfeatures.extract._counts import ImageCounts
from tlfeatures.extract._extraction import Extracted, extract, warn_of_unreadable
from tlfeatures.extract._progress import show_progress
from tlfeatures.extract._spec import FeatureBlock, FeatureSpec

__all__ = [
    "Extracted",
    "FeatureBlock",
    "FeatureSpec",
    "ImageCounts",
    "check_decoder",
    "check_recipes",
    "extract",
    "find_recipe_changes",
    "show_progress",
    "warn_of_unreadable",
]
