"""The Keras fine-tune stage, for when frozen is not enough."""

from tlfeatures.finetune.augment import Augmenter, draw_augmentations
from tlfeatures.finetune.bundle import is_bundle, load_bundle
from tlfeatures.finetune.curves import average_histories, draw_curves
from tlfeatures.finetune.estimators import FineTuneClassifier, FineTuneRegressor

__all__ = [
    "Augmenter",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "average_histories",
    "draw_augmentations",
    "draw_curves",
    "is_bundle",
    "load_bundle",
]
