"""Frozen pretrained networks as scikit-learn feature extractors for images.

The public names are imported on first use, so that ``import tlfeatures`` is fast and a script whose
embeddings are all in the store never imports Keras.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlfeatures.distributed import embed_images
    from tlfeatures.evaluation import compare
    from tlfeatures.features import CNNFeatures
    from tlfeatures.finetune import FineTuneClassifier, FineTuneRegressor
    from tlfeatures.images import check_images
    from tlfeatures.model_files import load, save
    from tlfeatures.networks import list_layers, list_models
    from tlfeatures.pretrained import ImageNetClassifier
    from tlfeatures.selection import FeatureSearchCV, select
    from tlfeatures.skip_unreadable import SkipUnreadable
    from tlfeatures.store import EmbeddingStore
    from tlfeatures.train_on_views import TrainOnViews
    from tlfeatures.trust import ConformalClassifier, ConformalRegressor, audit, explain, suggest
    from tlfeatures.zero_shot import ZeroShotClassifier

__version__ = "0.2.0"

__all__ = [
    "CNNFeatures",
    "ConformalClassifier",
    "ConformalRegressor",
    "EmbeddingStore",
    "FeatureSearchCV",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "ImageNetClassifier",
    "SkipUnreadable",
    "TrainOnViews",
    "ZeroShotClassifier",
    "__version__",
    "audit",
    "check_images",
    "compare",
    "embed_images",
    "explain",
    "list_layers",
    "list_models",
    "load",
    "save",
    "select",
    "suggest",
]

_MODULES = {
    "CNNFeatures": "features",
    "ConformalClassifier": "trust",
    "ConformalRegressor": "trust",
    "EmbeddingStore": "store",
    "FeatureSearchCV": "selection",
    "FineTuneClassifier": "finetune",
    "FineTuneRegressor": "finetune",
    "ImageNetClassifier": "pretrained",
    "SkipUnreadable": "skip_unreadable",
    "TrainOnViews": "train_on_views",
    "ZeroShotClassifier": "zero_shot",
    "audit": "trust",
    "check_images": "images",
    "compare": "evaluation",
    "embed_images": "distributed",
    "explain": "trust",
    "list_layers": "networks",
    "list_models": "networks",
    "load": "model_files",
    "save": "model_files",
    "select": "selection",
    "suggest": "trust",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # later accesses bypass __getattr__
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
