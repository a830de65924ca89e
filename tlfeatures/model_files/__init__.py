"""Files of fitted models that are loaded without running code from the file."""

from tlfeatures.model_files._card import read_card
from tlfeatures.model_files._card_text import format_card, to_markdown
from tlfeatures.model_files._load import load
from tlfeatures.model_files._parts import describe_estimator
from tlfeatures.model_files._save import PICKLES, is_model_file, save

__all__ = [
    "PICKLES",
    "describe_estimator",
    "format_card",
    "is_model_file",
    "load",
    "read_card",
    "save",
    "to_markdown",
]
