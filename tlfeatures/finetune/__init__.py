"""Fine-tuning of pretrained networks by Keras, as scikit-learn estimators."""

from tlfeatures.finetune._augment import Augmenter, draw_augmentations
from tlfeatures.finetune._bundle import is_bundle, load_bundle
from tlfeatures.finetune._classifier import FineTuneClassifier
from tlfeatures.finetune._curves import average_histories, draw_curves
from tlfeatures.finetune._frozen_or_finetuned import (
    MODEL_NAMES,
    FrozenOrFinetuned,
    TrainingSummary,
    fit_frozen_or_finetuned,
)
from tlfeatures.finetune._keras_models import FineTunedModel, make_embedding_model, make_finetuned_model
from tlfeatures.finetune._regressor import FineTuneRegressor

__all__ = [
    "MODEL_NAMES",
    "Augmenter",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "FineTunedModel",
    "FrozenOrFinetuned",
    "TrainingSummary",
    "average_histories",
    "draw_augmentations",
    "draw_curves",
    "fit_frozen_or_finetuned",
    "is_bundle",
    "load_bundle",
    "make_embedding_model",
    "make_finetuned_model",
]
